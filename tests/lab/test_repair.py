"""What is broken by hand is repaired from the kernel's notification, within a second, and counted; foreign things are let alone."""

import json
import subprocess
import time
from collections.abc import Iterator

import msgspec
import pytest
from faults import all_established, speaker_pid, start_again
from workloads import Pod, eventually, pods_on

from controller.kernel.values import host_interface_name
from controller.lab.cluster import Lab
from controller.lab.execute import wait_until
from controller.lab.podroute import ensure_plugin, processes_on

pytestmark = [pytest.mark.lab, pytest.mark.root]

SECONDS = 1.0


@pytest.fixture(scope="module")
def node(lab: Lab) -> Iterator[str]:
    """A node whose agent has its resync timer off: only notifications can wake it."""
    name = lab.topology.node_names[0]
    machine = lab.machine(name)
    machine.stop("agent")
    (usual,) = (spec for spec in processes_on(name, machine.folder, str(ensure_plugin())) if spec.name == "agent")
    lab.start(name, msgspec.structs.replace(usual, argv=(*usual.argv, "--resync", "0")))
    yield name
    machine.stop("agent")
    lab.start(name, usual)


@pytest.fixture(scope="module")
def pod(lab: Lab, node: str) -> Iterator[Pod]:
    with pods_on(lab, [node], "repair") as (pod,):
        yield pod


def on(lab: Lab, node: str, *argv: str) -> str:
    return lab.netns_exec(node, list(argv))


def veth_of(lab: Lab, node: str, pod: Pod) -> str:
    """The host end of a pod's veth, by its alias."""
    links = json.loads(on(lab, node, "ip", "-j", "link", "show", "type", "veth"))
    return next(link["ifname"] for link in links if pod.uid in link.get("ifalias", ""))


def drift(lab: Lab, node: str) -> dict[str, int]:
    """The agent's own counters of repairs, from its metrics."""
    text = lab.netns_exec(node, ["curl", "-s", "http://127.0.0.1:9479/metrics"])
    rows = [line for line in text.splitlines() if line.startswith("podroute_drift_repaired_total{")]
    return {row.split('"')[1]: int(float(row.split()[-1])) for row in rows}


def assert_repaired(lab: Lab, node: str, kind: str, broken: list[str], state: object) -> None:
    """`state()` is what it was again within a second after `broken` was run, and one more repair is counted."""
    assert callable(state)
    before, count = state(), drift(lab, node)[kind]
    subprocess.run(["nsenter", f"--net={lab.netns(node)}", "--", *broken], check=True)
    since = time.monotonic()
    eventually(lambda: state() == before, 5, lambda: f"{kind} is repaired: wanted {before}, is {state()}")
    assert time.monotonic() - since < SECONDS, "the repair took longer than a second"
    eventually(lambda: drift(lab, node)[kind] > count, 5, lambda: f"the repair is counted: {drift(lab, node)}")


@pytest.mark.parametrize("family", [4, 6])
def test_a_pod_route_that_was_deleted_is_back_within_a_second(lab: Lab, node: str, pod: Pod, family: int) -> None:
    address = next(a for a in pod.addresses if (":" in a) == (family == 6))
    show = ["ip", "-j", f"-{family}", "route", "show", address, "proto", "179"]
    delete = ["ip", f"-{family}", "route", "del", address, "proto", "179", "metric", "179"]
    assert_repaired(lab, node, "pod route", delete, lambda: json.loads(on(lab, node, *show)))


@pytest.mark.parametrize("family", [4, 6])
def test_a_block_route_that_was_deleted_is_back_within_a_second(lab: Lab, node: str, pod: Pod, family: int) -> None:
    blocks = [b["spec"]["cidr"] for b in lab.get("ipblocks")["items"] if b["spec"]["node"]["name"] == node]
    block = next(b for b in blocks if (":" in b) == (family == 6))
    show = ["ip", "-j", f"-{family}", "route", "show", "type", "unreachable", "proto", "179"]
    delete = ["ip", f"-{family}", "route", "del", "unreachable", block, "proto", "179", "metric", "179"]
    assert_repaired(lab, node, "route", delete, lambda: json.loads(on(lab, node, *show)))


