"""Everything that the operator writes, as a function of everything that it knows.

    Inventory + Memory + Moment ──► operator_plan ──► OperatorPlan: creates, updates, deletes, finalizers, statuses, notes

Only differences are in the plan: once it is applied and the objects are read again, the next plan is empty. Objects that follow
from others' UIDs (a NodeNetwork from its new IPBlocks) come with the next plan. Called by `controller.operator.reconciler`.
"""

from collections import defaultdict
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import TypeVar

import msgspec

from controller.api.clusternetwork import ClusterNetwork
from controller.api.fields import MOST_POOLS
from controller.api.ipblock import IPBlock
from controller.api.ippool import IPPool
from controller.api.kubernetes import Node
from controller.api.nodenetwork import BlockGrant, NodeNetwork
from controller.api.notes import Note
from controller.api.objects import Metadata, OwnerReference, Resource
from controller.plan.blocks import BlockPlan, Ground, plan_blocks
from controller.plan.cidrs import network_of
from controller.plan.cluster import cluster_network_spec
from controller.plan.inventory import Inventory, Key, Memory, Moment
from controller.plan.keeping import kept_grants, with_kept_members, with_kept_parts, with_kept_sessions
from controller.plan.nodes import NodeFacts, NodePart, internal_addresses, node_facts, node_network_spec, router_ids
from controller.plan.peers import Peering, plan_peering
from controller.plan.pools import FINALIZER, is_selecting, pool_verdicts, reserved_inside, reserved_networks
from controller.plan.reclaim import told_grace
from controller.plan.reported import heard
from controller.plan.returned import asked_back
from controller.plan.statuses import notes_of, statuses_of

R = TypeVar("R", bound=Resource)


@dataclass(frozen=True, slots=True)
class OperatorPlan:
    """What to write. `memory` is for the next look; `wake_at` (monotonic seconds) says when to look again at the latest.

    `updates` are whole objects at the resourceVersion that was looked at; `finalizers` are pools with other finalizers than they
    have; `to_verify` are UIDs of pools to list again before anything is granted from them.
    """

    creates: tuple[Resource, ...]
    updates: tuple[Resource, ...]
    deletes: tuple[Resource, ...]
    finalizers: tuple[IPPool, ...]
    statuses: tuple[Resource, ...]
    notes: tuple[Note, ...]
    memory: Memory
    to_verify: frozenset[str] = frozenset()
    wake_at: float | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write; notes are written once whatever the plan says."""
        return not (self.creates or self.updates or self.deletes or self.finalizers or self.statuses)


def operator_plan(inventory: Inventory, memory: Memory, moment: Moment) -> OperatorPlan:
    """The whole decision."""
    networks, misreports = heard(inventory.networks)
    inventory = replace(inventory, networks=networks)
    facts = node_facts(inventory.nodes, {each.metadata.name: each.spec.addresses for each in inventory.networks})
    memory = _settled(inventory, memory, moment)
    reserved = reserved_networks(inventory.reservations)
    ground = Ground(inventory, facts, pool_verdicts(inventory), memory, moment, reserved, misreports)
    blocks = plan_blocks(ground)
    peering = plan_peering(inventory, facts)
    away = _away(ground, blocks)
    creates, updates = _networks(ground, blocks, away, peering)
    deletes = [network for network in ground.inventory.networks if network.metadata.name in blocks.lost_nodes]
    cluster = _cluster(ground, away, peering)
    return _readable(
        inventory.invalid,
        OperatorPlan(
            # What all nodes must know of a pool comes before the first of them uses it.
            creates=(*blocks.creates, *(c for c in cluster if not c.metadata.uid), *creates),
            updates=(*blocks.updates, *(c for c in cluster if c.metadata.uid), *updates),
            deletes=(*blocks.deletes, *deletes),
            finalizers=tuple(_finalizers(ground)),
            statuses=tuple(statuses_of(ground, blocks, peering)),
            notes=notes_of(ground, blocks),
            memory=_remembered(ground, blocks),
            to_verify=_to_verify(ground),
            wake_at=_wake_at(memory, blocks),
        ),
    )


def _readable(invalid: frozenset[Key], plan: OperatorPlan) -> OperatorPlan:
    """The plan without writes of objects whose latest version can't be read: what it says was not looked at."""

    def readable(bodies: tuple[R, ...]) -> tuple[R, ...]:
        return tuple(body for body in bodies if (type(body), body.metadata.name) not in invalid)

    if not invalid:
        return plan
    return replace(
        plan,
        creates=readable(plan.creates),
        updates=readable(plan.updates),
        deletes=readable(plan.deletes),
        finalizers=readable(plan.finalizers),
        statuses=readable(plan.statuses),
    )


