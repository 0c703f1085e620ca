"""Import policy and best path: one test for each reason, one for each step, and an oracle for the whole."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.decision import STEPS, Attributes, Candidate, ImportPolicy, best_paths, is_link_local, losing_reasons
from bgp.reasons import ImportReason, PathReason
from bgp.values import Family, Neighbour, Refusals

NEIGHBOUR = Neighbour(
    name="tor",
    address="192.0.2.1",
    local_address="192.0.2.11",
    asn=65001,
    local_asn=64512,
    families=(Family.IPV4, Family.IPV6),
    accept=("10.244.0.0/16", "fd00:244::/64"),
)
REFUSE = Refusals(
    own_blocks=("10.244.1.0/26", "fd00:244::40/122"),
    node_ranges=("10.244.200.0/24",),
    service_ranges=("10.244.96.0/20",),
    max_length={Family.IPV4: 26, Family.IPV6: 122},
    own_addresses=("192.0.2.11", "2001:db8::11"),
)
ON_LINK = ("192.0.2.0/24", "2001:db8::/64")
HEARD = Attributes(as_path=(65001, 65000), path_length=2, neighbour_as=65001)


def refusal(prefix, next_hop="192.0.2.1", attributes=HEARD, **changes):
    return ImportPolicy(msgspec.structs.replace(NEIGHBOUR, **changes), REFUSE, ON_LINK).refusal(
        prefix, next_hop, attributes
    )


@pytest.mark.parametrize(
    ("prefix", "next_hop", "reason"),
    [
        ("10.244.1.0/26", "192.0.2.1", ImportReason.OWN_BLOCK),
        ("10.244.1.7/32", "192.0.2.1", ImportReason.OWN_BLOCK),
        ("fd00:244::40/122", "2001:db8::1", ImportReason.OWN_BLOCK),
        ("fd00:244::41/128", "2001:db8::1", ImportReason.OWN_BLOCK),
        ("10.244.200.0/26", "192.0.2.1", ImportReason.NODE_RANGE),
        ("10.244.100.0/26", "192.0.2.1", ImportReason.SERVICE_RANGE),
        ("10.245.0.0/26", "192.0.2.1", ImportReason.NOT_ACCEPTED),
        ("0.0.0.0/0", "192.0.2.1", ImportReason.NOT_ACCEPTED),
        ("fd00:245::/122", "2001:db8::1", ImportReason.NOT_ACCEPTED),
        ("10.244.2.0/27", "192.0.2.1", ImportReason.LONGER_THAN_BLOCK),
        ("fd00:244::80/123", "2001:db8::1", ImportReason.LONGER_THAN_BLOCK),
        ("10.244.2.0/26", "192.0.2.11", ImportReason.NEXT_HOP_OWN),
        ("fd00:244::80/122", "2001:db8::11", ImportReason.NEXT_HOP_OWN),
        ("10.244.2.0/26", "198.51.100.1", ImportReason.NEXT_HOP_NOT_ON_LINK),
        ("fd00:244::80/122", "2001:db8:1::1", ImportReason.NEXT_HOP_NOT_ON_LINK),
        ("10.244.2.0/26", "192.0.2.1", None),
        ("10.244.0.0/16", "192.0.2.1", None),
        ("fd00:244::80/122", "2001:db8::1", None),
        ("fd00:244::/64", "2001:db8::1", None),
    ],
)
def test_a_route_is_refused_for_the_reason_that_applies(prefix, next_hop, reason):
    assert refusal(prefix, next_hop) is reason


def test_a_path_with_our_own_as_is_a_loop_unless_that_is_allowed():
    looped = Attributes(as_path=(65001, 64512), path_length=2, neighbour_as=65001)
    assert refusal("10.244.2.0/26", attributes=looped) is ImportReason.OWN_AS
    assert refusal("10.244.2.0/26", attributes=looped, allow_own_as=True) is None


def test_a_family_that_the_neighbour_does_not_have_is_refused():
    assert refusal("fd00:244::80/122", "2001:db8::1", families=(Family.IPV4,)) is ImportReason.FAMILY_NOT_ENABLED
    assert refusal("10.244.2.0/26", families=(Family.IPV4,)) is None


def test_nothing_is_learned_from_a_neighbour_that_accepts_nothing():
    assert refusal("10.244.2.0/26", accept=()) is ImportReason.NOT_ACCEPTED


@pytest.mark.parametrize(
    ("address", "expected"), [("fe80::1", True), ("febf::1", True), ("fec0::1", False), ("192.0.2.1", False)]
)
def test_link_local_next_hops_are_recognised(address, expected):
    assert is_link_local(address) is expected


def path(session="a", *, external=True, stale=False, next_hop="192.0.2.1", **attributes):
    return Candidate(
        session, external, stale, next_hop, Attributes(**{"path_length": 2, "neighbour_as": 1, **attributes})
    )


@pytest.mark.parametrize(
    ("reason", "better", "worse"),
    [
        (PathReason.STALE, path(path_length=9), path("b", stale=True)),
        (PathReason.GRACEFUL_SHUTDOWN, path(path_length=9), path("b", communities=("65535:0",))),
        (
            PathReason.LOCAL_PREFERENCE,
            path(external=False, local_preference=200, path_length=9),
            path("b", external=False, local_preference=100),
        ),
        (PathReason.LOCAL_PREFERENCE, path(external=False), path("b", external=False, local_preference=99)),
        (PathReason.AS_PATH, path(path_length=1, origin="incomplete"), path("b", path_length=2)),
        (PathReason.ORIGIN, path(origin="igp", med=9), path("b", origin="egp")),
        (PathReason.ORIGIN, path(origin="egp", med=9), path("b", origin="incomplete")),
        (PathReason.MED, path(external=False), path("b", med=1)),
        (PathReason.EXTERNAL, path(external=True), path("b", external=False)),
    ],
)
def test_each_step_decides_over_all_later_ones(reason, better, worse):
    assert best_paths([worse, better]) == [better]
    assert losing_reasons([worse, better]) == {"b": reason}


def test_local_preference_from_another_as_is_not_believed():
    both = [path(local_preference=500), path("b", local_preference=1)]
    assert best_paths(both) == both


def test_med_is_not_compared_between_different_neighbouring_as():
    both = [path(neighbour_as=1, med=10), path("b", neighbour_as=2, med=20)]
    assert best_paths(both) == both
    lower = path("c", neighbour_as=2, med=5)
    assert best_paths([*both, lower]) == [both[0], lower]


def test_equal_paths_are_kept_together():
    both = [path(next_hop="192.0.2.1"), path("b", next_hop="192.0.2.2")]
    assert best_paths(both) == both
    assert losing_reasons(both) == {}


def test_a_stale_path_is_used_while_there_is_no_other():
    only = path(stale=True)
    assert best_paths([only]) == [only]


def test_every_step_names_the_section_that_asks_for_it():
    assert all(step.section.startswith("RFC ") for step in STEPS)
    assert [step.reason for step in STEPS] == list(PathReason)


paths = st.lists(
    st.builds(
        path,
        st.uuids().map(str),
        external=st.booleans(),
        stale=st.booleans(),
        path_length=st.integers(1, 3),
        origin=st.sampled_from(["igp", "egp", "incomplete"]),
        med=st.sampled_from([None, 0, 1]),
        neighbour_as=st.integers(1, 2),
        local_preference=st.sampled_from([None, 100, 200]),
        communities=st.sampled_from([(), ("65535:0",)]),
    ),
    max_size=6,
)


def beats(one, other):
    """Slow and obvious: whether `one` is better than `other` in a comparison of two."""
    for a, b in zip(rank(one), rank(other), strict=True):
        if a != b:
            return a < b
    if one.attributes.neighbour_as == other.attributes.neighbour_as:
        mine, yours = one.attributes.med or 0, other.attributes.med or 0
        if mine != yours:
            return mine < yours
    return False


def rank(candidate):
    attributes = candidate.attributes
    preference = 100 if candidate.external or attributes.local_preference is None else attributes.local_preference
    origin = ["igp", "egp", "incomplete"].index(attributes.origin)
    return (candidate.stale, "65535:0" in attributes.communities, -preference, attributes.path_length, origin)


@given(paths)
def test_the_choice_agrees_with_comparing_every_pair(candidates):
    unbeaten = [one for one in candidates if not any(beats(other, one) for other in candidates)]
    if any(one.external for one in unbeaten):
        unbeaten = [one for one in unbeaten if one.external]
    assert list(best_paths(candidates)) == unbeaten
    assert set(losing_reasons(candidates)) == {one.session for one in candidates} - {one.session for one in unbeaten}
