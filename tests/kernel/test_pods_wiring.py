"""A wired pod reaches and is reached, and what others break is mended."""

import ipaddress
import os
import struct
import threading

import pytest
from netns_world import (
    GATEWAY_V4,
    NODE_V4,
    NODE_V6,
    LateNews,
    Pod,
    World,
    ip_json,
    message_kinds,
    run,
    told_operational,
    wait_until,
)

from controller.kernel import pods, routes
from controller.kernel.carrier import has_carrier
from controller.kernel.netlink import KernelError, Netlink, attribute, bound_socket, in_netns, text_attribute
from controller.kernel.surroundings import uplinks
from controller.kernel.values import Attachment, DriftKind, alias_for

pytestmark = pytest.mark.root


def test_two_pods_and_the_host_reach_each_other_at_full_mtu_without_a_default_route(world: World) -> None:
    one, two = world.pod(mtu=1400), world.pod(mtu=1400)

    assert not ip_json("route", "show", "default")
    for target in (two.v4, two.v6, NODE_V4, NODE_V6):
        assert one.reaches(target, size=1400), f"pod does not reach {target}"
    for pod in (one, two):
        for address in (pod.v4, pod.v6):
            assert "1 received" in run("ping", "-c", "1", "-W", "2", str(address))
    assert not one.reaches(two.v4, size=1401)


def test_a_pod_in_another_network_is_reached_by_its_own_address(world: World) -> None:
    pod = world.pod()
    with in_netns(world.uplink_fd):
        run("ip", "route", "add", f"{pod.v4}/32", "via", str(NODE_V4))
        run("ip", "-6", "route", "add", f"{pod.v6}/128", "via", str(NODE_V6))
        run("ping", "-c", "1", "-W", "2", str(pod.v4))
        run("ping", "-c", "1", "-W", "2", str(pod.v6))


def test_a_pod_of_one_family_gets_nothing_of_the_other(world: World) -> None:
    pod = world.unwired_pod()
    attachment = Attachment("a", "eth0", "", (ipaddress.ip_address("10.1.0.9"),))
    link = pods.wire_pod(pod.fd, attachment, 1500).link

    assert pods.pod_problems(pod.fd, link) == []
    with in_netns(pod.fd):
        assert [route["dst"] for route in ip_json("-6", "route", "show", "default")] == []
        assert [route["gateway"] for route in ip_json("route", "show", "default")] == ["169.254.1.1"]


def test_the_alias_says_whose_a_veth_is(world: World) -> None:
    pod = world.pod()

    assert pods.read_pods() == [pod.link]
    [link] = ip_json("link", "show", pod.host_end)
    assert link["ifalias"] == alias_for(pod.attachment)


def test_a_veth_without_alias_is_listed_without_attachment_and_left_alone(world: World) -> None:
    run("ip", "link", "add", "podr0123456789a", "type", "veth", "peer", "name", "other")

    [link] = pods.read_pods()
    assert (link.name, link.attachment) == ("podr0123456789a", None)
    assert pods.repair_pods() == []


def test_links_of_other_names_are_not_ours(world: World) -> None:
    for name in ("podr0123456789", "podrxyz", "podr0123456789A"):
        run("ip", "link", "add", name, "type", "veth")

    assert pods.read_pods() == []
    with pytest.raises(ValueError, match="not ours"):
        pods.unwire_pod("podrxyz")


def test_wiring_twice_says_that_the_attachment_has_its_veth(world: World) -> None:
    pod = world.pod()

    with pytest.raises(pods.InterfaceExists, match="has its veth already"):
        pods.wire_pod(pod.fd, pod.attachment, 1500)
    assert pods.pod_problems(pod.fd, pod.link) == []


def test_a_pod_that_has_such_an_interface_keeps_it_and_nothing_is_left_over(world: World) -> None:
    pod = world.pod()
    other = Attachment("other", "eth0", "", (ipaddress.ip_address("10.1.0.77"),))
    before = everything(world, pod)

    with pytest.raises(pods.InterfaceExists, match="eth0: the pod has an interface of this name"):
        pods.wire_pod(pod.fd, other, 1500)
    assert everything(world, pod) == before


def everything(world: World, pod: Pod) -> object:
    """Links, addresses and routes of node and pod, without the states that settle by themselves."""
    found = []
    for namespace in (world.node, pod.name):
        links = ip_json("-n", namespace, "addr")
        addresses = {(link["ifname"], address["local"]) for link in links for address in link["addr_info"]}
        routes = ip_json("-n", namespace, "route") + ip_json("-n", namespace, "-6", "route")
        found.append(
            (sorted(addresses), sorted((route["dst"], route["dev"], route.get("metric", 0)) for route in routes))
        )
        found.append({(link["ifname"], link["address"], link["mtu"]) for link in links})
    return found


