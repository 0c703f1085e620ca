"""Nodes that change while real kubelets run: labels that pools select by, and a Node that is deleted and comes back."""

import ipaddress
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bad_input import found, others_undisturbed
from cni_calls import address_from
from faults import undisturbed
from refused_inputs import Body, body
from router_tables import node_blocks
from test_power import is_ready
from workloads import Pod, apply, eventually, pods, pods_on

from controller.lab.cluster import Lab
from controller.lab.node import node_object
from controller.lab.podroute import kubeconfig_path, new_token

pytestmark = [pytest.mark.lab, pytest.mark.root]

NODE = "n2"
LABEL = "podroute.test/edge"
EDGE = {4: ("edge-v4", "10.245.60.0/24"), 6: ("edge-v6", "fd00:10:245:60::/64")}


def edge_pool(family: int) -> Body:
    """A pool for labelled nodes."""
    name, cidr = EDGE[family]
    return body("IPPool", name, cidr=cidr, headroom=8, nodeSelector={"matchLabels": {LABEL: "yes"}})


@pytest.fixture
def edge(lab: Lab) -> Iterator[None]:
    """A pool of each family that selects by the label; label, pools and blocks are gone afterwards."""
    with others_undisturbed(lab):
        apply(lab, *(edge_pool(family) for family in EDGE))
        yield
        lab.kubectl("label", "node", NODE, f"{LABEL}-")
        lab.kubectl("delete", "ippool", *(name for name, _ in EDGE.values()), "--wait=false")
        eventually(
            lambda: not any(found(lab, edge_pool(family)) for family in EDGE),
            90,
            lambda: lab.kubectl("get", "ippools,ipblocks"),
        )


def edge_blocks(lab: Lab) -> dict[str, set[str]]:
    """The nodes that hold blocks of the edge pools, by pool."""
    held: dict[str, set[str]] = {name: set() for name, _ in EDGE.values()}
    for block in lab.get("ipblocks")["items"]:
        if block["spec"]["pool"] in held:
            held[block["spec"]["pool"]].add(block["spec"]["node"]["name"])
    return held


def test_a_label_brings_a_node_the_blocks_of_a_pool_and_without_it_they_go_back(lab: Lab, edge: None) -> None:
    eventually(
        lambda: no_node_selected(lab), 15, lambda: f"the pools select nobody: {found(lab, edge_pool(4))['status']}"
    )
    assert edge_blocks(lab) == {name: set() for name, _ in EDGE.values()}
    lab.kubectl("label", "node", NODE, f"{LABEL}=yes")
    everywhere = {name: {NODE} for name, _ in EDGE.values()}
    eventually(lambda: edge_blocks(lab) == everywhere, 20, lambda: edge_blocks(lab))
    for name, cidr in EDGE.values():
        (address,) = address_from(lab, NODE, name, f"on-{name}")
        assert ipaddress.ip_address(address) in ipaddress.ip_network(cidr)
    lab.kubectl("label", "node", NODE, f"{LABEL}-")
    # The addresses rest first, then routers must have forgotten the blocks.
    eventually(lambda: not any(edge_blocks(lab).values()), 120, lambda: lab.kubectl("get", "ipblocks", "-o", "wide"))


def no_node_selected(lab: Lab) -> bool:
    def reasons(family: int) -> set[str]:
        status: dict[str, Any] = found(lab, edge_pool(family)).get("status", {})
        return {each["reason"] for each in status.get("conditions", []) if each["status"] == "False"}

    return all(reasons(family) == {"NoNodeSelected"} for family in EDGE)


def test_a_node_that_is_deleted_and_comes_back_has_its_blocks_and_its_pod_feels_nothing(lab: Lab) -> None:
    first, *_, last = lab.topology.node_names
    with pods_on(lab, [first, last], "readded") as (one, other):
        before = blocks_of(lab, last)
        assert len(before) >= 2
        with undisturbed(lab, [one, other]):
            delete_and_make_anew(lab, last)
            eventually(lambda: is_ready(lab, last), 40, lambda: lab.kubectl("describe", "node", last)[-2000:])
            eventually(lambda: granted(lab, last) == before, 30, lambda: f"{granted(lab, last)} as before: {before}")
        assert blocks_of(lab, last) == before
        assert still_there(lab, other)
        (address,) = address_from(lab, last, "pods-v4", "after-readding")
        assert any(ipaddress.ip_address(address) in ipaddress.ip_network(cidr) for cidr in before)


def delete_and_make_anew(lab: Lab, node: str, is_missed: Callable[[], bool] = lambda: True) -> None:
    """Deletes the Node; once its NodeNetwork is gone, too, and it is missed, it comes back with an agent of its own."""
    uid = node_uid(lab, node)
    lab.kubectl("delete", "node", node)
    eventually(lambda: nodenetwork_uid(lab, node) == "", 30, "the NodeNetwork goes with its Node")
    eventually(is_missed, 30, "the operator misses the Node")
    apply(lab, node_object(node, lab.topology, "podroute"))
    eventually(lambda: node_uid(lab, node) not in ("", uid), 10, "another Node of the name is there")
    new_agent(lab, node)
    eventually(lambda: nodenetwork_uid(lab, node) != "", 40, "its NodeNetwork is there again")


def new_agent(lab: Lab, node: str) -> None:
    """What the DaemonSet does for a new Node: another agent, whose credential is bound to that Node."""
    path = kubeconfig_path(lab.machine(node).folder, "agent")
    kubeconfig = json.loads(path.read_text())
    kubeconfig["users"][0]["user"]["token"] = new_token(lab.kubectl, node)
    path.write_text(json.dumps(kubeconfig))
    old = lab.pid(node, "agent")
    lab.kill(node, "agent")
    eventually(lambda: lab.pid(node, "agent") not in (None, old), 10, "another agent runs")


def blocks_of(lab: Lab, node: str) -> set[str]:
    return {cidr for cidr, owner in node_blocks(lab).items() if owner == node}


def granted(lab: Lab, node: str) -> set[str]:
    return {grant["cidr"] for grant in lab.get("nodenetwork", node)["spec"].get("blocks", [])}


def uid_of(lab: Lab, kind: str, name: str) -> str:
    return lab.kubectl("get", kind, name, "--ignore-not-found", "-o", "jsonpath={.metadata.uid}").strip()


def node_uid(lab: Lab, node: str) -> str:
    return uid_of(lab, "node", node)


def nodenetwork_uid(lab: Lab, node: str) -> str:
    return uid_of(lab, "nodenetwork", node)


def still_there(lab: Lab, pod: Pod) -> bool:
    return any((each.uid, each.addresses) == (pod.uid, pod.addresses) for each in pods(lab, f"app={pod.name}"))
