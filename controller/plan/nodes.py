"""Which addresses a node may call its own, its BGP identifier, and the NodeNetwork spec that follows. Pure."""

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from controller.api.bgpconfiguration import BGPConfigurationSpec
from controller.api.ipblock import NodeReference
from controller.api.kubernetes import Node
from controller.api.nodenetwork import BlockGrant, NodeNetworkSpec, SessionSpec
from controller.api.objects import Family, family_of
from controller.api.reasons import Reason
from controller.plan.cidrs import canonical_address

FAMILIES: tuple[Family, ...] = ("ipv4", "ipv6")


@dataclass(frozen=True, slots=True)
class Lack:
    """Why a node has no address of a family."""

    family: Family
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A Node, the InternalIPs that are its own (at most one a family, IPv4 first), and why others are missing."""

    node: Node
    addresses: tuple[str, ...]
    lacks: tuple[Lack, ...] = ()

    @property
    def name(self) -> str:
        """The Node's name."""
        return self.node.metadata.name

    def address_of(self, family: Family) -> str | None:
        """Its address of that family."""
        return next((address for address in self.addresses if family_of(address) == family), None)

    def lack_of(self, family: Family) -> Lack | None:
        """Why it has no address of that family; None if it has."""
        return next((lack for lack in self.lacks if lack.family == family), None)


def internal_addresses(node: Node) -> tuple[str, ...]:
    """The Node's InternalIPs that are addresses, in canonical form."""
    texts = (canonical_address(each.address) for each in node.status.addresses if each.type == "InternalIP")
    return tuple(text for text in texts if text is not None)


def node_facts(nodes: Iterable[Node], known: Mapping[str, tuple[str, ...]]) -> dict[str, NodeFacts]:
    """Every node's own addresses by the node's name. Of two Nodes with one address, the older one keeps it.

    `known` are the addresses by which nodes go already: a Node that names none at all has been made anew, and its kubelet has
    not reported yet. That is no reason to end its sessions.
    """
    owners: dict[str, str] = {}
    facts: dict[str, NodeFacts] = {}
    for node in sorted(nodes, key=lambda each: each.metadata.age_key):
        addresses, lacks = [], []
        said = internal_addresses(node) or known.get(node.metadata.name, ())
        for family in FAMILIES:
            address = next((each for each in said if family_of(each) == family), None)
            owner = owners.setdefault(address, node.metadata.name) if address else ""
            if address and owner == node.metadata.name:
                addresses.append(address)
            else:
                lacks.append(_lack(node.metadata.name, family, address, owner))
        facts[node.metadata.name] = NodeFacts(node, tuple(addresses), tuple(lacks))
    return facts


def _lack(name: str, family: Family, address: str | None, owner: str) -> Lack:
    reason = Reason.NODE_ADDRESS_CONFLICT if address else Reason.NODE_WITHOUT_ADDRESS
    what = f"InternalIP {address} is Node {owner}'s" if address else f"no InternalIP of family {family}"
    return Lack(family, reason, f"Node {name}: {what}; {reason.meaning}; {reason.remedy}")


def router_ids(facts: Mapping[str, NodeFacts]) -> dict[str, str]:
    """Every node's BGP identifier: its IPv4 address, or a digest of its IPv6 address that no other node has.

    RFC 6286: any four octets but zero, unique within the AS. The older node keeps an identifier that two would have.
    """
    chosen = {name: fact.address_of("ipv4") or "" for name, fact in facts.items()}
    taken = {value for value in chosen.values() if value}
    for name, fact in facts.items():
        if chosen[name]:
            continue
        candidate = _digest(fact.address_of("ipv6") or name)
        while candidate in taken:
            candidate = str(ipaddress.IPv4Address((int(ipaddress.IPv4Address(candidate)) + 1) % 2**32 or 1))
        chosen[name] = candidate
        taken.add(candidate)
    return chosen


def _digest(text: str) -> str:
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest())
    return str(ipaddress.IPv4Address(number or 1))


@dataclass(frozen=True, slots=True)
class NodePart:
    """What else goes into a node's spec: its identifier, pools that select it, blocks, sessions, mesh, and grace (seconds)."""

    router_id: str
    pools: tuple[str, ...] | None
    blocks: tuple[BlockGrant, ...]
    sessions: tuple[SessionSpec, ...]
    mesh: bool
    epoch: str
    deleted_node_grace: int


def node_network_spec(facts: NodeFacts, configuration: BGPConfigurationSpec, part: NodePart) -> NodeNetworkSpec:
    """What the node is to do."""
    return NodeNetworkSpec(
        node=NodeReference(name=facts.name, uid=facts.node.metadata.uid),
        epoch=part.epoch,
        addresses=facts.addresses,
        as_number=configuration.as_number,
        router_id=part.router_id,
        listen_port=configuration.listen_port,
        hold_time=configuration.hold_time,
        graceful_restart_time=configuration.graceful_restart.time,
        deleted_node_grace=part.deleted_node_grace,
        mesh=part.mesh,
        pools=part.pools,
        blocks=part.blocks,
        sessions=part.sessions,
    )