def test_a_failure_half_way_removes_all_that_was_made(world: World) -> None:
    pod = world.unwired_pod()
    # A foreign route of the pod's very prefix and of our metric stands in the way of the last step.
    run("ip", "route", "add", "unreachable", f"{pod.v6}/128", "metric", "179", "proto", "static")

    with pytest.raises(KernelError, match=r"route fd00:1::1/128: ForeignRoute"):
        pods.wire_pod(pod.fd, pod.attachment, 1500)
    assert pods.read_pods() == []
    assert routes.read_routes() == []
    assert [link["ifname"] for link in ip_json("-n", pod.name, "link")] == ["lo"]

    run("ip", "route", "del", "unreachable", f"{pod.v6}/128", "metric", "179")
    assert pods.pod_problems(pod.fd, pods.wire_pod(pod.fd, pod.attachment, 1500).link) == []


def test_a_descriptor_that_is_no_namespace_is_named(world: World) -> None:
    with open(os.devnull) as nothing, pytest.raises(KernelError, match="veth podr"):
        pods.wire_pod(nothing.fileno(), world.unwired_pod().attachment, 1500)
    assert pods.read_pods() == []


def test_unwiring_removes_both_ends_and_the_second_time_finds_nothing(world: World) -> None:
    pod = world.pod()

    assert pods.unwire_pod(pod.host_end)
    assert not pods.unwire_pod(pod.host_end)
    assert routes.read_routes() == []
    assert [link["ifname"] for link in ip_json("-n", pod.name, "link")] == ["lo"]


@pytest.mark.parametrize(
    ("harm", "kinds"),
    [
        ("ip route del {v4}/32 proto 179", {DriftKind.POD_ROUTE}),
        ("ip -6 route del {v6}/128 proto 179", {DriftKind.POD_ROUTE}),
        ("ip neigh del {v4} dev {link}", {DriftKind.NEIGHBOUR}),
        ("ip neigh replace {v6} dev {link} lladdr 02:00:00:00:00:01 nud permanent", {DriftKind.NEIGHBOUR}),
        ("ip link set {link} down", {DriftKind.VETH, DriftKind.NEIGHBOUR, DriftKind.POD_ROUTE}),
        ("ip addr flush dev {link}", {DriftKind.VETH}),
        ("sysctl -q -w net.ipv4.conf.{link}.rp_filter=0", {DriftKind.VETH}),
    ],
)
def test_what_others_break_at_the_host_end_is_mended_and_named(world: World, harm: str, kinds: set[DriftKind]) -> None:
    other, pod = world.pod(), world.pod()
    run(*harm.format(v4=pod.v4, v6=pod.v6, link=pod.host_end).split())

    assert {problem.kind for problem in pods.pod_problems(pod.fd, pod.link)} == kinds
    assert {drift.kind for drift in pods.repair_pods()} == kinds
    assert pods.pod_problems(pod.fd, pod.link) == []
    assert other.reaches(pod.v4)
    assert other.reaches(pod.v6)


def test_what_can_not_be_mended_at_one_pod_does_not_stop_the_others(world: World) -> None:
    one, two = world.pod(), world.pod()
    for pod in (one, two):
        run("ip", "route", "del", f"{pod.v4}/32", "proto", "179")
    run("ip", "route", "add", "unreachable", f"{one.v4}/32", "metric", "179", "proto", "static")

    assert [drift.what for drift in pods.repair_pods()] == [f"route {two.v4}/32 was missing or wrong"]
    run("ip", "route", "del", "unreachable", f"{one.v4}/32")
    assert [drift.what for drift in pods.repair_pods()] == [f"route {one.v4}/32 was missing or wrong"]


