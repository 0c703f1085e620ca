"""Nodes that lack an address of a family, or have another node's: what they are not granted, who says so, and who goes on.

These Nodes are objects only, without a kubelet: the operator decides by what a Node says of itself.
"""

import itertools
import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from bad_input import condition, others_undisturbed
from bad_input_table import TABLE
from refused_inputs import body
from router_tables import node_blocks
from test_bad_input_pools import events
from workloads import apply, eventually

from controller.lab.cluster import Lab
from controller.plan.inventory import RECLAIM_MARGIN

pytestmark = [pytest.mark.lab, pytest.mark.root]

NUMBERS = itertools.count(1)
ADDRESSES = {4: "10.10.0.240", 6: "fd00:10:10::240"}


@pytest.fixture(scope="module", autouse=True)
def no_grace(lab: Lab, afterwards: ExitStack) -> Iterator[None]:
    """A deleted Node's blocks are free as soon as its agent must know: in the end nothing is left of the module's tests."""
    apply(lab, body("BGPConfiguration", "default", gracePeriods={"deletedNode": 0}))
    yield
    afterwards.callback(await_no_ghosts, lab)


def await_no_ghosts(lab: Lab) -> None:
    eventually(
        lambda: set(node_blocks(lab).values()) <= set(lab.topology.node_names),
        RECLAIM_MARGIN + 60,
        lambda: f"no ghosts: {node_blocks(lab)}",
    )
    lab.kubectl("delete", "bgpconfiguration", "default")


@pytest.fixture
def ghost(lab: Lab) -> Iterator[str]:
    """The name of a Node of one test: its blocks outlive it for a while. It is deleted afterwards."""
    name = f"ghost-{next(NUMBERS)}"
    yield name
    lab.kubectl("delete", "node", name, "--ignore-not-found")
    eventually(
        lambda: name not in {each["metadata"]["name"] for each in lab.get("nodenetworks")["items"]},
        30,
        f"the NodeNetwork of {name} goes with its Node",
    )


def make_node(lab: Lab, name: str, *addresses: str) -> None:
    """A Node that says it has these addresses."""
    status = {
        "addresses": [{"type": "InternalIP", "address": each} for each in addresses],
        "allocatable": {"pods": "10"},
        "capacity": {"pods": "10"},
    }
    apply(lab, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    lab.kubectl("patch", "node", name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))


def families(lab: Lab, node: str) -> set[int]:
    """The families of the blocks that a node holds, and that its NodeNetwork tells it of."""
    held = {6 if ":" in cidr else 4 for cidr, owner in node_blocks(lab).items() if owner == node}
    return held & {6 if ":" in grant["cidr"] else 4 for grant in granted(lab, node)}


def granted(lab: Lab, node: str) -> list[dict[str, Any]]:
    there = {each["metadata"]["name"]: each for each in lab.get("nodenetworks")["items"]}
    return list(there[node]["spec"].get("blocks", [])) if node in there else []


def says(lab: Lab, family: int, *words: str) -> bool:
    """Whether the family's pool says that it serves not every node, in these words."""
    found = condition(lab, body("IPPool", f"pods-v{family}"), "NodesServed")
    return found.get("status") == "False" and all(word in f"{found['reason']} {found['message']}" for word in words)


def is_good(lab: Lab, family: int) -> bool:
    return condition(lab, body("IPPool", f"pods-v{family}"), "NodesServed").get("status") == "True"


@pytest.mark.parametrize("family", [4, 6])
def test_a_node_without_an_address_of_a_family_gets_no_block_of_it_and_both_once_it_has_one(
    lab: Lab, ghost: str, family: int
) -> None:
    lacking = 10 - family
    words = (*TABLE[f"node with no address, v{lacking}"].words, f"Node {ghost}")
    with others_undisturbed(lab):
        make_node(lab, ghost, ADDRESSES[family])
        eventually(lambda: says(lab, lacking, *words), 20, f"IPPool pods-v{lacking} says {words}")
        eventually(lambda: events(lab, ghost, "NodeWithoutAddress", f"ipv{lacking}"), 15, "an Event on the Node")
        eventually(lambda: families(lab, ghost) == {family}, 15, f"blocks of IPv{family}")
        # A Node is there before its addresses are: for a moment it lacked both.
        eventually(lambda: is_good(lab, family), 15, f"IPPool pods-v{family} serves all nodes")
        make_node(lab, ghost, *ADDRESSES.values())
        eventually(lambda: families(lab, ghost) == {4, 6}, 15, "blocks of both families")
        eventually(lambda: is_good(lab, lacking), 15, f"IPPool pods-v{lacking} serves all nodes")


@pytest.mark.parametrize("family", [4, 6])
def test_of_two_nodes_with_one_address_the_older_keeps_it_and_the_younger_is_told(
    lab: Lab, ghost: str, family: int
) -> None:
    pair = lab.topology.addresses("n0")
    stolen = pair.v4 if family == 4 else pair.v6
    other = 10 - family
    words = (*TABLE[f"two nodes with one address, v{family}"].words, f"Node {ghost}")
    with others_undisturbed(lab):
        make_node(lab, ghost, stolen, ADDRESSES[other])
        eventually(lambda: says(lab, family, *words), 20, f"IPPool pods-v{family} says {words}")
        eventually(lambda: events(lab, ghost, "NodeAddressConflict", stolen), 15, "an Event on the Node")
        eventually(lambda: families(lab, ghost) == {other}, 15, f"blocks of IPv{other} alone")
        assert stolen in lab.get("nodenetwork", "n0")["spec"]["addresses"]
        assert families(lab, "n0") == {4, 6}
        make_node(lab, ghost, *ADDRESSES.values())
        eventually(lambda: families(lab, ghost) == {4, 6}, 15, "blocks of both families")
