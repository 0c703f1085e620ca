"""Until when a router may hold what was withdrawn (`controller.plan.withdrawal`), and that no block is given back before."""

import msgspec
import pytest

from bgp.values import Family, Neighbour, Observed, Session, SessionState
from controller.plan.withdrawal import UNKNOWN, Told, after_telling, forgotten_at, still_kept

V4, V6 = Family.IPV4, Family.IPV6
TOR = Neighbour(
    name="tor/10.0.0.1",
    address="10.0.0.1",
    local_address="10.0.0.2",
    asn=65001,
    local_asn=64512,
    hold_time=9,
    graceful_restart=120,
)
STARTED = 100.0
UP = Session(
    name=TOR.name,
    address=TOR.address,
    state=SessionState.ESTABLISHED,
    since=1000.0,
    families=(V4,),
    end_of_rib_sent=(V4,),
    restarts=1,
)
DOWN = msgspec.structs.replace(
    UP, state=SessionState.CONNECTING, since=2000.0, families=(), end_of_rib_sent=(), restarts=2
)


def observed(*sessions: Session) -> Observed:
    return Observed(started=STARTED, sessions=sessions)


def told(*neighbours: Neighbour) -> Told:
    return after_telling(Told(), neighbours, observed(), 0.0, has_blocks=False)


def told_before(*neighbours: Neighbour) -> Told:
    """Told to a speaker before the one that is observed."""
    return after_telling(Told(), neighbours, Observed(started=STARTED - 50.0), 0.0, has_blocks=False)


def then_told(before: Told, *neighbours: Neighbour, heard: Observed, now: float) -> Told:
    """Told anew by a node that has blocks."""
    return after_telling(before, neighbours, heard, now, has_blocks=True)


def test_a_session_that_is_up_and_has_sent_its_end_of_rib_leaves_nothing_behind() -> None:
    forgotten = forgotten_at(told(TOR), observed(UP))
    assert still_kept(forgotten, 1001.0) == frozenset()


def test_a_session_that_is_up_without_end_of_rib_may_have_left_stale_routes() -> None:
    opening = msgspec.structs.replace(UP, end_of_rib_sent=())
    assert forgotten_at(told(TOR), observed(opening)) == {V4: UNKNOWN}


def test_a_family_that_was_not_negotiated_is_not_waited_for() -> None:
    without = msgspec.structs.replace(UP, families=(), end_of_rib_sent=())
    assert still_kept(forgotten_at(told(TOR), observed(without)), 1001.0) == frozenset()


@pytest.mark.parametrize(("restart", "seconds"), [(120, 129.0), (0, 9.0)])
def test_the_peer_of_a_session_that_fell_keeps_routes_for_hold_time_and_restart_time(
    restart: int, seconds: float
) -> None:
    neighbour = msgspec.structs.replace(TOR, graceful_restart=restart)
    forgotten = forgotten_at(told(neighbour), observed(DOWN))
    assert forgotten == {V4: 2000.0 + seconds}
    assert still_kept(forgotten, 2000.0 + seconds - 0.1) == {V4}
    assert still_kept(forgotten, 2000.0 + seconds) == frozenset()


def test_each_family_waits_for_its_own_sessions() -> None:
    six = msgspec.structs.replace(TOR, name="tor/fd00::1", address="fd00::1", families=(V6,))
    up6 = msgspec.structs.replace(UP, name=six.name, address=six.address, families=(V6,), end_of_rib_sent=(V6,))
    assert still_kept(forgotten_at(told(TOR, six), observed(DOWN, up6)), 2001.0) == {V4}


FRESH = msgspec.structs.replace(DOWN, restarts=0, since=STARTED + 0.1)


def test_a_session_that_never_came_up_has_told_nothing() -> None:
    assert still_kept(forgotten_at(told(TOR), observed(FRESH)), FRESH.since) == frozenset()
    assert then_told(told(TOR), heard=observed(FRESH), now=FRESH.since) == Told()
    # Nor once the node has got blocks.
    granted = then_told(told(TOR), TOR, heard=observed(FRESH), now=FRESH.since)
    assert still_kept(forgotten_at(granted, observed(FRESH)), FRESH.since) == frozenset()