def test_a_pod_that_goes_while_others_are_mended_is_passed_over(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    going, staying = world.pod(), world.pod()
    for pod in (going, staying):
        run("ip", "neigh", "del", str(pod.v4), "dev", pod.host_end)
    read = pods.read_host_ends

    def read_then_one_goes(netlink: Netlink) -> object:
        ends = read(netlink)
        run("ip", "link", "del", going.host_end)
        return ends

    monkeypatch.setattr(pods, "read_host_ends", read_then_one_goes)
    assert [drift.what for drift in pods.repair_pods()] == [
        f"{staying.host_end}: neighbour {staying.v4} is missing or wrong"
    ]


def test_reading_while_links_come_and_go_lists_what_stays(world: World) -> None:
    staying = [world.pod() for _ in range(30)]
    stop = threading.Event()

    def churn() -> None:
        with Netlink() as netlink:
            while not stop.is_set():
                kind = text_attribute(1, "bridge")
                create = (
                    struct.pack("=BxHiII", 0, 0, 0, 0, 0) + text_attribute(3, "churn") + attribute(18 | 0x8000, kind)
                )
                netlink.send([(16, 0x600, create)])
                remove = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + text_attribute(3, "churn")
                netlink.send([(17, 0, remove)])

    churning = threading.Thread(target=churn)
    churning.start()
    try:
        for _ in range(100):
            assert {link.name for link in pods.read_pods()} == {pod.host_end for pod in staying}
            assert [uplink.name for uplink in uplinks()] == ["uplink0"]
    finally:
        stop.set()
        churning.join()


def test_a_node_whose_default_is_no_ipv6_still_gives_it_to_pods(world: World) -> None:
    run("sysctl", "-q", "-w", "net.ipv6.conf.default.disable_ipv6=1")
    one, two = world.unwired_pod(), world.unwired_pod()
    one.run("sysctl", "-q", "-w", "net.ipv6.conf.default.disable_ipv6=1")
    for pod in (one, two):
        pod.link = pods.wire_pod(pod.fd, pod.attachment, 1500).link
    assert one.reaches(two.v6)


@pytest.mark.parametrize(
    ("harm", "kind"),
    [
        ("ip route del default", DriftKind.ROUTE),
        ("ip -6 route del default", DriftKind.ROUTE),
        ("ip neigh del 169.254.1.1 dev eth0", DriftKind.NEIGHBOUR),
        ("ip addr del {v4}/32 dev eth0", DriftKind.VETH),
        ("ip link set eth0 mtu 1300", DriftKind.VETH),
    ],
)
def test_what_is_wrong_inside_a_pod_is_named(world: World, harm: str, kind: DriftKind) -> None:
    pod = world.pod()
    assert pods.pod_problems(pod.fd, pod.link) == []

    pod.run(*harm.format(v4=pod.v4).split())
    assert kind in {problem.kind for problem in pods.pod_problems(pod.fd, pod.link)}


def test_a_missing_veth_is_named(world: World) -> None:
    pod = world.pod()
    pods.unwire_pod(pod.host_end)

    assert [problem.what for problem in pods.pod_problems(pod.fd, pod.link)] == [
        "the pod has no interface eth0",
        f"{pod.host_end} is missing",
    ]


def test_a_pods_link_carries_packets_as_soon_as_it_is_wired(world: World) -> None:
    """A link that is not operational yet drops what is sent over it; the kernel makes it so a while later, unless it is asked."""
    with bound_socket(0, 1) as monitor:
        for _ in range(20):
            pod = world.pod()
            assert pod.link.ifindex in told_operational(monitor)
    pods.unwire_pod(pod.host_end)
    with pytest.raises(KernelError, match=pod.host_end):
        has_carrier(pod.host_end)


def test_repairing_what_is_right_writes_nothing(world: World) -> None:
    groups = sum(1 << (group - 1) for group in (1, 3, 5, 7, 9, 11))
    with bound_socket(0, groups) as monitor:
        pod = world.pod()
        told = LateNews(pod.link.ifindex, monitor)
        wait_until(told.is_complete, "the kernel's own news of the new link's address and carrier")
        assert pods.repair_pods() == []
        # Notifications come in order: before this one there must be none.
        run("ip", "neigh", "add", str(GATEWAY_V4), "dev", "uplink0", "lladdr", "02:00:00:00:00:99", "nud", "permanent")
        assert message_kinds(monitor) == [28]
        run("ip", "neigh", "del", str(pod.v4), "dev", pod.host_end)
        pods.repair_pods()
        assert len(message_kinds(monitor)) > 1


def test_the_thread_is_back_in_its_own_namespace_after_wiring(world: World) -> None:
    before = os.readlink("/proc/thread-self/ns/net")
    world.pod()
    with pytest.raises(KernelError), in_netns(0):
        pass
    assert os.readlink("/proc/thread-self/ns/net") == before


def test_a_router_advertisement_of_a_pod_is_not_accepted(world: World) -> None:
    with open("/proc/sys/net/ipv6/conf/default/accept_ra", "w") as default:
        default.write("2")
    pod = world.pod()

    with open(f"/proc/sys/net/ipv6/conf/{pod.host_end}/accept_ra") as setting:
        assert setting.read().strip() == "0"
