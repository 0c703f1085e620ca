"""BGPPeers as sessions of nodes, and who is in the node mesh. Pure.

At most one session per node and address: the older BGPPeer keeps it. A session between two nodes exists on both sides or on none,
and the lower address waits for the other to connect, or both would, and one connection would fall again (RFC 4271 section 6.8).
"""

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from controller.api.bgpconfiguration import BGPConfigurationSpec
from controller.api.bgppeer import BGPPeer
from controller.api.fields import MOST_SESSIONS
from controller.api.nodenetwork import SessionSpec
from controller.api.objects import family_of
from controller.api.reasons import Reason
from controller.plan.cidrs import address_key
from controller.plan.inventory import Inventory
from controller.plan.nodes import NodeFacts
from controller.plan.pools import Verdict, refusal


@dataclass(frozen=True, slots=True)
class Refused:
    """A session that a BGPPeer asks for and a node does not keep."""

    node: str
    reason: Reason
    message: str


@dataclass
class Peering:
    """What BGPPeers come to: sessions by node; by BGPPeer the nodes it selects and the sessions refused; who is in the mesh.

    `mesh` holds, by node, the addresses with which it is in the mesh: one for each family that it keeps no other session of.
    """

    sessions: dict[str, tuple[SessionSpec, ...]] = field(default_factory=dict)
    selected: dict[str, tuple[str, ...]] = field(default_factory=dict)
    refused: dict[str, tuple[Refused, ...]] = field(default_factory=dict)
    mesh: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass
class _Draft:
    """Work in progress: sessions by node and address, so that a second one to an address is seen."""

    configuration: BGPConfigurationSpec
    sessions: dict[str, dict[str, SessionSpec]] = field(default_factory=lambda: defaultdict(dict))
    refused: dict[str, list[Refused]] = field(default_factory=lambda: defaultdict(list))


def plan_peering(inventory: Inventory, facts: Mapping[str, NodeFacts]) -> Peering:
    """The sessions of all nodes."""
    draft = _Draft(inventory.configuration.spec)
    selected: dict[str, tuple[str, ...]] = {}
    for peer in sorted(inventory.peers, key=lambda each: each.metadata.age_key):
        chosen = [each for each in facts.values() if _is_selected(peer, each)]
        selected[peer.metadata.name] = tuple(sorted(each.name for each in chosen))
        if peer.spec.address is not None:
            for each in chosen:
                _peer_with_router(draft, peer, each)
        else:
            _peer_with_nodes(draft, peer, chosen, facts)
    return Peering(
        sessions={node: tuple(by[a] for a in sorted(by, key=address_key)) for node, by in draft.sessions.items()},
        selected=selected,
        refused={name: tuple(refused) for name, refused in draft.refused.items()},
        mesh=_mesh(inventory.configuration.spec, facts, _served(draft, inventory)),
    )


def _served(draft: _Draft, inventory: Inventory) -> dict[str, set[str]]:
    """The addresses of the sessions that each node keeps; those of a BGPPeer that can't be read stay as they are."""
    unread = inventory.unknown_of(BGPPeer)
    served = defaultdict(set, {node: set(by) for node, by in draft.sessions.items()})
    for network in inventory.networks:
        served[network.metadata.name] |= {each.address for each in network.spec.sessions if each.peer in unread}
    return served


def _is_selected(peer: BGPPeer, facts: NodeFacts) -> bool:
    return peer.spec.node_selector is None or peer.spec.node_selector.matches(facts.node.metadata.labels)


def _mesh(
    configuration: BGPConfigurationSpec,
    facts: Mapping[str, NodeFacts],
    served: Mapping[str, Iterable[str]],
) -> dict[str, tuple[str, ...]]:
    """Who is in the mesh, and with which addresses.

    Auto goes by the sessions that are kept, a family each, and not by what a BGPPeer selects: one that is shut down or refused, or
    of the other family, serves the node with nothing, and without the mesh nobody would hear of its blocks.
    """
    match configuration.node_mesh:
        case "Enabled":
            members = {name: each.addresses for name, each in facts.items()}
        case "Disabled":
            members = {}
        case "Auto":
            members = {name: _unserved(each, served.get(name, ())) for name, each in facts.items()}
    return {name: addresses for name, addresses in members.items() if addresses}


def _unserved(facts: NodeFacts, served: Iterable[str]) -> tuple[str, ...]:
    """The node's addresses of families in which it keeps no session; `served` are the addresses of those it keeps."""
    families = {family_of(address) for address in served}
    return tuple(address for address in facts.addresses if family_of(address) not in families)


def _peer_with_router(draft: _Draft, peer: BGPPeer, facts: NodeFacts) -> None:
    assert peer.spec.address is not None
    address = str(ipaddress.ip_address(peer.spec.address))
    local = peer.spec.source_address or facts.address_of(family_of(address))
    name = peer.metadata.name
    lack = facts.lack_of(family_of(address))
    if address in facts.addresses:
        draft.refused[name].append(_refused(facts.name, Reason.PEER_IS_NODE_ITSELF, f"spec.address {address}"))
    elif local is None and lack is not None:
        draft.refused[name].append(Refused(facts.name, lack.reason, lack.message))
    else:
        configuration = draft.configuration
        local_asn = peer.spec.local_asn or configuration.as_number
        ends = _Ends(facts.name, address, peer.spec.as_number or configuration.as_number, local or "", local_asn)
        _add(draft, peer, ends)


