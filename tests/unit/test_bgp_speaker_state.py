"""The speaker's state machine, fed by hand: what recordings and real routers do not show."""

import msgspec
import pytest

from bgp.decision import Attributes
from bgp.exabgp.events import (
    Answer,
    EndOfRib,
    NotificationMessage,
    OpenMessage,
    Other,
    SessionChange,
    UpdateMessage,
    event_of,
)
from bgp.reasons import ProblemReason, SessionReason
from bgp.speaker.state import SpeakerState
from bgp.speaker.telling import (
    ANSWER_SECONDS,
    ASK_AFTER_SECONDS,
    RETRY_SECONDS,
    RETRY_WITHDRAWAL_SECONDS,
    WITHDRAW_SECONDS,
)
from bgp.speaker.view import head_of, observed_of
from bgp.values import Announcement, Desired, Family, Neighbour, SessionState

TOR = Neighbour(
    name="tor",
    address="192.0.2.1",
    local_address="192.0.2.11",
    asn=65001,
    local_asn=64512,
    families=(Family.IPV4, Family.IPV6),
    accept=("10.0.0.0/8",),
    announcements=(Announcement(prefix="10.244.1.0/26", next_hop="192.0.2.11"),),
)
DESIRED = Desired(router_id="192.0.2.11", generation=1, neighbours=(TOR,), on_link=("192.0.2.0/24",))
OPEN = OpenMessage(
    address=TOR.address,
    asn=65001,
    hold_time=90,
    families=(Family.IPV4, Family.IPV6),
    restart_time=120,
    restartable=(Family.IPV4, Family.IPV6),
    forwarding=(Family.IPV4,),
)


def asked(desired=DESIRED, now=0.0):
    state = SpeakerState(0.0)
    state.set_desired(desired, now)
    state.set_configured(state.neighbours_to_configure())
    return state


def up(state, now=1.0, message=OPEN):
    state.on_event(message, now)
    state.on_event(SessionChange(TOR.address, "up", ""), now)


def down(state, words="closing connection", now=2.0):
    state.on_event(SessionChange(TOR.address, "down", words), now)


def heard(*prefixes, sent=False, withdrawn=()):
    announced = tuple((prefix, "192.0.2.1") for prefix in prefixes)
    attributes = Attributes(as_path=(65001,), path_length=1)
    return UpdateMessage(
        address=TOR.address, sent=sent, attributes=attributes, announced=announced, withdrawn=withdrawn
    )


def tor(state):
    return next(session for session in head_of(state).sessions if session.name == "tor")


def answer_all(state):
    """Lets ExaBGP acknowledge everything and report it as sent; returns the lines it was given."""
    lines = []
    while batch := list(state.telling.lines()):
        lines += batch
        for _ in batch:
            state.on_event(Answer(True), 1.0)
    return lines


def test_nothing_is_said_to_a_neighbour_before_it_is_established():
    state = asked()
    assert list(state.telling.lines()) == []
    up(state)
    verbs = [line.split()[2:4] for line in answer_all(state)]
    assert verbs == [["announce", "attributes"], ["announce", "eor"], ["announce", "eor"]]


def test_end_of_rib_is_only_sent_for_families_that_both_sides_carry():
    state = asked()
    up(state, message=msgspec.structs.replace(OPEN, families=(Family.IPV4,)))
    assert [line for line in answer_all(state) if " eor " in line] == ["neighbor 192.0.2.1 announce eor ipv4 unicast"]
    assert tor(state).families == (Family.IPV4,)


def test_a_session_that_returns_is_told_everything_again():
    state = asked()
    up(state)
    first = answer_all(state)
    down(state)
    up(state, now=3.0)
    assert answer_all(state) == first
    assert tor(state).restarts == 1


def test_a_refused_command_is_reported_and_repeated_later():
    state = asked()
    up(state)
    lines = list(state.telling.lines())
    state.on_event(Answer(False), 1.0)
    assert [problem.reason for problem in head_of(state).problems] == [ProblemReason.NOT_APPLIED]
    state.tick(1.0 + RETRY_SECONDS)
    assert lines[0] in list(state.telling.lines())
    assert head_of(state).problems == ()


