"""Metrics of an installation with manifests/overlays/metrics: the pods that BGPConfiguration names get them, others do not."""

import subprocess
from collections.abc import Iterator

import pytest
from test_installed import parts
from workloads import Pod, apply, eventually, pods_on

from controller.lab.cluster import Lab
from controller.lab.podroute import NAMESPACE

pytestmark = [pytest.mark.lab, pytest.mark.root]

FAMILIES = pytest.mark.parametrize("family", [4, 6])
OPERATOR, AGENT = 9478, 9479


@pytest.fixture(scope="module")
def askers(installed_lab: Lab) -> Iterator[list[Pod]]:
    """Two pods on different nodes, of which one is Prometheus."""
    first, *_, last = installed_lab.topology.node_names
    with pods_on(installed_lab, [first, last], "asks") as found:
        yield found


@pytest.fixture(scope="module")
def prometheus(installed_lab: Lab, askers: list[Pod]) -> Iterator[Pod]:
    """The pod whose addresses the configuration names."""
    pod = askers[0]
    clients = [f"{address}/{128 if ':' in address else 32}" for address in pod.addresses]
    meta = {"apiVersion": "podroute.dev/v1alpha1", "kind": "BGPConfiguration", "metadata": {"name": "default"}}
    apply(installed_lab, {**meta, "spec": {"metricsClients": clients}})
    yield pod
    installed_lab.kubectl("delete", "bgpconfiguration", "default")


def metrics(asker: Pod, address: str, port: int) -> str:
    """What a pod gets of a node's metrics; empty if nobody answers."""
    host = f"[{address}]" if ":" in address else address
    argv = [*asker.place.enter, "curl", "-s", "--connect-timeout", "1", f"http://{host}:{port}/metrics"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False).stdout


@FAMILIES
def test_prometheus_gets_the_metrics_of_every_agent_and_of_the_operator_and_no_other_pod_does(
    installed_lab: Lab, askers: list[Pod], prometheus: Pod, family: int
) -> None:
    lab, stranger = installed_lab, askers[1]
    (operator,) = parts(lab, "operator")
    targets = [(node, AGENT, "podroute_agent_ready 1.0") for node in lab.topology.node_names]
    targets.append((operator["spec"]["nodeName"], OPERATOR, "podroute_operator_is_leader 1.0"))
    for node, port, line in targets:
        address = getattr(lab.topology.addresses(node), f"v{family}")
        eventually(lambda a=address, p=port, s=line: s in metrics(prometheus, a, p).splitlines(), 20, f"{node} {port}")
        assert metrics(stranger, address, port) == ""


def test_each_service_names_every_nodes_address_and_port(installed_lab: Lab) -> None:
    lab = installed_lab
    for component, port, count in (("agent", AGENT, len(lab.topology.node_names)), ("operator", OPERATOR, 1)):
        selector = f"kubernetes.io/service-name=podroute-{component}-metrics"
        slices = lab.get("endpointslices", "-n", NAMESPACE, "-l", selector)["items"]
        nodes = {pod["spec"]["nodeName"] for pod in parts(lab, component)}
        for kind, family in (("IPv4", "v4"), ("IPv6", "v6")):
            own = [each for each in slices if each["addressType"] == kind]
            assert {p["port"] for each in own for p in each["ports"]} == {port}
            found = [address for each in own for end in each["endpoints"] for address in end["addresses"]]
            assert sorted(found) == sorted(getattr(lab.topology.addresses(node), family) for node in nodes)
            assert len(found) == count
