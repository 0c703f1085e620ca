"""What people read: the status of pools, peers, configuration and reservations, and Events on Nodes. Pure.

Each "no" names what is wrong, where, and the remedy. A condition keeps its transition time as long as its status does.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from controller.api.bgpconfiguration import BGPConfiguration, BGPConfigurationStatus
from controller.api.bgppeer import BGPPeer, BGPPeerStatus
from controller.api.ipblock import IPBlock
from controller.api.ippool import IPPool, IPPoolStatus
from controller.api.ipreservation import IPReservation, IPReservationStatus
from controller.api.nodenetwork import SessionStatus
from controller.api.notes import Note
from controller.api.objects import Condition, Resource, family_of, with_condition
from controller.api.reasons import Reason
from controller.plan.blocks import BlockPlan, Ground
from controller.plan.cidrs import network_of
from controller.plan.peers import Peering, peer_verdict
from controller.plan.pools import Verdict, is_selecting, refusal, reservation_verdicts
from controller.plan.remedies import remedies_for

LARGEST_INT64 = 2**63 - 1
MESH_LIMIT = 100


def conditions_of(
    resource: Resource, old: tuple[Condition, ...], verdicts: Mapping[str, Verdict], stamp: str
) -> tuple[Condition, ...]:
    """`old` with a condition for each type in `verdicts`; types that are not there any more go."""
    kept = tuple(condition for condition in old if condition.type in verdicts)
    for type_, verdict in verdicts.items():
        new = Condition(
            type=type_,
            status="True" if verdict.is_accepted else "False",
            reason=verdict.reason,
            message=verdict.message[:2048],
            last_transition_time=stamp,
            observed_generation=resource.metadata.generation,
        )
        same = next((condition for condition in kept if condition.type == type_), None)
        kept = kept if same is not None and _is_same(same, new) else with_condition(kept, new)
    return tuple(sorted(kept, key=lambda condition: condition.type))


def _is_same(one: Condition, other: Condition) -> bool:
    return msgspec.structs.replace(one, last_transition_time="") == msgspec.structs.replace(
        other, last_transition_time=""
    )


def pool_status(pool: IPPool, ground: Ground, plan: BlockPlan, held: list[IPBlock]) -> IPPoolStatus:
    """Totals and conditions of a pool; `held` are its blocks."""
    bits = pool.spec.effective_block_size - network_of(pool.spec.cidr).prefixlen
    name = pool.metadata.name
    verdicts = {"Accepted": _pool_accepted(pool, ground, held)}
    if verdicts["Accepted"].is_accepted:
        verdicts["Available"] = _pool_available(pool, plan)
        verdicts["NodesServed"] = _nodes_served(pool, ground, plan)
    return IPPoolStatus(
        blocks=len(held),
        total_blocks=min(2**bits, LARGEST_INT64),
        releasing=sum(block.spec.state == "Releasing" for block in held),
        nodes=len({block.spec.node.name for block in held}),
        in_use=sum(d.in_use for n in ground.inventory.networks for d in n.status.demand if d.pool == name),
        usage=f"{len(held)}/{2**bits if bits < 30 else f'2^{bits}'}",
        conditions=conditions_of(pool, pool.status.conditions, verdicts, ground.moment.stamp),
    )


def _pool_accepted(pool: IPPool, ground: Ground, held: Iterable[IPBlock]) -> Verdict:
    if pool.metadata.deletion_timestamp is None:
        return ground.verdicts[pool.metadata.name]
    by_node: dict[str, list[str]] = defaultdict(list)
    for block in held:
        by_node[block.spec.node.name].append(_block_words(block, ground))
    words = "; ".join(f"{node}: {', '.join(blocks)}" for node, blocks in sorted(by_node.items()))
    return refusal(Reason.POOL_HAS_BLOCKS, f"held by blocks on {len(by_node)} nodes: {words or 'none'}"[:1800])


def _block_words(block: IPBlock, ground: Ground) -> str:
    network = ground.networks.get(block.spec.node.name)
    used = next((u.in_use for u in network.status.usage if u.cidr == block.spec.cidr), 0) if network else 0
    return f"{block.spec.cidr} ({used} addresses in use)"


def _pool_available(pool: IPPool, plan: BlockPlan) -> Verdict:
    name = pool.metadata.name
    if name in plan.postponed:
        return refusal(Reason.NOT_SETTLED, "the operator has just started")
    short = plan.exhausted.get(name)
    if short:
        nodes = ", ".join(f"{node} ({count} blocks)" for node, count in sorted(short.items())[:16])
        return refusal(
            Reason.POOL_EXHAUSTED, f"no block of spec.cidr {pool.spec.cidr} is free; nodes that need more: {nodes}"
        )
    full = plan.full.get(name)
    if full:
        nodes = ", ".join(f"{node} ({count} blocks)" for node, count in sorted(full.items())[:16])
        return refusal(Reason.NODE_FULL, f"nodes that need more: {nodes}")
    return Verdict(True, Reason.AVAILABLE, Reason.AVAILABLE.meaning)


def _nodes_served(pool: IPPool, ground: Ground, plan: BlockPlan) -> Verdict:
    """Whether every node that it selects can announce its family and uses only its own blocks."""
    selected = [facts for facts in ground.facts.values() if is_selecting(pool, facts.node)]
    if not selected:
        return refusal(Reason.NO_NODE_SELECTED, "spec.nodeSelector")
    conflicts = [each for each in plan.claims.conflicts if each.pool == pool.metadata.name]
    if conflicts:
        return refusal(conflicts[0].reason, "; ".join(each.words for each in conflicts[:16]))
    family = family_of(pool.spec.cidr)
    lacks = [lack for facts in selected for lack in facts.lacks if lack.family == family]
    if lacks:
        more = f"; and {len(lacks) - 8} more" if len(lacks) > 8 else ""
        return Verdict(False, lacks[0].reason, "; ".join(lack.message for lack in lacks[:8]) + more)
    return Verdict(True, Reason.ACCEPTED, f"{len(selected)} nodes are selected")


def peer_status(
    peer: BGPPeer, ground: Ground, peering: Peering, reported: list[tuple[str, SessionStatus]]
) -> BGPPeerStatus:
    """Totals and conditions of a BGPPeer; `reported` are its sessions as the nodes' agents see them."""
    name = peer.metadata.name
    planned = sum(session.peer == name for sessions in peering.sessions.values() for session in sessions)
    established = sum(session.state.lower() == "established" for _, session in reported)
    verdicts = {
        "Accepted": peer_verdict(peer, peering),
        "Established": _established(peer, planned, established, reported),
    }
    return BGPPeerStatus(
        nodes=len(peering.selected.get(name, ())),
        sessions=planned,
        established=established,
        summary=f"{established}/{planned}",
        conditions=conditions_of(peer, peer.status.conditions, verdicts, ground.moment.stamp),
    )


