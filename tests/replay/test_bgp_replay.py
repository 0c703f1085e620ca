"""Recorded events of the real ExaBGP 5.0.15 between real routers, played back through the speaker's state.

`record_speaker.py` makes the recordings; each scenario starts with two routers that announce the same two prefixes.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from bgp.exabgp.events import Other, event_of
from bgp.reasons import ImportReason, SessionReason
from bgp.speaker.state import SpeakerState
from bgp.speaker.view import detail_of, observed_of
from bgp.values import Desired, Observed, Route, Session, SessionState

RECORDINGS = Path(__file__).resolve().parent / "bgp"
SHARED_4, SHARED_6 = "10.244.9.0/26", "fd00:244::240/122"
BIRD_4, BIRD_6, FRR_4, FRR_6 = "10.99.0.1", "fd99::1", "10.99.0.2", "fd99::2"


class Player:
    """A state that lives through a recording; ExaBGP is taken to accept every configuration at once."""

    def __init__(self, name: str) -> None:
        self.lines = [json.loads(line) for line in (RECORDINGS / f"{name}.jsonl").read_text().splitlines()]
        self.state = SpeakerState(0.0)
        self.now = 0.0
        self.commands: list[str] = []

    def step(self, record: dict) -> None:
        self.now = record["at"]
        self.state.tick(self.now)
        if "desired" in record:
            self.state.set_desired(msgspec.convert(record["desired"], Desired), self.now)
        else:
            self.state.on_event(event_of(record["line"].encode()), self.now)
        wanted = self.state.neighbours_to_configure()
        self.state.expect_resets(wanted)
        self.state.set_configured(wanted)
        self.commands += self.state.telling.lines()
        self.state.decide(1)
        while self.state.rib.dirty:
            self.state.decide(1)

    def play(self) -> Iterator[Observed]:
        """The observed state after each recorded line."""
        for record in self.lines:
            self.step(record)
            yield observed_of(self.state)

    def later(self, seconds: float) -> Observed:
        """The observed state after a time in which nothing is heard."""
        self.now += seconds
        self.state.tick(self.now)
        self.state.decide(1000)
        return observed_of(self.state)


def session(observed: Observed, name: str) -> Session:
    return next(one for one in observed.sessions if one.name == name)


def test_every_recorded_line_is_understood():
    lines = [
        line["line"] for path in RECORDINGS.glob("*.jsonl") for line in map(json.loads, path.open()) if "line" in line
    ]
    assert len(lines) > 100
    assert [event for event in map(event_of, (line.encode() for line in lines)) if isinstance(event, Other)] == []


def test_equal_routes_of_two_routers_are_used_together_and_a_withdrawal_leaves_the_other():
    *_, before, last = [Observed(), *Player("withdrawal").play()]
    assert last.routes == {
        SHARED_4: Route((FRR_4,), ("frr",)),
        SHARED_6: Route((BIRD_6, FRR_6), ("bird", "frr")),
    }
    assert before.routes[SHARED_4] == Route((BIRD_4, FRR_4), ("bird", "frr"))


def test_a_route_outside_the_accepted_ranges_is_refused_and_counted():
    player = Player("withdrawal")
    *_, last = player.play()
    assert session(last, "bird").refused == {ImportReason.NOT_ACCEPTED: 1}
    assert [
        (path.prefix, path.refused) for path in detail_of(player.state).paths if path.refused and path.session == "bird"
    ] == [("192.0.2.0/24", ImportReason.NOT_ACCEPTED)]


def test_what_was_sent_is_known_from_exabgp_and_end_of_rib_follows_the_routes():
    player = Player("withdrawal")
    *_, last = player.play()
    assert session(last, "bird").sent == ("10.244.1.0/26", "fd00:244::40/122")
    assert session(last, "bird").end_of_rib_sent == ("ipv4", "ipv6")
    of_bird = [command for command in player.commands if command.startswith(f"neighbor {BIRD_4} ")]
    assert [command.split()[3] for command in of_bird] == ["attributes", "attributes", "eor", "eor"]


def test_routes_of_a_restarting_peer_are_kept_behind_fresh_ones_until_its_end_of_rib():
    seen = list(Player("graceful_restart").play())
    kept = [observed for observed in seen if session(observed, "bird").keep_until is not None]
    assert kept, "the session was never lost"
    assert {tuple(observed.routes) for observed in kept} <= {(SHARED_4, SHARED_6), (SHARED_6, SHARED_4)}
    assert kept[0].routes[SHARED_4] == Route((FRR_4,), ("frr",))
    assert session(kept[0], "bird").state is SessionState.CONNECTING
    assert session(kept[0], "bird").last_reason is SessionReason.CONNECTION_CLOSED
    last = seen[-1]
    assert session(last, "bird").keep_until is None
    assert last.routes[SHARED_6] == Route((BIRD_6, FRR_6), ("bird", "frr"))
    assert last.routes[SHARED_4] == Route((FRR_4,), ("frr",))


def test_routes_of_a_peer_that_does_not_return_go_when_its_restart_time_is_over():
    player = Player("graceful_restart")
    for observed in player.play():
        if session(observed, "bird").keep_until is not None:
            break
    assert session(observed, "bird").received == 3
    assert session(player.later(119), "bird").received == 3
    gone = session(player.later(2), "bird")
    assert (gone.received, gone.keep_until) == (0, None)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("notification", SessionReason.NOTIFICATION_RECEIVED), ("hold_timer", SessionReason.HOLD_TIMER_EXPIRED)],
)
def test_nothing_is_kept_after_a_notification(name, reason):
    *_, last = Player(name).play()
    lost = session(last, "bird")
    assert (lost.last_reason, lost.keep_until, lost.received) == (reason, None, 0)
    assert lost.message
    assert last.routes[SHARED_4] == Route((FRR_4,), ("frr",))


def test_the_wrong_as_is_reported_with_both_numbers():
    *_, last = Player("wrong_asn").play()
    wrong = session(last, "bird")
    assert wrong.reason is SessionReason.WRONG_ASN
    assert wrong.message == "expects AS 65099, peer sent 65001"


def test_a_family_is_settled_once_every_session_said_end_of_rib_or_the_time_is_over():
    unsettled = [observed for observed in Player("withdrawal").play() if observed.settled == ()]
    assert any(session(observed, "bird").settled for observed in unsettled if observed.sessions)
    *_, last = Player("withdrawal").play()
    assert last.settled == ("ipv4", "ipv6")
    player = Player("withdrawal")
    player.step(player.lines[0])
    assert observed_of(player.state).settled == ()
    assert player.later(121).settled == ("ipv4", "ipv6")
