"""Adj-RIB-In and Loc-RIB: limits, stale routes, and the incremental choice against a full one."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgp.decision import Attributes, ImportPolicy, best_paths
from bgp.reasons import ImportReason, PathReason
from bgp.rib import REFUSED_KEPT, REFUSED_NAMED, AdjRibIn, LocRib, route_of
from bgp.values import Family, Neighbour, Refusals, Route

HEARD = Attributes(as_path=(65001,), path_length=1, neighbour_as=65001)


def neighbour(number=1, **changes):
    values = {
        "name": f"tor-{number}",
        "address": f"192.0.2.{number}",
        "local_address": "192.0.2.11",
        "asn": 65000 + number,
        "local_asn": 64512,
        "families": (Family.IPV4, Family.IPV6),
        "accept": ("10.0.0.0/8",),
    }
    return Neighbour(**{**values, **changes})


def policy_of(one, **refuse):
    return ImportPolicy(one, Refusals(**refuse), ("192.0.2.0/24",))


def rib_of(**changes):
    one = neighbour(**changes)
    return AdjRibIn(one, policy_of(one))


def prefix(number):
    return f"10.{number >> 8}.{number & 255}.0/24"


def test_above_the_limit_the_excess_is_refused_and_takes_the_place_of_a_withdrawn_route():
    rib = rib_of(max_prefixes=2)
    for number in range(3):
        rib.announce(prefix(number), "192.0.2.1", HEARD)
    assert (rib.accepted, rib.refused_counts()) == (2, {ImportReason.ABOVE_MAX_PREFIXES: 1})
    assert set(rib.withdraw(prefix(0))) == {prefix(0), prefix(2)}
    assert (rib.accepted, rib.refused_counts()) == (2, {})


def test_a_surplus_route_takes_the_place_among_the_kept_of_one_that_is_not_welcome_at_all():
    rib = rib_of(max_prefixes=1)
    for number in range(REFUSED_KEPT):
        rib.announce(f"172.16.{number >> 8}.{number & 255}/32", "192.0.2.1", HEARD)
    for number in range(2):
        rib.announce(prefix(number), "192.0.2.1", HEARD)
    assert (len(rib.entries), len(rib.forgotten)) == (REFUSED_KEPT + 1, 1)
    assert set(rib.withdraw(prefix(0))) == {prefix(0), prefix(1)}
    assert not rib.lacks_surplus


def test_room_for_routes_that_are_no_longer_known_is_told_and_a_higher_limit_asks_the_peer():
    rib = rib_of(max_prefixes=1)
    for number in range(REFUSED_KEPT + 3):
        rib.announce(prefix(number), "192.0.2.1", HEARD)
    assert rib.refused_counts() == {ImportReason.ABOVE_MAX_PREFIXES: REFUSED_KEPT + 2}
    for number in range(REFUSED_KEPT):
        rib.withdraw(prefix(number))
        assert (rib.accepted, rib.lacks_surplus) == (1, False)
    rib.withdraw(prefix(REFUSED_KEPT))
    assert (rib.accepted, rib.lacks_surplus) == (0, True)
    assert rib.refused_counts() == {ImportReason.ABOVE_MAX_PREFIXES: 2}
    higher = neighbour(max_prefixes=2)
    assert rib.lacks_for(higher, policy_of(higher))
    assert not rib.lacks_for(neighbour(max_prefixes=1), policy_of(higher))
    rib.announce(prefix(REFUSED_KEPT + 1), "192.0.2.1", HEARD)
    rib.announce(prefix(REFUSED_KEPT + 2), "192.0.2.1", HEARD)
    assert (rib.accepted, rib.lacks_surplus) == (1, False)


def test_more_refused_routes_than_can_be_named_make_the_picture_incomplete_until_the_session_is_new():
    rib = rib_of()
    for number in range(REFUSED_KEPT + REFUSED_NAMED):
        rib.announce(f"172.{16 + (number >> 16)}.{number >> 8 & 255}.{number & 255}/32", "192.0.2.1", HEARD)
    assert not rib.is_incomplete
    rib.announce("192.168.0.0/16", "192.0.2.1", HEARD)
    assert rib.is_incomplete
    assert not rib.lacks_surplus, "none of them was refused for its number"
    assert rib.received == REFUSED_KEPT + REFUSED_NAMED
    rib.restart()
    assert not rib.is_incomplete


@settings(max_examples=200, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from("aawr"), st.integers(0, 11), st.booleans()), max_size=60))
def test_counts_are_those_of_what_the_peer_announces_now_however_much_is_forgotten(steps):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bgp.rib.REFUSED_KEPT", 2)
        rib, peer = rib_of(max_prefixes=2), {}
        for what, number, welcome in steps:
            name = prefix(number)
            if what == "a":
                peer[name] = welcome
                rib.announce(name, "192.0.2.1" if welcome else "192.0.3.1", HEARD)
            elif what == "w":
                peer.pop(name, None)
                rib.withdraw(name)
            else:
                peer.clear()
                rib.restart()
                rib.flush_stale()
        counts = rib.refused_counts()
        assert rib.received == len(peer)
        assert rib.accepted + counts.get(ImportReason.ABOVE_MAX_PREFIXES, 0) == sum(peer.values())
        assert counts.get(ImportReason.NEXT_HOP_NOT_ON_LINK, 0) == len(peer) - sum(peer.values())
        assert rib.accepted == 2 or rib.lacks_surplus or rib.accepted == sum(peer.values())


def test_a_replaced_route_counts_once():
    rib = rib_of(max_prefixes=1)
    rib.announce(prefix(0), "192.0.2.1", HEARD)
    rib.announce(prefix(0), "192.0.2.2", HEARD)
    assert (rib.accepted, rib.received, rib.entries[prefix(0)].next_hop) == (1, 1, "192.0.2.2")


def test_refused_routes_are_kept_up_to_a_thousand_and_the_others_counted():
    rib = rib_of()
    for number in range(REFUSED_KEPT + 5):
        rib.announce(f"172.16.{number >> 8}.{number & 255}/32", "192.0.2.1", HEARD)
    assert len(rib.entries) == REFUSED_KEPT
    assert rib.refused_counts() == {ImportReason.NOT_ACCEPTED: REFUSED_KEPT + 5}
    assert rib.received == REFUSED_KEPT + 5
    rib.withdraw("172.16.3.236/32")
    assert rib.refused_counts() == {ImportReason.NOT_ACCEPTED: REFUSED_KEPT + 4}


def test_a_new_policy_judges_what_was_received_before():
    rib = rib_of(accept=())
    rib.announce(prefix(0), "192.0.2.1", HEARD)
    assert rib.candidate(prefix(0)) is None
    wider = neighbour()
    assert rib.set_policy(wider, policy_of(wider)) == [prefix(0)]
    assert rib.candidate(prefix(0)) is not None
    assert rib.set_policy(wider, policy_of(wider)) == []


def test_routes_of_a_lost_session_are_stale_until_repeated_or_flushed():
    rib = rib_of()
    rib.announce(prefix(0), "192.0.2.1", HEARD)
    rib.announce(prefix(1), "192.0.2.1", HEARD)
    rib.restart()
    assert rib.candidate(prefix(0)).stale
    rib.announce(prefix(0), "192.0.2.1", HEARD)
    assert not rib.candidate(prefix(0)).stale
    assert rib.flush_stale(Family.IPV6) == []
    assert rib.flush_stale(Family.IPV4) == [prefix(1)]
    assert list(rib.entries) == [prefix(0)]


def test_the_global_next_hop_is_preferred_to_the_link_local_one_in_the_same_update():
    one = neighbour(accept=("fd00::/16",))
    attributes = Attributes(as_path=(65001,), path_length=1)
    for order in (("2001:db8::1", "fe80::1"), ("fe80::1", "2001:db8::1")):
        rib = AdjRibIn(one, ImportPolicy(one, Refusals(), ("2001:db8::/64",)))
        for next_hop in order:
            rib.announce("fd00::/64", next_hop, attributes)
        assert rib.entries["fd00::/64"].next_hop == "2001:db8::1"


def test_paths_say_why_they_are_not_used():
    loc = LocRib()
    for number, length in ((1, 1), (2, 2)):
        one = neighbour(number)
        loc.sessions[one.address] = AdjRibIn(one, policy_of(one))
        loc.sessions[one.address].announce(prefix(0), one.address, msgspec.structs.replace(HEARD, path_length=length))
    loc.sessions["192.0.2.1"].announce("172.16.0.0/24", "192.0.2.1", HEARD)
    seen = {(path.session, path.prefix): (path.refused, path.lost) for path in loc.paths()}
    assert seen == {
        ("tor-1", prefix(0)): (None, None),
        ("tor-2", prefix(0)): (None, PathReason.AS_PATH),
        ("tor-1", "172.16.0.0/24"): (ImportReason.NOT_ACCEPTED, None),
    }


def test_equal_paths_of_two_routers_become_one_route_with_both_next_hops():
    loc = LocRib()
    for number in (2, 1):
        one = neighbour(number)
        loc.sessions[one.address] = AdjRibIn(one, policy_of(one))
        loc.dirty.update(loc.sessions[one.address].announce(prefix(0), one.address, HEARD))
    both = Route(("192.0.2.1", "192.0.2.2"), ("tor-1", "tor-2"))
    assert loc.decide(10) == {prefix(0): both}
    loc.remove("192.0.2.1")
    assert loc.decide(10) == {prefix(0): Route(("192.0.2.2",), ("tor-2",))}
    loc.remove("192.0.2.2")
    assert loc.decide(10) == {prefix(0): None}
    assert loc.routes == {}


actions = st.lists(
    st.tuples(
        st.sampled_from(["announce", "withdraw", "restart", "flush"]),
        st.integers(1, 3),
        st.integers(0, 4),
        st.integers(1, 3),
    ),
    max_size=60,
)


@given(actions)
@settings(max_examples=200)
def test_deciding_only_what_changed_gives_the_same_table_as_deciding_everything(steps):
    loc = LocRib()
    for number in (1, 2, 3):
        one = neighbour(number, max_prefixes=3)
        loc.sessions[one.address] = AdjRibIn(one, policy_of(one))
    for action, number, route, length in steps:
        rib = loc.sessions[f"192.0.2.{number}"]
        if action == "announce":
            heard = msgspec.structs.replace(HEARD, path_length=length)
            loc.dirty.update(rib.announce(prefix(route), f"192.0.2.{number}", heard))
        elif action == "withdraw":
            loc.dirty.update(rib.withdraw(prefix(route)))
        elif action == "restart":
            rib.restart()
            loc.dirty.update(rib.entries)
        else:
            loc.dirty.update(rib.flush_stale())
        assert rib.accepted == sum(entry.refused is None for entry in rib.entries.values())
        assert rib.accepted <= 3
        if length == 3:
            loc.decide(2)
    while loc.dirty:
        loc.decide(2)
    everything = {prefix(number): route_of(best_paths(loc.candidates(prefix(number)))) for number in range(5)}
    assert loc.routes == {name: route for name, route in everything.items() if route is not None}
