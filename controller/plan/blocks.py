"""Which blocks nodes get, keep, are asked to give back, and lose. Pure; part of `controller.plan.operator.operator_plan`.

An IPBlock is the lock: a block belongs to the node that it names. This module decides over the IPBlocks and nothing else; what a
NodeNetwork lists follows from them. Order of the rules: claims are served first, then what agents gave back is deleted, then pools
that left a node ask their blocks back, then idle blocks go, and only then are new ones granted.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import msgspec

from controller.api.fields import MOST_BLOCKS
from controller.api.ipblock import IPBlock, IPBlockSpec, NodeReference, block_name
from controller.api.ippool import IPPool
from controller.api.kubernetes import Node
from controller.api.nodenetwork import NodeNetwork
from controller.api.objects import Metadata, Network, family_of
from controller.plan.claims import Claims, claims_of
from controller.plan.demand import Usage, block_size_of, usage_of, wanted_addresses
from controller.plan.freeblocks import FreeBlocks, taken_networks
from controller.plan.inventory import Inventory, Memory, Moment
from controller.plan.keeping import kept_grants
from controller.plan.nodes import NodeFacts
from controller.plan.pools import FINALIZER, Verdict, is_of, is_selecting
from controller.plan.reclaim import Absent, absent_nodes, orphan_due, reclaim_due, remembered_grace
from controller.plan.reported import Misreport


@dataclass
class BlockPlan:
    """What changes: IPBlocks to create, to update (whole), to delete; and what could not be done.

    `exhausted` holds, by pool, the nodes that need a block of it and how many; `full` those that may hold no more blocks, `counts`
    the blocks of each node. `idle` and `absent` are the memory's next values,
    `wake_at` the monotonic time at which a grace period ends. `lost_nodes` are names whose NodeNetwork is to go.
    """

    creates: list[IPBlock] = field(default_factory=list)
    updates: list[IPBlock] = field(default_factory=list)
    deletes: list[IPBlock] = field(default_factory=list)
    exhausted: dict[str, dict[str, int]] = field(default_factory=dict)
    full: dict[str, dict[str, int]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    postponed: set[str] = field(default_factory=set)
    claims: Claims = field(default_factory=Claims)
    idle: dict[str, float] = field(default_factory=dict)
    absent: Absent = field(default_factory=lambda: Absent({}, {}, {}))
    lost_nodes: frozenset[str] = frozenset()
    wake_at: float | None = None

    def wake(self, at: float) -> None:
        """Remembers to look again at `at`, or earlier."""
        self.wake_at = at if self.wake_at is None else min(self.wake_at, at)


@dataclass(frozen=True)
class Ground:
    """What the decisions about blocks stand on."""

    inventory: Inventory
    facts: Mapping[str, NodeFacts]
    verdicts: Mapping[str, Verdict]
    memory: Memory
    moment: Moment
    reserved: Mapping[str, tuple[Network, ...]]
    misreports: tuple[Misreport, ...] = ()

    @cached_property
    def networks(self) -> dict[str, NodeNetwork]:
        """NodeNetworks by name."""
        return {each.metadata.name: each for each in self.inventory.networks}

    @cached_property
    def blocks_of(self) -> dict[str, list[IPBlock]]:
        """IPBlocks by the name of their node."""
        by_node: dict[str, list[IPBlock]] = defaultdict(list)
        for block in self.inventory.blocks:
            by_node[block.spec.node.name].append(block)
        return by_node

    @cached_property
    def pools(self) -> dict[str, IPPool]:
        """Pools by name."""
        return {each.metadata.name: each for each in self.inventory.pools}


def _served(ground: Ground) -> frozenset[str]:
    """Pools that are accepted and stay."""
    names = (name for name, pool in ground.pools.items() if pool.metadata.deletion_timestamp is None)
    return frozenset(name for name in names if ground.verdicts[name].is_accepted)


def plan_blocks(ground: Ground) -> BlockPlan:
    """Everything about blocks at this moment."""
    plan = BlockPlan(absent=absent_nodes(ground.inventory, ground.memory, ground.moment.monotonic))
    is_settled = ground.memory.is_settled
    plan.claims = claims_of(ground.inventory, ground.networks, _served(ground), is_settled=is_settled)
    plan.counts.update(block.spec.node.name for block in ground.inventory.blocks)
    for network in ground.inventory.networks:
        plan.counts[network.metadata.name] += len(kept_grants(ground.inventory, network))
    # Listed beside the node's own, until it has answered or all agents have spoken.
    plan.counts.update(node for node, _ in plan.claims.disputed | plan.claims.unconfirmed)
    for block in plan.claims.recreated:
        _create(ground, plan, block)
    _follow_nodes(ground, plan)
    usages = {each.metadata.name: usage_of(each) for each in ground.inventory.networks}
    plan.idle = _idle_since(ground, usages)
    if not is_settled:
        plan.postponed = {name for name, pool in ground.pools.items() if is_grantable(pool, ground)}
        return plan
    _reclaim(ground, plan)
    blocks = _after(ground.inventory.blocks, plan)
    _delete_released(ground, plan, blocks)
    blocks = _after(blocks, plan)
    _ask_back_deselected(ground, plan, blocks)
    blocks = _after(blocks, plan)
    _ask_back_unused(ground, plan, blocks)
    blocks = _after(blocks, plan)
    _match_demand(ground, plan, blocks, usages)
    return plan


def is_grantable(pool: IPPool, ground: Ground) -> bool:
    """Whether new blocks may come from the pool: accepted in writing, held by a finalizer, and verified by a later list."""
    metadata = pool.metadata
    accepted = any(c.type == "Accepted" and c.status == "True" for c in pool.status.conditions)
    return (
        accepted
        and ground.verdicts[metadata.name].is_accepted
        and not pool.spec.disabled
        and metadata.deletion_timestamp is None
        and FINALIZER in metadata.finalizers
        and metadata.uid in ground.memory.verified
    )


def _after(blocks: Iterable[IPBlock], plan: BlockPlan) -> tuple[IPBlock, ...]:
    """The blocks as they will be once the plan's updates and deletes are done."""
    updated = {each.metadata.name: each for each in plan.updates}
    deleted = {each.metadata.name for each in plan.deletes}
    return tuple(updated.get(b.metadata.name, b) for b in blocks if b.metadata.name not in deleted)


