"""The operator as a process, against a real API server, with Nodes that are objects only and agents that only answer."""

import ipaddress
import itertools
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from apiserver_world import REPOSITORY, World, wait_for
from echo_agents import EchoAgents

from controller.api.nodenetwork import BlockClaim

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

POOL4 = {
    "apiVersion": "podroute.dev/v1alpha1",
    "kind": "IPPool",
    "metadata": {"name": "v4"},
    "spec": {"cidr": "10.244.0.0/16"},
}
POOL6 = {**POOL4, "metadata": {"name": "v6"}, "spec": {"cidr": "fd00:10:244::/56"}}


def node(name: str, number: int, **labels: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "number": number}


def add_nodes(
    world: World, *nodes: dict[str, Any], families: tuple[str, ...] = ("ipv4", "ipv6"), pods: int = 110
) -> None:
    numbers = [each.pop("number") for each in nodes]
    world.apply(*nodes)
    statuses = []
    for each, number in zip(nodes, numbers, strict=True):
        addresses = [f"10.10.0.{number}"] * ("ipv4" in families) + [f"fd00:10:10::{number}"] * ("ipv6" in families)
        status = {
            "addresses": [{"type": "InternalIP", "address": address} for address in addresses],
            "allocatable": {"pods": str(pods)},
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        # A Node's status is written with its labels.
        statuses.append({**each, "status": status})
    text = yaml.safe_dump_all(statuses)
    world.kubectl("replace", "--subresource=status", "-f", "-", text=text)


# A user that has no name, as in the operator's container.
NAMELESS = ("unshare", "--user", "--map-user=61180", "--map-group=61180", "env", "-u", "USER", "-u", "LOGNAME")


class OperatorProcess:
    def __init__(self, world: World, name: str, *arguments: str) -> None:
        self.log = world.folder / f"{name}.log"
        command = [sys.executable, "-m", "controller.cli.main", "operator", f"--kubeconfig={world.kubeconfig}"]
        command += [f"--identity={name}", "--namespace=default", "--lease-seconds=3", "--log-level=info", *arguments]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*NAMELESS, "setpriv", "--pdeathsig", "KILL", *command], stdout=log, stderr=log
            )

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


Start = Callable[..., OperatorProcess]


@pytest.fixture
def start(world: World) -> Iterator[Start]:
    started: list[OperatorProcess] = []

    def start_one(name: str = "one", *arguments: str) -> OperatorProcess:
        started.append(OperatorProcess(world, name, *arguments))
        return started[-1]

    yield start_one
    for each in started:
        each.kill()
        print(f"--- {each.log.name}\n{each.log.read_text()[-3000:]}")
        assert "Traceback" not in each.log.read_text()


@pytest.fixture
def agents(world: World) -> Iterator[EchoAgents]:
    with EchoAgents(str(world.kubeconfig)) as agents:
        yield agents


def blocks_of(world: World, node: str = "", pool: str = "") -> dict[str, dict[str, Any]]:
    specs = (item["spec"] | {"uid": item["metadata"]["uid"]} for item in world.items("ipblocks"))
    return {s["cidr"]: s for s in specs if node in ("", s["node"]["name"]) and pool in ("", s["pool"])}


def condition(world: World, plural: str, name: str, type_: str) -> dict[str, Any]:
    conditions = world.get(plural, name).get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == type_), {})


def settled(world: World, nodes: tuple[str, ...], per_node: int) -> bool:
    """Every node's NodeNetwork lists exactly its IPBlocks, `per_node` of them."""
    locked: dict[str, dict[str, str]] = {name: {} for name in nodes}
    for cidr, spec in blocks_of(world).items():
        locked.setdefault(spec["node"]["name"], {})[cidr] = spec["uid"]
    listed = {
        item["metadata"]["name"]: {grant["cidr"]: grant["uid"] for grant in item["spec"].get("blocks", ())}
        for item in world.items("nodenetworks")
    }
    return all(listed.get(name) == locked[name] and len(locked[name]) == per_node for name in nodes)