def _settled(inventory: Inventory, memory: Memory, moment: Moment) -> Memory:
    """Settled once every node's agent has echoed the epoch that can be expected to, or the time for it is over."""
    if memory.unsettled_since is None:
        return memory
    is_over = moment.monotonic - memory.unsettled_since >= memory.settle_seconds
    is_settled = is_over or not silent_nodes(inventory, memory.epoch)
    return replace(memory, unsettled_since=None) if is_settled else memory


def silent_nodes(inventory: Inventory, epoch: str) -> tuple[str, ...]:
    """Nodes whose agent has not echoed the epoch: Ready ones, and those that never said anything.

    These are not Ready because podroute is just being installed, maybe anew, over pods that run, whose addresses are heard of
    first. A node that came after podroute has no such pods.
    """
    echoes = {each.metadata.name: each.status.epoch for each in inventory.networks}
    installed = min((each.metadata.creation_timestamp or "" for each in inventory.clusters), default="9999")
    return tuple(
        sorted(
            node.metadata.name
            for node in inventory.nodes
            if echoes.get(node.metadata.name) != epoch
            and (node.is_ready or (not echoes.get(node.metadata.name) and _may_have_pods(node, installed)))
        )
    )


def _may_have_pods(node: Node, installed: str) -> bool:
    """Whether pods of an earlier installation may run on a node; `installed` is when this one was (RFC 3339)."""
    return bool(internal_addresses(node)) and (node.metadata.creation_timestamp or "") <= installed


def _wake_at(memory: Memory, blocks: BlockPlan) -> float | None:
    times = [blocks.wake_at] if blocks.wake_at is not None else []
    if memory.unsettled_since is not None:
        times.append(memory.unsettled_since + memory.settle_seconds)
    return min(times, default=None)


def _remembered(ground: Ground, blocks: BlockPlan) -> Memory:
    freed = dict(ground.memory.freed)
    freed.update((block.spec.cidr, ground.moment.monotonic) for block in blocks.deletes)
    for block in blocks.creates:
        freed.pop(block.spec.cidr, None)
    absent = blocks.absent
    return replace(ground.memory, gone=absent.gone, orphans=absent.orphans, idle=blocks.idle, freed=freed)


def _to_verify(ground: Ground) -> frozenset[str]:
    return frozenset(
        pool.metadata.uid
        for pool in ground.inventory.pools
        if pool.metadata.uid not in ground.memory.verified
        and ground.verdicts[pool.metadata.name].is_accepted
        and any(c.type == "Accepted" and c.status == "True" for c in pool.status.conditions)
    )


def _finalizers(ground: Ground) -> list[IPPool]:
    """A pool has our finalizer from before its first grant until its last block is gone."""
    holding = {block.spec.pool for block in ground.inventory.blocks}
    unread = ground.inventory.unknown_of(IPBlock)
    changed = []
    for pool in ground.inventory.pools:
        metadata = pool.metadata
        is_deleting, has = metadata.deletion_timestamp is not None, FINALIZER in metadata.finalizers
        if not is_deleting and not has and ground.verdicts[metadata.name].is_accepted:
            finalizers = (*metadata.finalizers, FINALIZER)
        elif is_deleting and has and metadata.name not in holding and not unread:
            finalizers = tuple(each for each in metadata.finalizers if each != FINALIZER)
        else:
            continue
        changed.append(msgspec.structs.replace(pool, metadata=msgspec.structs.replace(metadata, finalizers=finalizers)))
    return changed


def _networks(
    ground: Ground, blocks: BlockPlan, away: AbstractSet[str], peering: Peering
) -> tuple[list[NodeNetwork], list[NodeNetwork]]:
    """NodeNetworks to create and to update."""
    identifiers = router_ids(ground.facts)
    grants = _grants(ground, blocks)
    configuration = ground.inventory.configuration.spec
    creates: list[NodeNetwork] = []
    updates: list[NodeNetwork] = []
    for name, facts in ground.facts.items():
        existing = ground.networks.get(name)
        if _is_silent(ground, facts):
            # An agent that has an object of before keeps to that until there is another.
            continue
        sessions = peering.sessions.get(name, ())
        if existing is not None:
            sessions = with_kept_sessions(ground.inventory, existing, sessions, away)
        part = NodePart(
            router_id=identifiers[name],
            pools=_selecting(ground, facts),
            blocks=grants.get(name, ()),
            sessions=sessions,
            mesh=name in peering.mesh,
            epoch=ground.memory.epoch,
            deleted_node_grace=told_grace(ground.blocks_of.get(name, ()), configuration.grace_periods.deleted_node),
        )
        spec = node_network_spec(facts, configuration, part)
        owners = (_owner(facts),)
        if existing is None:
            creates.append(NodeNetwork(metadata=Metadata(name=name, owner_references=owners), spec=spec))
        elif existing.spec != spec or existing.metadata.owner_references != owners:
            metadata = msgspec.structs.replace(existing.metadata, owner_references=owners)
            updates.append(msgspec.structs.replace(existing, metadata=metadata, spec=spec))
    # In a large cluster writing takes minutes: who waits for blocks comes before those that are merely told a new epoch.
    updates.sort(key=lambda each: each.spec.blocks == ground.networks[each.metadata.name].spec.blocks)
    return creates, updates


