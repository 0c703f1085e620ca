"""When a node's status is written (`controller.agent.reporter`)."""

import msgspec

from controller.agent.reporter import COUNTERS, LEAST, NOTABLE, Written, seconds_until_write
from controller.api.nodenetwork import NodeNetworkStatus, PoolDemand, SessionStatus

QUIET = NodeNetworkStatus(epoch="e", pods=1)


def wait(status: NodeNetworkStatus, at: float, since: float | None = None, jitter: float = 0.0) -> float | None:
    """How long to wait at time `at`, if QUIET was written at 0."""
    return seconds_until_write(status, Written(QUIET, 0.0, since), at, jitter)


def changed(**changes: object) -> NodeNetworkStatus:
    return msgspec.structs.replace(QUIET, **changes)


def test_the_first_status_is_written_at_once() -> None:
    assert seconds_until_write(QUIET, Written(), 5.0, 0.0) == 0.0


def test_an_unchanged_status_is_not_written() -> None:
    assert wait(QUIET, 1000.0) is None


def test_what_the_operator_waits_for_is_written_at_once_but_at_most_once_a_second() -> None:
    for status in (
        changed(epoch="f"),
        changed(released=("uid",)),
        changed(demand=(PoolDemand(pool="p", waiting=1),)),
    ):
        assert wait(status, 10.0) == 0.0
        assert wait(status, 0.25) == LEAST - 0.25


def test_a_session_that_changed_is_written_a_second_later_however_often_it_changes_meanwhile() -> None:
    status = changed(sessions=(SessionStatus(peer="t", address="a", state="connecting"),))
    assert wait(status, 10.0) == NOTABLE
    assert wait(status, 10.5, since=10.0) == NOTABLE - 0.5
    assert wait(status, 11.0, since=10.0) == 0.0


def test_counters_alone_are_written_once_a_minute_with_jitter() -> None:
    assert wait(changed(pods=2), 10.0) == COUNTERS - 10.0
    assert wait(changed(pods=2), 10.0, jitter=1.0) == 1.5 * COUNTERS - 10.0
    assert wait(changed(pods=2), 2 * COUNTERS) == 0.0
