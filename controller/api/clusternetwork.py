"""ClusterNetwork: what every node must know. One object, named `default`, written by the operator."""

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from controller.api.fields import MOST_CLIENTS, MOST_POOLS
from controller.api.objects import Resource

# Twice what Kubernetes itself is made for (kubernetes.io, "Considerations for large clusters").
MOST_NODES = 10_000


class MeshMember(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One node of the node mesh."""

    node: Annotated[str, Meta(description="The Node's name.", max_length=253)]
    addresses: Annotated[
        tuple[Annotated[str, Meta(max_length=39)], ...],
        Meta(description="Its InternalIPs, at most one a family.", max_length=2),
    ]
    as_number: Annotated[int, Meta(description="Its AS number.", extra_json_schema={"format": "int64"})] = 64512


class PoolFlags(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What nodes need to know of a pool."""

    name: Annotated[str, Meta(description="The IPPool.", max_length=253)]
    cidr: Annotated[str, Meta(description="Its range.", max_length=43)]
    block_size: Annotated[int, Meta(description="Prefix length of its blocks.")]
    disabled: Annotated[bool, Meta(description="No new addresses are assigned.")] = False
    nat_outgoing: Annotated[bool, Meta(description="Masquerade what leaves the cluster.")] = False
    selected: Annotated[bool, Meta(description="Only for the namespaces that name it.")] = False


class ClusterNetworkSpec(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What every node must know."""

    mesh: Annotated[tuple[MeshMember, ...], Meta(description="The node mesh.", max_length=MOST_NODES)] = ()
    pools: Annotated[tuple[PoolFlags, ...], Meta(description="Accepted pools.", max_length=MOST_POOLS)] = ()
    node_addresses: Annotated[
        tuple[Annotated[str, Meta(max_length=39)], ...],
        Meta(description="All Nodes' InternalIPs.", max_length=2 * MOST_NODES),
    ] = ()
    service_ranges: Annotated[
        tuple[Annotated[str, Meta(max_length=43)], ...], Meta(description="Service CIDRs.", max_length=64)
    ] = ()
    namespaces: Annotated[
        dict[str, Annotated[tuple[str, ...], Meta(max_length=64)]],
        Meta(description="Namespaces with pools of their own, and which.", max_length=5000),
    ] = {}
    metrics_clients: Annotated[
        tuple[Annotated[str, Meta(max_length=43)], ...],
        Meta(description="Ranges of pods that may ask for metrics.", max_length=MOST_CLIENTS),
    ] = ()
    retiring: Annotated[
        str,
        Meta(
            description="The name of an uninstall: nodes start no pods, withdraw what they announced, remove what they made, "
            "veths of running pods aside, and answer with it. Set by `podroute uninstall`; the operator takes it back.",
            max_length=63,
        ),
    ] = ""
    retired: Annotated[
        bool, Meta(description="Every node has answered that: what is left of podroute may be deleted.")
    ] = False


class ClusterNetwork(Resource, frozen=True, kw_only=True, rename="camel"):
    """What every node must know: pools, ranges and members of the node mesh. Written by podroute alone."""

    PLURAL: ClassVar[str] = "clusternetworks"
    BY_PODROUTE_ALONE: ClassVar[bool] = True
    COLUMNS: ClassVar[tuple[tuple[str, str, str, int], ...]] = (
        ("Services", "string", ".spec.serviceRanges", 0),
        ("Age", "date", ".metadata.creationTimestamp", 0),
    )

    spec: ClusterNetworkSpec = ClusterNetworkSpec()
