"""How long a neighbour that comes back is waited for."""

import itertools
import socket
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from exabgp.protocol.family import AFI
from exabgp.reactor import delay as module
from exabgp.reactor.network.outgoing import Outgoing

from bgp.exabgp.reconnect import LONGEST_SECONDS, SYN_REPETITIONS, bound_connecting, bound_reconnect_delay


@pytest.fixture
def longest_wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], float]:
    """The longest time between two attempts, all of which fail at once, over so many seconds."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: clock.now))
    monkeypatch.setattr(module.Delay, "increase", module.Delay.increase)

    def measured(seconds: float) -> float:
        delay, attempts = module.Delay(), []
        for _ in range(int(seconds * 10)):
            clock.now += 0.1
            if not delay.backoff():
                attempts.append(clock.now)
                delay.increase()
        return max(after - before for before, after in itertools.pairwise(attempts))

    return measured


def test_exabgps_own_wait_grows_to_a_minute(longest_wait: Callable[[float], float]) -> None:
    assert longest_wait(900) > 55


def test_a_neighbour_is_asked_again_every_few_seconds_however_long_it_was_away(
    longest_wait: Callable[[float], float],
) -> None:
    bound_reconnect_delay()
    assert 1 < longest_wait(900) <= LONGEST_SECONDS + 0.2


@pytest.mark.parametrize(("afi", "address"), [(AFI.ipv4, "127.0.0.1"), (AFI.ipv6, "::1")])
def test_an_attempt_that_nobody_answers_is_given_up_after_a_few_repetitions(
    monkeypatch: pytest.MonkeyPatch, afi: AFI, address: str
) -> None:
    def repetitions() -> int:
        connection = Outgoing(afi, address, address)
        assert connection._setup() is None
        made, connection.io = connection.io, None
        with made:
            return int(made.getsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT))

    monkeypatch.setattr(Outgoing, "_setup", Outgoing._setup)
    assert repetitions() > SYN_REPETITIONS, "the kernel's own number"
    bound_connecting()
    assert repetitions() == SYN_REPETITIONS
