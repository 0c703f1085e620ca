"""Packed messages say to pyroute2 what they are meant to say, and bytes from the kernel never raise."""

import struct
from ipaddress import ip_address
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from controller.kernel import pod_messages
from controller.kernel.netlink import Message, attribute, attributes, is_own_port, messages_in
from controller.kernel.values import Attachment, alias_for, mac_addresses

DUAL_STACK = Attachment("c0ffee", "eth0", "u", (ip_address("10.1.0.1"), ip_address("fd00:1::1")))
HOST_MAC, POD_MAC = (mac.hex(":") for mac in mac_addresses("c0ffee", "eth0"))


def read_by_pyroute2(message: Message) -> dict[str, Any]:
    kind, flags, body = message
    [parsed] = MarshalRtnl().parse(struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body)
    return {**parsed, **dict(attribute[:2] for attribute in parsed["attrs"])}


def nested(message: dict[str, Any], *path: str) -> Any:
    value: Any = message
    for name in path:
        value = dict(attribute[:2] for attribute in value["attrs"])[name]
    return value


def steps(of: list[pod_messages.Step]) -> list[tuple[str, dict[str, Any]]]:
    return [(what, read_by_pyroute2(message)) for what, message in of]


def test_both_ends_of_a_veth_are_made_in_one_message() -> None:
    message = read_by_pyroute2(pod_messages.veth_message("podr0123456789a", DUAL_STACK, 5, 1450))
    peer = nested(message, "IFLA_LINKINFO", "IFLA_INFO_DATA", "VETH_INFO_PEER")

    assert (message["event"], message["header"]["flags"]) == ("RTM_NEWLINK", 0x600)
    assert (message["IFLA_IFNAME"], message["IFLA_ADDRESS"], message["IFLA_MTU"]) == ("podr0123456789a", HOST_MAC, 1450)
    assert nested(message, "IFLA_LINKINFO", "IFLA_INFO_KIND") == "veth"
    assert [nested(peer, name) for name in ("IFLA_IFNAME", "IFLA_ADDRESS", "IFLA_MTU", "IFLA_NET_NS_FD")] == [
        "eth0",
        POD_MAC,
        1450,
        5,
    ]


def test_the_alias_is_set_by_itself() -> None:
    _, message = pod_messages.alias_step(7, alias_for(DUAL_STACK))
    parsed = read_by_pyroute2(message)
    assert (parsed["index"], parsed["IFLA_IFALIAS"]) == (7, "podr1 c0ffee eth0 u 10.1.0.1,fd00:1::1")


def test_the_host_end_gets_no_ipv4_address_and_the_pods_addresses_as_permanent_neighbours() -> None:
    parsed = steps(pod_messages.host_steps(7, DUAL_STACK))

    assert [what for what, _ in parsed] == [
        "interface settings",
        "interface up",
        "address fe80::a9fe:101/64",
        "neighbour 10.1.0.1",
        "neighbour fd00:1::1",
    ]
    assert nested(parsed[0][1], "IFLA_AF_SPEC", "AF_INET6", "IFLA_INET6_ADDR_GEN_MODE") == 1
    assert (parsed[1][1]["flags"], parsed[1][1]["change"]) == (1, 1)
    assert (parsed[2][1]["prefixlen"], parsed[2][1]["scope"], parsed[2][1]["flags"]) == (64, 253, 2)
    assert [(message["state"], message["NDA_DST"], message["NDA_LLADDR"]) for _, message in parsed[3:]] == [
        (0x80, "10.1.0.1", POD_MAC),
        (0x80, "fd00:1::1", POD_MAC),
    ]


def test_the_pods_end_gets_its_addresses_and_a_default_route_of_each_family() -> None:
    parsed = steps(pod_messages.pod_steps(8, DUAL_STACK) + pod_messages.default_route_steps(8, DUAL_STACK))

    assert [message["index"] for _, message in parsed[:2]] == [1, 8]
    assert [(message["IFA_LOCAL"], message["prefixlen"], message["flags"]) for _, message in parsed[2:4]] == [
        ("10.1.0.1", 32, 0),
        ("fd00:1::1", 128, 2),
    ]
    assert [(message["NDA_DST"], message["NDA_LLADDR"]) for _, message in parsed[4:6]] == [
        ("169.254.1.1", HOST_MAC),
        ("fe80::a9fe:101", HOST_MAC),
    ]
    assert [
        (message["RTA_GATEWAY"], message["dst_len"], message["RTA_OIF"], message["flags"]) for _, message in parsed[6:]
    ] == [
        ("169.254.1.1", 0, 8, 4),
        ("fe80::a9fe:101", 0, 8, 0),
    ]


def test_a_pod_without_ipv6_asks_nothing_of_that_family() -> None:
    only_v4 = Attachment("c0ffee", "eth0", "u", DUAL_STACK.addresses[:1])
    for _, message in (
        pod_messages.host_steps(7, only_v4)
        + pod_messages.pod_steps(8, only_v4)
        + pod_messages.default_route_steps(8, only_v4)
    ):
        parsed = read_by_pyroute2(message)
        assert parsed.get("family") != 10
        assert "AF_INET6" not in str(parsed)


def test_every_message_is_a_multiple_of_four_bytes_long() -> None:
    every = pod_messages.host_steps(7, DUAL_STACK) + pod_messages.pod_steps(8, DUAL_STACK)
    every.append(pod_messages.alias_step(7, "x" * 33))
    assert all(len(body) % 4 == 0 for _, (_, _, body) in every)


@given(st.lists(st.tuples(st.integers(1, 0x3FFF), st.binary(max_size=40)), unique_by=lambda pair: pair[0]))
def test_attributes_come_back_as_they_were_packed(pairs: list[tuple[int, bytes]]) -> None:
    assert attributes(b"".join(attribute(kind, payload) for kind, payload in pairs)) == dict(pairs)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_messages_end_the_reading(data: bytes) -> None:
    assert all(len(body) <= len(data) for *_, body in messages_in(data))
    assert all(len(payload) <= len(data) for payload in attributes(data).values())


def test_the_kernels_own_port_and_those_of_other_programs_are_not_ours() -> None:
    assert not any(map(is_own_port, (0, 1, 4242, 0x7FFFFFFF)))