def _established(peer: BGPPeer, planned: int, established: int, reported: list[tuple[str, SessionStatus]]) -> Verdict:
    if peer.spec.shutdown:
        return refusal(Reason.SHUTDOWN, "no session")
    if planned and established >= planned:
        return Verdict(True, Reason.ESTABLISHED, f"{established} of {planned} sessions")
    down = [(node, session) for node, session in reported if session.state.lower() != "established"]
    words = "; ".join(
        f"Node {node} with {session.address}: {session.state} {session.reason} {session.message}".strip()
        for node, session in down[:4]
    )
    reason = next((Reason.SECRET_MISSING for _, s in down if s.reason == Reason.SECRET_MISSING), Reason.SESSIONS_DOWN)
    what = f"{established} of {planned} sessions are established" + (f". {words}" if words else "")
    remedies = remedies_for(session.reason for _, session in down[:4])
    if reason is Reason.SESSIONS_DOWN and remedies:
        return Verdict(False, reason, f"{what}; {remedies}")
    return refusal(reason, what)


def configuration_status(configuration: BGPConfiguration, ground: Ground, peering: Peering) -> BGPConfigurationStatus:
    """Totals and conditions of a BGPConfiguration."""
    if configuration.metadata.name != "default":
        members, verdicts = 0, {"Accepted": refusal(Reason.NAME_NOT_DEFAULT, configuration.metadata.name)}
    else:
        members = len(peering.mesh)
        verdicts = {"Accepted": Verdict(True, Reason.ACCEPTED, Reason.ACCEPTED.meaning)}
        if members > MESH_LIMIT:
            verdicts["MeshSize"] = refusal(Reason.MESH_TOO_LARGE, f"{members} nodes are in the mesh")
    conditions = conditions_of(configuration, configuration.status.conditions, verdicts, ground.moment.stamp)
    return BGPConfigurationStatus(mesh_members=members, conditions=conditions)


