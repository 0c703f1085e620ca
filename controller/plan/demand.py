"""How many addresses a node should have of a pool, and what it uses. Pure; part of `controller.plan.blocks`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from controller.api.ippool import IPPool
from controller.api.kubernetes import Node
from controller.api.nodenetwork import NodeNetwork
from controller.api.objects import Network, family_of
from controller.plan.cidrs import size_of
from controller.plan.pools import reserved_inside

# A node may have more addresses in use than pods: second interfaces, and addresses that rest after short jobs. What it reports
# beyond this many for each pod that it may run is not believed: more blocks would be granted for it without end.
ADDRESSES_PER_POD = 8


@dataclass(frozen=True, slots=True)
class Usage:
    """What a node's agent last reported: addresses in use and pods waiting by pool, and addresses in use by block."""

    in_pool: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[str, int] = field(default_factory=dict)
    in_block: Mapping[str, int] = field(default_factory=dict)


def usage_of(network: NodeNetwork) -> Usage:
    """The report in a NodeNetwork's status."""
    return Usage(
        in_pool={demand.pool: demand.in_use for demand in network.status.demand},
        waiting={demand.pool: demand.waiting for demand in network.status.demand if demand.waiting},
        in_block={usage.cidr: usage.in_use for usage in network.status.usage},
    )


def wanted_addresses(pool: IPPool, node: Node, in_use: int, waiting: int) -> int:
    """Addresses that the node's Active blocks of the pool should hold: used, waited for, and the headroom.

    Without `headroom` it is what the node's allocatable pods still need: all of them together, or more if more are in use.
    """
    needed = min(in_use + waiting, ADDRESSES_PER_POD * node.allocatable_pods)
    if pool.spec.headroom is not None:
        return needed + pool.spec.headroom
    return max(node.allocatable_pods, needed)


def block_size_of(cidr: str, reserved: Mapping[str, tuple[Network, ...]]) -> int:
    """Addresses of a block that pods may get."""
    size = size_of(cidr)
    if not reserved[family_of(cidr)]:
        return size
    return size - sum(part.num_addresses for part in reserved_inside(cidr, reserved))
