"""`podroute status` and `podroute pools`: the answers to the first questions, as rows. Pure; the command line prints them."""

import ipaddress

import msgspec

from controller.api import IPPool, NodeNetwork
from controller.api.objects import Condition
from controller.inspect.world import World


class NodeRow(msgspec.Struct, frozen=True, kw_only=True):
    """One node: what it holds and whether it is as planned."""

    node: str
    ready: bool
    addresses: tuple[str, ...]
    blocks: tuple[str, ...]
    pods: int
    sessions: str
    synced: str
    reason: str
    message: str


class PoolRow(msgspec.Struct, frozen=True, kw_only=True):
    """One pool: how full it is, and whether it is accepted."""

    pool: str
    cidr: str
    blocks: int
    total_blocks: int
    nodes: int
    in_use: int
    addresses: int
    accepted: str
    reason: str
    message: str


class PeerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One BGPPeer: how many of its sessions are established."""

    peer: str
    address: str
    asn: int
    sessions: int
    established: int
    accepted: str
    reason: str
    message: str


def node_rows(world: World) -> list[NodeRow]:
    """A row for each Node, also those without a NodeNetwork."""
    networks = {network.metadata.name: network for network in world.networks}
    rows = []
    for node in world.nodes:
        network = networks.get(node.name)
        synced = _condition(network.status.conditions, "Synced") if network else None
        rows.append(
            NodeRow(
                node=node.name,
                ready=node.is_ready,
                addresses=node.addresses,
                blocks=_blocks(network),
                pods=network.status.pods if network else 0,
                sessions=network.status.session_summary if network else "",
                synced=synced.status if synced else "Unknown",
                reason=synced.reason if synced else ("AgentSilent" if network else "NoNodeNetwork"),
                message=synced.message if synced else "",
            )
        )
    return rows


def _blocks(network: NodeNetwork | None) -> tuple[str, ...]:
    return tuple(block.cidr for block in network.spec.blocks) if network else ()


def pool_rows(world: World) -> list[PoolRow]:
    """A row for each pool."""
    return [_pool_row(pool, world) for pool in world.pools]


def _pool_row(pool: IPPool, world: World) -> PoolRow:
    accepted = _condition(pool.status.conditions, "Accepted")
    blocks = [block for block in world.blocks if block.spec.pool == pool.metadata.name]
    cidr = ipaddress.ip_network(pool.spec.cidr)
    return PoolRow(
        pool=pool.metadata.name,
        cidr=pool.spec.cidr,
        blocks=len(blocks),
        total_blocks=2 ** (pool.spec.effective_block_size - cidr.prefixlen),
        nodes=len({block.spec.node.name for block in blocks}),
        in_use=pool.status.in_use,
        addresses=sum(ipaddress.ip_network(block.spec.cidr).num_addresses for block in blocks),
        accepted=accepted.status if accepted else "Unknown",
        reason=accepted.reason if accepted else "OperatorSilent",
        message=accepted.message if accepted else "",
    )


def peer_rows(world: World) -> list[PeerRow]:
    """A row for each BGPPeer."""
    rows = []
    for peer in world.peers:
        accepted = _condition(peer.status.conditions, "Accepted")
        established = _condition(peer.status.conditions, "Established")
        rows.append(
            PeerRow(
                peer=peer.metadata.name,
                address=peer.spec.address or "nodes",
                asn=peer.spec.as_number or 0,
                sessions=peer.status.sessions,
                established=peer.status.established,
                accepted=accepted.status if accepted else "Unknown",
                reason=accepted.reason if accepted else "OperatorSilent",
                message=established.message if established else (accepted.message if accepted else ""),
            )
        )
    return rows


def _condition(conditions: tuple[Condition, ...], kind: str) -> Condition | None:
    return next((condition for condition in conditions if condition.type == kind), None)
