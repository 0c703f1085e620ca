"""`kubectl apply -f examples/quickstart/` ends in exactly the blocks on every router, and taking a pool away ends in nothing."""

import ipaddress
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from router_tables import Entry, RouteWatch, node_blocks, pod_table
from workloads import apply, deployment_manifest, eventually, pod_manifest, pods, pods_on, remove_pods

from controller.lab.cluster import Lab

pytestmark = [pytest.mark.lab, pytest.mark.root]

TORS = ("tor0", "tor1")


QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"


@pytest.fixture(scope="module")
def bare_lab() -> Iterator[Lab]:
    """Two nodes in two racks with podroute and nothing to do: what a user has before his first `kubectl apply`."""
    lab = Lab.up(f"q{os.getpid()}", nodes=2, racks=2, bare=True, processes=True)
    # Its pods would wait for their network, and their addresses rest where no pod of a test has been.
    lab.kubectl("-n", "kube-system", "scale", "deployment", "coredns", "--replicas=0")
    yield lab
    lab.down()


def expected(lab: Lab, tor: str, family: int) -> dict[str, list[Entry]]:
    """A ToR's whole pod table, from the IPBlocks alone: its own rack's by the owning node, others' through the spine."""
    rack = int(tor.removeprefix("tor"))
    table = {}
    for cidr, node in node_blocks(lab).items():
        if ipaddress.ip_network(cidr).version != family:
            continue
        if lab.topology.rack_of(node) == rack:
            table[cidr] = [Entry(address(lab, node, family), (64512,))]
        else:
            table[cidr] = [Entry(spine_address(lab, rack, family), (65000, 65001 + lab.topology.rack_of(node), 64512))]
    return table


def address(lab: Lab, machine: str, family: int) -> str:
    return next(a for a in lab.topology.addresses(machine) if (":" in a) == (family == 6))


def spine_address(lab: Lab, rack: int, family: int) -> str:
    """The spine's end of its link with a rack's ToR."""
    return next(a for a in lab.topology.fabric_subnet(rack).host(1) if (":" in a) == (family == 6))


def tables_are_the_blocks(lab: Lab) -> bool:
    return all(pod_table(lab, tor, family) == expected(lab, tor, family) for tor in TORS for family in (4, 6))


def told(lab: Lab) -> str:
    return "; ".join(
        f"{tor} ipv{family}: {pod_table(lab, tor, family)} instead of {expected(lab, tor, family)}"
        for tor in TORS
        for family in (4, 6)
    )


def has_blocks_of_both_families(lab: Lab) -> bool:
    held = {node: set() for node in lab.topology.node_names}
    for cidr, owner in node_blocks(lab).items():
        held[owner].add(ipaddress.ip_network(cidr).version)
    return all(versions == {4, 6} for versions in held.values())


def test_applying_the_quickstart_gives_every_node_its_blocks_and_the_routers_their_routes(bare_lab: Lab) -> None:
    lab = bare_lab
    assert node_blocks(lab) == {}
    assert not any(pod_table(lab, tor, family) for tor in TORS for family in (4, 6))
    said = lab.kubectl("apply", "-f", str(QUICKSTART))
    assert said.count(" created") == 6
    eventually(lambda: has_blocks_of_both_families(lab), 20, lambda: f"{node_blocks(lab)}")
    eventually(lambda: tables_are_the_blocks(lab), 30, lambda: told(lab))
    assert lab.kubectl("apply", "-f", str(QUICKSTART)).count(" unchanged") == 6


def test_every_node_has_blocks_of_both_families(lab: Lab) -> None:
    blocks = node_blocks(lab)
    for node in lab.topology.node_names:
        versions = {ipaddress.ip_network(cidr).version for cidr, owner in blocks.items() if owner == node}
        assert versions == {4, 6}


def test_each_router_holds_exactly_the_blocks_with_the_right_next_hops_and_paths(lab: Lab) -> None:
    eventually(lambda: tables_are_the_blocks(lab), 20, lambda: told(lab))


