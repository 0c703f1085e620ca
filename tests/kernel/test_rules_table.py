"""The nft table: forged sources never arrive with it and do without it, and it is kept as wanted without touching others."""

import json
import socket
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from netns_world import (
    GATEWAY_V4,
    GATEWAY_V6,
    NODE_V4,
    NODE_V6,
    Pod,
    World,
    capture,
    in_netns,
    payloads,
    run,
    send_frames,
    udp_frame,
    wait_until,
)

from controller.kernel.netlink import KernelError
from controller.kernel.rules import (
    RuleTable,
    read_refused_packets,
    read_table,
    remove_table,
    rule_problems,
    table_text,
)
from controller.kernel.values import DriftKind, Guard, Prefix, Rules

pytestmark = pytest.mark.root

PODS_V4, PODS_V6 = ip_network("10.1.0.0/24"), ip_network("fd00:1::/120")
PORT, METRICS_PORT, OPEN_PORT = 1790, 9479, 8080


def guarded(*allowed: Prefix, clients: tuple[Prefix, ...] = ()) -> Rules:
    """Two guards as a plan has them."""
    guards = (Guard("neighbours", (PORT,), allowed), Guard("metrics", (METRICS_PORT, 9478), clients))
    return Rules(guards=guards, pods=(PODS_V4, PODS_V6))


MASQUERADE = Rules((PODS_V4, PODS_V6), (PODS_V4, PODS_V6, ip_network("192.0.2.0/25")))


FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


@pytest.fixture
def forger(world: World) -> Pod:
    """A pod on a node with blocks and a default route, and a victim beside it; both may send whatever IPv4 lets pass."""
    pod, _ = world.pod(), world.pod()
    world.pod()
    run("ip", "route", "add", "unreachable", str(PODS_V4), "metric", "179")
    run("ip", "-6", "route", "add", "unreachable", str(PODS_V6), "metric", "179")
    run("ip", "route", "add", "default", "via", str(GATEWAY_V4))
    run("ip", "-6", "route", "add", "default", "via", str(GATEWAY_V6))
    # Strict reverse-path filtering holds for IPv4 by itself: here the table has to.
    Path(f"/proc/sys/net/ipv4/conf/{pod.host_end}/rp_filter").write_text("0")
    return pod


def arriving(forger: Pod, victim: Pod, sources: dict[str, object]) -> set[str]:
    """The labels of those packets, one from each source, that the victim sees; an honest one is sent last and waited for."""
    own = forger.v4 if ip_address(str(next(iter(sources.values())))).version == 4 else forger.v6
    target = victim.v4 if own.version == 4 else victim.v6
    frames = [udp_frame(forger, source, target, label) for label, source in sources.items()]
    with capture(victim.fd, "eth0") as seen:
        send_frames(forger, [*frames, udp_frame(forger, own, target, "honest")])
        found: set[bytes] = set()

        def honest_arrived() -> bool:
            found.update(payloads(seen))
            return any(payload.endswith(b"honest") for payload in found)

        wait_until(honest_arrived, "the packet with the pod's own source at the victim")
    return {payload.split()[1].decode() for payload in found} - {"honest"}


FORGED = {
    4: {
        "another pod's": "10.1.0.3",
        "another node's": "192.0.2.77",
        "an unused address of the block": "10.1.0.200",
        "outside": "198.51.100.7",
        "link-local": "169.254.7.7",
    },
    6: {
        "another pod's": "fd00:1::3",
        "another node's": "2001:db8:1::77",
        "this node's": str(NODE_V6),
        "an unused address of the block": "fd00:1::c8",
        "outside": "2001:db8:ffff::7",
    },
}


@pytest.mark.parametrize("family", [4, 6])
def test_forged_sources_never_arrive_with_the_table_and_do_without_it(world: World, forger: Pod, family: int) -> None:
    victim = world.pods[1]
    sources = {label.replace(" ", "-"): source for label, source in FORGED[family].items()}

    assert arriving(forger, victim, sources) == set(sources), "the probe must notice each of them"
    RuleTable().apply(Rules())
    assert arriving(forger, victim, sources) == set()
    assert read_refused_packets() == len(sources)
    remove_table()
    assert arriving(forger, victim, sources) == set(sources)