def _is_silent(ground: Ground, facts: NodeFacts) -> bool:
    """Whether nothing says the node's addresses: its Node is new, and its kubelet has not reported yet."""
    return facts.name not in ground.networks and not internal_addresses(facts.node)


def _away(ground: Ground, plan: BlockPlan) -> frozenset[str]:
    """Nodes whose machines may run on as they did, though there is no Node, or a silent one."""
    silent = {name for name, facts in ground.facts.items() if _is_silent(ground, facts)}
    return frozenset(silent.union(plan.absent.gone, plan.absent.orphans))


def _selecting(ground: Ground, facts: NodeFacts) -> tuple[str, ...] | None:
    """The pools that select the node; None, that is not told, if they are more than its object takes."""
    names = sorted(pool.metadata.name for pool in ground.inventory.pools if is_selecting(pool, facts.node))
    return tuple(names) if len(names) <= MOST_POOLS else None


def _owner(facts: NodeFacts) -> OwnerReference:
    return OwnerReference(api_version="v1", kind="Node", name=facts.name, uid=facts.node.metadata.uid)


def _grants(ground: Ground, plan: BlockPlan) -> dict[str, tuple[BlockGrant, ...]]:
    """Each node's blocks as they stand in the IPBlocks, never as they are planned: the lock comes first. But for those that go now,
    as their nodes gave them back: listed in a spec to which that is no answer any more, they would be theirs again.

    If another node uses a block, or may, the lock alone is not enough: its owner is told of it as one that is asked back. And what
    the other was told is asked back from it, not taken away: it answers when it has stopped.
    """
    by_node: dict[str, list[BlockGrant]] = defaultdict(list)
    claims, gone = plan.claims, {block.metadata.uid for block in plan.deletes}
    for block in ground.inventory.blocks:
        if block.metadata.uid in gone:
            continue
        grant = _grant(block, ground)
        is_contested = block.spec.cidr in claims.contested
        by_node[block.spec.node.name].append(asked_back(grant) if is_contested else grant)
    for network in ground.inventory.networks:
        name = network.metadata.name
        by_node[name] += kept_grants(ground.inventory, network)
        # It may use them at any moment: nobody else gets them, and it is not told to leave them either.
        by_node[name] += [grant for grant in network.spec.blocks if (name, grant.cidr) in claims.unconfirmed]
        if claims.disputed:
            by_node[name] += [asked_back(g) for g in network.spec.blocks if (name, g.cidr) in claims.disputed]
    return {node: tuple(sorted(grants, key=_position)) for node, grants in by_node.items()}


def _position(grant: BlockGrant) -> tuple[int, int]:
    network = network_of(grant.cidr)
    return network.version, int(network.network_address)


def _grant(block: IPBlock, ground: Ground) -> BlockGrant:
    return BlockGrant(
        cidr=block.spec.cidr,
        uid=block.metadata.uid,
        pool=block.spec.pool,
        state=block.spec.state,
        reserved=tuple(str(part) for part in reserved_inside(block.spec.cidr, ground.reserved)),
    )


def _cluster(ground: Ground, away: AbstractSet[str], peering: Peering) -> list[ClusterNetwork]:
    """ClusterNetwork `default` if it is not there or not as it should be."""
    spec = cluster_network_spec(ground.inventory, ground.facts, ground.verdicts, peering)
    existing = next((each for each in ground.inventory.clusters if each.metadata.name == "default"), None)
    if existing is None:
        return [ClusterNetwork(metadata=Metadata(name="default"), spec=spec)]
    spec = with_kept_members(ground.inventory.configuration.spec, spec, existing.spec, away)
    spec = with_kept_parts(ground.inventory, spec, existing.spec)
    return [] if existing.spec == spec else [msgspec.structs.replace(existing, spec=spec)]