def test_one_pool_of_each_family_gives_every_node_blocks(world: World, start: Start, agents: EchoAgents) -> None:
    add_nodes(world, *(node(f"n{i}", 11 + i) for i in range(4)))
    start()
    world.apply(POOL4, POOL6)
    wait_for(lambda: settled(world, ("n0", "n1", "n2", "n3"), 4), "two blocks of each family on each node")
    assert len(blocks_of(world)) == 16
    assert condition(world, "ippools", "v4", "Accepted")["status"] == "True"
    cluster = world.get("clusternetwork", "default")["spec"]
    assert [p["cidr"] for p in cluster["pools"]] == ["10.244.0.0/16", "fd00:10:244::/56"]
    assert [m["node"] for m in cluster["mesh"]] == ["n0", "n1", "n2", "n3"]
    assert world.get("nodenetwork", "n0")["spec"]["addresses"] == ["10.10.0.11", "fd00:10:10::11"]


def test_a_pool_applied_while_the_operator_runs_is_granted_within_a_second(
    world: World, start: Start, agents: EchoAgents
) -> None:
    add_nodes(world, *(node(f"n{i}", 11 + i) for i in range(4)))
    operator = start()
    wait_for(lambda: "settled after" in operator.log.read_text(), "the operator is settled")
    world.apply(POOL4)
    applied = time.monotonic()
    wait_for(lambda: settled(world, ("n0", "n3"), 2), "blocks on the nodes")
    # kubectl itself takes a tenth of a second for each question.
    assert time.monotonic() - applied < 2.0
    stamps = [item["metadata"]["creationTimestamp"] for item in world.items("ipblocks")]
    assert min(stamps) >= world.get("ippool", "v4")["metadata"]["creationTimestamp"]


def test_a_second_operator_start_changes_no_block(world: World, start: Start, agents: EchoAgents) -> None:
    add_nodes(world, node("n0", 11), node("n1", 12))
    first = start("one")
    world.apply(POOL4, POOL6)
    wait_for(lambda: settled(world, ("n0", "n1"), 4), "blocks on both nodes")
    before = blocks_of(world)
    assert first.stop() == 0
    second = start("two")
    wait_for(lambda: "settled after" in second.log.read_text(), "the second operator is settled")
    wait_for(lambda: all(n["spec"]["epoch"] == n["status"]["epoch"] for n in world.items("nodenetworks")), "new epochs")
    assert blocks_of(world) == before


def test_an_idle_operator_writes_nothing(world: World, start: Start, agents: EchoAgents) -> None:
    add_nodes(world, node("n0", 11), node("n1", 12))
    operator = start("one", "--relist-seconds=0.5", "--metrics-address=127.0.0.1:9101")
    world.apply(POOL4, POOL6)
    wait_for(lambda: settled(world, ("n0", "n1"), 4), "blocks on both nodes")
    wait_for(lambda: world.get("ippool", "v4")["status"]["usage"] == "4/1024", "the pool's totals")

    def writes() -> float:
        return metric("podroute_operator_writes_total")

    looks = metric("podroute_operator_lists_total")
    written = wait_for_quiet(writes)
    wait_for(lambda: metric("podroute_operator_lists_total") >= looks + 30, "it goes on listing")
    assert writes() == written
    assert metric("podroute_operator_watch_failures_total") == 0
    assert metric("podroute_operator_is_leader") == 1
    assert get("/readyz") == "ok\n"
    assert operator.stop() == 0


