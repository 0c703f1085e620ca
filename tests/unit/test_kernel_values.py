"""What the kernel should hold, as values: names, aliases, and the difference between wanted and actual."""

import re
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.cni.install import PLUGIN
from controller.kernel.values import (
    ALIAS_LIMIT,
    INSTALLED_NETWORK,
    Attachment,
    NextHop,
    PodLink,
    Route,
    RouteChanges,
    RouteKind,
    alias_for,
    attachment_in,
    host_interface_name,
    is_our_name,
    is_satisfied,
    mac_addresses,
    network_word,
    pod_routes,
    route_changes,
)

PREFIXES = [ip_network(text) for text in ("10.0.0.0/26", "10.0.0.64/26", "10.0.0.1/32", "fd00::/122", "fd00::1/128")]
HOPS = [NextHop(ip_address("192.0.2.1"), "a"), NextHop(ip_address("192.0.2.1"), "b"), NextHop(None, "a")]

legs = st.lists(st.sampled_from(HOPS), min_size=1, max_size=3, unique=True).map(tuple)
route_values = st.one_of(
    st.builds(Route, st.sampled_from(PREFIXES), st.just(RouteKind.UNREACHABLE), st.just(())),
    st.builds(Route, st.sampled_from(PREFIXES), st.just(RouteKind.UNICAST), legs),
)
tables = st.lists(route_values, max_size=5, unique_by=lambda route: route.prefix)


def applied(actual: list[Route], changes: RouteChanges) -> dict[object, Route]:
    """The oracle: a kernel as a dictionary that refuses what the real one would."""
    kernel = {route.prefix: route for route in actual}
    for route in changes.delete:
        assert kernel.pop(route.prefix) == route
    for route in changes.create:
        assert route.prefix not in kernel
        kernel[route.prefix] = route
    for route in changes.replace:
        assert kernel[route.prefix] != route
        kernel[route.prefix] = route
    return kernel


@given(tables, tables)
def test_applying_the_changes_gives_the_desired_routes(desired: list[Route], actual: list[Route]) -> None:
    changes = route_changes(desired, actual)
    after = applied(actual, changes)

    assert after.keys() == {route.prefix for route in desired}
    assert all(is_satisfied(route, after[route.prefix]) for route in desired)
    assert not route_changes(desired, after.values())
    untouched = {route.prefix for route in actual if route in desired}
    assert not untouched & {route.prefix for route in (*changes.create, *changes.replace, *changes.delete)}


def test_legs_in_another_order_are_the_same_route() -> None:
    one, two = (Route(PREFIXES[0], RouteKind.UNICAST, hops) for hops in ((HOPS[0], HOPS[1]), (HOPS[1], HOPS[0])))
    assert is_satisfied(one, two)
    assert not is_satisfied(one, Route(PREFIXES[0], RouteKind.UNICAST, (HOPS[0], HOPS[0])))


def test_a_next_hop_without_link_fits_on_any_link_but_another_gateway_does_not() -> None:
    want = Route(PREFIXES[0], RouteKind.UNICAST, (NextHop(ip_address("192.0.2.1")),))
    assert is_satisfied(want, Route(PREFIXES[0], RouteKind.UNICAST, (HOPS[1],)))
    assert not is_satisfied(want, Route(PREFIXES[0], RouteKind.UNICAST, (NextHop(ip_address("192.0.2.2"), "b"),)))


def test_no_changes_are_false_and_any_are_true() -> None:
    route = Route(PREFIXES[0], RouteKind.UNREACHABLE)
    assert not RouteChanges()
    assert all((RouteChanges(create=(route,)), RouteChanges(replace=(route,)), RouteChanges(delete=(route,))))


def test_a_host_interface_name_is_ours_and_differs_by_container_and_interface() -> None:
    names = {host_interface_name(container, interface) for container in ("a", "b") for interface in ("eth0", "net1")}
    assert len(names) == 4
    assert all(is_our_name(name) and len(name) == 15 for name in names)
    # Container and interface are told apart: "ab" + "c" is not "a" + "bc".
    assert host_interface_name("ab", "c") != host_interface_name("a", "bc")