def test_sources_that_the_kernel_itself_refuses_do_not_arrive_either(world: World, forger: Pod) -> None:
    RuleTable().apply(Rules())
    assert arriving(forger, world.pods[1], {"own-node": NODE_V4, "loopback": "127.0.0.1"}) == set()
    assert arriving(forger, world.pods[1], {"link-local": "fe80::77", "loopback": "::1"}) == set()


def test_strict_reverse_path_filtering_holds_for_ipv4_while_the_table_is_gone(world: World, forger: Pod) -> None:
    Path(f"/proc/sys/net/ipv4/conf/{forger.host_end}/rp_filter").write_text("1")
    assert arriving(forger, world.pods[1], {"outside": "198.51.100.7", "pod": "10.1.0.3"}) == set()


def test_good_traffic_passes_the_table(world: World, forger: Pod) -> None:
    RuleTable().apply(Rules())
    for target in (world.pods[1].v4, world.pods[1].v6, NODE_V4, NODE_V6):
        assert forger.reaches(target)
    # The link-local address of the pod, and duplicate address detection from the unspecified one.
    forger.run("ping", "-c", "1", "-W", "2", "fe80::a9fe:101%eth0")
    forger.run("ip", "addr", "add", "fd00:1::5", "dev", "eth0")
    wait_until(
        lambda: "tentative" not in forger.run("ip", "-6", "addr", "show", "dev", "eth0"), "duplicate address detection"
    )
    assert read_refused_packets() == 0


def test_a_pod_of_a_natting_pool_leaves_with_the_nodes_address_and_others_do_not(world: World, forger: Pod) -> None:
    table = RuleTable()
    table.apply(MASQUERADE)
    routed, outside = ip_address("192.0.2.1"), ip_address("192.0.2.200")
    with in_netns(world.uplink_fd):
        run("ip", "addr", "add", f"{outside}/32", "dev", "lo")
        for route in (f"{PODS_V4} via {NODE_V4}", f"{PODS_V6} via {NODE_V6}"):
            run("ip", "route", "add", *route.split())

    assert _sources_seen(world, forger, outside) == {NODE_V4}
    assert _sources_seen(world, forger, GATEWAY_V6) == {NODE_V6}
    assert _sources_seen(world, forger, routed) == {forger.v4}
    table.apply(Rules())
    run("conntrack", "-F")
    assert _sources_seen(world, forger, outside) == {forger.v4}


def _sources_seen(world: World, pod: Pod, target: object) -> set[object]:
    """The source addresses of echo requests that reach the router."""
    found = set()
    with capture(world.uplink_fd, "node0") as seen:
        assert pod.reaches(target)
        seen.settimeout(5)
        while not found:
            frame = seen.recv(65535)
            if frame[12:14] == b"\x08\x00" and frame[34] == 8:
                found.add(ip_address(frame[26:30]))
            elif frame[12:14] == b"\x86\xdd" and frame[54] == 128:
                found.add(ip_address(frame[22:38]))
    return found


def test_what_nft_lists_is_what_was_rendered(world: World) -> None:
    for rules in (Rules(), MASQUERADE, Rules((PODS_V6,), ())):
        RuleTable().apply(rules)
        assert (read_table() or "").split() == table_text(rules).split()
        assert rule_problems(rules) == []


def test_applying_twice_writes_nothing_even_after_a_restart(world: World) -> None:
    table = RuleTable()
    table.apply(MASQUERADE)
    handles = run("nft", "-a", "list", "table", "inet", "podroute")

    assert table.apply(MASQUERADE) == []
    assert RuleTable().apply(MASQUERADE) == []
    assert run("nft", "-a", "list", "table", "inet", "podroute") == handles
    table.apply(Rules())
    assert run("nft", "-a", "list", "table", "inet", "podroute") != handles


@pytest.mark.parametrize(
    "harm",
    [
        "flush chain inet podroute anti-spoofing",
        "delete table inet podroute",
        "flush set inet podroute nat-outgoing-v4",
        "add element inet podroute routed-v4 { 203.0.113.0/24 }",
        "insert rule inet podroute anti-spoofing accept",
        "flush ruleset",
    ],
)
def test_a_rule_that_others_change_is_drift_and_is_restored(world: World, harm: str) -> None:
    table = RuleTable()
    assert table.apply(MASQUERADE) == []
    before = read_table()

    run("nft", harm)
    assert [drift.kind for drift in rule_problems(MASQUERADE)] == [DriftKind.RULE]
    assert [drift.kind for drift in table.apply(MASQUERADE)] == [DriftKind.RULE]
    assert read_table() == before