def _with(block: IPBlock, spec: IPBlockSpec) -> IPBlock:
    return msgspec.structs.replace(block, spec=spec)


def _follow_nodes(ground: Ground, plan: BlockPlan) -> None:
    """A node that was added again keeps its blocks, under its new UID; blocks remember which grace their node may go by."""
    grace = ground.inventory.configuration.spec.grace_periods.deleted_node
    for block in ground.inventory.blocks:
        name = block.spec.node.name
        facts, reference = ground.facts.get(name), block.spec.node
        if facts is not None:
            reference = NodeReference(name=name, uid=facts.node.metadata.uid)
        remembered = remembered_grace(block, ground.networks.get(name), grace)
        spec = msgspec.structs.replace(block.spec, node=reference, deleted_node_grace=remembered)
        if spec != block.spec:
            plan.updates.append(_with(block, spec))


def _reclaim(ground: Ground, plan: BlockPlan) -> None:
    """Deleting a Node says that the machine is off: after the grace period its blocks are free (`controller.plan.reclaim`)."""
    grace = ground.inventory.configuration.spec.grace_periods.deleted_node
    margin, absent = ground.memory.reclaim_margin, plan.absent
    lost = {name: orphan_due(absent, name, grace) for name in absent.orphans}
    free = {name: reclaim_due(absent, name, grace, margin) for name in absent.gone}
    for due in (*lost.values(), *free.values()):
        if due > ground.moment.monotonic:
            plan.wake(due)
    plan.lost_nodes = frozenset(name for name, due in lost.items() if due <= ground.moment.monotonic)
    over = {name for name, due in free.items() if due <= ground.moment.monotonic}
    plan.deletes += [block for block in ground.inventory.blocks if block.spec.node.name in over]


def _delete_released(ground: Ground, plan: BlockPlan, blocks: Iterable[IPBlock]) -> None:
    """Only what the agent gave back, by UID, in answer to the very spec that asked for it."""
    networks = ground.networks
    for block in blocks:
        network = networks.get(block.spec.node.name)
        if network is None or block.spec.state != "Releasing":
            continue
        uid = block.metadata.uid
        was_asked = any(grant.uid == uid and grant.state == "Releasing" for grant in network.spec.blocks)
        if was_asked and network.is_answered and uid in network.status.released:
            plan.deletes.append(block)


def _ask_back_deselected(ground: Ground, plan: BlockPlan, blocks: Iterable[IPBlock]) -> None:
    """Blocks of pools that are being deleted, gone, or others now, or don't select the node. A disabled pool keeps its blocks."""
    pools, unread = ground.pools, ground.inventory.unknown_of(IPPool)
    for block in blocks:
        facts = ground.facts.get(block.spec.node.name)
        if block.spec.state != "Active" or facts is None or block.spec.pool in unread:
            continue
        if not _belongs(block, pools.get(block.spec.pool), facts.node):
            _set_state(plan, block, "Releasing")


