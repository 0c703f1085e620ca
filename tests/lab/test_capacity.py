"""Many pods at once, blocks granted when they are needed, and given back when they are idle."""

import ipaddress
from collections.abc import Iterator

import pytest
from oracle import block_routes
from router_tables import node_blocks
from workloads import apply, deployment_manifest, eventually, pods

from controller.lab.cluster import Lab

pytestmark = [pytest.mark.lab, pytest.mark.root]

MANY = 110
SMALL = "small"
# Blocks of four addresses and hardly any headroom, for one namespace: every few pods need another block.
POOLS = f"""
apiVersion: v1
kind: Namespace
metadata: {{name: {SMALL}}}
---
apiVersion: podroute.dev/v1alpha1
kind: BGPConfiguration
metadata: {{name: default}}
spec: {{gracePeriods: {{idleBlock: 3}}}}
---
apiVersion: podroute.dev/v1alpha1
kind: IPPool
metadata: {{name: tiny-v4}}
spec:
  cidr: 10.77.0.0/24
  blockSize: 30
  headroom: 1
  namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {SMALL}}}}}
---
apiVersion: podroute.dev/v1alpha1
kind: IPPool
metadata: {{name: tiny-v6}}
spec:
  cidr: fd00:77::/120
  blockSize: 126
  headroom: 1
  namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {SMALL}}}}}
"""


@pytest.fixture
def small_pools(lab: Lab) -> Iterator[None]:
    lab.apply(POOLS)
    eventually(lambda: len(small_blocks(lab)) >= 2 * len(lab.topology.node_names), 30, lambda: f"{small_blocks(lab)}")
    yield
    lab.kubectl("delete", "namespace", SMALL, "--wait=true", seconds=120)
    lab.kubectl("delete", "ippool", "tiny-v4", "tiny-v6", "--wait=true", "--timeout=120s", seconds=150)
    lab.kubectl("delete", "bgpconfiguration", "default")


def small_blocks(lab: Lab, node: str = "") -> list[str]:
    """CIDRs of the small pools' blocks, of one node or of all."""
    small = [ipaddress.ip_network(cidr) for cidr in ("10.77.0.0/24", "fd00:77::/120")]
    return [
        cidr
        for cidr, owner in node_blocks(lab).items()
        if owner == node or not node
        for pool in small
        if ipaddress.ip_network(cidr).version == pool.version and ipaddress.ip_network(cidr).subnet_of(pool)
    ]


def in_small(manifest: dict[str, object]) -> dict[str, object]:
    metadata = manifest["metadata"]
    assert isinstance(metadata, dict)
    return {**manifest, "metadata": {**metadata, "namespace": SMALL}}


def failures(lab: Lab, namespace: str, workload: str) -> list[str]:
    """What the kubelet said of the workload's sandboxes that could not be made."""
    events = lab.get("events", "-n", namespace, "--field-selector=reason=FailedCreatePodSandBox")["items"]
    return [event["message"] for event in events if event["involvedObject"]["name"].startswith(f"{workload}-")]


def test_a_hundred_and_ten_pods_at_once_on_one_node_all_start(lab: Lab) -> None:
    node = lab.topology.node_names[1]
    apply(lab, deployment_manifest("many", MANY, node))
    try:
        eventually(lambda: len(pods(lab, "app=many")) == MANY, 240, lambda: f"{len(pods(lab, 'app=many'))} are ready")
        addresses = [address for pod in pods(lab, "app=many") for address in pod.addresses]
        assert len(set(addresses)) == 2 * MANY
        assert failures(lab, "default", "many") == []
    finally:
        lab.kubectl("delete", "deployment", "many", "--wait=true")
        eventually(lambda: not lab.get("pods", "-l", "app=many")["items"], 120, "the pods are gone")


def test_a_node_that_needs_another_block_gets_it_without_a_failing_addition_and_idle_blocks_go_back(
    lab: Lab, small_pools: None
) -> None:
    node = lab.topology.node_names[0]
    apply(lab, in_small(deployment_manifest("grow", 1, node)))
    eventually(lambda: len(pods(lab, "app=grow", SMALL)) == 1, 60, "the first pod is ready")
    at_first = len(small_blocks(lab, node))
    lab.kubectl("-n", SMALL, "scale", "deployment", "grow", "--replicas=14")
    eventually(lambda: len(pods(lab, "app=grow", SMALL)) == 14, 90, lambda: lab.kubectl("-n", SMALL, "get", "pods"))
    assert failures(lab, SMALL, "grow") == []
    grown = small_blocks(lab, node)
    # 14 pods and one more address in blocks of four, in two families.
    assert len(grown) >= 2 * 4
    small = [ipaddress.ip_network(cidr) for cidr in grown]
    for pod in pods(lab, "app=grow", SMALL):
        for address in map(ipaddress.ip_address, pod.addresses):
            assert any(address in network for network in small), f"{pod.name} has {address} of {small}"
    lab.kubectl("-n", SMALL, "scale", "deployment", "grow", "--replicas=1")
    eventually(
        lambda: len(small_blocks(lab, node)) <= max(at_first, 4),
        120,
        lambda: f"blocks went back: {small_blocks(lab, node)}",
    )
    (last,) = eventually(lambda: pods(lab, "app=grow", SMALL), 30, "the last pod is there")
    kept = [ipaddress.ip_network(cidr) for cidr in small_blocks(lab, node)]
    assert all(any(ipaddress.ip_address(address) in network for network in kept) for address in last.addresses)
    eventually(
        lambda: block_routes(lab, node) == {cidr for cidr, owner in node_blocks(lab).items() if owner == node},
        20,
        lambda: f"the node's block routes are those of its blocks: {block_routes(lab, node)}",
    )
