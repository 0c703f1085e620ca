"""What happens to a node in its life beside power and labels: its daemons restart, its disk fills, its address changes."""

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import msgspec
import pytest
from cni_calls import address_from
from faults import all_established, start_again, undisturbed
from oracle import wrong
from refused_inputs import body
from router_tables import pod_table
from test_moving import reach
from test_node_changes import blocks_of, granted, new_agent, node_uid, nodenetwork_uid, still_there
from test_power import is_ready
from told import findings
from traffic import Traffic
from workloads import Pod, apply, await_no_other_pools, eventually, pods_on

from controller.lab.cluster import Lab
from controller.lab.node import node_object
from controller.lab.power import processes_of_node

pytestmark = [pytest.mark.lab, pytest.mark.root]

RUN = "/run/podroute"
FILLING = f"{RUN}/filling"


@pytest.fixture(scope="module")
def across(lab: Lab) -> Iterator[list[Pod]]:
    """Two pods in different racks."""
    first, *_, last = lab.topology.node_names
    with pods_on(lab, [first, last], "life") as found:
        yield found


@pytest.mark.parametrize("daemon", ["kubelet", "containerd"])
def test_a_restart_of_kubelet_or_runtime_is_not_felt_and_pods_start_afterwards(
    lab: Lab, across: list[Pod], daemon: str
) -> None:
    one = across[0]
    before = lab.pid(one.node, daemon)
    with undisturbed(lab, across):
        lab.kill(one.node, daemon, signal.SIGTERM)
        eventually(lambda: lab.pid(one.node, daemon) not in (None, before), 30, f"{daemon} runs again")
        with pods_on(lab, [one.node], f"after-{daemon}") as (new,):
            assert set(new.addresses).isdisjoint(one.addresses)
    assert still_there(lab, one)
    assert wrong(lab) == set()


@contextmanager
def small_disk(lab: Lab, node: str) -> Iterator[None]:
    """The node's /run/podroute is a small file system of its own, full while the `with` block runs."""
    machine = lab.machine(node)

    def exchanged(command: str) -> None:
        for process in ("agent", "speaker"):
            machine.stop(process)
        machine.run(["sh", "-ec", command])
        for process in ("speaker", "agent"):
            start_again(lab, node, process)

    copy = f"mkdir /run/kept; cp -a {RUN}/. /run/kept; "
    exchanged(f"{copy} mount -t tmpfs -o size=1m,nr_inodes=100 none {RUN}; cp -a /run/kept/. {RUN}; rm -r /run/kept")
    try:
        eventually(lambda: all_established(lab, lab.topology.tor_names), 30, "all sessions are established")
        eventually(lambda: synced(lab, node).startswith("True"), 30, lambda: synced(lab, node))
        # Neither room nor inodes: what a file that is replaced gives back is too little for the next one.
        fill = f"mkdir {FILLING}; i=0; while touch {FILLING}/$i; do i=$((i+1)); done; cat /dev/zero >{FILLING}/0"
        machine.run(["sh", "-c", f"({fill}) 2>/dev/null; true"])
        yield
    finally:
        machine.run(["rm", "-rf", FILLING])
        exchanged(f"{copy} umount {RUN}; cp -a /run/kept/. {RUN}; rm -r /run/kept")


def synced(lab: Lab, node: str) -> str:
    """The node's condition Synced: status, reason and message."""
    conditions = lab.get("nodenetwork", node).get("status", {}).get("conditions", [])
    return next(
        (f"{c['status']} {c['reason']}: {c.get('message', '')}" for c in conditions if c["type"] == "Synced"), ""
    )


@pytest.fixture
def late_pool(lab: Lab, afterwards: ExitStack) -> Iterator[str]:
    """Applied by the test, removed afterwards."""
    yield "full-v4"
    lab.kubectl("delete", "ippool", "full-v4", "--ignore-not-found", "--wait=false")
    afterwards.callback(await_no_other_pools, lab)


def test_a_full_disk_is_told_and_costs_neither_packets_nor_routes_nor_new_pods(
    lab: Lab, across: list[Pod], late_pool: str
) -> None:
    node = across[0].node
    with small_disk(lab, node):
        with undisturbed(lab, across):
            # What the node is told from here on it can't keep for its next start.
            apply(lab, body("IPPool", late_pool, cidr="10.245.95.0/24", headroom=8))
            eventually(lambda: "StoreFailed" in synced(lab, node), 30, lambda: synced(lab, node))
            (address,) = address_from(lab, node, late_pool, "on-full-disk")
            assert address.startswith("10.245.95.")
        with undisturbed(lab, across):
            lab.kill(node, "agent")
            with pods_on(lab, [node], "full-again") as (pod,):
                assert len(pod.addresses) == 2
        lab.machine(node).run(["rm", "-r", FILLING])
        eventually(lambda: synced(lab, node).startswith("True"), 60, lambda: synced(lab, node))
    # The lab's routers take prefixes of its own pools alone.
    assert {(kind, what) for kind, what in wrong(lab) if not what.startswith("10.245.95.")} == set()