def test_sent_prefixes_are_those_that_exabgp_reported_not_those_it_acknowledged():
    state = asked()
    up(state)
    answer_all(state)
    assert tor(state).sent == ()
    state.on_event(heard("10.244.1.0/26", sent=True), 1.0)
    assert tor(state).sent == ("10.244.1.0/26",)
    down(state)
    assert tor(state).sent == ()


def test_a_removed_neighbour_stays_configured_until_its_withdrawal_is_on_the_wire():
    state = asked()
    up(state)
    answer_all(state)
    state.on_event(heard("10.244.1.0/26", sent=True), 1.0)
    state.set_desired(msgspec.structs.replace(DESIRED, neighbours=()), 10.0)
    assert tor(state).state is SessionState.REMOVING
    assert state.neighbours_to_configure() == [TOR]
    state.set_configured([TOR])
    assert not state.applied, "the neighbour is still configured"
    assert [line.split()[2] for line in answer_all(state)] == ["withdraw"]
    state.tick(10.0)
    assert state.neighbours_to_configure() == [TOR], "the withdrawal was not reported as sent yet"
    state.on_event(heard(sent=True, withdrawn=("10.244.1.0/26",)), 10.1)
    state.tick(10.1)
    assert state.neighbours_to_configure() == [TOR], "it may not be on the wire yet"
    state.tick(10.2)
    assert state.neighbours_to_configure() == []
    state.set_configured([])
    assert state.applied
    assert head_of(state).sessions == ()


def removed_while_lost(peer=OPEN):
    """A neighbour that had heard our routes when its session was lost, and is removed meanwhile."""
    state = asked()
    up(state, message=peer)
    answer_all(state)
    state.on_event(heard("10.244.1.0/26", sent=True), 1.0)
    down(state, now=2.0)
    state.set_desired(msgspec.structs.replace(DESIRED, neighbours=()), 3.0)
    state.tick(3.0)
    return state


def test_a_neighbour_that_is_removed_while_its_session_is_lost_hears_end_of_rib_first():
    state = removed_while_lost()
    assert state.neighbours_to_configure() == [TOR], "the peer keeps our routes for the restart time"
    up(state, now=20.0)
    assert [line.split()[2:4] for line in answer_all(state)] == [["announce", "eor"], ["announce", "eor"]]
    state.tick(20.1)
    assert state.neighbours_to_configure() == [TOR], "end-of-RIB was not reported as sent yet"
    for family in Family:
        state.on_event(EndOfRib(TOR.address, True, family), 20.2)
    for now in (20.2, 20.3):
        state.tick(now)
    assert state.neighbours_to_configure() == []


def test_a_neighbour_that_is_removed_while_lost_goes_once_it_must_have_dropped_our_routes_by_itself():
    state = removed_while_lost()
    state.tick(2.0 + TOR.graceful_restart - 1)
    assert state.neighbours_to_configure() == [TOR]
    state.tick(2.0 + TOR.graceful_restart)
    assert state.neighbours_to_configure() == []
    never_helps = removed_while_lost(msgspec.structs.replace(OPEN, restart_time=None))
    assert never_helps.neighbours_to_configure() == []


def test_a_neighbour_of_an_earlier_run_is_withdrawn_from_though_this_run_has_never_reached_it():
    earlier = asked()
    state = SpeakerState(0.0)
    state.wanted.recall(earlier.wanted.good)
    state.set_desired(DESIRED, 0.0)
    state.set_desired(msgspec.structs.replace(DESIRED, neighbours=()), 1.0)
    assert state.neighbours_to_configure() == [TOR]
    state.tick(TOR.graceful_restart)
    assert state.neighbours_to_configure() == []


def test_a_withdrawal_that_exabgp_refused_is_repeated():
    state = asked()
    up(state)
    answer_all(state)
    less = msgspec.structs.replace(DESIRED, neighbours=(msgspec.structs.replace(TOR, announcements=()),))
    state.set_desired(less, 2.0)
    (line,) = state.telling.lines()
    state.on_event(Answer(False), 2.0)
    state.tick(2.0 + RETRY_SECONDS)
    assert list(state.telling.lines()) == [line]