def get(path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:9101{path}", timeout=5) as answer:
        text: str = answer.read().decode()
        return text


def metric(name: str) -> float:
    """The sum of a metric over its labels."""
    lines = (line for line in get("/metrics").splitlines() if line.startswith(name))
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def wait_for_quiet(read: Callable[[], float]) -> float:
    """The value once it has been the same for a second."""
    seen: list[tuple[float, float]] = []

    def is_quiet() -> bool:
        now, value = time.monotonic(), read()
        if not seen or seen[-1][1] != value:
            seen.append((now, value))
        return now - seen[-1][0] > 1.0

    wait_for(is_quiet, "no more writes")
    return seen[-1][1]


def test_a_node_that_comes_later_gets_blocks_and_one_that_comes_back_gets_its_own(
    world: World, start: Start, agents: EchoAgents
) -> None:
    add_nodes(world, node("n0", 11))
    start()
    world.apply(POOL4)
    wait_for(lambda: settled(world, ("n0",), 2), "blocks on n0")
    add_nodes(world, node("n1", 12))
    wait_for(lambda: settled(world, ("n1",), 2), "blocks on n1")
    before = blocks_of(world)
    # Without a garbage collector in this world, the NodeNetwork is removed as it would.
    world.kubectl("delete", "node", "n1")
    world.kubectl("delete", "nodenetwork", "n1")
    add_nodes(world, node("n2", 13))
    wait_for(lambda: settled(world, ("n2",), 2), "blocks on n2")
    assert not set(blocks_of(world, "n2")) & set(before), "the blocks of n1 are kept for it"
    add_nodes(world, node("n1", 12))
    uid = world.get("node", "n1")["metadata"]["uid"]
    wait_for(lambda: settled(world, ("n1",), 2), "n1's blocks are back")
    assert {c: s["uid"] for c, s in blocks_of(world, "n1").items()} == {
        c: s["uid"] for c, s in before.items() if s["node"]["name"] == "n1"
    }
    wait_for(lambda: {s["node"]["uid"] for s in blocks_of(world, "n1").values()} == {uid}, "under its new UID")
    assert world.get("nodenetwork", "n1")["metadata"]["ownerReferences"][0]["uid"] == uid


def test_a_node_that_stays_away_loses_its_blocks_after_the_configured_grace(
    world: World, start: Start, agents: EchoAgents
) -> None:
    configuration = {
        "apiVersion": "podroute.dev/v1alpha1",
        "kind": "BGPConfiguration",
        "metadata": {"name": "default"},
        "spec": {"gracePeriods": {"deletedNode": 1}},
    }
    add_nodes(world, node("n0", 11), node("n1", 12))
    start("one", "--reclaim-margin-seconds=1")
    world.apply(configuration, POOL4)
    wait_for(lambda: settled(world, ("n0", "n1"), 2), "blocks on both nodes")
    kept = blocks_of(world, "n0")
    world.kubectl("delete", "node", "n1")
    wait_for(lambda: blocks_of(world) == kept, "n1's blocks are reclaimed, n0's are not")


def test_a_label_moves_a_node_from_one_pool_to_another_once_its_pods_are_gone(
    world: World, start: Start, agents: EchoAgents
) -> None:
    def pool(rack: str, cidr: str) -> dict[str, Any]:
        spec = {"cidr": cidr, "nodeSelector": {"matchLabels": {"rack": rack}}}
        return {**POOL4, "metadata": {"name": rack}, "spec": spec}

    add_nodes(world, node("n0", 11, rack="r0"), node("n1", 12, rack="r1"))
    start()
    world.apply(pool("r0", "10.244.0.0/17"), pool("r1", "10.244.128.0/17"))
    wait_for(lambda: len(blocks_of(world, "n0", "r0")) == len(blocks_of(world, "n1", "r1")) == 2, "blocks by rack")
    used = sorted(blocks_of(world, "n0"))[0]
    agents.in_use[used] = 3
    wait_for(lambda: world.get("ippool", "r0")["status"]["inUse"] == 3, "the use is known")
    world.kubectl("label", "node", "n0", "rack=r1", "--overwrite")
    wait_for(lambda: len(blocks_of(world, "n0", "r1")) == 2, "blocks of the new pool")
    wait_for(lambda: list(blocks_of(world, "n0", "r0")) == [used], "the unused block went back, the used one stays")
    assert blocks_of(world, "n0", "r0")[used]["state"] == "Releasing"
    agents.in_use.clear()
    wait_for(lambda: not blocks_of(world, "n0", "r0"), "the last pod is gone, and so is the block")


def test_an_overlapping_pool_is_refused_and_its_nearest_neighbour_is_served(
    world: World, start: Start, agents: EchoAgents
) -> None:
    add_nodes(world, node("n0", 11))
    start()
    world.apply(POOL4)
    wait_for(lambda: settled(world, ("n0",), 2), "blocks of the first pool")
    younger = {**POOL4, "metadata": {"name": "younger"}, "spec": {"cidr": "10.244.255.0/24"}}
    beside = {**POOL4, "metadata": {"name": "beside"}, "spec": {"cidr": "10.245.0.0/24"}}
    around_node = {**POOL4, "metadata": {"name": "around-node"}, "spec": {"cidr": "10.10.0.0/24"}}
    services = {**POOL4, "metadata": {"name": "services"}, "spec": {"cidr": "10.96.0.0/24"}}
    world.apply(younger, beside, around_node, services)
    wait_for(lambda: len(blocks_of(world, pool="beside")) == 2, "blocks of the pool beside")
    refused = {"younger": "OverlapsPool", "around-node": "OverlapsNodeAddress", "services": "OverlapsServiceRange"}
    for name, reason in refused.items():
        said = wait_for(lambda name=name: condition(world, "ippools", name, "Accepted"), f"{name} has a verdict")
        assert (said["status"], said["reason"]) == ("False", reason)
        assert "spec.cidr" in said["message"]
        assert blocks_of(world, pool=name) == {}


def test_an_exhausted_pool_says_so_on_itself_and_on_the_node(world: World, start: Start, agents: EchoAgents) -> None:
    add_nodes(world, node("n0", 11), node("n1", 12))
    start()
    world.apply({**POOL4, "metadata": {"name": "small"}, "spec": {"cidr": "10.244.0.0/25"}})
    wait_for(lambda: len(blocks_of(world)) == 2, "all blocks are granted")
    wait_for(
        lambda: condition(world, "ippools", "small", "Available").get("reason") == "PoolExhausted", "the condition"
    )
    events = wait_for(
        lambda: [e for e in world.items("events.events.k8s.io", "-n", "default") if e["reason"] == "PoolExhausted"],
        "an Event about the node",
    )
    assert "IPPool small" in events[0]["note"]
    assert "add a pool" in events[0]["note"]
    world.apply({**POOL4, "metadata": {"name": "more"}, "spec": {"cidr": "10.245.0.0/24"}})
    wait_for(lambda: blocks_of(world, pool="more"), "another pool helps")


def test_a_pools_deletion_is_held_and_says_by_what_and_ends_with_the_last_pod(
    world: World, start: Start, agents: EchoAgents
) -> None:
    add_nodes(world, node("n0", 11), node("n1", 12))
    start()
    world.apply(POOL4)
    wait_for(lambda: settled(world, ("n0", "n1"), 2), "blocks on both nodes")
    used = sorted(blocks_of(world, "n1"))[0]
    agents.in_use[used] = 7
    wait_for(lambda: world.get("ippool", "v4")["status"]["inUse"] == 7, "the use is known")
    world.kubectl("delete", "ippool", "v4", "--wait=false")
    wait_for(lambda: list(blocks_of(world)) == [used], "unused blocks go back at once")
    said = wait_for(
        lambda: (
            (c := condition(world, "ippools", "v4", "Accepted"))["reason"] == "BlocksInUse"
            and "on 1 nodes" in c["message"]
            and c
        ),
        "the pool says what holds it",
    )
    assert f"n1: {used} (7 addresses in use)" in said["message"]
    flags = world.get("clusternetwork", "default")["spec"]["pools"]
    assert [(p["name"], p["disabled"]) for p in flags] == [("v4", True)], "no new address, and pods stay reachable"
    agents.in_use.clear()
    wait_for(lambda: not world.items("ippools"), "the pool is gone")
    assert blocks_of(world) == {}


def test_of_two_operators_one_writes_and_the_other_takes_over_in_the_middle_of_a_grant(
    world: World, start: Start, agents: EchoAgents
) -> None:
    names = tuple(f"n{number}" for number in range(24))
    add_nodes(world, *(node(name, 11 + number) for number, name in enumerate(names)))
    first = start("one", "--settle-seconds=5")
    second = start("two", "--settle-seconds=5")
    world.apply(POOL4, POOL6)
    wait_for(lambda: len(blocks_of(world)) > 5, "grants have begun")
    (writer,) = (each for each in (first, second) if "this operator writes now" in each.log.read_text())
    writer.kill()
    wait_for(lambda: settled(world, names, 4), "the other one finishes the work", 40)
    networks = [ipaddress.ip_network(cidr) for cidr in blocks_of(world)]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(networks, 2))
    listed = [grant["cidr"] for item in world.items("nodenetworks") for grant in item["spec"]["blocks"]]
    assert len(listed) == len(set(listed)) == 96