def test_nothing_longer_than_a_block_appears_while_pods_come_and_go(lab: Lab) -> None:
    names = [f"scale-{node}" for node in lab.topology.node_names]
    eventually(lambda: tables_are_the_blocks(lab), 20, lambda: told(lab))
    # The spine's kernel has every route that any ToR passes on, and each ToR's those of its own rack's nodes.
    with RouteWatch(lab, lab.topology.router_names) as watch:
        scale(lab, names)
    blocks = set(node_blocks(lab))
    assert set(watch.added) <= blocks
    assert watch.dropped == []


def scale(lab: Lab, names: list[str]) -> None:
    """Deployments up and down and up again; after each step the tables are the blocks."""
    try:
        for replicas in (3, 6, 1, 4, 0):
            apply(lab, *(deployment_manifest(name, replicas, name.removeprefix("scale-")) for name in names))
            eventually(
                lambda replicas=replicas: all(len(pods(lab, f"app={name}")) == replicas for name in names),
                90,
                lambda: lab.kubectl("get", "pods", "-o", "wide"),
            )
            eventually(lambda: tables_are_the_blocks(lab), 10, lambda: told(lab))
    finally:
        lab.kubectl("delete", "deployment", "--ignore-not-found", *names)


def test_deleting_the_pools_is_held_by_pods_says_so_and_then_leaves_nothing(bare_lab: Lab) -> None:
    lab = bare_lab
    (node, other) = lab.topology.node_names
    with pods_on(lab, [node], "held") as (pod,):
        lab.kubectl("delete", "ippool", "pods-v4", "pods-v6", "--wait=false")
        # The other node's blocks hold nobody and go at once; those of the pod stay, and stay announced.
        eventually(lambda: set(node_blocks(lab).values()) == {node}, 60, lambda: f"{node_blocks(lab)}")
        for pool, address in zip(("pods-v4", "pods-v6"), pod.addresses, strict=True):
            held = [cidr for cidr in node_blocks(lab) if ipaddress.ip_address(address) in ipaddress.ip_network(cidr)]
            assert len(held) == 1
            message = eventually(lambda pool=pool: holding_message(lab, pool), 10, f"pool {pool} says what holds it")
            assert held[0] in message
            assert node in message
        eventually(lambda: tables_are_the_blocks(lab), 10, lambda: told(lab))
        assert all(pod_table(lab, "tor0", family) for family in (4, 6))
        apply(lab, pod_manifest("late", node))
        eventually(
            lambda: "no enabled IPPool serves" in refusals(lab, "late"), 30, lambda: f"late: {refusals(lab, 'late')}"
        )
        remove_pods(lab, ["late"])
    eventually(lambda: not lab.get("ippools")["items"], 90, lambda: lab.kubectl("get", "ippools,ipblocks"))
    assert node_blocks(lab) == {}
    eventually(lambda: not any(pod_table(lab, tor, f) for tor in TORS for f in (4, 6)), 10, lambda: told(lab))
    for name in (node, other):
        for family in ("-4", "-6"):
            show = ["ip", "-j", family, "route", "show", "proto", "179"]
            left = lambda name=name, show=show: json.loads(lab.netns_exec(name, show) or "[]")  # noqa: E731
            eventually(lambda left=left: left() == [], 10, lambda left=left: f"routes of ours are left: {left()}")


def refusals(lab: Lab, pod: str) -> str:
    """What the kubelet was told when it asked for the pod's network."""
    events = lab.get("events", "--field-selector", f"involvedObject.name={pod}")["items"]
    return " ".join(event["message"] for event in events if event["reason"] == "FailedCreatePodSandBox")


def holding_message(lab: Lab, pool: str) -> str:
    """What the pool says holds its deletion."""
    conditions = lab.get("ippool", pool).get("status", {}).get("conditions", [])
    return next((c["message"] for c in conditions if c["reason"] == "BlocksInUse"), "")