@pytest.mark.parametrize("family", [4, 6])
def test_a_learned_route_that_was_deleted_is_back_within_a_second(lab: Lab, node: str, pod: Pod, family: int) -> None:
    show = ["ip", "-j", f"-{family}", "route", "show", "proto", "179"]
    learned = next(route for route in json.loads(on(lab, node, *show)) if "gateway" in route)
    delete = ["ip", f"-{family}", "route", "del", learned["dst"], "proto", "179", "metric", "179"]
    assert_repaired(lab, node, "route", delete, lambda: json.loads(on(lab, node, *show)))


@pytest.mark.parametrize("family", [4, 6])
def test_a_neighbour_entry_that_was_deleted_is_back_within_a_second(lab: Lab, node: str, pod: Pod, family: int) -> None:
    veth = veth_of(lab, node, pod)
    address = next(a for a in pod.addresses if (":" in a) == (family == 6))
    show = ["ip", "-j", f"-{family}", "neigh", "show", "dev", veth, "nud", "permanent"]
    delete = ["ip", f"-{family}", "neigh", "del", address, "dev", veth]
    assert_repaired(lab, node, "neighbour", delete, lambda: json.loads(on(lab, node, *show)))


def test_a_veth_that_flapped_is_whole_again_within_a_second(lab: Lab, node: str, pod: Pod) -> None:
    veth = veth_of(lab, node, pod)

    def state() -> list[object]:
        shows = [("-4", "route"), ("-6", "route"), ("-4", "neigh"), ("-6", "neigh")]
        found: list[object] = [
            json.loads(
                on(
                    lab,
                    node,
                    "ip",
                    "-j",
                    family,
                    what,
                    "show",
                    "dev",
                    veth,
                    *(["nud", "permanent"] if what == "neigh" else []),
                )
            )
            for family, what in shows
        ]
        # The kernel's own link-local route comes and goes with the address; ours are those of protocol 179.
        return [
            [each for each in rows if each.get("protocol", "179") == "179"] for rows in found if isinstance(rows, list)
        ]

    flap = ["sh", "-c", f"ip link set {veth} down && ip link set {veth} up"]
    before, counts = state(), drift(lab, node)
    subprocess.run(["nsenter", f"--net={lab.netns(node)}", "--", *flap], check=True)
    since = time.monotonic()
    eventually(lambda: state() == before, 5, lambda: f"wanted {before}, is {state()}")
    assert time.monotonic() - since < SECONDS, "the repair took longer than a second"
    assert pings(lab, node, pod)

    def grown() -> dict[str, int]:
        return {kind: count - counts[kind] for kind, count in drift(lab, node).items()}

    # Each family's route and neighbour entry went with the link, and were written anew.
    eventually(lambda: grown()["pod route"] >= 2 and grown()["neighbour"] >= 2, 5, lambda: f"counted: {grown()}")


def pings(lab: Lab, node: str, pod: Pod) -> bool:
    """The node reaches the pod in both families."""
    for address in pod.addresses:
        on(lab, node, "ping", "-c1", "-W1", address)
    return True


@pytest.mark.parametrize("whole", [False, True], ids=["one rule", "the chain"])
def test_an_nft_rule_that_was_deleted_is_back_within_a_second(lab: Lab, node: str, pod: Pod, whole: bool) -> None:
    chain = ["inet", "podroute", "anti-spoofing"]
    listed = on(lab, node, "nft", "--handle", "list", "chain", *chain)
    handle = next(line.split()[-1] for line in listed.splitlines() if "drop" in line)
    broken = ["nft", "flush", "chain", *chain] if whole else ["nft", "delete", "rule", *chain, "handle", handle]
    state = lambda: on(lab, node, "nft", "--stateless", "list", "table", "inet", "podroute")  # noqa: E731
    assert "drop" in state()
    assert_repaired(lab, node, "rule", broken, state)


def test_a_table_that_was_deleted_is_back_within_a_second(lab: Lab, node: str, pod: Pod) -> None:
    delete = ["nft", "delete", "table", "inet", "podroute"]

    def state() -> str:
        return on(lab, node, "sh", "-c", "nft --stateless list table inet podroute 2>/dev/null || true")

    assert_repaired(lab, node, "rule", delete, state)


