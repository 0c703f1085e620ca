"""What stands on objects that do not decode, and of which no good version is known, stays as it was. Pure.

That an object can't be read is no word about what it says. After a restart of the operator there is no last good version either, so
what followed from such an object is taken over from what stands in the NodeNetworks and in the ClusterNetwork. So it is with the
sessions of nodes whose Node is away: deleted within the grace period, or made anew and not reported by its kubelet yet. Called by
`controller.plan.operator`, `blocks`, `claims` and `pools`.
"""

from collections.abc import Set as AbstractSet

import msgspec

from controller.api.bgpconfiguration import BGPConfigurationSpec
from controller.api.bgppeer import BGPPeer
from controller.api.clusternetwork import ClusterNetworkSpec, MeshMember
from controller.api.fields import MOST_SESSIONS
from controller.api.ipblock import IPBlock, block_name, network_of_name
from controller.api.ippool import IPPool
from controller.api.kubernetes import Node
from controller.api.nodenetwork import BlockGrant, NodeNetwork, SessionSpec
from controller.api.objects import Network
from controller.plan.cidrs import address_key, address_of, valid_network
from controller.plan.inventory import Inventory
from controller.plan.reported import block_network


def unread_blocks(inventory: Inventory) -> tuple[Network, ...]:
    """The networks of IPBlocks that can't be read: their names say them."""
    networks = map(network_of_name, inventory.unknown_of(IPBlock))
    return tuple(network for network in networks if network is not None)


def unread_pools(inventory: Inventory) -> list[tuple[Network, str]]:
    """Networks and names of pools that can't be read, as the nodes were told of them."""
    names = inventory.unknown_of(IPPool)
    if not names:
        return []
    flags = [flags for cluster in inventory.clusters for flags in cluster.spec.pools if flags.name in names]
    return [(network, each.name) for each in flags if (network := valid_network(each.cidr)) is not None]


def kept_grants(inventory: Inventory, network: NodeNetwork) -> tuple[BlockGrant, ...]:
    """Grants of the node whose IPBlocks can't be read."""
    names = inventory.unknown_of(IPBlock)
    if not names:
        return ()
    grants = (grant for grant in network.spec.blocks if block_network(grant.cidr) is not None)
    return tuple(grant for grant in grants if block_name(grant.cidr) in names)


def with_kept_sessions(
    inventory: Inventory, network: NodeNetwork, sessions: tuple[SessionSpec, ...], away: AbstractSet[str]
) -> tuple[SessionSpec, ...]:
    """The node's sessions, and those that it has by a BGPPeer or with a Node that can't be read, or with a node that is `away`."""
    peers, nodes = inventory.unknown_of(BGPPeer), inventory.unknown_of(Node)
    if not peers and not nodes and not away:
        return sessions
    served = {session.address for session in sessions}
    wanted = {peer.metadata.name for peer in inventory.peers if not peer.spec.shutdown}
    kept = [
        each
        for each in network.spec.sessions
        if each.peer in peers or each.node in nodes or (each.node in away and each.peer in wanted)
    ]
    every = (*sessions, *(each for each in kept if each.address not in served and address_of(each.address)))
    return tuple(sorted(every[:MOST_SESSIONS], key=lambda each: address_key(each.address)))


def with_kept_members(
    configuration: BGPConfigurationSpec, spec: ClusterNetworkSpec, old: ClusterNetworkSpec, away: AbstractSet[str]
) -> ClusterNetworkSpec:
    """The mesh with nodes that are `away`, by the addresses that they had in it and that no other node has now.

    What were nodes' addresses are so still, in the mesh or not: pods are not masqueraded towards them, and no neighbour's route to
    them is believed.
    """
    if not away:
        return spec
    present, taken = {member.node for member in spec.mesh}, set(spec.node_addresses)
    mesh = list(spec.mesh)
    for member in old.mesh if configuration.node_mesh != "Disabled" else ():
        addresses = tuple(address for address in member.addresses if address not in taken)
        if member.node in away and member.node not in present and addresses:
            mesh.append(MeshMember(node=member.node, addresses=addresses, as_number=configuration.as_number))
    return msgspec.structs.replace(
        spec,
        mesh=tuple(sorted(mesh, key=lambda each: each.node)),
        node_addresses=tuple(sorted(taken.union(old.node_addresses))),
    )


def with_kept_parts(inventory: Inventory, spec: ClusterNetworkSpec, old: ClusterNetworkSpec) -> ClusterNetworkSpec:
    """What every node must know, with what `old` says of pools and Nodes that can't be read."""
    pools, nodes = inventory.unknown_of(IPPool), inventory.unknown_of(Node)
    if not pools and not nodes:
        return spec
    namespaces = dict(spec.namespaces)
    for namespace, names in old.namespaces.items():
        kept = pools.intersection(names)
        if kept:
            namespaces[namespace] = tuple(sorted(kept.union(spec.namespaces.get(namespace, ()))))
    addresses = {a for each in inventory.networks if each.metadata.name in nodes for a in each.spec.addresses}
    mesh = (*spec.mesh, *(each for each in old.mesh if each.node in nodes))
    flags = (*spec.pools, *(each for each in old.pools if each.name in pools))
    return msgspec.structs.replace(
        spec,
        mesh=tuple(sorted(mesh, key=lambda each: each.node)),
        pools=tuple(sorted(flags, key=lambda each: each.name)),
        node_addresses=tuple(sorted(addresses.union(spec.node_addresses))),
        namespaces=namespaces,
    )
