"""Whether the two objects that a node follows can be worked with. Pure; called by `controller.agent.keeper`.

Only the operator writes them. One that it wrote wrongly, or that was changed by hand, must not end the agent: the last good one
stays in force, and the condition names the field.
"""

import ipaddress
from collections.abc import Callable, Iterable, Iterator

from controller.api.clusternetwork import ClusterNetworkSpec
from controller.api.nodenetwork import NodeNetworkSpec

_Parse = Callable[[str], object]
_Field = tuple[str, _Parse, Iterable[str]]


def node_problem(spec: NodeNetworkSpec) -> str:
    """Field, value and what is wrong with it; empty if all can be worked with."""
    return _first(_node_fields(spec))


def cluster_problem(spec: ClusterNetworkSpec) -> str:
    """The same for the ClusterNetwork."""
    for pool in spec.pools:
        try:
            network = ipaddress.ip_network(pool.cidr)
        except ValueError as error:
            return f"spec.pools[{pool.name}].cidr: {error}"
        if not network.prefixlen <= pool.block_size <= network.max_prefixlen:
            return f"spec.pools[{pool.name}].blockSize: {pool.block_size} does not fit into {pool.cidr}"
    return _first(_cluster_fields(spec))


def _node_fields(spec: NodeNetworkSpec) -> Iterator[_Field]:
    yield "spec.addresses", ipaddress.ip_address, spec.addresses
    yield "spec.blocks.cidr", ipaddress.ip_network, (block.cidr for block in spec.blocks)
    yield "spec.blocks.reserved", ipaddress.ip_network, (cidr for block in spec.blocks for cidr in block.reserved)


def _cluster_fields(spec: ClusterNetworkSpec) -> Iterator[_Field]:
    yield "spec.mesh.addresses", ipaddress.ip_address, (a for member in spec.mesh for a in member.addresses)
    yield "spec.nodeAddresses", ipaddress.ip_address, spec.node_addresses
    yield "spec.serviceRanges", ipaddress.ip_network, spec.service_ranges


def _first(fields: Iterator[_Field]) -> str:
    for name, parse, values in fields:
        for value in values:
            try:
                parse(value)
            except ValueError as error:
                return f"{name}: {error}"
    return ""