def foreign(lab: Lab, node: str) -> dict[str, str]:
    """Everything on the node that is not ours, as text."""
    routes = [
        line
        for family in ("-4", "-6")
        for line in on(lab, node, "ip", family, "route", "show", "table", "all").splitlines()
        if "proto 179" not in line and "podr" not in line and "expires" not in line
    ]
    return {
        "routes": "\n".join(sorted(routes)),
        "table": on(lab, node, "nft", "list", "table", "inet", "somebody"),
        "links": "\n".join(
            sorted(on(lab, node, "ip", "-o", "link", "show", "dev", name) for name in ("other0", "other1"))
        ),
    }


MADE = (
    "ip link add other0 type veth peer name other1",
    "ip addr add 192.0.2.1/24 dev other0",
    "ip addr add 2001:db8:78::1/64 dev other0 nodad",
    "ip link set other0 up",
    "ip link set other1 up",
    # One of each family with the prefix of a route of ours, by another metric, and one in another table.
    "ip route add {v4} via 192.0.2.9 metric 500 proto static",
    "ip -6 route add {v6} via 2001:db8:78::9 metric 500 proto static",
    "ip route add 203.0.113.0/24 via 192.0.2.9 table 77",
    "ip -6 route add 2001:db8:77::/64 dev other0 proto static",
    "nft add table inet somebody",
    "nft add chain inet somebody c {{ type filter hook input priority 0 \\; }}",
    "nft add rule inet somebody c tcp dport 9 counter drop",
)


def blocks_of(lab: Lab, node: str) -> dict[str, str]:
    """A block of each family that the node holds."""
    blocks = [b["spec"]["cidr"] for b in lab.get("ipblocks")["items"] if b["spec"]["node"]["name"] == node]
    return {"v6" if ":" in cidr else "v4": cidr for cidr in blocks}


def test_foreign_routes_tables_and_veths_are_byte_for_byte_the_same_over_every_restart(
    lab: Lab, node: str, pod: Pod
) -> None:
    own = blocks_of(lab, node)
    try:
        for line in MADE:
            on(lab, node, "sh", "-c", line.format(**own))
        before = foreign(lab, node)
        assert all(block in before["routes"] for block in own.values())
        for machine, process in ((node, "agent"), (node, "speaker"), ("cp", "operator"), ("cp", "kube-apiserver")):
            old = lab.pid(machine, process)
            lab.kill(machine, process)
            eventually(lambda old=old, at=(machine, process): lab.pid(*at) not in (None, old), 10, f"{process} is back")
            assert_as_before(lab, node, before)
        for part in ("exabgp", "daemon"):
            subprocess.run(["kill", "-9", str(speaker_pid(lab, node, part))], check=True)
            assert_as_before(lab, node, before)
        # A clean end, too, takes away what is its own and nothing else.
        for process in ("speaker", "agent"):
            lab.machine(node).stop(process)
            assert foreign(lab, node) == before
            start_again(lab, node, process)
            assert_as_before(lab, node, before)
    finally:
        on(lab, node, "sh", "-c", "ip link del other0; ip route flush table 77; nft delete table inet somebody; true")


def assert_as_before(lab: Lab, node: str, before: dict[str, str]) -> None:
    """Agent and sessions are whole again, and everything foreign is what it was."""
    eventually(lambda: "podroute_agent_ready 1.0" in metrics(lab, node), 15, "the agent is ready")
    eventually(lambda: all_established(lab, lab.topology.tor_names), 30, "all sessions are established")
    wait_until(lambda: lab.kubectl("get", "--raw", "/readyz"), 30, "the API server answers")
    assert foreign(lab, node) == before


def metrics(lab: Lab, node: str) -> str:
    return on(lab, node, "sh", "-c", "curl -s http://127.0.0.1:9479/metrics || true")


def test_a_host_interface_is_named_after_its_container(lab: Lab, node: str, pod: Pod) -> None:
    veth = veth_of(lab, node, pod)
    links = json.loads(on(lab, node, "ip", "-j", "link", "show", "dev", veth))
    _, container, interface, uid, addresses = links[0]["ifalias"].split(" ")
    assert host_interface_name(container, interface) == veth
    assert uid == pod.uid
    assert tuple(addresses.split(",")) == pod.addresses