def test_two_operators_that_both_believe_to_hold_the_lease_give_no_block_twice(
    world: World, start: Start, agents: EchoAgents
) -> None:
    """The second fence alone: with a Lease in a namespace of its own, each of them writes."""
    names = tuple(f"n{number}" for number in range(12))
    add_nodes(world, *(node(name, 11 + number) for number, name in enumerate(names)))
    both = [start("one", "--namespace=default"), start("two", "--namespace=kube-system")]
    for each in both:
        wait_for(lambda each=each: "this operator writes now" in each.log.read_text(), "it writes")
    world.apply(POOL4, POOL6)
    wait_for(lambda: len(blocks_of(world)) >= 48, "grants", 40)
    both[0].kill()
    wait_for(lambda: settled(world, names, 4), "one operator alone finds nothing to repair but its epoch", 40)
    networks = [ipaddress.ip_network(cidr) for cidr in blocks_of(world)]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(networks, 2))


def test_an_object_deleted_while_nobody_could_watch_is_noticed(world: World, start: Start, agents: EchoAgents) -> None:
    add_nodes(world, node("n0", 11), node("n1", 12))
    operator = start("one", "--settle-seconds=5")
    peer = {
        "apiVersion": "podroute.dev/v1alpha1",
        "kind": "BGPPeer",
        "metadata": {"name": "tor"},
        "spec": {"address": "10.10.0.1", "asNumber": 65001},
    }
    world.apply(POOL4, peer)
    wait_for(lambda: settled(world, ("n0", "n1"), 2), "blocks on both nodes")
    wait_for(lambda: world.get("nodenetwork", "n0")["spec"].get("sessions"), "the session")
    before = blocks_of(world)
    # Stopped, it hears nothing; the server that comes back has no history to replay.
    operator.process.send_signal(signal.SIGSTOP)
    world.kill_server()
    world.start_server()
    world.kubectl("delete", "bgppeer", "tor")
    world.kill_server()
    operator.process.send_signal(signal.SIGCONT)
    world.start_server()
    wait_for(lambda: not world.get("nodenetwork", "n0")["spec"].get("sessions"), "the session is gone", 40)
    assert blocks_of(world) == before


