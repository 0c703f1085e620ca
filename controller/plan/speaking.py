"""What a node's speaker is asked to do: its sessions, what it announces on each, what it never learns.

Pure; part of `controller.plan.node.plan_node`.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bgp.values import Announcement, Desired, Family, Neighbour, Refusals
from controller.api.bgppeer import ExportPolicy
from controller.api.clusternetwork import ClusterNetworkSpec
from controller.api.nodenetwork import BlockGrant, NodeNetworkSpec, SessionSpec
from controller.api.objects import family_of
from controller.plan.cidrs import single_networks

MESH = "mesh"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The node's own addresses and the networks on its links, pods' links aside, as text."""

    addresses: tuple[str, ...] = ()
    on_link: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Holding:
    """The node's blocks, and which of them are announced no more (by CIDR)."""

    blocks: tuple[BlockGrant, ...]
    withdrawn: frozenset[str] = frozenset()

    @property
    def announced(self) -> tuple[BlockGrant, ...]:
        """The blocks that neighbours hear of."""
        return tuple(block for block in self.blocks if block.cidr not in self.withdrawn)


def desired_for(
    node: NodeNetworkSpec,
    cluster: ClusterNetworkSpec,
    passwords: Mapping[str, str],
    holding: Holding,
    surroundings: Surroundings,
) -> Desired:
    """Everything that the speaker is to do. A session of a BGPPeer comes before one of the mesh to the same address.

    A session whose password is not known yet is left out: with a wrong one it could not come up, and with none it might.
    """
    blocks = holding.announced
    accept = tuple(pool.cidr for pool in cluster.pools)
    asked = [
        _peer_session(session, passwords.get(session.password_secret, ""), accept, blocks)
        for session in node.sessions
        if not session.password_secret or session.password_secret in passwords
    ]
    taken = {session.address for session in node.sessions}
    mesh = [n for n in _mesh_sessions(node, cluster, accept, blocks) if n.address not in taken]
    return Desired(
        router_id=node.router_id,
        listen_port=node.listen_port,
        neighbours=(*asked, *mesh),
        refuse=Refusals(
            own_blocks=tuple(block.cidr for block in holding.blocks),
            node_ranges=single_networks(cluster.node_addresses),
            service_ranges=cluster.service_ranges,
            max_length=_longest_blocks(cluster),
            own_addresses=surroundings.addresses,
        ),
        on_link=surroundings.on_link,
    )


def missing_secrets(node: NodeNetworkSpec, passwords: Mapping[str, str]) -> tuple[SessionSpec, ...]:
    """The sessions that can't be kept for lack of their password."""
    return tuple(s for s in node.sessions if s.password_secret and s.password_secret not in passwords)


def _peer_session(
    session: SessionSpec, password: str, accept: tuple[str, ...], blocks: Iterable[BlockGrant]
) -> Neighbour:
    return Neighbour(
        name=f"{session.peer}/{session.address}",
        address=session.address,
        local_address=session.local_address,
        asn=session.asn,
        local_asn=session.local_asn,
        port=session.port,
        passive=session.passive,
        hold_time=session.hold_time,
        families=(Family(family_of(session.address)),),
        password=password,
        ttl_security=session.ttl_security,
        multihop=session.multihop,
        graceful_restart=session.graceful_restart_time,
        accept=(*accept, *session.import_.accept),
        max_prefixes=session.import_.max_prefixes,
        allow_own_as=session.allow_own_as,
        announcements=_announcements(
            blocks, session.local_address, session.export, is_ibgp=session.asn == session.local_asn
        ),
    )


def _announcements(
    blocks: Iterable[BlockGrant], next_hop: str, export: ExportPolicy, *, is_ibgp: bool
) -> tuple[Announcement, ...]:
    family = family_of(next_hop)
    return tuple(
        Announcement(
            prefix=block.cidr,
            next_hop=next_hop,
            communities=export.communities,
            large_communities=export.large_communities,
            # RFC 4271 section 5.1.5: LOCAL_PREF is not sent to external peers.
            local_preference=export.local_preference if is_ibgp else None,
            med=export.med,
            prepend=export.prepend,
        )
        for block in blocks
        if family_of(block.cidr) == family and (not export.pools or block.pool in export.pools)
    )


def _mesh_sessions(
    node: NodeNetworkSpec, cluster: ClusterNetworkSpec, accept: tuple[str, ...], blocks: tuple[BlockGrant, ...]
) -> list[Neighbour]:
    if not node.mesh:
        return []
    # A node may be in the mesh with one family alone: its own entry says with which.
    entry = next((member.addresses for member in cluster.mesh if member.node == node.node.name), ())
    own = {family_of(address): address for address in entry if address in node.addresses}
    return [
        Neighbour(
            name=f"{MESH}/{member.node}/{address}",
            address=address,
            local_address=own[family_of(address)],
            asn=member.as_number,
            local_asn=node.as_number,
            port=node.listen_port,
            # One side waits, or both would connect and one connection would fall again (RFC 4271 section 6.8).
            passive=_is_lower(own[family_of(address)], address),
            hold_time=node.hold_time,
            families=(Family(family_of(address)),),
            graceful_restart=node.graceful_restart_time,
            accept=accept,
            announcements=_announcements(blocks, own[family_of(address)], ExportPolicy(), is_ibgp=True),
        )
        for member in cluster.mesh
        if member.node != node.node.name
        for address in member.addresses
        if family_of(address) in own
    ]


def _is_lower(one: str, other: str) -> bool:
    return int(ipaddress.ip_address(one)) < int(ipaddress.ip_address(other))


def _longest_blocks(cluster: ClusterNetworkSpec) -> dict[Family, int]:
    longest: dict[Family, int] = {}
    for pool in cluster.pools:
        family = Family(family_of(pool.cidr))
        longest[family] = max(longest.get(family, 0), pool.block_size)
    return longest
