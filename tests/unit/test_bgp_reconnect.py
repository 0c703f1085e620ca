"""How long a neighbour that comes back is waited for."""

import itertools
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from exabgp.reactor import delay as module

from bgp.exabgp.reconnect import LONGEST_SECONDS, bound_reconnect_delay


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
