"""examples/node-mesh on one segment without routers: nodes tell each other their blocks over iBGP, and nothing else is there."""

import ipaddress
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from host_state import need_root
from refused_inputs import body
from router_tables import kernel_routes, node_blocks
from seen_source import place_of, source_seen
from test_node_changes import delete_and_make_anew
from test_power import is_ready
from told import told_on
from traffic import Place, Traffic
from workloads import apply, eventually, pods_on

from controller.lab.cluster import Lab
from controller.lab.execute import run_checked

pytestmark = [pytest.mark.lab, pytest.mark.root]


@pytest.fixture(scope="module")
def mesh() -> Iterator[Lab]:
    """Three nodes on one segment; PODROUTE_MESH_LAB names a running one."""
    need_root()
    if name := os.environ.get("PODROUTE_MESH_LAB"):
        yield Lab.find(name)
        return
    lab = Lab.up(f"m{os.getpid()}", nodes=3, racks=1, tors=("none",), processes=True)
    yield lab
    lab.down()


def family_of(text: str) -> int:
    return 6 if ":" in text else 4


def address(lab: Lab, node: str, family: int) -> str:
    return next(each for each in lab.topology.addresses(node) if family_of(each) == family)


def ours(lab: Lab, node: str) -> dict[str, list[str]]:
    """Learned routes of ours on a node: prefix to gateways."""
    rows = [row for f in ("-4", "-6") for row in kernel_routes(lab, node, f, "route", "show", "proto", "179")]
    return {row["dst"]: [row["gateway"]] for row in rows if "gateway" in row}


def expected(lab: Lab, node: str, members: tuple[str, ...]) -> dict[str, list[str]]:
    """Every other member's blocks, by its own address."""
    return {
        cidr: [address(lab, owner, family_of(cidr))]
        for cidr, owner in node_blocks(lab).items()
        if owner != node and owner in members and node in members
    }


def routes_are_the_blocks(lab: Lab, members: tuple[str, ...]) -> bool:
    return all(ours(lab, node) == expected(lab, node, members) for node in lab.topology.node_names)


def told(lab: Lab, members: tuple[str, ...]) -> str:
    return "; ".join(f"{n}: {ours(lab, n)} not {expected(lab, n, members)}" for n in lab.topology.node_names)


def report(lab: Lab, node: str) -> dict[str, Any]:
    """`podroute node report`."""
    answer: dict[str, Any] = told_on(lab, node, "report")
    return answer


def test_every_node_installs_every_other_nodes_blocks_by_that_node_and_nothing_else(mesh: Lab) -> None:
    names = mesh.topology.node_names
    eventually(lambda: routes_are_the_blocks(mesh, names), 30, lambda: told(mesh, names))
    assert all({family_of(p) for p in ours(mesh, node)} == {4, 6} for node in names)


def test_the_paths_are_internal_and_of_two_ends_the_lower_address_waits(mesh: Lab) -> None:
    names = mesh.topology.node_names
    for node in names:
        speaker = report(mesh, node)["speaker"]
        assert {
            (tuple(path.get("as_path", ())), path.get("refused"), path.get("lost")) for path in speaker["paths"]
        } == {((), None, None)}
        states = {session["address"]: session["state"] for session in speaker["observed"]["sessions"]}
        assert states == {a: "established" for other in names if other != node for a in mesh.topology.addresses(other)}
        for local in mesh.topology.addresses(node):
            assert listening_side(mesh, node, local) == {a for a in states if is_higher(a, local)}


def is_higher(one: str, other: str) -> bool:
    """Whether `one` is the higher address of the same family."""
    here, there = ipaddress.ip_address(one), ipaddress.ip_address(other)
    return here.version == there.version and int(here) > int(there)


def listening_side(lab: Lab, node: str, local: str) -> set[str]:
    """The neighbours that connected to this node's port 179 at that address."""
    lines = lab.netns_exec(node, ["ss", "-Htn", "state", "established", "sport", "=", ":179"]).splitlines()
    pairs = [
        (line.split()[2].rpartition(":")[0].strip("[]"), line.split()[3].rpartition(":")[0].strip("[]"))
        for line in lines
    ]
    return {peer for here, peer in pairs if here == local}


def test_pods_on_different_nodes_reach_each_other_over_both_families(mesh: Lab) -> None:
    with pods_on(mesh, mesh.topology.node_names, "mesh") as pods:
        for one, other in itertools.permutations(pods, 2):
            for target in other.addresses:
                run_checked([*one.place.enter, "ping", "-c1", "-W2", target])