def own_blocks(lab: Lab, node: str) -> set[str]:
    """The node's blocks of the lab's own pools: those of a pool that is being deleted go meanwhile."""
    return {cidr for cidr in blocks_of(lab, node) if not cidr.startswith("10.245.")}


def readdress(lab: Lab, node: str, addresses: tuple[str, str]) -> None:
    """Deletes the Node and has its machine join again under the same name with other addresses."""
    machine, (v4, v6) = lab.machine(node), addresses
    gateways = lab.topology.gateway(lab.topology.rack_of(node))
    machine.stop("kubelet")
    uid = node_uid(lab, node)
    lab.kubectl("delete", "node", node)
    eventually(lambda: nodenetwork_uid(lab, node) == "", 30, "the NodeNetwork goes with its Node")
    for family, address, length, gateway in (("-4", v4, 24, gateways.v4), ("-6", v6, 64, gateways.v6)):
        lab.netns_exec(node, ["ip", family, "address", "flush", "dev", "eth0", "scope", "global"])
        lab.netns_exec(node, ["ip", family, "address", "add", f"{address}/{length}", "dev", "eth0", "nodad"])
        lab.netns_exec(node, ["ip", family, "route", "replace", "default", "via", gateway])
    apply(lab, node_object(node, lab.topology, "podroute"))
    eventually(lambda: node_uid(lab, node) not in ("", uid), 10, "another Node of the name is there")
    (kubelet,) = (each for each in processes_of_node(lab.state, node) if each.name == "kubelet")
    argv = tuple(f"--node-ip={v4},{v6}" if word.startswith("--node-ip=") else word for word in kubelet.argv)
    machine.start(msgspec.structs.replace(kubelet, argv=argv))
    new_agent(lab, node)


def peer_at(lab: Lab, tor: str, addresses: tuple[str, str]) -> None:
    """What whoever runs the router (FRR) does for a node with new addresses."""
    words = ["configure terminal", f"router bgp {lab.topology.tor_as(int(tor[3:]))}"]
    for address, family in zip(addresses, ("ipv4", "ipv6"), strict=True):
        words += [
            f"neighbor {address} remote-as 64512",
            f"neighbor {address} passive",
            f"neighbor {address} timers 3 9",
        ]
        words += [f"address-family {family} unicast", f"neighbor {address} activate", "exit-address-family"]
    configure(lab, tor, words)


def configure(lab: Lab, tor: str, words: list[str]) -> None:
    lab.machine(tor).run(["vtysh", *(part for word in words for part in ("-c", word))])


def next_hops(lab: Lab, tor: str, blocks: set[str]) -> set[str]:
    tables = {**pod_table(lab, tor, 4), **pod_table(lab, tor, 6)}
    return {entry.next_hop for cidr in blocks for entry in tables.get(cidr, [])}


def test_a_node_that_comes_back_under_another_address_keeps_its_blocks_and_its_pod(lab: Lab, across: list[Pod]) -> None:
    node, tor, others = "n1", "tor0", across
    old, new = tuple(lab.topology.addresses(node)), ("10.10.0.77", "fd00:10:10::77")
    before = own_blocks(lab, node)
    with pods_on(lab, [node], "readdressed") as (pod,), Traffic([(others[0].place, others[1].place)]) as traffic:
        try:
            peer_at(lab, tor, new)
            readdress(lab, node, new)
            eventually(lambda: next_hops(lab, tor, before) == set(new), 60, lambda: f"{next_hops(lab, tor, before)}")
            eventually(lambda: is_ready(lab, node), 60, f"{node} is ready")
            eventually(lambda: granted(lab, node) >= before, 30, lambda: f"{granted(lab, node)} as before: {before}")
            assert own_blocks(lab, node) == before
            assert still_there(lab, pod)
            assert reach(others[1], pod)
        finally:
            readdress(lab, node, old)
            forgotten = (f"no neighbor {address}" for address in new)
            configure(lab, tor, ["configure terminal", "router bgp 65001", *forgotten])
        eventually(lambda: next_hops(lab, tor, before) == set(old), 60, lambda: f"{next_hops(lab, tor, before)}")
        eventually(lambda: is_ready(lab, node), 60, f"{node} is ready")
        assert still_there(lab, pod)
    # Not the probe's own pace: a kubelet and an agent start twice meanwhile, and it may wait for a moment longer than usual.
    assert (traffic.lost, traffic.errors) == (0, [])
    eventually(lambda: findings(lab) == [], 60, lambda: f"{findings(lab)}")
    assert json.loads(lab.kubectl("get", "node", node, "-o", "json"))["status"]["addresses"][0]["address"] == old[0]
