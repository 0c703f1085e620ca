"""What Pods ask for in their own words arrives through kubelet and runtime: pools by annotation, host ports, bandwidth."""

import ipaddress
import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from refused_inputs import body
from workloads import Pod, apply, await_no_other_pools, eventually, pod_manifest, pods, pods_on

from controller.lab.cluster import Lab

pytestmark = [pytest.mark.lab, pytest.mark.root]

NAMESPACE = "choosy"
POOLS = {"first-v4": "10.88.0.0/24", "second-v4": "10.88.1.0/24", "only-v6": "fd00:88::/120"}
PORT = 8088


@pytest.fixture(scope="module")
def choosy(lab: Lab, afterwards: ExitStack) -> Iterator[str]:
    """A namespace with two IPv4 pools of its own and one of IPv6."""
    selector = {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}}
    apply(lab, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    apply(lab, *(body("IPPool", name, cidr=cidr, namespaceSelector=selector) for name, cidr in POOLS.items()))
    eventually(lambda: all(blocks(lab, pool) for pool in POOLS), 30, "every pool has blocks on every node")
    yield NAMESPACE
    lab.kubectl("delete", "namespace", NAMESPACE, "--wait=true", seconds=120)
    lab.kubectl("delete", "ippool", *POOLS, "--wait=false")
    afterwards.callback(await_no_other_pools, lab)


def blocks(lab: Lab, pool: str) -> bool:
    """Whether every node has a block of the pool."""
    owners = {b["spec"]["node"]["name"] for b in lab.get("ipblocks")["items"] if b["spec"]["pool"] == pool}
    return owners == set(lab.topology.node_names)


def annotated(name: str, node: str, annotations: dict[str, str], **spec: Any) -> dict[str, Any]:
    manifest = pod_manifest(name, node, **spec)
    return {**manifest, "metadata": {**manifest["metadata"], "annotations": annotations}}


def in_namespace(manifest: dict[str, Any], namespace: str) -> dict[str, Any]:
    return {**manifest, "metadata": {**manifest["metadata"], "namespace": namespace}}


def started(lab: Lab, name: str, namespace: str) -> Pod:
    (pod,) = eventually(lambda: pods(lab, f"app={name}", namespace), 40, lambda: said_of(lab, name, namespace))
    return pod


def said_of(lab: Lab, name: str, namespace: str) -> str:
    """What the kubelet says of the pod."""
    events = lab.get("events", "-n", namespace, "--field-selector", f"involvedObject.name={name}")["items"]
    return " ".join(event["message"] for event in events)


def pools_of(pod: Pod) -> set[str]:
    return {
        name
        for name, cidr in POOLS.items()
        for address in map(ipaddress.ip_address, pod.addresses)
        if address in ipaddress.ip_network(cidr)
    }


def test_a_pod_gets_its_addresses_from_the_pools_that_its_annotation_names(lab: Lab, choosy: str) -> None:
    node = lab.topology.node_names[0]
    for chosen in ("first-v4", "second-v4"):
        wish = annotated(f"wants-{chosen}", node, {"podroute.dev/pools": f"{chosen},only-v6"})
        apply(lab, in_namespace(wish, choosy))
        assert pools_of(started(lab, f"wants-{chosen}", choosy)) == {chosen, "only-v6"}


def test_a_disabled_pool_serves_no_new_pod_says_so_and_keeps_the_pods_it_has(lab: Lab, choosy: str) -> None:
    node = lab.topology.node_names[1]
    wish = {"podroute.dev/pools": "second-v4,only-v6"}
    apply(lab, in_namespace(annotated("before", node, wish), choosy))
    before = started(lab, "before", choosy)
    lab.kubectl("patch", "ippool", "second-v4", "--type=merge", "-p", '{"spec": {"disabled": true}}')
    try:
        eventually(lambda: accepted_reason(lab, "second-v4") == "Disabled", 15, "the pool says that it is disabled")
        apply(lab, in_namespace(annotated("after", node, wish), choosy))
        eventually(lambda: "second-v4" in said_of(lab, "after", choosy), 40, lambda: said_of(lab, "after", choosy))
        assert pods(lab, "app=after", choosy) == []
        for address in before.addresses:
            lab.netns_exec(node, ["ping", "-c1", "-W2", address])
    finally:
        lab.kubectl("patch", "ippool", "second-v4", "--type=merge", "-p", '{"spec": {"disabled": false}}')
    # The kubelet tries again by itself.
    assert pools_of(started(lab, "after", choosy)) == {"second-v4", "only-v6"}


def accepted_reason(lab: Lab, pool: str) -> str:
    conditions = lab.get("ippool", pool)["status"]["conditions"]
    return next((each["reason"] for each in conditions if each["type"] == "Accepted"), "")


@contextmanager
def serving(lab: Lab) -> Iterator[Pod]:
    """A web server on a port of its node, with limited bandwidth, another for each direction."""
    node = lab.topology.node_names[0]
    limits = {"kubernetes.io/ingress-bandwidth": "20M", "kubernetes.io/egress-bandwidth": "40M"}
    manifest = annotated("served", node, limits)
    (container,) = manifest["spec"]["containers"]
    container["command"] = ["sh", "-c", "mkdir /www; echo here >/www/index.html; exec httpd -f -p '[::]:80' -h /www"]
    container["ports"] = [{"containerPort": 80, "hostPort": PORT}]
    apply(lab, manifest)
    yield started(lab, "served", "default")
    lab.kubectl("delete", "pod", "served", "--grace-period=0")


@pytest.fixture(scope="module")
def served(lab: Lab) -> Iterator[Pod]:
    with serving(lab) as pod:
        yield pod


@pytest.mark.parametrize("family", [4, 6])
def test_a_host_port_is_reached_from_outside_at_the_nodes_address(lab: Lab, served: Pod, family: int) -> None:
    reach_host_port(lab, served, family)


def reach_host_port(lab: Lab, served: Pod, family: int) -> None:
    """From the host behind the spine."""
    address = next(a for a in lab.topology.addresses(served.node) if (":" in a) == (family == 6))
    url = f"http://[{address}]:{PORT}/" if family == 6 else f"http://{address}:{PORT}/"
    fetch = ["nsenter", f"--net={lab.netns('outside')}", "--", "curl", "-s", "-m", "3", url]

    def answer() -> str:
        return subprocess.run(fetch, capture_output=True, text=True, check=False).stdout.strip()

    eventually(lambda: answer() == "here", 20, lambda: f"{url}: {answer()}")


def test_a_bandwidth_annotation_shapes_the_pods_link(lab: Lab, served: Pod) -> None:
    links = json.loads(lab.netns_exec(served.node, ["ip", "-j", "link", "show", "type", "veth"]))
    veth = next(link["ifname"] for link in links if served.uid in link.get("ifalias", ""))
    shaped = lab.netns_exec(served.node, ["tc", "qdisc", "show", "dev", veth])
    assert "tbf" in shaped
    assert "rate 20Mbit" in shaped


def rate(sender: Pod, receiver: Pod, family: int) -> float:
    """bit/s that arrive, once what the runtime allows as a first burst (512 MiB) is through."""
    address = receiver.place.address(family)
    server = subprocess.Popen([*receiver.place.enter, "iperf3", "-s", "-1", "-B", address], stdout=subprocess.DEVNULL)
    try:
        listens = [*receiver.place.enter, "ss", "-Hltn", "sport", "=", ":5201"]
        eventually(lambda: subprocess.run(listens, capture_output=True, check=True).stdout, 10, "iperf3 listens")
        asked = [*sender.place.enter, "iperf3", "-J", "-c", address, "--omit", "4", "--time", "2"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=40, check=True)
    finally:
        server.kill()
        server.wait()
    return float(json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"])


@pytest.mark.parametrize("family", [4, 6])
def test_the_rate_of_each_directions_bandwidth_annotation_is_held_and_none_holds_the_other_back(
    lab: Lab, served: Pod, family: int
) -> None:
    hold_rates(lab, served, family)


def hold_rates(lab: Lab, served: Pod, family: int) -> None:
    """What is sent to the pod, and what it sends, arrives at the rate of its annotation."""
    with pods_on(lab, [lab.topology.node_names[1]], "unlimited") as (other,):
        assert 10e6 < rate(other, served, family) < 22e6
        assert 24e6 < rate(served, other, family) < 44e6


def test_every_kubelet_speaks_to_containerd_1_6(lab: Lab) -> None:
    assert all(version.startswith("1.6.") for version in runtime_versions(lab)), runtime_versions(lab)


def runtime_versions(lab: Lab) -> set[str]:
    """The nodes' versions of containerd."""
    runtimes = {n["status"]["nodeInfo"]["containerRuntimeVersion"] for n in lab.get("nodes")["items"]}
    return {runtime.removeprefix("containerd://").removeprefix("v") for runtime in runtimes}