def test_a_withdrawal_that_exabgp_refused_is_repeated_before_the_neighbour_is_removed():
    state = asked()
    up(state)
    answer_all(state)
    state.set_desired(msgspec.structs.replace(DESIRED, neighbours=()), 2.0)
    (line,) = state.telling.lines()
    state.on_event(Answer(False), 2.0)
    state.tick(2.5)
    assert state.neighbours_to_configure() == [TOR]
    state.tick(2.0 + RETRY_WITHDRAWAL_SECONDS)
    assert list(state.telling.lines()) == [line]


def test_what_a_refused_change_left_at_the_neighbour_is_withdrawn_when_it_is_no_longer_wanted():
    state = asked()
    up(state)
    answer_all(state)
    changed = msgspec.structs.replace(TOR, announcements=(msgspec.structs.replace(TOR.announcements[0], med=7),))
    state.set_desired(msgspec.structs.replace(DESIRED, neighbours=(changed,)), 2.0)
    (line,) = state.telling.lines()
    assert "med 7" in line
    state.on_event(Answer(False), 2.0)
    none = msgspec.structs.replace(TOR, announcements=())
    state.set_desired(msgspec.structs.replace(DESIRED, neighbours=(none,)), 3.0)
    assert [line.split()[2] for line in state.telling.lines()] == ["withdraw"]


def test_a_removed_neighbour_that_cannot_be_told_goes_after_a_while():
    state = asked()
    up(state)
    answer_all(state)
    state.on_event(heard("10.244.1.0/26", sent=True), 1.0)
    state.set_desired(msgspec.structs.replace(DESIRED, neighbours=()), 10.0)
    state.tick(10.0 + WITHDRAW_SECONDS - 0.1)
    assert state.neighbours_to_configure() == [TOR]
    state.tick(10.0 + WITHDRAW_SECONDS)
    assert state.neighbours_to_configure() == []


def test_kept_routes_of_a_family_whose_forwarding_the_peer_lost_are_dropped_when_it_returns():
    accepts = msgspec.structs.replace(TOR, accept=("10.0.0.0/8", "fd00::/8"))
    both = msgspec.structs.replace(DESIRED, neighbours=(accepts,), on_link=("192.0.2.0/24", "2001:db8::/64"))
    state = asked(both)
    up(state)
    state.on_event(heard("10.1.0.0/24"), 1.0)
    over6 = msgspec.structs.replace(heard(), announced=(("fd00:1::/64", "2001:db8::1"),))
    state.on_event(over6, 1.0)
    down(state, now=2.0)
    state.decide(10)
    assert set(state.rib.routes) == {"10.1.0.0/24", "fd00:1::/64"}
    up(state, now=3.0)
    state.decide(10)
    assert set(state.rib.routes) == {"10.1.0.0/24"}
    assert state.rib.routes["10.1.0.0/24"].stale
    state.on_event(EndOfRib(TOR.address, False, Family.IPV4), 4.0)
    state.decide(10)
    assert state.rib.routes == {}


def test_of_a_lost_session_only_families_in_the_peers_restart_capability_are_kept():
    accepts = msgspec.structs.replace(TOR, accept=("10.0.0.0/8", "fd00::/8"))
    state = asked(msgspec.structs.replace(DESIRED, neighbours=(accepts,), on_link=("192.0.2.0/24", "2001:db8::/64")))
    up(state, message=msgspec.structs.replace(OPEN, restartable=(Family.IPV4,)))
    state.on_event(heard("10.1.0.0/24"), 1.0)
    state.on_event(msgspec.structs.replace(heard(), announced=(("fd00:1::/64", "2001:db8::1"),)), 1.0)
    down(state, now=2.0)
    state.decide(10)
    assert set(state.rib.routes) == {"10.1.0.0/24"}


def test_the_families_of_the_restart_capability_are_read_whether_their_state_was_kept_or_not():
    line = (
        b'{"type": "open", "neighbor": {"address": {"peer": "192.0.2.1"}, "direction": "receive", "open": {"asn": 65001,'
        b'"hold_time": 9, "capabilities": {"64": {"name": "graceful restart", "time": 120, "address-family-flags": '
        b'{"ipv4/unicast": [ ]}, "restart-flags": [ ]}}}}}\n'
    )
    message = event_of(line)
    assert isinstance(message, OpenMessage)
    assert (message.restart_time, message.restartable, message.forwarding) == (120, (Family.IPV4,), ())


