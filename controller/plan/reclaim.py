"""When the blocks of a node that was deleted are free for others. Pure; part of `controller.plan.blocks`.

Two count, and the agent has to be first: it gives its blocks up when its NodeNetwork has been gone for the grace period, as counted
from when it noticed. So the operator counts from when both Node and NodeNetwork are gone, and waits for

    the larger grace    of what the configuration says now, and what the node's agent may have heard
    + RECLAIM_MARGIN    90 s: 75 for a half-open watch to be given up (`kube.client.WATCH_READ_SECONDS`), 10 for the list that then
                        shows it (REQUEST_SECONDS), 5 to begin again, to withdraw and to stop routing

What the agent may have heard stands in its IPBlocks, so that no restart of the operator forgets it: each block remembers a longer
grace before the node is told of it, and a shorter one once the agent has said that it goes by it.

A NodeNetwork that nobody collects (no controller manager) is deleted by the operator after the grace, and the wait begins then. An
agent that is cut off from the API server never notices: deleting its Node says that the machine is off.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from controller.api.ipblock import IPBlock
from controller.api.kubernetes import Node
from controller.api.nodenetwork import NodeNetwork
from controller.plan.inventory import Inventory, Memory


@dataclass(frozen=True, slots=True)
class Absent:
    """Names without a Node, and since when: `orphans` still have a NodeNetwork, `gone` have none. `graces` of all by name."""

    orphans: Mapping[str, float]
    gone: Mapping[str, float]
    graces: Mapping[str, int]


def absent_nodes(inventory: Inventory, memory: Memory, now: float) -> Absent:
    """Who is missing, as the operator remembers it from now on."""
    nodes = {node.metadata.name for node in inventory.nodes} | inventory.unknown_of(Node)
    networks = {network.metadata.name for network in inventory.networks} | inventory.unknown_of(NodeNetwork)
    holders = {block.spec.node.name for block in inventory.blocks}
    return Absent(
        orphans={name: memory.orphans.get(name, now) for name in networks - nodes},
        gone={name: memory.gone.get(name, now) for name in holders - networks - nodes},
        graces=_graces(inventory),
    )


def _graces(inventory: Inventory) -> dict[str, int]:
    """The longest grace that each node's agent may have heard."""
    graces = {network.metadata.name: network.spec.deleted_node_grace for network in inventory.networks}
    for block in inventory.blocks:
        name = block.spec.node.name
        graces[name] = max(graces.get(name, 0), block.spec.deleted_node_grace)
    return graces


def remembered_grace(block: IPBlock, network: NodeNetwork | None, grace: int) -> int:
    """What the block is to remember where the configuration says `grace`: first, if it is longer; once it is heard, if shorter."""
    if network is None:
        return block.spec.deleted_node_grace
    told = max(grace, network.spec.deleted_node_grace)
    return told if network.is_answered else max(told, block.spec.deleted_node_grace)


def told_grace(blocks: Iterable[IPBlock], grace: int) -> int:
    """What a node may be told where the configuration says `grace`: nothing longer than any of its blocks remembers."""
    return min((grace, *(block.spec.deleted_node_grace for block in blocks)))


def orphan_due(absent: Absent, name: str, grace: int) -> float:
    """When the NodeNetwork of a name without a Node is deleted, if nobody else does it."""
    return absent.orphans[name] + max(grace, absent.graces.get(name, 0))


def reclaim_due(absent: Absent, name: str, grace: int, margin: float) -> float:
    """When the blocks of a name with neither Node nor NodeNetwork are free."""
    return absent.gone[name] + max(grace, absent.graces.get(name, 0)) + margin
