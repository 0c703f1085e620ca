"""Which pools are accepted, which nodes they serve, and which namespaces have pools of their own. Pure.

A pool that already has blocks never loses to one that has none; otherwise the older one wins (creationTimestamp, then UID).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from controller.api.bgppeer import BGPPeer
from controller.api.ipblock import IPBlock
from controller.api.ippool import SPECIAL_RANGES, IPPool
from controller.api.ipreservation import IPReservation
from controller.api.kubernetes import Namespace, Node
from controller.api.objects import Address, Network, family_of
from controller.api.reasons import Reason
from controller.plan.cidrs import address_of, is_inside, network_of, union
from controller.plan.inventory import Inventory
from controller.plan.keeping import unread_pools
from controller.plan.nodes import internal_addresses

FINALIZER = "podroute.dev/blocks"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an object is accepted, and why or why not."""

    is_accepted: bool
    reason: Reason
    message: str = ""


def refusal(reason: Reason, what: str) -> Verdict:
    """A no, with what is wrong and the remedy in its message."""
    return Verdict(False, reason, f"{what}: {reason.meaning}; {reason.remedy}")


def pool_verdicts(inventory: Inventory) -> dict[str, Verdict]:
    """A verdict for each pool, by name."""
    holding = pools_with_blocks(inventory)
    addresses = [
        (address, node.metadata.name)
        for node in inventory.nodes
        for address in map(address_of, internal_addresses(node))
        if address is not None
    ]
    services = [network_of(cidr) for cidr in inventory.service_ranges]
    verdicts: dict[str, Verdict] = {}
    before = unread_pools(inventory)
    for pool in sorted(inventory.pools, key=lambda p: (p.metadata.name not in holding, p.metadata.age_key)):
        name, network = pool.metadata.name, network_of(pool.spec.cidr)
        verdict = (
            _overlap_with_special_ranges(network)
            or _overlap_with_pools(network, before)
            or _overlap_with_services(network, services)
            or _overlap_with_nodes(network, addresses)
            or (None if name in holding else _overlap_with_peers(pool, network, inventory.peers))
            or _accepted(pool)
        )
        verdicts[name] = verdict
        if verdict.is_accepted or name in holding:
            before.append((network, name))
    return verdicts


def _accepted(pool: IPPool) -> Verdict:
    if pool.spec.disabled:
        return Verdict(True, Reason.DISABLED, Reason.DISABLED.meaning)
    return Verdict(True, Reason.ACCEPTED, Reason.ACCEPTED.meaning)


def _overlap_with_special_ranges(network: Network) -> Verdict | None:
    """The CRD's rules refuse such a pool; one of before they did is not accepted."""
    other = next((each for each in map(network_of, SPECIAL_RANGES) if each.overlaps(network)), None)
    return None if other is None else refusal(Reason.POOL_SPECIAL_RANGE, f"spec.cidr {network} overlaps {other}")


def _overlap_with_pools(network: Network, before: Iterable[tuple[Network, str]]) -> Verdict | None:
    other = next(((cidr, name) for cidr, name in before if cidr.overlaps(network)), None)
    if other is None:
        return None
    return refusal(Reason.POOL_OVERLAPS_POOL, f"spec.cidr {network} overlaps {other[0]} of IPPool {other[1]}")


def _overlap_with_services(network: Network, services: Iterable[Network]) -> Verdict | None:
    other = next((cidr for cidr in services if cidr.overlaps(network)), None)
    if other is None:
        return None
    return refusal(Reason.POOL_OVERLAPS_SERVICES, f"spec.cidr {network} overlaps the service range {other}")


def _overlap_with_nodes(network: Network, addresses: Iterable[tuple[Address, str]]) -> Verdict | None:
    other = next(((address, node) for address, node in addresses if address in network), None)
    if other is None:
        return None
    return refusal(Reason.POOL_OVERLAPS_NODE, f"spec.cidr {network} contains {other[0]} of Node {other[1]}")


