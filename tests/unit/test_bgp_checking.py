"""Bad input to the speaker: what is refused, why, and that the nearest good input is served."""

import msgspec
import pytest

from bgp.checking import Experience, checked, without_announcements
from bgp.reasons import ProblemReason, SessionReason
from bgp.values import Announcement, Desired, Family, Neighbour, Refusals

GOOD = Neighbour(
    name="tor",
    address="192.0.2.1",
    local_address="192.0.2.11",
    asn=65001,
    local_asn=64512,
    families=(Family.IPV4, Family.IPV6),
    announcements=(Announcement(prefix="10.244.1.0/26", next_hop="192.0.2.11"),),
)
DESIRED = Desired(router_id="192.0.2.11", neighbours=(GOOD,))


def with_neighbour(**changes):
    return msgspec.structs.replace(DESIRED, neighbours=(msgspec.structs.replace(GOOD, **changes),))


def test_a_good_desired_state_passes_unchanged():
    found = checked(DESIRED)
    assert (found.desired, found.refusals, found.problems) == (DESIRED, (), ())


@pytest.mark.parametrize(
    ("field", "bad", "good"),
    [
        ("address", "192.0.2", "192.0.2.2"),
        ("address", "192.0.2.11", "192.0.2.12"),
        ("address", "192.0.2.1/32", "192.0.2.1"),
        ("address", "224.0.0.1", "223.0.0.1"),
        ("address", "169.254.0.1", "169.253.0.1"),
        ("address", "0.0.0.0", "192.0.2.9"),
        ("local_address", "nowhere", "192.0.2.12"),
        ("asn", 0, 1),
        ("asn", 2**32, 2**32 - 1),
        ("asn", 23456, 23457),
        ("local_asn", 0, 1),
        ("port", 0, 1),
        ("port", 65536, 65535),
        ("hold_time", 2, 3),
        ("hold_time", -1, 0),
        ("hold_time", 65536, 65535),
        ("graceful_restart", 4096, 4095),
        ("families", (), (Family.IPV4,)),
        ("password", "x" * 81, "x" * 80),
        ("password", "é" * 41, "é" * 40),
        ("ttl_security", 0, 1),
        ("ttl_security", 255, 254),
        ("multihop", 0, 1),
        ("multihop", 256, 255),
        ("max_prefixes", -1, 0),
        ("accept", ("10.0.0.1/8",), ("10.0.0.0/8",)),
        ("name", "", "x"),
        ("name", "a\nb", "a b"),
    ],
)
def test_a_wrong_field_refuses_the_neighbour_and_names_object_field_value_and_remedy(field, bad, good):
    found = checked(with_neighbour(**{field: bad}))
    assert found.desired.neighbours == ()
    assert [refusal.reason for refusal in found.refusals] == [SessionReason.CONFIGURATION_REFUSED]
    (problem,) = found.problems
    assert problem.object == f"neighbour {bad if field == 'name' else 'tor'}"
    assert (problem.field, problem.reason) == (field, ProblemReason.INVALID_VALUE)
    assert problem.message
    if field != "password":
        assert str(bad if field != "accept" else bad[0]) in problem.value or bad == ()
    good_found = checked(with_neighbour(**{field: good}))
    assert len(good_found.desired.neighbours) == 1
    assert good_found.problems == ()


def test_a_password_is_in_no_message_and_no_repr():
    secret = "open sesame " * 9
    found = checked(with_neighbour(password=secret))
    assert "sesame" not in repr(found)
    assert "sesame" not in repr(with_neighbour(password="sesame"))


def test_the_second_neighbour_with_an_address_is_refused_and_the_first_served():
    twin = msgspec.structs.replace(GOOD, name="twin", asn=65009)
    found = checked(msgspec.structs.replace(DESIRED, neighbours=(GOOD, twin)))
    assert found.desired.neighbours == (GOOD,)
    (refusal,) = found.refusals
    assert (refusal.neighbour.name, refusal.reason) == ("twin", SessionReason.ADDRESS_CONFLICT)
    assert "tor" in refusal.message
    assert [problem.reason for problem in found.problems] == [ProblemReason.ADDRESS_CONFLICT]


def test_one_address_in_two_spellings_is_one_address():
    one = msgspec.structs.replace(GOOD, address="2001:db8::1", local_address="2001:db8::11", announcements=())
    twin = msgspec.structs.replace(one, name="twin", address="2001:0db8:0:0::1")
    assert len(checked(msgspec.structs.replace(DESIRED, neighbours=(one, twin))).desired.neighbours) == 1


def test_the_second_neighbour_with_a_name_is_refused():
    twin = msgspec.structs.replace(GOOD, address="192.0.2.2")
    found = checked(msgspec.structs.replace(DESIRED, neighbours=(GOOD, twin)))
    assert found.desired.neighbours == (GOOD,)
    assert found.problems[0].field == "name"


def test_ttl_security_needs_the_connecting_side():
    assert checked(with_neighbour(ttl_security=1, passive=True)).problems[0].field == "ttl_security"
    assert checked(with_neighbour(ttl_security=1)).problems == ()
    assert checked(with_neighbour(ttl_security=1, multihop=2)).problems[0].field == "multihop"