def test_what_an_earlier_speaker_told_is_forgotten_some_time_after_the_present_one_began() -> None:
    forgotten = {V4: STARTED + 129.0}
    before = told_before(TOR)
    again = after_telling(before, (TOR,), observed(), 0.0, has_blocks=False)
    for left in (before, again, then_told(before, TOR, heard=observed(), now=0.0)):
        assert forgotten_at(left, observed(FRESH)) == forgotten
        assert then_told(left, heard=observed(FRESH), now=FRESH.since).until == forgotten
    # However late it was given its sessions.
    late = msgspec.structs.replace(FRESH, since=STARTED + 60.0)
    assert forgotten_at(before, observed(late)) == forgotten


def test_a_node_that_has_blocks_may_have_announced_them_before_it_booted() -> None:
    rebooted = then_told(Told(), TOR, heard=observed(), now=STARTED)
    assert forgotten_at(rebooted, observed(FRESH)) == {V4: STARTED + 129.0}


def test_a_session_that_was_told_before_any_speaker_was_heard_counts_as_told_to_another() -> None:
    left = after_telling(Told(), (TOR,), Observed(), 0.0, has_blocks=False)
    assert forgotten_at(left, observed(FRESH)) == {V4: STARTED + 129.0}
    # While it is not heard, its start is not known, and so no run is that one.
    assert forgotten_at(left, Observed(sessions=(FRESH,))) == {V4: 129.0}


def test_a_session_that_the_speaker_does_not_show_yet_is_not_judged() -> None:
    assert forgotten_at(told(TOR), observed()) == {V4: UNKNOWN}


def test_a_session_that_is_dropped_while_it_is_down_is_remembered_until_its_peer_has_forgotten() -> None:
    left = then_told(told(TOR), heard=observed(DOWN), now=2010.0)
    assert left.sessions == {}
    assert forgotten_at(left, observed()) == {V4: 2129.0}
    # However often the speaker is told anew meanwhile, and no longer than that.
    again = then_told(left, heard=observed(), now=2020.0)
    assert again == left
    assert then_told(again, heard=observed(), now=2130.0) == Told()


def test_a_session_that_is_dropped_while_it_is_up_is_withdrawn_from_first() -> None:
    assert then_told(told(TOR), heard=observed(UP), now=2010.0) == Told()


def test_a_session_that_is_dropped_unseen_counts_as_fallen_now_unless_it_is_new() -> None:
    assert then_told(told_before(TOR), heard=observed(), now=2010.0).until == {V4: 2139.0}
    assert then_told(told(TOR), heard=observed(), now=2010.0) == Told()


def test_a_session_that_is_dropped_while_it_is_up_and_falls_then_holds_blocks_as_long_as_it_is_shown() -> None:
    left = then_told(told(TOR), heard=observed(UP), now=2010.0)
    going = msgspec.structs.replace(UP, state=SessionState.REMOVING)
    assert forgotten_at(left, observed(going)) == {}
    fallen = msgspec.structs.replace(DOWN, state=SessionState.REMOVING)
    assert forgotten_at(left, observed(fallen)) == {V4: UNKNOWN, V6: UNKNOWN}
    assert forgotten_at(left, observed()) == {}
    # One that never was up says nothing by going.
    assert forgotten_at(left, observed(msgspec.structs.replace(fallen, restarts=0))) == {}


def test_a_shorter_restart_time_is_not_the_one_that_the_peer_of_a_lost_session_heard() -> None:
    shorter = msgspec.structs.replace(TOR, graceful_restart=10)
    left = then_told(told(TOR), shorter, heard=observed(DOWN), now=2001.0)
    assert forgotten_at(left, observed(DOWN)) == {V4: 2129.0}
    longer = msgspec.structs.replace(TOR, graceful_restart=200)
    assert forgotten_at(then_told(left, longer, heard=observed(DOWN), now=2002.0), observed(DOWN)) == {V4: 2209.0}