def _overlap_with_peers(pool: IPPool, network: Network, peers: Iterable[BGPPeer]) -> Verdict | None:
    """Pods would take the address of a router. A pool that is older than the BGPPeer loses nothing by a later object."""
    for peer in peers:
        address = address_of(peer.spec.address or "")
        is_older = peer.metadata.age_key < pool.metadata.age_key
        if address is not None and address in network and is_older:
            what = f"spec.cidr {network} contains {address} of BGPPeer {peer.metadata.name}"
            return refusal(Reason.POOL_OVERLAPS_PEER, what)
    return None


def pools_with_blocks(inventory: Inventory) -> frozenset[str]:
    """Names of the pools that nodes hold blocks of."""
    pools = {pool.metadata.name: pool for pool in inventory.pools}
    return frozenset(b.spec.pool for b in inventory.blocks if is_of(b, pools.get(b.spec.pool)))


def is_of(block: IPBlock, pool: IPPool | None) -> bool:
    """Whether the block was carved from this pool, and not from an earlier one of the same name with another range or block size.

    The range decides, not the UID: a pool that was deleted and applied again as it was takes its blocks over, and pods go on.
    """
    if pool is None or block.spec.pool != pool.metadata.name:
        return False
    has_size = network_of(block.spec.cidr).prefixlen == pool.spec.effective_block_size
    return has_size and is_inside(block.spec.cidr, pool.spec.cidr)


def is_selecting(pool: IPPool, node: Node) -> bool:
    """Whether the pool's nodeSelector matches the node."""
    return pool.spec.node_selector is None or pool.spec.node_selector.matches(node.metadata.labels)


def namespaces_with_pools(pools: Iterable[IPPool], namespaces: Iterable[Namespace]) -> dict[str, tuple[str, ...]]:
    """Namespaces that some pool selects, and by which pools."""
    selecting = [
        (pool.metadata.name, pool.spec.namespace_selector) for pool in pools if pool.spec.namespace_selector is not None
    ]
    found = {}
    for namespace in namespaces:
        names = [name for name, selector in selecting if selector.matches(namespace.metadata.labels)]
        if names:
            found[namespace.metadata.name] = tuple(sorted(names))
    return found


def reservation_verdicts(reservations: Iterable[IPReservation], pools: Iterable[IPPool]) -> dict[str, Verdict]:
    """A verdict for each reservation: each of its ranges should lie in, or contain, a part of some pool."""
    networks = [network_of(pool.spec.cidr) for pool in pools]
    verdicts = {}
    for each in reservations:
        outside = [cidr for cidr in each.spec.cidrs if not any(network_of(cidr).overlaps(pool) for pool in networks)]
        verdicts[each.metadata.name] = (
            refusal(Reason.RESERVATION_OUTSIDE_POOLS, f"spec.cidrs {', '.join(outside[:8])}")
            if outside
            else Verdict(True, Reason.ACCEPTED, Reason.ACCEPTED.meaning)
        )
    return verdicts


def reserved_networks(reservations: Iterable[IPReservation]) -> Mapping[str, tuple[Network, ...]]:
    """All reserved ranges without overlaps, by family."""
    ranges = [network_of(cidr) for each in reservations for cidr in each.spec.cidrs]
    return {
        family: tuple(n for n in union(ranges) if n.version == version)
        for family, version in (("ipv4", 4), ("ipv6", 6))
    }


def reserved_inside(cidr: str, reserved: Mapping[str, tuple[Network, ...]]) -> tuple[Network, ...]:
    """The reserved parts of a block, at most 256 of them: more are covered by larger ranges."""
    block = network_of(cidr)
    parts = [
        block if each.prefixlen <= block.prefixlen else each
        for each in reserved[family_of(cidr)]
        if each.overlaps(block)
    ]
    while len(parts) > 256:
        longest = max(part.prefixlen for part in parts)
        wider = [part.supernet() if part.prefixlen == longest else part for part in parts]
        parts = list(union(wider))
    return tuple(parts)