@pytest.mark.parametrize(
    ("field", "bad", "good"),
    [
        ("prefix", "10.244.1.1/26", "10.244.2.0/26"),
        ("next_hop", "2001:db8::1", "192.0.2.12"),
        ("next_hop", "", "192.0.2.12"),
        ("communities", ("graceful-shutdown",), ("65535:0",)),
        ("communities", ("65536:1",), ("65535:1",)),
        ("large_communities", ("1:2",), ("1:2:3",)),
        ("large_communities", ("1:2:4294967296",), ("1:2:4294967295",)),
        ("local_preference", 100, None),
        ("med", -1, 0),
        ("prepend", 17, 16),
        ("prepend", -1, 0),
    ],
)
def test_a_wrong_announcement_is_left_out_and_its_neighbour_served(field, bad, good):
    def announcing(value):
        announcement = msgspec.structs.replace(GOOD.announcements[0], **{field: value})
        other = Announcement(prefix="10.244.9.0/26", next_hop="192.0.2.11")
        return checked(with_neighbour(announcements=(announcement, other)))

    found = announcing(bad)
    assert [a.prefix for a in found.desired.neighbours[0].announcements] == ["10.244.9.0/26"]
    (problem,) = found.problems
    assert problem.object.startswith("neighbour tor announcement ")
    assert problem.field == field
    assert problem.message
    assert announcing(good).problems == ()


def test_inside_one_as_the_path_is_not_prepended_and_local_preference_is_sent():
    internal = {"asn": 64512}
    preferred = msgspec.structs.replace(GOOD.announcements[0], local_preference=50)
    longer = msgspec.structs.replace(GOOD.announcements[0], prepend=1)
    assert checked(with_neighbour(announcements=(preferred,), **internal)).problems == ()
    assert checked(with_neighbour(announcements=(longer,), **internal)).problems[0].field == "prepend"


def test_an_announcement_of_a_family_the_neighbour_lacks_is_left_out():
    found = checked(with_neighbour(families=(Family.IPV6,)))
    assert found.desired.neighbours[0].announcements == ()
    assert found.problems[0].field == "prefix"


def test_a_wrong_entry_of_a_shared_list_is_left_out_and_the_others_kept():
    refuse = Refusals(node_ranges=("192.0.2.0/24", "192.0.2.1/24"), own_addresses=("192.0.2.11", "192.0.2.11/32"))
    found = checked(msgspec.structs.replace(DESIRED, refuse=refuse, on_link=("192.0.2.0/24", "x")))
    assert found.desired.refuse.node_ranges == ("192.0.2.0/24",)
    assert found.desired.refuse.own_addresses == ("192.0.2.11",)
    assert found.desired.on_link == ("192.0.2.0/24",)
    assert [problem.field for problem in found.problems] == [
        "refuse.node_ranges",
        "refuse.own_addresses",
        "on_link",
    ]
    assert found.desired.neighbours == (GOOD,)


@pytest.mark.parametrize(("field", "bad"), [("router_id", "2001:db8::1"), ("router_id", ""), ("listen_port", 0)])
def test_without_a_usable_router_id_or_port_no_neighbour_can_be_served(field, bad):
    found = checked(msgspec.structs.replace(DESIRED, **{field: bad}))
    assert found.desired.neighbours == ()
    assert found.problems[0].field == field
    assert [refusal.neighbour for refusal in found.refusals] == [GOOD]


GOOD_BEFORE = Experience(good=msgspec.structs.replace(DESIRED, neighbours=(without_announcements(GOOD),)))


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("router_id", "x"),
        ("router_id", "0.0.0.0"),
        ("router_id", "fd00::1"),
        ("listen_port", 0),
        ("listen_port", 70000),
    ],
)
def test_a_wrong_router_id_or_port_leaves_the_good_one_in_force_for_old_and_new_neighbours(field, bad):
    new = msgspec.structs.replace(GOOD, name="new", address="192.0.2.2")
    order = msgspec.structs.replace(DESIRED, neighbours=(GOOD, new), **{field: bad})
    found = checked(order, GOOD_BEFORE)
    assert found.desired == msgspec.structs.replace(DESIRED, neighbours=(GOOD, new))
    (problem,) = found.problems
    assert (problem.object, problem.field, problem.value) == ("desired", field, str(bad))
    assert "last good" in problem.message
    assert checked(order).desired.neighbours == ()


@pytest.mark.parametrize(("field", "bad"), [("hold_time", 2), ("asn", 0), ("address", "nowhere"), ("families", ())])
def test_a_neighbour_with_a_wrong_field_is_served_as_it_was_with_what_it_is_to_announce_now(field, bad):
    later = Announcement(prefix="10.244.2.0/26", next_hop="192.0.2.11")
    wrong = msgspec.structs.replace(GOOD, **{field: bad}, announcements=(later,), accept=("10.0.0.0/8",))
    found = checked(msgspec.structs.replace(DESIRED, neighbours=(wrong,)), GOOD_BEFORE)
    expected = msgspec.structs.replace(GOOD, announcements=(later,), accept=("10.0.0.0/8",))
    assert found.desired.neighbours == (expected,)
    assert [(refusal.neighbour, refusal.kept) for refusal in found.refusals] == [(wrong, True)]
    assert [problem.field for problem in found.problems] == [field]


def test_a_kept_version_takes_no_address_from_a_good_neighbour():
    wrong = msgspec.structs.replace(GOOD, hold_time=2)
    other = msgspec.structs.replace(GOOD, name="other")
    found = checked(msgspec.structs.replace(DESIRED, neighbours=(wrong, other)), GOOD_BEFORE)
    assert found.desired.neighbours == (other,)
    assert [refusal.kept for refusal in found.refusals] == [False]