def statuses_of(ground: Ground, plan: BlockPlan, peering: Peering) -> list[Resource]:
    """Every object whose status should be another than it is, with the status that it should have."""
    held: dict[str, list[IPBlock]] = defaultdict(list)
    for block in ground.inventory.blocks:
        held[block.spec.pool].append(block)
    reported: dict[str, list[tuple[str, SessionStatus]]] = defaultdict(list)
    for network in ground.inventory.networks:
        for session in network.status.sessions:
            reported[session.peer].append((network.metadata.name, session))
    found: list[tuple[Resource, msgspec.Struct, msgspec.Struct]] = []
    for pool in ground.inventory.pools:
        found.append((pool, pool.status, pool_status(pool, ground, plan, held[pool.metadata.name])))
    for peer in ground.inventory.peers:
        found.append((peer, peer.status, peer_status(peer, ground, peering, reported[peer.metadata.name])))
    for configuration in ground.inventory.configurations:
        found.append((configuration, configuration.status, configuration_status(configuration, ground, peering)))
    verdicts = reservation_verdicts(ground.inventory.reservations, ground.inventory.pools)
    for each in ground.inventory.reservations:
        found.append((each, each.status, _reservation_status(each, verdicts[each.metadata.name], ground.moment.stamp)))
    return [msgspec.structs.replace(each, status=new) for each, old, new in found if old != new]


def _reservation_status(each: IPReservation, verdict: Verdict, stamp: str) -> IPReservationStatus:
    return IPReservationStatus(conditions=conditions_of(each, each.status.conditions, {"Accepted": verdict}, stamp))


def notes_of(ground: Ground, plan: BlockPlan) -> tuple[Note, ...]:
    """What is to be said about Nodes: exhausted pools, missing or doubled addresses, claims and conflicts."""
    said: list[tuple[str, Reason, str]] = []
    lacking = [(Reason.POOL_EXHAUSTED, pool, short) for pool, short in plan.exhausted.items()]
    lacking += [(Reason.NODE_FULL, pool, short) for pool, short in plan.full.items()]
    for reason, pool, short in lacking:
        for node, count in short.items():
            said.append((node, reason, f"IPPool {pool}: {count} blocks are missing; {reason.meaning}; {reason.remedy}"))
    for facts in ground.facts.values():
        wanted = {family_of(pool.spec.cidr) for pool in ground.inventory.pools if is_selecting(pool, facts.node)}
        said += [(facts.name, lack.reason, lack.message) for lack in facts.lacks if lack.family in wanted]
    for block in plan.claims.recreated:
        said.append((block.spec.node.name, Reason.BLOCK_CLAIMED, f"{block.spec.cidr}: {Reason.BLOCK_CLAIMED.meaning}"))
    for each in plan.claims.conflicts:
        said.append((each.node, each.reason, f"{each.words}; {each.reason.meaning}; {each.reason.remedy}"))
    for misreport in ground.misreports:
        reason = Reason.REPORT_INVALID
        what = f"NodeNetwork {misreport.node}: {misreport.field} {misreport.value!r}"
        said.append((misreport.node, reason, f"{what}: {reason.meaning}; {reason.remedy}"))
    nodes = {node.metadata.name: node for node in ground.inventory.nodes}
    return tuple(
        Note("v1", "Node", name, nodes[name].metadata.uid, reason, message)
        for name, reason, message in said
        if name in nodes
    )