@pytest.mark.parametrize("family", [4, 6])
def test_a_pod_reaches_a_guarded_port_of_its_node_only_as_a_neighbour(world: World, family: int) -> None:
    pod, stranger = world.pod(), world.pod()
    node = str(NODE_V4 if family == 4 else NODE_V6)
    own = ip_network(pod.v4 if family == 4 else pod.v6)
    with (
        socket.create_server((node, PORT), family=FAMILIES[family]),
        socket.create_server((node, OPEN_PORT), family=FAMILIES[family]),
    ):
        reaches(pod, node, PORT)
        table = RuleTable()
        assert table.apply(guarded()) == []
        assert rule_problems(guarded()) == []
        assert not connects(pod, node, PORT)
        reaches(pod, node, OPEN_PORT)
        if family == 6:
            # Which every pod has, and which no pool holds.
            reaches(pod, node, OPEN_PORT, link_local(pod))
            assert not connects(pod, node, PORT, link_local(pod))
        # The node itself, and whoever is no pod, is let in.
        socket.create_connection((node, PORT), 1).close()
        table.apply(guarded(own))
        reaches(pod, node, PORT)
        assert not connects(stranger, node, PORT)


@pytest.mark.parametrize("family", [4, 6])
def test_a_pod_reaches_the_metrics_only_as_one_of_their_clients(world: World, family: int) -> None:
    pod, stranger = world.pod(), world.pod()
    node = str(NODE_V4 if family == 4 else NODE_V6)
    own = ip_network(pod.v4 if family == 4 else pod.v6)
    with (
        socket.create_server((node, METRICS_PORT), family=FAMILIES[family]),
        socket.create_server((node, PORT), family=FAMILIES[family]),
    ):
        reaches(pod, node, METRICS_PORT)
        table = RuleTable()
        table.apply(guarded())
        assert not connects(pod, node, METRICS_PORT)
        table.apply(guarded(clients=(own,)))
        assert rule_problems(guarded(clients=(own,))) == []
        reaches(pod, node, METRICS_PORT)
        assert not connects(pod, node, PORT)
        assert not connects(stranger, node, METRICS_PORT)


def reaches(pod: Pod, address: str, port: int, source: str = "") -> None:
    """Waits for a connection: the node resolves a pod's link-local address first, which may take a repetition."""
    wait_until(lambda: connects(pod, address, port, source), f"{source or pod.name} connects to {address} port {port}")


def link_local(pod: Pod) -> str:
    """The address that the kernel gave the pod's interface, once it has seen that nobody else has it."""

    def found() -> list[str]:
        with in_netns(pod.fd):
            shown = json.loads(run("ip", "-j", "-6", "address", "show", "dev", "eth0", "scope", "link", "-tentative"))
        return [entry["local"] for each in shown for entry in each.get("addr_info", ()) if "local" in entry]

    wait_until(lambda: bool(found()), "a link-local address of the pod")
    return found()[0]


def connects(pod: Pod, address: str, port: int, source: str = "") -> bool:
    """Whether the pod gets a connection; what is dropped gives no answer."""
    with in_netns(pod.fd), socket.socket(FAMILIES[4 if "." in address else 6]) as connection:
        connection.settimeout(0.5)
        if source:
            connection.bind((source, 0, 0, socket.if_nametoindex("eth0")))
        try:
            connection.connect((address, port))
        except TimeoutError:
            return False
    return True


def test_other_tables_stay_as_they_are(world: World) -> None:
    run("nft", "add table inet mine; add chain inet mine c { type filter hook forward priority 0; policy accept; }")
    run("nft", "add rule inet mine c counter; add table ip podroute; add chain ip podroute c")
    before = run("nft", "-a", "list", "table", "inet", "mine"), run("nft", "-a", "list", "table", "ip", "podroute")

    table = RuleTable()
    table.apply(MASQUERADE)
    table.apply(Rules())
    remove_table()
    remove_table()
    after = run("nft", "-a", "list", "table", "inet", "mine"), run("nft", "-a", "list", "table", "ip", "podroute")
    assert after == before
    assert read_table() is None
    assert read_refused_packets() == 0


def test_without_nft_the_error_says_what_to_install(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(KernelError, match="install nftables"):
        RuleTable().apply(Rules())
