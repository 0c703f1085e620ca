"""ClusterNetwork: what every node must know. Pure."""

from collections.abc import Iterable, Mapping

from controller.api.clusternetwork import ClusterNetworkSpec, MeshMember, PoolFlags
from controller.api.ippool import IPPool
from controller.plan.inventory import Inventory
from controller.plan.nodes import NodeFacts, internal_addresses
from controller.plan.peers import Peering
from controller.plan.pools import Verdict, namespaces_with_pools, pools_with_blocks


def cluster_network_spec(
    inventory: Inventory, facts: Mapping[str, NodeFacts], verdicts: Mapping[str, Verdict], peering: Peering
) -> ClusterNetworkSpec:
    """Mesh, pools, addresses, service ranges and namespaces, each in a fixed order."""
    pools = served_pools(inventory, verdicts)
    addresses = {address for node in inventory.nodes for address in internal_addresses(node)}
    return ClusterNetworkSpec(
        mesh=tuple(
            MeshMember(node=name, addresses=peering.mesh[name], as_number=inventory.configuration.spec.as_number)
            for name in sorted(peering.mesh)
        ),
        pools=tuple(_flags(pool) for pool in pools),
        node_addresses=tuple(sorted(addresses)),
        service_ranges=inventory.service_ranges,
        namespaces=namespaces_with_pools(pools, inventory.namespaces),
        metrics_clients=tuple(sorted(inventory.configuration.spec.metrics_clients)),
    )


def served_pools(inventory: Inventory, verdicts: Mapping[str, Verdict]) -> tuple[IPPool, ...]:
    """Accepted pools, and those that nodes hold blocks of: what worked before goes on, whatever the verdict is now."""
    holding = pools_with_blocks(inventory)
    return tuple(
        _by_name(p for p in inventory.pools if verdicts[p.metadata.name].is_accepted or p.metadata.name in holding)
    )


def _by_name(pools: Iterable[IPPool]) -> list[IPPool]:
    return sorted(pools, key=lambda pool: pool.metadata.name)


def _flags(pool: IPPool) -> PoolFlags:
    return PoolFlags(
        name=pool.metadata.name,
        cidr=pool.spec.cidr,
        block_size=pool.spec.effective_block_size,
        disabled=pool.spec.disabled or pool.metadata.deletion_timestamp is not None,
        nat_outgoing=pool.spec.nat_outgoing,
        selected=pool.spec.namespace_selector is not None,
    )