@pytest.mark.parametrize("restart_time", [None, 0])
def test_nothing_is_kept_of_a_peer_without_graceful_restart(restart_time):
    state = asked()
    up(state, message=msgspec.structs.replace(OPEN, restart_time=restart_time))
    state.on_event(heard("10.1.0.0/24"), 1.0)
    down(state)
    assert (tor(state).received, tor(state).keep_until) == (0, None)


def test_a_family_that_the_graceful_restart_capability_does_not_list_is_not_kept():
    state = asked()
    up(state, message=msgspec.structs.replace(OPEN, restartable=(Family.IPV6,)))
    state.on_event(heard("10.1.0.0/24"), 1.0)
    down(state)
    assert (tor(state).received, tor(state).keep_until) == (0, 122.0)


@pytest.mark.parametrize(
    ("words", "reason", "says"),
    [
        ("closing connection", SessionReason.CONNECTION_CLOSED, "closed the connection"),
        ("notification sent (4,0)", SessionReason.HOLD_TIMER_EXPIRED, "nothing heard from 192.0.2.1"),
        ("notification received (6,2)", SessionReason.NOTIFICATION_RECEIVED, "6/2, Administrative Shutdown: bye"),
        ("notification received (6,99)", SessionReason.NOTIFICATION_RECEIVED, "6/99, Cease"),
        ("notification received (2,2)", SessionReason.WRONG_ASN, "expects another AS than 64512"),
        ("notification sent (2,2)", SessionReason.WRONG_ASN, "expects AS 65001, peer sent 65001"),
        ("notification sent (3,1)", SessionReason.NOTIFICATION_SENT, "3/1, UPDATE Message Error"),
        ("notification sent", SessionReason.NOTIFICATION_SENT, "0/0, unknown"),
    ],
)
def test_the_end_of_a_session_is_explained(words, reason, says):
    state = asked()
    up(state)
    told = NotificationMessage(address=TOR.address, sent=False, code=6, subcode=2, text="bye")
    state.on_event(told, 2.0)
    down(state, words)
    assert tor(state).reason is reason
    assert tor(state).last_reason is reason
    assert says in tor(state).message


def test_a_later_refusal_of_the_connection_does_not_hide_the_reason_before_it():
    state = asked()
    state.on_event(msgspec.structs.replace(OPEN, asn=65009), 1.0)
    down(state, "notification sent (2,2)")
    down(state, "closing connection")
    assert tor(state).reason is SessionReason.WRONG_ASN
    assert tor(state).message == "expects AS 65001, peer sent 65009"


def test_a_missing_local_address_holds_a_neighbour_back_unless_its_session_stands():
    state = asked()
    state.wanted.missing_addresses = frozenset([TOR.local_address])
    assert state.neighbours_to_configure() == []
    assert (tor(state).state, tor(state).reason) == (SessionState.REFUSED, SessionReason.LOCAL_ADDRESS_MISSING)
    assert head_of(state).problems[0].field == "local_address"
    up(state)
    assert state.neighbours_to_configure() == [TOR]
    assert tor(state).state is SessionState.ESTABLISHED


def test_a_session_that_was_up_and_lost_its_local_address_still_says_that_it_was_up():
    state = asked()
    up(state)
    state.wanted.missing_addresses = frozenset([TOR.local_address])
    down(state, now=5.0)
    refused = tor(state)
    assert (refused.state, refused.restarts, refused.since) == (SessionState.REFUSED, 1, 5.0)
    assert refused.reason is SessionReason.LOCAL_ADDRESS_MISSING
    assert refused.last_reason is SessionReason.CONNECTION_CLOSED


def test_a_new_local_address_that_the_node_lacks_leaves_the_running_session_as_it_is():
    state = asked()
    up(state)
    moved = msgspec.structs.replace(TOR, local_address="192.0.2.12")
    state.set_desired(msgspec.structs.replace(DESIRED, neighbours=(moved,)), 2.0)
    state.wanted.missing_addresses = frozenset(["192.0.2.12"])
    assert state.neighbours_to_configure() == [TOR]
    assert [problem.value for problem in head_of(state).problems] == ["192.0.2.12"]
    assert tor(state).state is SessionState.ESTABLISHED
    state.wanted.missing_addresses = frozenset()
    assert state.neighbours_to_configure() == [moved]


