"""How long a neighbour that comes back is waited for."""

import itertools
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from exabgp.logger import log
from exabgp.protocol.family import AFI
from exabgp.reactor import delay as module
from exabgp.reactor.network import outgoing
from exabgp.reactor.network.error import NotConnected
from exabgp.reactor.network.outgoing import Outgoing

from bgp.exabgp.reconnect import (
    LONGEST_SECONDS,
    SYN_REPETITIONS,
    bound_connecting,
    bound_reconnect_delay,
    notice_refusals,
)


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


@pytest.fixture(params=["127.0.0.1", "::1"])
def bound(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Has a port and does not listen yet: who connects is refused."""
    # ExaBGP's log is set up by its server alone.
    for level in ("debug", "warning"):
        monkeypatch.setattr(log, level, lambda *words, **more: None)
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.socket(family) as made:
        made.bind((request.param, 0))
        yield made


def attempt(bound: socket.socket) -> bool:
    """Whether ExaBGP takes an attempt to connect for established, before any deadline."""
    address, port = bound.getsockname()[:2]
    connection = Outgoing(AFI.ipv6 if ":" in address else AFI.ipv4, address, address, port)
    try:
        return any(itertools.islice(connection.establish(), 1000))
    finally:
        connection.close()


def test_exabgp_takes_a_refused_connection_for_an_established_one(bound: socket.socket) -> None:
    assert attempt(bound)


def test_a_refused_connection_fails_and_one_that_is_accepted_is_established(
    bound: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "ready", outgoing.ready)
    notice_refusals()
    with pytest.raises(NotConnected, match="refused"):
        attempt(bound)
    bound.listen()
    assert attempt(bound)