def connects(place: Place, address: str) -> bool:
    """Whether somebody takes a connection from there to the BGP port at the address."""
    script = f"import socket; socket.create_connection(({address!r}, 179), 1).close()"
    done = subprocess.run([*place.enter, sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert not done.returncode or "timed out" in done.stderr or "refused" in done.stderr, done.stderr
    return done.returncode == 0


@pytest.mark.parametrize("family", [4, 6])
def test_no_pod_reaches_a_speakers_port_that_a_machine_outside_reaches(mesh: Lab, family: int) -> None:
    first, *_, last = mesh.topology.node_names
    # The lower address waits for the others.
    listens = address(mesh, first, family)
    with pods_on(mesh, [first, last], "knocks") as (own, remote):
        assert not connects(own.place, listens)
        assert not connects(remote.place, listens)
    assert connects(place_of(mesh, "outside"), listens)


@pytest.mark.parametrize("family", [4, 6])
def test_what_a_pod_sends_out_of_the_cluster_goes_by_the_nodes_address(mesh: Lab, family: int) -> None:
    """natOutgoing, as examples/node-mesh has it: nobody outside knows the pods' addresses."""
    node, other = mesh.topology.node_names[:2]
    with pods_on(mesh, [node, other], "out") as (pod, neighbour):
        assert source_seen(pod.place, place_of(mesh, "outside"), family) == address(mesh, node, family)
        # Between pods nothing is translated.
        assert source_seen(pod.place, neighbour.place, family) == pod.place.address(family)


@pytest.mark.timeout(200)
def test_a_node_that_is_deleted_and_comes_back_stays_in_the_mesh_and_its_pod_feels_nothing(mesh: Lab) -> None:
    first, *_, last = mesh.topology.node_names
    with pods_on(mesh, [first, last], "readded") as (one, other):
        before, between = node_blocks(mesh), ports(mesh, first, [last])
        with Traffic([(one.place, other.place)]) as traffic:
            delete_and_make_anew(mesh, last, lambda: members(mesh) == len(mesh.topology.node_names) - 1)
            eventually(lambda: is_ready(mesh, last), 40, lambda: mesh.kubectl("describe", "node", last)[-2000:])
            eventually(lambda: node_blocks(mesh) == before, 30, lambda: f"{node_blocks(mesh)} as before: {before}")
        traffic.assert_no_loss()
        assert len(between) == 2
        assert ports(mesh, first, [last]) == between
        assert routes_are_the_blocks(mesh, mesh.topology.node_names), told(mesh, mesh.topology.node_names)


def test_a_node_that_leaves_the_mesh_is_forgotten_by_the_others_and_comes_back(mesh: Lab) -> None:
    (*stay, leaver) = mesh.topology.node_names
    names = mesh.topology.node_names
    # A node that keeps a BGPPeer's session of a family leaves that family's mesh (nodeMesh Auto), though nobody answers there.
    selector = {"matchLabels": {"kubernetes.io/hostname": leaver}}
    away = [
        body("BGPPeer", f"away-{number}", nodeSelector=selector, address=address, asNumber=65099)
        for number, address in enumerate(("10.10.0.250", "fd00:10:10::250"))
    ]
    eventually(lambda: routes_are_the_blocks(mesh, names), 30, lambda: told(mesh, names))
    between = {node: ports(mesh, node, stay) for node in stay}
    try:
        apply(mesh, *away)
        eventually(lambda: routes_are_the_blocks(mesh, tuple(stay)), 30, lambda: told(mesh, tuple(stay)))
        assert members(mesh) == len(stay)
    finally:
        mesh.kubectl("delete", "bgppeer", "away-0", "away-1", "--ignore-not-found")
    eventually(lambda: routes_are_the_blocks(mesh, names), 30, lambda: told(mesh, names))
    assert {node: ports(mesh, node, stay) for node in stay} == between, "sessions between those who stayed went on"


def members(lab: Lab) -> int:
    return int(lab.get("bgpconfiguration", "default")["status"]["meshMembers"])


def ports(lab: Lab, node: str, others: list[str]) -> set[str]:
    """Both ends of the node's connections with the others; a new session has another port."""
    addresses = {a for other in others if other != node for a in lab.topology.addresses(other)}
    found = lab.netns_exec(
        node, ["ss", "-Htn", "state", "established", "( sport = :179 or dport = :179 )"]
    ).splitlines()
    rows = [line.split()[2:4] for line in found]
    return {f"{here} {peer}" for here, peer in rows if peer.rpartition(":")[0].strip("[]") in addresses}
