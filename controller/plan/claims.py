"""Blocks that are in use although their IPBlock is gone: created again, or reported as a conflict. Pure.

An IPBlock may vanish without a release (deleted by hand, an older backup restored). The node keeps using it; here it gets its
lock back, if nobody else has it by now. Part of `controller.plan.blocks`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from controller.api.ipblock import IPBlock, IPBlockSpec, NodeReference, block_name
from controller.api.ippool import IPPool
from controller.api.nodenetwork import BlockClaim, NodeNetwork
from controller.api.objects import Metadata, Network
from controller.plan.cidrs import network_of
from controller.plan.inventory import Inventory
from controller.plan.keeping import unread_blocks
from controller.plan.reported import block_network


@dataclass(frozen=True, slots=True)
class Conflict:
    """A node that uses a block of another node (or of no pool at all: `owner` is empty)."""

    node: str
    cidr: str
    pool: str
    owner: str


@dataclass
class Claims:
    """IPBlocks to create again, and those that can't be."""

    recreated: list[IPBlock] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)


def claims_of(inventory: Inventory, networks: Mapping[str, NodeNetwork]) -> Claims:
    """What becomes of every block that a node lists or claims and that has no IPBlock of that node; older nodes come first."""
    found = Claims()
    held = _Held(inventory.blocks)
    nodes = {node.metadata.name: node for node in inventory.nodes}
    unread = set(unread_blocks(inventory))
    for network in sorted(networks.values(), key=lambda each: each.metadata.age_key):
        name = network.metadata.name
        node = nodes.get(name)
        if node is None:
            continue
        for claim in _unlocked(network):
            owner = held.owner_of(claim.cidr)
            if owner == name or network_of(claim.cidr) in unread:
                continue
            pool = _pool_of(claim, inventory.pools)
            if owner or not pool:
                found.conflicts.append(Conflict(name, claim.cidr, pool, owner))
                continue
            reference = NodeReference(name=name, uid=node.metadata.uid)
            spec = IPBlockSpec(cidr=claim.cidr, pool=pool, node=reference)
            if _was_releasing(network, claim.cidr):
                spec = msgspec.structs.replace(spec, state="Releasing")
            block = IPBlock(metadata=Metadata(name=block_name(claim.cidr)), spec=spec)
            found.recreated.append(block)
            held.add(block)
    return found


class _Held:
    """Who holds a network, by its IPBlocks. Almost all blocks have one size, so a lookup asks for each size that there is."""

    def __init__(self, blocks: Iterable[IPBlock]) -> None:
        self._owners: dict[Network, str] = {}
        for block in blocks:
            self.add(block)

    def add(self, block: IPBlock) -> None:
        self._owners[network_of(block.spec.cidr)] = block.spec.node.name

    def owner_of(self, cidr: str) -> str:
        """The node whose block is, or overlaps, that network; empty if none. An exact match comes first."""
        network = network_of(cidr)
        if network in self._owners:
            return self._owners[network]
        return next((owner for other, owner in self._owners.items() if other.overlaps(network)), "")


def _unlocked(network: NodeNetwork) -> list[BlockClaim]:
    """What the node lists or claims, but for what it gave back."""
    released = set(network.status.released)
    listed = [BlockClaim(cidr=grant.cidr, uid=grant.uid, pool=grant.pool) for grant in network.spec.blocks]
    listed = [claim for claim in listed if block_network(claim.cidr) is not None]
    claims = {claim.cidr: claim for claim in (*network.status.claims, *listed) if claim.uid not in released}
    return [claims[cidr] for cidr in sorted(claims)]


def _was_releasing(network: NodeNetwork, cidr: str) -> bool:
    return any(grant.cidr == cidr and grant.state == "Releasing" for grant in network.spec.blocks)


def _pool_of(claim: BlockClaim, pools: Iterable[IPPool]) -> str:
    """The pool that it names, or the one around it."""
    network = network_of(claim.cidr)
    around = [pool.metadata.name for pool in pools if network.overlaps(network_of(pool.spec.cidr))]
    return claim.pool if claim.pool in around or (claim.pool and not around) else next(iter(around), "")
