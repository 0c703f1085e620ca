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
from controller.api.reasons import Reason
from controller.plan.cidrs import network_of
from controller.plan.inventory import Inventory
from controller.plan.keeping import unread_blocks
from controller.plan.reported import block_network


@dataclass(frozen=True, slots=True)
class Conflict:
    """A range that a node uses and does not get. `owner` is the node whose block it overlaps, `pool` the pool around it, if any."""

    node: str
    cidr: str
    pool: str
    owner: str
    reason: Reason

    @property
    def words(self) -> str:
        """What is wrong, without the reason's own meaning."""
        if self.reason is Reason.BLOCK_CONFLICT:
            return f"Node {self.node} uses {self.cidr}, of Node {self.owner}"
        return f"Node {self.node} uses {self.cidr}, of " + (f"IPPool {self.pool}" if self.pool else "no pool")


@dataclass
class Claims:
    """IPBlocks to create again, and claims that can't be honoured.

    `contested` are CIDRs of blocks that their owner does not use and another node does, or may: they are asked back for it.
    """

    recreated: list[IPBlock] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    contested: set[str] = field(default_factory=set)

    def disputed_by(self, node: str) -> frozenset[str]:
        """CIDRs of what the node uses, or may, and another has the IPBlock of."""
        of_others = (each for each in self.conflicts if each.reason is Reason.BLOCK_CONFLICT)
        return frozenset(each.cidr for each in of_others if each.node == node)


def claims_of(inventory: Inventory, networks: Mapping[str, NodeNetwork]) -> Claims:
    """What becomes of every block that a node lists or claims and that has no IPBlock of that node; older nodes come first."""
    found = Claims()
    held = _Held(inventory.blocks)
    nodes = {node.metadata.name: node for node in inventory.nodes}
    unread = set(unread_blocks(inventory))
    for network in sorted(networks.values(), key=lambda each: each.metadata.age_key):
        node = nodes.get(network.metadata.name)
        if node is None:
            continue
        for claim in _unlocked(network):
            if held.is_of(claim.cidr, node.metadata.name) or network_of(claim.cidr) in unread:
                continue
            reference = NodeReference(name=node.metadata.name, uid=node.metadata.uid)
            block = _honoured(claim, network, reference, inventory.pools)
            owner = held.owner_of(claim.cidr)
            if block is not None and not owner:
                found.recreated.append(block)
                held.add(block)
                continue
            found.conflicts.append(_conflict(claim, network, owner, inventory.pools))
            holder = networks.get(owner)
            if block is None or holder is None:
                continue
            if not held.is_told(claim.cidr, holder) or (_is_unused(holder, claim) and _is_used(network, claim)):
                found.contested.add(block.spec.cidr)
    return found


def _honoured(claim: BlockClaim, network: NodeNetwork, node: NodeReference, pools: Iterable[IPPool]) -> IPBlock | None:
    """The IPBlock to create, if the claim is exactly a block of a pool that there is."""
    cidr = network_of(claim.cidr)
    fitting = [pool.metadata.name for pool in pools if _is_block_of(cidr, pool)]
    if not fitting:
        return None
    pool = claim.pool if claim.pool in fitting else fitting[0]
    spec = IPBlockSpec(cidr=str(cidr), pool=pool, node=node)
    if _was_releasing(network, claim.cidr):
        spec = msgspec.structs.replace(spec, state="Releasing")
    return IPBlock(metadata=Metadata(name=block_name(str(cidr))), spec=spec)


def _is_block_of(cidr: Network, pool: IPPool) -> bool:
    around = network_of(pool.spec.cidr)
    return cidr.prefixlen == pool.spec.effective_block_size and cidr.overlaps(around)


def _conflict(claim: BlockClaim, network: NodeNetwork, owner: str, pools: Iterable[IPPool]) -> Conflict:
    name, cidr = network.metadata.name, network_of(claim.cidr)
    around = next((p.metadata.name for p in pools if cidr.overlaps(network_of(p.spec.cidr))), "")
    reason = Reason.BLOCK_CONFLICT if owner not in ("", name) else Reason.CLAIM_IS_NO_BLOCK
    return Conflict(name, claim.cidr, around, owner, reason)


def _is_unused(network: NodeNetwork, claim: BlockClaim) -> bool:
    """Whether the node says that it has no address of the block in use: silence is no such word."""
    return any(usage.cidr == claim.cidr and not usage.in_use for usage in network.status.usage)


def _is_used(network: NodeNetwork, claim: BlockClaim) -> bool:
    said = next((usage.in_use for usage in network.status.usage if usage.cidr == claim.cidr), None)
    return said > 0 if said is not None else claim in network.status.claims


class _Held:
    """Who holds a network, by its IPBlocks."""

    def __init__(self, blocks: Iterable[IPBlock]) -> None:
        self._owners: dict[Network, str] = {}
        self._uids: dict[Network, str] = {}
        for block in blocks:
            self.add(block)

    def add(self, block: IPBlock) -> None:
        network = network_of(block.spec.cidr)
        self._owners[network], self._uids[network] = block.spec.node.name, block.metadata.uid

    def is_told(self, cidr: str, holder: NodeNetwork) -> bool:
        """Whether the owner was told that it may use that block: it can't know of an IPBlock that its object does not list."""
        uid = self._uids.get(network_of(cidr))
        return any(grant.uid == uid and grant.state == "Active" for grant in holder.spec.blocks)

    def is_of(self, cidr: str, node: str) -> bool:
        """Whether exactly that network is a block of the node."""
        return self._owners.get(network_of(cidr)) == node

    def owner_of(self, cidr: str) -> str:
        """The node whose block is, or overlaps, that network; empty if none. An exact match comes first."""
        network = network_of(cidr)
        if network in self._owners:
            return self._owners[network]
        return next((owner for other, owner in self._owners.items() if other.overlaps(network)), "")


def _unlocked(network: NodeNetwork) -> list[BlockClaim]:
    """What the node lists, claims, or says to have in use, but for what it gave back."""
    released = set(network.status.released)
    used = [BlockClaim(cidr=usage.cidr) for usage in network.status.usage if usage.in_use]
    listed = [BlockClaim(cidr=grant.cidr, uid=grant.uid, pool=grant.pool) for grant in network.spec.blocks]
    listed = [claim for claim in listed if block_network(claim.cidr) is not None]
    claims = {claim.cidr: claim for claim in (*used, *network.status.claims, *listed) if claim.uid not in released}
    return [claims[cidr] for cidr in sorted(claims)]


def _was_releasing(network: NodeNetwork, cidr: str) -> bool:
    return any(grant.cidr == cidr and grant.state == "Releasing" for grant in network.spec.blocks)