def _ask_back_unused(ground: Ground, plan: BlockPlan, blocks: Iterable[IPBlock]) -> None:
    """Blocks that their node holds and will not use, as after a restored backup: it gave them back, or another node uses them.

    Asked back, not deleted: a node's answer alone says that it stopped. The next claim of the node that uses it is honoured then.
    """
    for block in blocks:
        network = ground.networks.get(block.spec.node.name)
        if block.spec.state != "Active" or network is None:
            continue
        if block.spec.cidr in plan.claims.contested or _is_given_back(block, network):
            _set_state(plan, block, "Releasing")


def _is_given_back(block: IPBlock, network: NodeNetwork) -> bool:
    """Whether the node has seen that the block is its own again, and says all the same that it gave it back."""
    uid = block.metadata.uid
    is_listed = any(grant.uid == uid and grant.state == "Active" for grant in network.spec.blocks)
    return network.is_answered and is_listed and uid in network.status.released


def _belongs(block: IPBlock, pool: IPPool | None, node: Node) -> bool:
    if pool is None or pool.metadata.deletion_timestamp is not None:
        return False
    return is_of(block, pool) and is_selecting(pool, node)


def _set_state(plan: BlockPlan, block: IPBlock, state: str) -> None:
    changed = _with(block, msgspec.structs.replace(block.spec, state=state))
    plan.updates = [each for each in plan.updates if each.metadata.name != block.metadata.name]
    plan.updates.append(changed)


def _idle_since(ground: Ground, usages: Mapping[str, Usage]) -> dict[str, float]:
    """Since when each Active block is known to be unused."""
    idle = {}
    for block in ground.inventory.blocks:
        usage = usages.get(block.spec.node.name)
        if block.spec.state == "Active" and usage is not None and usage.in_block.get(block.spec.cidr) == 0:
            idle[block.metadata.uid] = ground.memory.idle.get(block.metadata.uid, ground.moment.monotonic)
    return idle