def test_an_idle_block_goes_back_and_demand_brings_another(world: World, start: Start, agents: EchoAgents) -> None:
    configuration = {
        "apiVersion": "podroute.dev/v1alpha1",
        "kind": "BGPConfiguration",
        "metadata": {"name": "default"},
        "spec": {"gracePeriods": {"idleBlock": 1}},
    }
    add_nodes(world, node("n0", 11))
    start()
    world.apply(configuration, {**POOL4, "spec": {"cidr": "10.244.0.0/16", "headroom": 4}})
    wait_for(lambda: settled(world, ("n0",), 1), "one block")
    agents.waiting["n0", "v4"] = 80
    wait_for(lambda: settled(world, ("n0",), 2), "another for the pods that wait")
    agents.waiting.clear()
    wait_for(lambda: settled(world, ("n0",), 1), "it goes back after its grace")


def test_a_lost_block_is_claimed_and_one_that_another_node_has_is_a_conflict(
    world: World, start: Start, agents: EchoAgents
) -> None:
    add_nodes(world, node("n0", 11), node("n1", 12))
    start()
    world.apply(POOL4)
    wait_for(lambda: settled(world, ("n0", "n1"), 2), "blocks on both nodes")
    before = blocks_of(world)
    lost, others = sorted(blocks_of(world, "n0"))[0], sorted(blocks_of(world, "n1"))[0]
    agents.in_use[lost] = 2
    name = lost.replace(".", "-").replace("/", "-")
    world.kubectl("delete", "ipblock", name)
    wait_for(lambda: lost in blocks_of(world, "n0"), "the lost block is locked again for the node that uses it")
    wait_for(lambda: settled(world, ("n0", "n1"), 2), "under its new UID")
    assert blocks_of(world)[lost]["uid"] != before[lost]["uid"]
    agents.in_use[others] = 1
    wait_for(lambda: world.get("ippool", "v4")["status"]["inUse"] == 3, "its owner uses the other block")
    agents.claims["n0"] = (BlockClaim(cidr=others, uid="x", pool="v4"),)
    wait_for(lambda: condition(world, "ippools", "v4", "NodesServed").get("reason") == "BlockConflict", "the conflict")
    assert f"Node n0 uses {others}, of Node n1" in condition(world, "ippools", "v4", "NodesServed")["message"]
    assert others in blocks_of(world, "n1")


