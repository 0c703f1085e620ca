"""Blocks that are in use although their IPBlock is gone: created again, or reported as a conflict. Pure.

An IPBlock may vanish without a release (deleted by hand, an older backup restored). The node keeps using it; here it gets its
lock back, if nobody else has it by now. Part of `controller.plan.blocks`.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from controller.api.ipblock import IPBlock, IPBlockSpec, NodeReference, block_name
from controller.api.ippool import IPPool
from controller.api.kubernetes import Node
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
    `disputed` are nodes and CIDRs of what they use, or may, and others have the IPBlock of; `unconfirmed` of what their objects
    list and nobody has the IPBlock of, before the agents have spoken.
    """

    recreated: list[IPBlock] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    contested: set[str] = field(default_factory=set)
    disputed: set[tuple[str, str]] = field(default_factory=set)
    unconfirmed: set[tuple[str, str]] = field(default_factory=set)


def claims_of(
    inventory: Inventory, networks: Mapping[str, NodeNetwork], served: Collection[str], *, is_settled: bool
) -> Claims:
    """What becomes of every block that a node lists or claims and that has no IPBlock of that node; older nodes come first.

    Until every agent has spoken (`is_settled`), only what is in use gets its IPBlock back: what an object merely lists may be that
    of a restored backup, and another node's by now. `served` are the names of pools that are accepted and stay: a claim of no pool,
    of a time before there was one, is honoured in these alone, lest a refused pool gets to have blocks.
    """
    found = Claims()
    held = _Held(inventory.blocks)
    nodes = {node.metadata.name: node for node in inventory.nodes}
    unread = set(unread_blocks(inventory))
    for network in sorted(networks.values(), key=lambda each: each.metadata.age_key):
        node = nodes.get(network.metadata.name)
        if node is None:
            continue
        for claim in _unlocked(network):
            if network_of(claim.cidr) not in unread:
                is_old = not (claim.pool or claim.uid) and claim in network.status.claims
                pools = [p for p in inventory.pools if not is_old or p.metadata.name in served]
                _hear(claim, _Claimant(network, node), _Ground(pools, networks, held, is_settled), found)
    return found


@dataclass(frozen=True, slots=True)
class _Claimant:
    network: NodeNetwork
    node: Node

    @property
    def name(self) -> str:
        return self.node.metadata.name


@dataclass(frozen=True, slots=True)
class _Ground:
    pools: Iterable[IPPool]
    networks: Mapping[str, NodeNetwork]
    held: "_Held"
    is_settled: bool


def _hear(claim: BlockClaim, claimant: _Claimant, ground: _Ground, found: Claims) -> None:
    """What becomes of one claim."""
    overlapping = ground.held.overlapping(network_of(claim.cidr))
    others = [each for each in overlapping if each.spec.node.name != claimant.name]
    is_locked = any(network_of(each.spec.cidr) == network_of(claim.cidr) for each in overlapping if each not in others)
    if is_locked and not others:
        return
    reference = NodeReference(name=claimant.name, uid=claimant.node.metadata.uid)
    block = _honoured(claim, claimant.network, reference, ground.pools)
    if block is not None and not overlapping:
        if not ground.is_settled and not _is_used(claimant.network, claim):
            found.unconfirmed.add((claimant.name, claim.cidr))
            return
        found.recreated.append(block)
        ground.held.add(block)
        return
    owner = next((each.spec.node.name for each in (*others, *overlapping)), "")
    found.conflicts.append(_conflict(claim, claimant.network, owner, ground.pools))
    if others and not is_locked:
        found.disputed.add((claimant.name, claim.cidr))
    is_exact = block is not None and _is_used(claimant.network, claim)
    for other in others:
        holder = ground.networks.get(other.spec.node.name)
        if not _is_told(other, holder) or (holder and is_exact and _is_unused(holder, claim)):
            found.contested.add(other.spec.cidr)


def _is_told(block: IPBlock, holder: NodeNetwork | None) -> bool:
    """Whether the owner was told that it may use that block: it can't know of an IPBlock that its object does not list."""
    grants = holder.spec.blocks if holder else ()
    return any(grant.uid == block.metadata.uid and grant.state == "Active" for grant in grants)


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
    """IPBlocks by their networks. Almost all have one size, so a lookup asks for each size that there is."""

    def __init__(self, blocks: Iterable[IPBlock]) -> None:
        # By version and prefix length.
        self._blocks: dict[tuple[int, int], dict[Network, IPBlock]] = {}
        for block in blocks:
            self.add(block)

    def add(self, block: IPBlock) -> None:
        network = network_of(block.spec.cidr)
        self._blocks.setdefault((network.version, network.prefixlen), {})[network] = block

    def overlapping(self, network: Network) -> list[IPBlock]:
        """The IPBlocks that share addresses with the network, the one that is exactly that first."""
        found = []
        for (version, length), blocks in self._blocks.items():
            if version != network.version:
                continue
            if length > network.prefixlen:
                found += [block for other, block in blocks.items() if other.overlaps(network)]
            elif block := blocks.get(network if length == network.prefixlen else network.supernet(new_prefix=length)):
                found.append(block)
        return sorted(found, key=lambda block: network_of(block.spec.cidr) != network)


def _unlocked(network: NodeNetwork) -> list[BlockClaim]:
    """What the node lists, claims, or says to have in use, but for what it gave back.

    What is listed is its own although it says so, if that is the answer to an earlier question: since then it may have been told to
    use it again, and now be asked for it anew.
    """
    released = set(network.status.released)
    if not network.is_answered:
        released.difference_update(grant.uid for grant in network.spec.blocks)
    used = [BlockClaim(cidr=usage.cidr) for usage in network.status.usage if usage.in_use]
    listed = [BlockClaim(cidr=grant.cidr, uid=grant.uid, pool=grant.pool) for grant in network.spec.blocks]
    listed = [claim for claim in listed if block_network(claim.cidr) is not None]
    claims = {claim.cidr: claim for claim in (*used, *network.status.claims, *listed) if claim.uid not in released}
    return [claims[cidr] for cidr in sorted(claims)]


def _was_releasing(network: NodeNetwork, cidr: str) -> bool:
    return any(grant.cidr == cidr and grant.state == "Releasing" for grant in network.spec.blocks)
