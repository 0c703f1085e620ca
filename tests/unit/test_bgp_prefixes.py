"""Prefixes as numbers, with the standard library's `ipaddress` as the oracle."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.prefixes import PrefixSet, canonical, parsed_prefix


def network(family: int, value: int, length: int) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    kind = ipaddress.IPv4Network if family == 4 else ipaddress.IPv6Network
    bits = 32 if family == 4 else 128
    length = min(length, bits)
    return kind((value % 2**bits >> (bits - length) << (bits - length), length))


# Few distinct bits, so that prefixes often contain each other.
networks = st.builds(
    network,
    st.sampled_from([4, 6]),
    st.builds(lambda low, high: low << 24 | high << 120 | low, st.integers(0, 7), st.integers(0, 7)),
    st.integers(0, 128),
)


@given(networks, networks)
def test_covering_agrees_with_the_standard_library(outer, inner):
    expected = outer.version == inner.version and inner.subnet_of(outer)
    assert parsed_prefix(str(outer)).covers(parsed_prefix(str(inner))) == expected


@given(st.lists(networks, max_size=8), networks)
def test_a_set_covers_what_one_of_its_members_covers(members, inner):
    expected = any(outer.version == inner.version and inner.subnet_of(outer) for outer in members)
    assert PrefixSet(map(str, members)).covers(parsed_prefix(str(inner))) == expected


@given(networks)
def test_the_canonical_text_is_that_of_the_standard_library(prefix):
    assert canonical(prefix.exploded) == str(prefix) or (prefix.version == 6 and "." in canonical(prefix.exploded))


@pytest.mark.parametrize(
    ("bad", "good"),
    [
        ("10.0.0.1/24", "10.0.0.0/24"),
        ("10.0.0.0/33", "10.0.0.0/32"),
        ("10.0.0.0", "10.0.0.0/8"),
        ("fd00::1/64", "fd00::/64"),
        ("fd00::/129", "fd00::/128"),
        ("10.0.0.0/-1", "0.0.0.0/0"),
        ("10.0.0.0/٢", "10.0.0.0/20"),
        ("pool", "::/0"),
    ],
)
def test_a_malformed_prefix_is_refused_and_the_nearest_good_one_taken(bad, good):
    with pytest.raises(ValueError, match=r"host bits|not a prefix|not an IPv4"):
        parsed_prefix(bad)
    assert parsed_prefix(good).length == int(good.partition("/")[2])
