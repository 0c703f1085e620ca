"""Texts to networks, as the objects list them."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.plan.cidrs import canonical_address, distinct_networks, is_inside, single_networks

NETWORKS = st.sampled_from(("10.0.0.0/30", "10.0.0.1", "10.0.0.2/31", "10.0.0.9", "fd00::/126", "fd00::1", "fd00::9"))


@given(st.lists(NETWORKS))
def test_distinct_networks_hold_the_same_addresses_each_once(cidrs: list[str]) -> None:
    held = [address for network in distinct_networks(tuple(cidrs)) for address in network]
    assert len(held) == len(set(held))
    assert set(held) == {address for cidr in cidrs for address in ipaddress.ip_network(cidr)}


def test_distinct_networks_are_sorted_with_ipv4_first() -> None:
    found = distinct_networks(("fd00::1", "10.9.0.0/24", "10.1.0.0/24", "10.1.0.7"))
    assert [str(each) for each in found] == ["10.1.0.0/24", "10.9.0.0/24", "fd00::1/128"]


def test_a_network_with_host_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="host bits"):
        distinct_networks(("10.0.0.0/24", "10.0.0.1/24"))


@pytest.mark.parametrize(
    ("around", "inside"),
    [("10.0.0.0/24", True), ("10.0.0.0/26", True), ("10.0.0.0/27", False), ("10.0.1.0/24", False), ("fd00::/8", False)],
)
def test_a_network_is_inside_one_that_has_all_its_addresses(around: str, inside: bool) -> None:
    assert is_inside("10.0.0.0/26", around) is inside


def test_each_address_is_a_network_of_its_own() -> None:
    assert single_networks(("10.0.0.1", "10.0.0.2", "FD00::1")) == ("10.0.0.1/32", "10.0.0.2/32", "fd00::1/128")


def test_an_address_is_written_in_one_way_and_other_texts_are_none() -> None:
    assert [canonical_address(text) for text in ("FD00:0::1", "10.0.0.1", "n1.example")] == [
        "fd00::1",
        "10.0.0.1",
        None,
    ]
