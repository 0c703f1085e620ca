"""When the blocks of a node that was deleted are free for others. Pure; part of `controller.plan.blocks`.

Two count, and the agent has to be first: it gives its blocks up when its NodeNetwork has been gone for the grace period, as counted
from when it noticed. So the operator counts from when both Node and NodeNetwork are gone, and waits for

    the larger grace    of what the configuration says now, and what the node's agent last heard
    + RECLAIM_MARGIN    90 s: 75 for a half-open watch to be given up (`kube.client.WATCH_READ_SECONDS`), 10 for the list that then
                        shows it (REQUEST_SECONDS), 5 to begin again, to withdraw and to stop routing

A NodeNetwork that nobody collects (no controller manager) is deleted by the operator after the grace, and the wait begins then. An
agent that is cut off from the API server never notices: deleting its Node says that the machine is off.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from controller.api.kubernetes import Node
from controller.api.nodenetwork import NodeNetwork
from controller.plan.inventory import Inventory, Memory


@dataclass(frozen=True, slots=True)
class Absent:
    """Names without a Node, and since when: `orphans` still have a NodeNetwork, `gone` have none. `graces` by name."""

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
        graces=_graces(inventory.networks, memory.graces, holders | networks),
    )


def _graces(networks: Iterable[NodeNetwork], known: Mapping[str, int], names: set[str]) -> dict[str, int]:
    """A shorter grace counts once the agent has said that it applied the spec with it."""
    graces = {name: grace for name, grace in known.items() if name in names}
    for network in networks:
        name, grace = network.metadata.name, network.spec.deleted_node_grace
        has_heard = network.status.observed_generation == network.metadata.generation
        graces[name] = grace if has_heard else max(grace, graces.get(name, 0))
    return graces


def orphan_due(absent: Absent, name: str, grace: int) -> float:
    """When the NodeNetwork of a name without a Node is deleted, if nobody else does it."""
    return absent.orphans[name] + max(grace, absent.graces.get(name, 0))


def reclaim_due(absent: Absent, name: str, grace: int, margin: float) -> float:
    """When the blocks of a name with neither Node nor NodeNetwork are free."""
    return absent.gone[name] + max(grace, absent.graces.get(name, 0)) + margin