def test_a_wrong_new_version_of_a_running_neighbour_leaves_it_running_and_is_reported():
    state = asked()
    up(state)
    answer_all(state)
    state.set_desired(msgspec.structs.replace(DESIRED, neighbours=(msgspec.structs.replace(TOR, hold_time=2),)), 2.0)
    assert state.neighbours_to_configure() == [TOR]
    assert answer_all(state) == []
    assert [(session.name, session.state) for session in head_of(state).sessions] == [("tor", SessionState.ESTABLISHED)]
    (problem,) = head_of(state).problems
    assert (problem.field, problem.value) == ("hold_time", "2")


def test_what_a_wrong_new_version_of_a_neighbour_no_longer_announces_is_withdrawn_all_the_same():
    state = asked()
    up(state)
    answer_all(state)
    wrong = msgspec.structs.replace(TOR, hold_time=2, announcements=())
    state.set_desired(msgspec.structs.replace(DESIRED, neighbours=(wrong,)), 2.0)
    assert [line.split()[2] for line in answer_all(state)] == ["withdraw"]


def test_a_version_that_the_parser_refuses_leaves_the_last_good_one_running_and_others_are_served():
    state = asked()
    up(state)
    changed = msgspec.structs.replace(TOR, hold_time=30)
    other = msgspec.structs.replace(TOR, name="other", address="192.0.2.2")
    order = msgspec.structs.replace(DESIRED, neighbours=(changed, other))
    state.set_desired(order, 2.0)
    assert state.neighbours_to_configure() == [changed, other]
    state.reject({changed: "its words"}, 2.0)
    assert state.neighbours_to_configure() == [TOR, other]
    (problem,) = head_of(state).problems
    assert problem.reason is ProblemReason.CONFIGURATION_REFUSED
    assert "its words" in problem.message
    without = msgspec.structs.replace(changed, announcements=())
    state.set_desired(msgspec.structs.replace(order, neighbours=(without, other)), 3.0)
    assert [one.hold_time for one in state.neighbours_to_configure()] == [TOR.hold_time, other.hold_time]
    corrected = msgspec.structs.replace(TOR, hold_time=60)
    state.set_desired(msgspec.structs.replace(order, neighbours=(corrected, other)), 4.0)
    assert state.neighbours_to_configure() == [corrected, other]


def test_a_neighbour_that_was_removed_is_not_brought_back_by_a_wrong_version_of_it():
    state = asked()
    state.set_desired(msgspec.structs.replace(DESIRED, neighbours=()), 2.0)
    state.set_configured([])
    state.set_desired(msgspec.structs.replace(DESIRED, neighbours=(msgspec.structs.replace(TOR, hold_time=2),)), 3.0)
    assert state.neighbours_to_configure() == []
    assert tor(state).state is SessionState.REFUSED


def test_what_the_parser_refuses_is_left_out_until_it_is_changed():
    state = SpeakerState(0.0)
    state.set_desired(DESIRED, 0.0)
    state.reject({TOR: "its words"}, 0.0)
    assert state.neighbours_to_configure() == []
    assert (tor(state).reason, tor(state).message) == (SessionReason.CONFIGURATION_REFUSED, "its words")
    changed = msgspec.structs.replace(TOR, hold_time=30)
    state.set_desired(msgspec.structs.replace(DESIRED, neighbours=(changed,)), 1.0)
    assert state.neighbours_to_configure() == [changed]


def test_a_family_is_settled_only_after_its_routes_are_decided():
    state = asked()
    up(state)
    state.on_event(heard("10.1.0.0/24", "10.2.0.0/24"), 1.0)
    for family in Family:
        state.on_event(EndOfRib(TOR.address, False, family), 1.0)
    state.decide(1)
    assert observed_of(state).settled == ()
    state.decide(1)
    assert observed_of(state).settled == (Family.IPV4, Family.IPV6)