def test_an_operator_with_its_own_account_needs_nothing_more(world: World, start: Start, agents: EchoAgents) -> None:
    world.kubectl("apply", "-k", str(REPOSITORY / "manifests"))
    try:
        token = world.kubectl("create", "token", "podroute-operator", "-n", "podroute-system").strip()
        config = world.folder / "operator.kubeconfig"
        config.write_text(world.kubeconfig_for(token))
        add_nodes(world, node("n0", 11), node("n1", 12))
        operator = start("one", "--namespace=podroute-system", f"--kubeconfig={config}")
        world.apply(POOL4, {**POOL4, "metadata": {"name": "small"}, "spec": {"cidr": "10.245.0.0/26"}})
        wait_for(lambda: len(blocks_of(world, pool="v4")) == 4, "blocks")
        wait_for(
            lambda: [e for e in world.items("events.events.k8s.io", "-n", "default") if "IPPool small" in e["note"]],
            "an Event about exhaustion",
        )
        world.kubectl("delete", "ippool", "v4", "small", "--wait=false")
        wait_for(lambda: not world.items("ippools"), "pools are deleted")
        assert "Forbidden" not in operator.log.read_text()
        assert "forbidden" not in operator.log.read_text()
        operator.stop()
    finally:
        world.kubectl("delete", "-f", str(REPOSITORY / "manifests" / "base" / "admission.yaml"))


def test_events_that_are_nobodys_business_leave_no_mark_on_nodes_and_pools(
    world: World, start: Start, agents: EchoAgents
) -> None:
    add_nodes(world, node("n0", 11))
    start()
    world.apply(POOL4)
    wait_for(lambda: settled(world, ("n0",), 2), "blocks")
    metadata = world.get("node", "n0")["metadata"]
    assert "finalizers" not in metadata
    assert not [key for key in metadata.get("annotations", {}) if "kopf" in key or "podroute" in key]
    assert world.get("ippool", "v4")["metadata"]["finalizers"] == ["podroute.dev/blocks"]


def test_without_a_server_the_operator_waits_and_ends_at_once_when_asked(world: World, start: Start) -> None:
    config = world.folder / "nowhere.kubeconfig"
    config.write_text(world.kubeconfig_for("token", port=1))
    operator = start("one", f"--kubeconfig={config}")
    wait_for(lambda: "waiting for the API server" in operator.log.read_text(), "it says what it waits for")
    asked = time.monotonic()
    assert operator.stop() == 0
    assert time.monotonic() - asked < 3