def _peer_with_nodes(draft: _Draft, peer: BGPPeer, chosen: list[NodeFacts], facts: Mapping[str, NodeFacts]) -> None:
    selector = peer.spec.peer_selector
    others = [each for each in facts.values() if selector is not None and selector.matches(each.node.metadata.labels)]
    far = peer.spec.as_number or draft.configuration.as_number
    near = peer.spec.local_asn or draft.configuration.as_number
    for one, other in _pairs(chosen, others):
        shared = [(address, other.address_of(family_of(address))) for address in one.addresses]
        for address, opposite in shared:
            if opposite is not None:
                here = _Ends(one.name, opposite, far, address, near, other.name)
                _add(draft, peer, here, _Ends(other.name, address, near, opposite, far, one.name))
        if not any(opposite for _, opposite in shared):
            refused = _refused(one.name, Reason.NO_SHARED_FAMILY, f"InternalIPs of Node {other.name}")
            draft.refused[peer.metadata.name].append(refused)


def _pairs(some: Iterable[NodeFacts], others: Iterable[NodeFacts]) -> Iterator[tuple[NodeFacts, NodeFacts]]:
    """Each two nodes once, none with itself, in a fixed order."""
    joined: set[frozenset[str]] = set()
    ordered = sorted(others, key=lambda each: each.name)
    for one in sorted(some, key=lambda each: each.name):
        for other in ordered:
            pair = frozenset({one.name, other.name})
            if len(pair) == 2 and pair not in joined:
                joined.add(pair)
                yield one, other


@dataclass(frozen=True, slots=True)
class _Ends:
    """Both ends of a session, as `node` sees them."""

    node: str
    address: str
    asn: int
    local_address: str
    local_asn: int
    peer_node: str = ""


def _add(draft: _Draft, peer: BGPPeer, *ends: _Ends) -> None:
    """The session at all of its ends, or at none: a node would for ever call another one that does not answer."""
    refused = [refusal for each in ends if (refusal := _why_not(draft, each)) is not None]
    draft.refused[peer.metadata.name] += refused
    if not refused and not peer.spec.shutdown:
        for each in ends:
            draft.sessions[each.node][each.address] = _session(peer, each, draft.configuration)


def _why_not(draft: _Draft, ends: _Ends) -> Refused | None:
    """Why the node keeps no such session besides those that it keeps already; None if it can."""
    sessions = draft.sessions[ends.node]
    existing = sessions.get(ends.address)
    if existing is not None:
        return _refused(ends.node, Reason.ADDRESS_CONFLICT, f"address {ends.address} is BGPPeer {existing.peer}'s")
    if len(sessions) >= MOST_SESSIONS:
        return _refused(ends.node, Reason.TOO_MANY_SESSIONS, ends.address)
    return None


def _refused(node: str, reason: Reason, what: str) -> Refused:
    return Refused(node, reason, f"Node {node}: {what}; {reason.meaning}; {reason.remedy}")


def _session(peer: BGPPeer, ends: _Ends, configuration: BGPConfigurationSpec) -> SessionSpec:
    spec = peer.spec
    between_nodes = bool(ends.peer_node)
    is_lower = address_key(ends.local_address) < address_key(ends.address)
    return SessionSpec(
        peer=peer.metadata.name,
        address=ends.address,
        asn=ends.asn,
        local_address=ends.local_address,
        local_asn=ends.local_asn,
        port=configuration.listen_port if between_nodes else spec.port,
        passive=between_nodes and is_lower,
        node=ends.peer_node,
        hold_time=spec.hold_time or configuration.hold_time,
        graceful_restart_time=configuration.graceful_restart.time,
        password_secret=spec.password_secret_ref.name if spec.password_secret_ref else "",
        ttl_security=spec.ttl_security,
        multihop=spec.multihop,
        allow_own_as=spec.allow_own_as,
        import_=spec.import_,
        export=spec.export,
    )


def peer_verdict(peer: BGPPeer, peering: Peering) -> Verdict:
    """Whether every node that it selects keeps its session."""
    name = peer.metadata.name
    selected, refused = peering.selected.get(name, ()), peering.refused.get(name, ())
    if not selected:
        return refusal(Reason.NO_MATCHING_NODE, "spec.nodeSelector")
    if refused:
        served = len(selected) - len({each.node for each in refused} & set(selected))
        words = "; ".join(each.message for each in refused[:4])
        more = f"; and {len(refused) - 4} more" if len(refused) > 4 else ""
        return Verdict(False, refused[0].reason, f"served on {served} of {len(selected)} nodes. {words}{more}")
    return Verdict(True, Reason.ACCEPTED, Reason.ACCEPTED.meaning)