def test_an_exabgp_that_leaves_a_command_unanswered_is_given_up():
    state = asked()
    assert state.telling.exabgp_is_alive(ASK_AFTER_SECONDS - 1)
    assert list(state.telling.lines()) == []
    asked_at = ASK_AFTER_SECONDS + 1
    assert state.telling.exabgp_is_alive(asked_at)
    assert list(state.telling.lines()) == ["version"]
    assert state.telling.exabgp_is_alive(asked_at + ANSWER_SECONDS - 1)
    assert not state.telling.exabgp_is_alive(asked_at + ANSWER_SECONDS + 1)
    state.on_event(Answer(True), asked_at + ANSWER_SECONDS + 1)
    assert state.telling.exabgp_is_alive(asked_at + ANSWER_SECONDS + 2)


@pytest.mark.parametrize(
    ("line", "unreadable"),
    [
        (b"exabgp 5.0.15\n", False),
        (b'{"exabgp": "5.0.0", "type": "notification", "notification": "shutdown"}\n', False),
        (
            b'{"exabgp": "5.0.0", "type": "update", "neighbor": {"address": {"peer": "192.0.2.1"}, "message": 7}}\n',
            True,
        ),
        (b'{"type": "update", "neighbor": {"address": {"peer": "nowhere"}}}\n', True),
        (b"{\n", True),
        (b"\xff\xfe\n", False),
    ],
)
def test_a_line_that_cannot_be_read_harms_nothing_and_is_marked(line, unreadable):
    event = event_of(line)
    assert isinstance(event, Other)
    assert event.unreadable is unreadable
    asked().on_event(event, 1.0)


def test_a_route_without_a_usable_next_hop_or_prefix_is_refused_as_malformed():
    state = asked()
    up(state)
    for announced in (("10.1.0.0/24", "null"), ("10.1.0.1/24", "192.0.2.1")):
        state.on_event(msgspec.structs.replace(heard(), announced=(announced,)), 1.0)
    assert tor(state).refused == {"Malformed": 2}


def with_more_refused_than_are_kept(desired=DESIRED):
    """A speaker that has heard more routes outside `accept` than it remembers; all is said and answered."""
    state = asked(desired)
    up(state)
    for count in range(0, 1200, 100):
        state.on_event(heard(*(f"172.16.{(count + i) // 256}.{(count + i) % 256}/32" for i in range(100))), 1.0)
    answer_all(state)
    return state


def test_a_policy_that_refuses_more_restarts_no_session_and_one_that_accepts_more_restarts_it():
    state = with_more_refused_than_are_kept()
    narrower = msgspec.structs.replace(DESIRED.refuse, own_blocks=("10.244.1.0/26",), node_ranges=("192.0.2.7/32",))
    state.set_desired(msgspec.structs.replace(DESIRED, generation=2, refuse=narrower), 3.0)
    assert not any("teardown" in line for line in answer_all(state))
    wider = msgspec.structs.replace(TOR, accept=("10.0.0.0/8", "172.16.0.0/12"))
    state.set_desired(msgspec.structs.replace(DESIRED, generation=3, refuse=narrower, neighbours=(wider,)), 4.0)
    assert [line.split()[2] for line in answer_all(state)] == ["teardown"]


def test_routes_above_the_limit_that_are_forgotten_are_told_when_there_is_room_and_fetched_by_a_higher_limit():
    few = msgspec.structs.replace(TOR, max_prefixes=1)
    state = asked(msgspec.structs.replace(DESIRED, neighbours=(few,)))
    up(state)
    state.on_event(heard(*(f"10.{count // 256}.{count % 256}.0/24" for count in range(1010))), 1.0)
    answer_all(state)
    assert (tor(state).forgotten, head_of(state).problems) == (9, ())
    known = [path.prefix for path in state.rib.paths()]
    state.on_event(heard(withdrawn=tuple(known)), 2.0)
    (problem,) = head_of(state).problems
    assert (problem.object, problem.reason) == ("neighbour tor", ProblemReason.ROUTES_FORGOTTEN)
    higher = msgspec.structs.replace(few, max_prefixes=2000)
    state.set_desired(msgspec.structs.replace(DESIRED, generation=2, neighbours=(higher,)), 3.0)
    assert [line.split()[2] for line in answer_all(state)] == ["teardown"]


