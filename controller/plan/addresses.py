"""Which address a pod gets: a choice in the node's own blocks, and which blocks are empty.

Pure. The agent (`controller.agent.ledger`) keeps what is used and asks here; nothing in it asks the API server.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum

from controller.api.clusternetwork import ClusterNetworkSpec
from controller.api.nodenetwork import BlockGrant, NodeNetworkSpec
from controller.api.objects import Address, Family, family_of
from controller.plan.cidrs import network_of

# Seconds that an address rests after its pod is gone, before another pod gets it: what still comes for the old pod
# (half-open connections, caches) then finds nobody.
REST_SECONDS = 30.0


class NoAddress(StrEnum):
    """Why a pod gets no address now."""

    NO_POOL = "NoPool"  # no pool serves the pod's namespace or the pools that it names
    NO_BLOCK = "NoBlock"  # a pool serves it, but this node has no block of it
    EXHAUSTED = "BlocksExhausted"  # every address of the node's blocks is in use or reserved
    RETIRING = "Retiring"  # podroute is being uninstalled
    LEAVING = "AddressesLeaving"  # the only addresses left are on veths that are just being removed


@dataclass(frozen=True, slots=True)
class Choice:
    """An address for a pod. `yielded`: it had not rested in full, since none other was left."""

    address: Address
    block: str
    pool: str
    yielded: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """No address, why, and of which family (None: of any)."""

    reason: NoAddress
    message: str


@dataclass(frozen=True, slots=True)
class Occupied:
    """What can't be assigned: addresses of pods and of additions in flight, and those that rest, until when at least.

    `linked` are those of pods that are gone and whose veth the kernel still has: not even need makes them yield.
    """

    used: AbstractSet[Address]
    resting: Mapping[Address, float]
    linked: AbstractSet[Address] = frozenset()

    def is_free(self, address: Address) -> bool:
        """Whether nobody has it and it has rested."""
        return address not in self.used and address not in self.resting and address not in self.linked


def choose(blocks: Sequence[BlockGrant], occupied: Occupied, after: Mapping[str, Address]) -> Choice | Refusal:
    """The next free address in the first block that has one, else the one that has rested longest.

    `blocks` are those of one family that may serve the pod, in order; Releasing ones are passed over. `after` is the
    last address given out of each block: the search goes on behind it, so that addresses are reused as late as can be.
    """
    active = [block for block in blocks if block.state == "Active"]
    if not active:
        return Refusal(NoAddress.NO_BLOCK, "the node has no active block that serves this pod")
    for block in active:
        address = _next_free(block, occupied, after.get(block.cidr))
        if address is not None:
            return Choice(address, block.cidr, block.pool)
    tired = _longest_rested(active, occupied)
    if tired is not None:
        return tired
    names = ", ".join(block.cidr for block in active)
    if any(address in network_of(block.cidr) for block in active for address in occupied.linked):
        return Refusal(NoAddress.LEAVING, f"every address of {names} is in use or on a veth that is being removed")
    return Refusal(NoAddress.EXHAUSTED, f"every address of {names} is in use or reserved")


def _next_free(block: BlockGrant, occupied: Occupied, after: Address | None) -> Address | None:
    network = network_of(block.cidr)
    reserved = [network_of(cidr) for cidr in block.reserved]
    size = network.num_addresses
    start = 0 if after is None else int(after) - int(network.network_address) + 1
    for step in range(size):
        address = network[(start + step) % size]
        if occupied.is_free(address) and not any(address in r for r in reserved):
            return address
    return None


def _longest_rested(active: Sequence[BlockGrant], occupied: Occupied) -> Choice | None:
    networks = [(network_of(block.cidr), block) for block in active]
    for address, _ in sorted(occupied.resting.items(), key=lambda item: item[1]):
        block = next((block for network, block in networks if address in network), None)
        is_held = address in occupied.used or address in occupied.linked
        if block is None or is_held or is_reserved(address, block):
            continue
        return Choice(address, block.cidr, block.pool, yielded=True)
    return None


def is_reserved(address: Address, block: BlockGrant) -> bool:
    """Whether an IPReservation keeps the address from pods."""
    return any(address in network_of(cidr) for cidr in block.reserved)


def families_of(blocks: Iterable[BlockGrant]) -> tuple[Family, ...]:
    """The families that the node was granted, IPv4 first: a pod gets one address of each."""
    return tuple(sorted({family_of(block.cidr) for block in blocks}))


# Names, separated by commas, of the pools that a pod wants its addresses from. It reaches the plugin through the runtime's
# capability io.kubernetes.cri.pod-annotations, never through the API server.
POOLS_ANNOTATION = "podroute.dev/pools"


def eligible_pools(cluster: ClusterNetworkSpec, namespace: str, wanted: str = "") -> frozenset[str] | Refusal:
    """The pools that may serve a pod of `namespace`; `wanted` is the value of its annotation, empty if it has none.

    A namespace that pools select gets those alone, any other namespace the pools without a selector.
    """
    own = cluster.namespaces.get(namespace)
    served = [pool for pool in cluster.pools if (pool.name in own if own is not None else not pool.selected)]
    names = frozenset(pool.name for pool in served if not pool.disabled)
    if not wanted:
        return names or Refusal(NoAddress.NO_POOL, f"no enabled IPPool serves namespace {namespace!r}")
    asked = frozenset(name.strip() for name in wanted.split(","))
    if not asked <= names:
        missing = ", ".join(sorted(asked - names))
        offered = ", ".join(sorted(names)) or "none"
        return Refusal(
            NoAddress.NO_POOL,
            f"annotation {POOLS_ANNOTATION}={wanted!r}: IPPool {missing} does not serve namespace {namespace!r}; "
            f"these do: {offered}",
        )
    return asked


@dataclass(frozen=True, slots=True)
class Offer:
    """Pools of one family that may serve a pod here, in one term of the operator."""

    family: Family
    pools: frozenset[str]
    epoch: str


def offers_of(cluster: ClusterNetworkSpec, node: NodeNetworkSpec, eligible: AbstractSet[str]) -> tuple[Offer, ...]:
    """What the eligible pools promise a node: a family that it has an address of, since only then can it announce blocks."""
    selecting = selecting_pools(node, eligible)
    pools = [pool for pool in cluster.pools if pool.name in selecting]
    offered = {
        family: [p.name for p in pools if family_of(p.cidr) == family] for family in map(family_of, node.addresses)
    }
    return tuple(Offer(family, frozenset(names), node.epoch) for family, names in sorted(offered.items()) if names)


def selecting_pools(node: NodeNetworkSpec, eligible: AbstractSet[str]) -> AbstractSet[str]:
    """Those of the eligible pools whose nodeSelector matches the node; all of them, as long as the operator has not told."""
    return eligible if node.pools is None else eligible & frozenset(node.pools)


def serving(blocks: Iterable[BlockGrant], eligible: AbstractSet[str]) -> tuple[BlockGrant, ...]:
    """The blocks of the eligible pools, in order of their addresses."""
    return tuple(block for block in sorted(blocks, key=_network_key) if block.pool in eligible)


def occupancy(blocks: Iterable[BlockGrant], addresses: Iterable[Address]) -> dict[str, int]:
    """How many of `addresses` lie in each block, by its CIDR; empty blocks are there with 0."""
    networks = {network_of(block.cidr): block.cidr for block in blocks}
    counts = dict.fromkeys(networks.values(), 0)
    # As numbers: the agent counts hundreds of addresses after every pod.
    shifts: dict[int, set[int]] = {4: set(), 6: set()}
    named = {}
    for network, cidr in networks.items():
        shift = network.max_prefixlen - network.prefixlen
        shifts[network.version].add(shift)
        named[network.version, shift, int(network.network_address) >> shift] = cidr
    for address in addresses:
        number, version = int(address), address.version
        for shift in shifts[version]:
            cidr_of = named.get((version, shift, number >> shift))
            if cidr_of is not None:
                counts[cidr_of] += 1
    return counts


def _network_key(block: BlockGrant) -> tuple[int, int]:
    network = network_of(block.cidr)
    return network.version, int(network.network_address)