@dataclass
class _Need:
    """One node's part in one pool: addresses that its Active blocks hold, and that it should have."""

    node: str
    wanted: int
    waiting: int
    capacity: int

    @property
    def missing(self) -> int:
        return self.wanted - self.capacity

    def blocks_missing(self, pool: IPPool) -> int:
        """The same in whole blocks."""
        size = 1 << ((32 if family_of(pool.spec.cidr) == "ipv4" else 128) - pool.spec.effective_block_size)
        return -(-self.missing // size)


def _match_demand(ground: Ground, plan: BlockPlan, blocks: tuple[IPBlock, ...], usages: Mapping[str, Usage]) -> None:
    held: dict[tuple[str, str], list[IPBlock]] = defaultdict(list)
    for block in (*blocks, *plan.creates):
        held[block.spec.pool, block.spec.node.name].append(block)
    taken = taken_networks(ground.inventory)
    for pool in sorted(ground.inventory.pools, key=lambda each: each.metadata.age_key):
        name = pool.metadata.name
        needs = [
            _need_of(pool, facts, held[name, facts.name], usages.get(facts.name, Usage()), ground)
            for facts in ground.facts.values()
            if is_selecting(pool, facts.node) and facts.address_of(family_of(pool.spec.cidr))
        ]
        for need in needs:
            _give_back_idle(ground, plan, need, held[name, need.node])
        if not is_grantable(pool, ground):
            continue
        for need in needs:
            _take_back(ground, plan, need, [block for block in held[name, need.node] if is_of(block, pool)])
        short = [need for need in needs if need.missing > 0]
        if short:
            free = FreeBlocks(pool, taken, ground.reserved[family_of(pool.spec.cidr)], ground.memory.freed)
            _grant(ground, plan, pool, short, free)


def _need_of(pool: IPPool, facts: NodeFacts, blocks: list[IPBlock], usage: Usage, ground: Ground) -> _Need:
    name = pool.metadata.name
    active = [block.spec.cidr for block in blocks if block.spec.state == "Active"]
    releasing = [block.spec.cidr for block in blocks if block.spec.state == "Releasing"]
    network = ground.networks.get(facts.name)
    if network is not None:
        active += [g.cidr for g in kept_grants(ground.inventory, network) if g.pool == name and g.state == "Active"]
    in_use = usage.in_pool.get(name, 0)
    # No more pods wait than the node may run, whatever it says.
    waiting = min(usage.waiting.get(name, 0), facts.node.allocatable_pods)
    leaving = sum(usage.in_block.get(cidr, 0) for cidr in releasing)
    wanted = wanted_addresses(pool, facts.node, max(0, in_use - leaving), waiting)
    return _Need(facts.name, wanted, waiting, sum(block_size_of(cidr, ground.reserved) for cidr in active))


def _give_back_idle(ground: Ground, plan: BlockPlan, need: _Need, blocks: list[IPBlock]) -> None:
    """Idle for the grace period, and still enough without it, with an eighth of a block to spare against going to and fro."""
    grace = ground.inventory.configuration.spec.grace_periods.idle_block
    candidates = [block for block in blocks if block.spec.state == "Active" and block.metadata.uid in plan.idle]
    for block in sorted(candidates, key=lambda each: each.metadata.name, reverse=True):
        size = block_size_of(block.spec.cidr, ground.reserved)
        if need.capacity - size < need.wanted + size // 8:
            continue
        due = plan.idle[block.metadata.uid] + grace
        if ground.moment.monotonic < due:
            plan.wake(due)
            continue
        need.capacity -= size
        _set_state(plan, block, "Releasing")


def _take_back(ground: Ground, plan: BlockPlan, need: _Need, blocks: list[IPBlock]) -> None:
    """A block that was asked back and not given back yet is kept after all, before a new one is granted."""
    network = ground.networks.get(need.node)
    if network is None or need.missing <= 0:
        return
    already = {each.metadata.name for each in plan.updates if each.spec.state == "Releasing"}
    for block in sorted(blocks, key=lambda each: each.metadata.name):
        is_leaving = block.spec.state == "Releasing" and block.metadata.name not in already
        is_given_up = block.metadata.uid in network.status.released or block.spec.cidr in plan.claims.contested
        if need.missing > 0 and is_leaving and not is_given_up:
            _set_state(plan, block, "Active")
            need.capacity += block_size_of(block.spec.cidr, ground.reserved)


def _create(ground: Ground, plan: BlockPlan, block: IPBlock) -> bool:
    """Creates the block, unless its node is full: a NodeNetwork with more would be refused as a whole."""
    node = block.spec.node.name
    grace = ground.inventory.configuration.spec.grace_periods.deleted_node
    longest = max(grace, plan.absent.graces.get(node, 0))
    if plan.counts[node] >= MOST_BLOCKS:
        plan.full.setdefault(block.spec.pool, Counter())[node] += 1
        return False
    plan.counts[node] += 1
    plan.creates.append(_with(block, msgspec.structs.replace(block.spec, deleted_node_grace=longest)))
    return True


def _grant(ground: Ground, plan: BlockPlan, pool: IPPool, short: list[_Need], free: FreeBlocks) -> None:
    """One block a round for each node that is short: those with waiting pods first, so that a scarce pool serves them."""
    left = sorted(short, key=lambda need: (-min(need.waiting, 1), need.capacity, need.node))
    while left:
        for need in left:
            if plan.counts[need.node] >= MOST_BLOCKS:
                plan.full.setdefault(pool.metadata.name, {})[need.node] = need.blocks_missing(pool)
                continue
            cidr = _take_usable(free, ground)
            if cidr is None:
                missing = {each.node: each.blocks_missing(pool) for each in left if each.missing > 0}
                plan.exhausted[pool.metadata.name] = missing
                return
            _create(ground, plan, new_block(cidr, pool.metadata.name, ground.facts[need.node].node))
            need.capacity += block_size_of(cidr, ground.reserved)
        left = [need for need in left if need.missing > 0 and plan.counts[need.node] < MOST_BLOCKS]


def _take_usable(free: FreeBlocks, ground: Ground) -> str | None:
    """A free block of which pods may get something: one that reservations cover in parts would be granted without end."""
    while (cidr := free.take()) is not None and block_size_of(cidr, ground.reserved) == 0:
        continue
    return cidr


def new_block(cidr: str, pool: str, node: Node, state: str = "Active") -> IPBlock:
    """The IPBlock to create for a node."""
    reference = NodeReference(name=node.metadata.name, uid=node.metadata.uid)
    spec = msgspec.structs.replace(IPBlockSpec(cidr=cidr, pool=pool, node=reference), state=state)
    return IPBlock(metadata=Metadata(name=block_name(cidr)), spec=spec)
