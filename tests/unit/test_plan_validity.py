"""Whether the two objects that a node follows can be worked with (`controller.plan.validity`)."""

import msgspec
import pytest

from controller.api.clusternetwork import ClusterNetworkSpec, MeshMember, PoolFlags
from controller.api.ipblock import NodeReference
from controller.api.nodenetwork import BlockGrant, NodeNetworkSpec
from controller.plan.validity import cluster_problem, node_problem

BLOCK = BlockGrant(cidr="10.244.0.0/26", uid="b", pool="p4", reserved=("10.244.0.0/30",))
NODE = NodeNetworkSpec(node=NodeReference(name="n0"), addresses=("10.0.0.2", "fd00::2"), blocks=(BLOCK,))
POOL = PoolFlags(name="p6", cidr="fd00:10:244::/56", block_size=122)
CLUSTER = ClusterNetworkSpec(
    mesh=(MeshMember(node="n0", addresses=("10.0.0.2", "fd00::2")),),
    pools=(PoolFlags(name="p4", cidr="10.244.0.0/16", block_size=26), POOL),
    node_addresses=("10.0.0.2", "fd00::2"),
    service_ranges=("10.96.0.0/16", "fd00:10:96::/112"),
)


def test_what_the_operator_writes_can_be_worked_with() -> None:
    assert node_problem(NODE) == ""
    assert cluster_problem(CLUSTER) == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"addresses": ("10.0.0.2/24",)}, "spec.addresses: '10.0.0.2/24'"),
        (
            {"blocks": (msgspec.structs.replace(BLOCK, cidr="10.244.0.1/26"),)},
            "spec.blocks.cidr: 10.244.0.1/26 has host bits",
        ),
        ({"blocks": (msgspec.structs.replace(BLOCK, reserved=("x",)),)}, "spec.blocks.reserved: 'x'"),
    ],
)
def test_a_nodes_value_that_can_not_is_named_with_its_field(change: dict[str, object], words: str) -> None:
    assert node_problem(msgspec.structs.replace(NODE, **change)).startswith(words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"pools": (msgspec.structs.replace(POOL, cidr="fd00::1/56"),)},
            "spec.pools[p6].cidr: fd00::1/56 has host bits",
        ),
        ({"pools": (msgspec.structs.replace(POOL, block_size=129),)}, "spec.pools[p6].blockSize: 129 does not fit"),
        ({"pools": (msgspec.structs.replace(POOL, block_size=55),)}, "spec.pools[p6].blockSize: 55 does not fit"),
        ({"mesh": (MeshMember(node="n1", addresses=("n1",)),)}, "spec.mesh.addresses: 'n1'"),
        ({"node_addresses": ("fd00::g",)}, "spec.nodeAddresses: 'fd00::g'"),
        ({"service_ranges": ("10.96.0.1/16",)}, "spec.serviceRanges: 10.96.0.1/16 has host bits"),
    ],
)
def test_a_clusters_value_that_can_not_is_named_with_its_field(change: dict[str, object], words: str) -> None:
    assert cluster_problem(msgspec.structs.replace(CLUSTER, **change)).startswith(words)