@pytest.mark.parametrize(
    "name", ["podr", "podr0123456789", "podr0123456789ab", "podr0123456789A", "eth0", "xpodr0123456789a"]
)
def test_names_of_others_are_not_ours(name: str) -> None:
    assert not is_our_name(name)
    assert is_our_name("podr0123456789a")


def test_hardware_addresses_are_local_unicast_and_stay_the_same() -> None:
    host, pod = mac_addresses("a", "eth0")
    assert host != pod
    assert (host, pod) == mac_addresses("a", "eth0")
    assert all(len(mac) == 6 and mac[0] & 0b11 == 0b10 for mac in (host, pod))
    assert mac_addresses("b", "eth0") != (host, pod)


addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
words = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=64)


@given(words, words, st.lists(addresses, min_size=1, max_size=2).map(tuple), st.one_of(st.just("podroute"), st.text()))
def test_an_alias_gives_back_the_attachment(container_id: str, uid: str, own: tuple[object, ...], network: str) -> None:
    word = network_word(network)
    attachment = Attachment(container_id, "eth0", "" if uid == "-" else uid, own, word)  # type: ignore[arg-type]
    alias = alias_for(attachment)
    assert attachment_in(alias) == attachment
    assert len(alias) <= ALIAS_LIMIT


def test_the_longest_ids_of_kubernetes_fit_into_an_alias() -> None:
    longest = (ip_address("255.255.255.255"), ip_address("ffff:" * 7 + "ffff"))
    assert len(alias_for(Attachment("f" * 64, "x" * 15, "f" * 36, longest, network_word("n" * 32)))) <= ALIAS_LIMIT
    assert len(network_word("n" * 33)) < 32


def test_networks_are_told_apart_by_what_an_alias_keeps_of_their_names() -> None:
    names = ("podroute", "other", "n" * 33, "n" * 34, "ünicode", "two words", "", network_word("ünicode"))
    assert len({network_word(name) for name in names}) == len(names)
    assert network_word(PLUGIN) == INSTALLED_NETWORK
    assert alias_for(Attachment("c", "eth0", "u", (ip_address("10.0.0.1"),))) == "podr1 c eth0 u 10.0.0.1"


@given(st.one_of(st.text(max_size=300), words.map(lambda word: f"podr1 {word} eth0 - {word}")))
def test_what_is_no_alias_of_ours_gives_nothing(alias: str) -> None:
    found = attachment_in(alias)
    assert found is None or alias_for(found) == alias


def test_an_alias_that_was_cut_off_gives_nothing() -> None:
    alias = alias_for(Attachment("c" * 64, "eth0", "u", (ip_address("10.0.0.1"), ip_address("fd00::1"))))
    assert attachment_in(alias) is not None
    assert all(attachment_in(alias[:length]) is None for length in range(alias.index("10.0.0.1") + 1))


@pytest.mark.parametrize(
    ("attachment", "said"),
    [
        (Attachment("", "eth0", "u", (ip_address("10.0.0.1"),)), "'' is empty"),
        (Attachment("a b", "eth0", "u", (ip_address("10.0.0.1"),)), "'a b' is empty or has"),
        (Attachment("a", "eth0", "ü", (ip_address("10.0.0.1"),)), "'ü' is empty or has"),
        (Attachment("a", "eth0", "u", ()), "'' is empty"),
        (Attachment("c" * 240, "eth0", "u", (ip_address("10.0.0.1"),)), "at most 250 fit"),
    ],
)
def test_an_attachment_that_does_not_fit_is_refused_and_named(attachment: Attachment, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        alias_for(attachment)


def test_pod_routes_follow_from_the_aliases() -> None:
    own = (ip_address("10.0.0.1"), ip_address("fd00::1"))
    links = [PodLink("podr1", 1, True, 1500, Attachment("a", "eth0", "", own)), PodLink("podr2", 2, True, 1500, None)]
    hop = (NextHop(None, "podr1"),)
    assert pod_routes(links) == [Route(PREFIXES[2], RouteKind.UNICAST, hop), Route(PREFIXES[4], RouteKind.UNICAST, hop)]
