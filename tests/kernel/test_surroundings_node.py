"""The node's uplinks are read as they are, and settings that work against pod traffic are named and left alone."""

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from netns_world import NODE_V4, NODE_V6, Pod, World, run, wait_until
from pyroute2 import IPRoute

from controller.kernel.conntrack import forget
from controller.kernel.surroundings import HostileReason, Uplink, hostile_settings, uplinks

pytestmark = pytest.mark.root


@pytest.fixture
def node(world: World) -> World:
    """A node with two uplinks, on which every setting is as pod traffic likes it."""
    run("ip", "link", "add", "uplink1", "type", "veth", "peer", "name", "node1", "netns", world.uplink)
    run("ip", "addr", "add", "198.51.100.10/31", "dev", "uplink1")
    run("ip", "link", "set", "uplink1", "up", "mtu", "1400")
    for setting in (
        "net.ipv4.conf.all.rp_filter=0",
        "net.ipv4.conf.uplink0.rp_filter=0",
        "net.ipv4.conf.uplink1.rp_filter=2",
        "net.ipv4.conf.all.ignore_routes_with_linkdown=1",
        "net.ipv6.conf.all.ignore_routes_with_linkdown=1",
        "net.ipv4.fib_multipath_hash_policy=1",
        "net.ipv6.fib_multipath_hash_policy=1",
    ):
        run("sysctl", "-q", "-w", setting)
    return world


def reasons(root: Path) -> list[HostileReason]:
    return [setting.reason for setting in hostile_settings(root)]


def test_uplinks_are_the_interfaces_with_addresses_and_never_a_pods(node: World) -> None:
    node.pod()
    run("ip", "addr", "add", "203.0.113.1/32", "dev", "lo")
    run("ip", "link", "add", "down0", "type", "veth", "peer", "name", "down1")
    run("ip", "addr", "add", "203.0.113.9/24", "dev", "down0")

    assert {uplink.name: uplink for uplink in uplinks()} == {
        "lo": Uplink("lo", 65536, (ip_address("203.0.113.1"),), ()),
        "uplink0": Uplink(
            "uplink0", 1500, (NODE_V4, NODE_V6), (ip_network("192.0.2.0/24"), ip_network("2001:db8:1::/64"))
        ),
        "uplink1": Uplink("uplink1", 1400, (ip_address("198.51.100.10"),), (ip_network("198.51.100.10/31"),)),
    }


def test_uplinks_agree_with_pyroute2(node: World) -> None:
    with IPRoute() as oracle:
        listed = {entry.get("IFA_ADDRESS") for entry in oracle.get_addr() if entry["scope"] == 0}
    assert {str(address) for uplink in uplinks() for address in uplink.addresses} == listed


def test_an_address_that_is_still_tentative_is_not_the_nodes_yet(world: World) -> None:
    run("sysctl", "-q", "-w", "net.ipv6.conf.uplink0.accept_dad=1", "net.ipv6.conf.uplink0.dad_transmits=1")
    late = ip_address("2001:db8:1::99")
    run("ip", "addr", "add", f"{late}/64", "dev", "uplink0")

    assert late not in uplinks()[0].addresses
    wait_until(lambda: late in uplinks()[0].addresses, "the address after duplicate address detection")


def test_a_good_node_has_no_hostile_setting(node: World, tmp_path: Path) -> None:
    assert hostile_settings(tmp_path) == ()


@pytest.mark.parametrize(
    ("harm", "reason", "word"),
    [
        ("sysctl -q -w net.ipv4.conf.all.forwarding=0", HostileReason.FORWARDING_OFF, "ipv4"),
        ("sysctl -q -w net.ipv6.conf.all.forwarding=0", HostileReason.FORWARDING_OFF, "ipv6"),
        ("sysctl -q -w net.ipv4.conf.uplink0.rp_filter=1", HostileReason.STRICT_REVERSE_PATH, "uplink0"),
        ("sysctl -q -w net.ipv4.conf.all.rp_filter=1", HostileReason.STRICT_REVERSE_PATH, "uplink0"),
        ("sysctl -q -w net.ipv4.conf.all.ignore_routes_with_linkdown=0", HostileReason.DEAD_LINKS_USED, "ipv4"),
        ("sysctl -q -w net.ipv6.fib_multipath_hash_policy=0", HostileReason.FLOWS_NOT_SPREAD, "ipv6"),
        (
            "nft add table ip f; add chain ip f FORWARD { type filter hook forward priority 0; policy drop; }",
            HostileReason.FORWARD_POLICY_DROP,
            "ip f FORWARD",
        ),
    ],
)
def test_a_hostile_setting_is_named_with_its_remedy_and_not_changed(
    node: World, tmp_path: Path, harm: str, reason: HostileReason, word: str
) -> None:
    run(*(["nft", harm[4:]] if harm.startswith("nft") else harm.split()))
    for _ in range(2):
        [found] = hostile_settings(tmp_path)
        assert found.reason is reason
        assert word in found.message
        assert found.remedy


def test_with_one_uplink_the_settings_for_several_do_not_matter(world: World, tmp_path: Path) -> None:
    run("sysctl", "-q", "-w", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.fib_multipath_hash_policy=0")
    assert reasons(tmp_path) == []


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_network_manager_is_hostile_until_it_is_told_to_leave_routes_alone(node: World, tmp_path: Path) -> None:
    write(tmp_path / "run/systemd/netif/links/2", "")
    write(tmp_path / "etc/systemd/networkd.conf", "[Network]\n#ManageForeignRoutes=no\n")
    assert reasons(tmp_path) == [HostileReason.NETWORK_MANAGER]
    write(tmp_path / "etc/systemd/networkd.conf.d/podroute.conf", "[Network]\nManageForeignRoutes=no\n")
    assert reasons(tmp_path) == []

    write(tmp_path / "run/NetworkManager/devices/2", "")
    assert reasons(tmp_path) == [HostileReason.NETWORK_MANAGER]
    write(tmp_path / "etc/NetworkManager/conf.d/a.conf", "[keyfile]\nunmanaged-devices=mac:0;interface-name:podr*\n")
    assert reasons(tmp_path) == []


def test_connections_of_a_released_address_are_forgotten_and_others_are_kept(world: World) -> None:
    one, two = world.pod(), world.pod()
    # Connections are tracked once a rule needs it.
    run("nft", "add table inet t; add chain inet t c { type filter hook prerouting priority 0; }")
    run("nft", "add rule inet t c ct state established counter")
    for pod, target in ((one, NODE_V4), (one, NODE_V6), (two, one.v4), (two, one.v6), (two, NODE_V4), (two, NODE_V6)):
        assert pod.reaches(target)
    before = entries(one)
    assert len(before) >= 4
    kept = entries(two) - before
    assert len(kept) >= 2

    assert forget([one.v4, one.v6]) == len(before)
    assert entries(one) == set()
    assert entries(two) == kept
    assert forget([one.v4, one.v6]) == 0


def entries(pod: Pod) -> set[tuple[str, ...]]:
    """What the conntrack program lists of a pod, of both families, without the seconds that are left."""
    listed = run("conntrack", "-L") + run("conntrack", "-L", "-f", "ipv6")
    words = [tuple(word for word in line.split() if "=" in word) for line in listed.splitlines()]
    wanted = {f"src={address}" for address in pod.attachment.addresses}
    return {line for line in words if wanted & set(line)}