def test_a_teardown_is_answered_like_any_other_command_so_later_answers_stay_in_step():
    state = with_more_refused_than_are_kept()
    wider = msgspec.structs.replace(TOR, accept=("10.0.0.0/8", "172.16.0.0/12"))
    state.set_desired(msgspec.structs.replace(DESIRED, generation=2, neighbours=(wider,)), 3.0)
    answer_all(state)
    down(state, "closing connection", 4.0)
    up(state, 5.0)
    lines = list(state.telling.lines())
    state.on_event(Answer(False), 5.0)
    (note,) = state.notes.values()
    assert "announce" in lines[0]
    assert "tor" in note.object


def test_a_route_that_was_stale_already_is_dropped_when_the_session_falls_again():
    state = asked()
    up(state)
    state.on_event(heard("10.1.0.0/16"), 1.5)
    down(state, now=2.0)
    state.decide(100)
    assert observed_of(state).routes["10.1.0.0/16"].stale
    up(state, 3.0)
    down(state, now=4.0)
    state.decide(100)
    assert observed_of(state).routes == {}


def test_a_neighbour_without_end_of_rib_counts_as_settled_only_after_its_time_since_the_first_order():
    state = SpeakerState(0.0)
    brief = msgspec.structs.replace(TOR, graceful_restart=0)
    state.tick(1000.0)
    state.set_desired(msgspec.structs.replace(DESIRED, neighbours=(brief,)), 1000.0)
    state.set_configured(state.neighbours_to_configure())
    for now, settled in ((1000.0, False), (1029.0, False), (1030.0, True)):
        state.tick(now)
        state.decide(100)
        assert state.is_settled(Family.IPV4) is settled, now


def test_a_neighbour_that_came_up_late_is_given_time_to_send_its_table():
    state = asked()
    up(state, 119.0)
    state.tick(125.0)
    state.decide(100)
    assert not state.is_settled(Family.IPV4)
    state.tick(150.0)
    state.decide(100)
    assert state.is_settled(Family.IPV4)


def test_a_session_that_is_added_later_keeps_no_lost_route_of_another_alive():
    state = asked()
    up(state)
    for family in Family:
        state.on_event(EndOfRib(TOR.address, False, family), 1.0)
    state.decide(100)
    silent = msgspec.structs.replace(TOR, name="silent", address="192.0.2.99")
    state.set_desired(msgspec.structs.replace(DESIRED, neighbours=(TOR, silent)), 2.0)
    state.decide(100)
    assert observed_of(state).settled == (Family.IPV4, Family.IPV6)

    of_the_first_order = asked(msgspec.structs.replace(DESIRED, neighbours=(TOR, silent)))
    up(of_the_first_order)
    for family in Family:
        of_the_first_order.on_event(EndOfRib(TOR.address, False, family), 1.0)
    of_the_first_order.decide(100)
    assert observed_of(of_the_first_order).settled == ()


def test_what_the_parser_refused_is_not_tried_again_when_only_announcements_change():
    state = asked()
    changed = msgspec.structs.replace(TOR, hold_time=30, families=(Family.IPV6, Family.IPV4))
    state.set_desired(msgspec.structs.replace(DESIRED, neighbours=(changed,)), 1.0)
    state.reject(dict.fromkeys(state.neighbours_to_configure(), "its words"), 1.0)
    for now in (2.0, 3.0):
        quiet = msgspec.structs.replace(changed, announcements=TOR.announcements[: int(now) - 2])
        state.set_desired(msgspec.structs.replace(DESIRED, neighbours=(quiet,)), now)
        assert [one.hold_time for one in state.neighbours_to_configure()] == [TOR.hold_time]


def test_a_problem_with_commands_goes_with_the_neighbour():
    state = asked()
    up(state)
    list(state.telling.lines())
    state.on_event(Answer(False), 1.0)
    assert len(state.notes) == 1
    state.set_desired(msgspec.structs.replace(DESIRED, neighbours=()), 2.0)
    state.set_configured([])
    assert head_of(state).problems == ()
