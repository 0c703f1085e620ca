"""Pods started by the real kubelet reach each other, the outside and services, by their own addresses and at full MTU."""

import json
from collections.abc import Iterator
from subprocess import PIPE, Popen, run

import pytest
from parts import part_stopped
from seen_source import place_of, source_seen
from workloads import Pod, apply, deployment_manifest, eventually, pods

from controller.lab.cluster import Lab
from controller.lab.errors import LabError
from controller.lab.images import TOOLS_IMAGE

pytestmark = [pytest.mark.lab, pytest.mark.root]

# Headers of ICMP echo: 20 + 8 and 40 + 8 bytes.
HEADERS = {4: 28, 6: 48}


@pytest.fixture(scope="module")
def everywhere(lab: Lab) -> Iterator[list[Pod]]:
    """A Deployment of two pods on every node; the last node's are started while the operator is stopped."""
    *early, last = lab.topology.node_names
    names = [f"reach-{node}" for node in (*early, last)]
    apply(lab, *(deployment_manifest(f"reach-{node}", 2, node) for node in early))
    eventually(lambda: all(len(pods(lab, f"app=reach-{node}")) == 2 for node in early), 60, "the early pods are ready")
    with part_stopped(lab, "cp", "operator"):
        apply(lab, deployment_manifest(f"reach-{last}", 2, last))
        eventually(lambda: len(pods(lab, f"app=reach-{last}")) == 2, 60, "the last pods are ready without the operator")
    yield [pod for name in names for pod in pods(lab, f"app={name}")]
    lab.kubectl("delete", "deployment", *names)


def test_every_pod_has_one_address_of_each_family(everywhere: list[Pod]) -> None:
    for pod in everywhere:
        assert [":" in address for address in pod.addresses] == [False, True]
    addresses = [address for pod in everywhere for address in pod.addresses]
    assert len(addresses) == len(set(addresses))


def test_every_pod_reaches_every_pod_at_full_mtu(lab: Lab, everywhere: list[Pod]) -> None:
    mtu = int(lab.netns_exec(everywhere[0].node, ["cat", "/sys/class/net/eth0/mtu"]))
    for one in everywhere:
        targets = [address for other in everywhere if other is not one for address in other.addresses]
        unreached = unreached_from(list(one.place.enter), targets, mtu)
        assert unreached == [], f"{one.name} on {one.node}: {_path_of(lab, one.node)}"


def _path_of(lab: Lab, node: str) -> str:
    """What the node's kernel knows of the way, for whom it may concern when a ping is lost."""
    commands = (["ip", "-6", "route"], ["ip", "-6", "neigh"], ["ip", "route"], ["ip", "neigh"])
    return "\n".join(lab.netns_exec(node, command) for command in commands)


def unreached_from(enter: list[str], targets: list[str], mtu: int) -> list[str]:
    """The targets that a ping of exactly the MTU, not to be fragmented, does not reach."""
    pings = [
        f"ping -c1 -W2 -M do -s {mtu - HEADERS[6 if ':' in target else 4]} {target} >/dev/null || echo {target}"
        for target in targets
    ]
    return run([*enter, "sh", "-c", "; ".join(pings)], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("family", [4, 6])
def test_pods_and_the_outside_host_see_each_other_by_their_own_addresses(
    lab: Lab, everywhere: list[Pod], family: int
) -> None:
    one, same_node, same_rack, *_, other_rack = everywhere
    assert one.node == same_node.node
    assert (
        lab.topology.rack_of(one.node) == lab.topology.rack_of(same_rack.node) != lab.topology.rack_of(other_rack.node)
    )
    for other in (same_node.place, same_rack.place, other_rack.place, place_of(lab, "outside")):
        assert source_seen(one.place, other, family) == one.place.address(family)
        assert source_seen(other, one.place, family) == other.address(family)


def test_the_outside_host_reaches_every_pod_at_full_mtu(lab: Lab, everywhere: list[Pod]) -> None:
    outside = ["nsenter", f"--net={lab.netns('outside')}", "--"]
    targets = [address for pod in everywhere for address in pod.addresses]
    assert unreached_from(outside, targets, 1500) == []


@pytest.mark.parametrize("family", [4, 6])
def test_a_packet_crosses_the_fabric_with_the_pods_own_source_and_without_encapsulation(
    lab: Lab, everywhere: list[Pod], family: int
) -> None:
    """Captured on the spine: the very IP packet that the pod sent, two racks apart."""
    one, other = everywhere[0], everywhere[-1]
    source, target = (next(a for a in pod.addresses if (":" in a) == (family == 6)) for pod in (one, other))
    capture = ["nsenter", f"--net={lab.netns('spine')}", "--", "timeout", "10", "tcpdump", "-lni", "any", "-c", "1"]
    expression = ["src", "host", source, "and", "dst", "host", target]
    with Popen([*capture, *expression], stdout=PIPE, stderr=PIPE, text=True) as tcpdump:
        assert tcpdump.stderr is not None
        assert tcpdump.stdout is not None
        for line in tcpdump.stderr:
            if "listening on" in line:
                break
        run([*one.place.enter, "ping", "-c3", "-i", "0.2", "-W1", target], capture_output=True, check=True)
        packet = tcpdump.stdout.readline()
    assert f"{source} > {target}: ICMP" in packet


def test_a_service_answers_by_its_dns_name_from_a_pod_in_both_families(lab: Lab, everywhere: list[Pod]) -> None:
    server = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "server", "labels": {"app": "server"}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "c",
                    "image": TOOLS_IMAGE,
                    "imagePullPolicy": "Never",
                    "command": [
                        "sh",
                        "-c",
                        "mkdir /www; echo hello >/www/index.html; exec httpd -f -p '[::]:80' -h /www",
                    ],
                }
            ],
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "server"},
        "spec": {"ipFamilyPolicy": "RequireDualStack", "selector": {"app": "server"}, "ports": [{"port": 80}]},
    }
    apply(lab, server, service)
    try:
        eventually(lambda: pods(lab, "app=server"), 30, "the server is ready")
        client = next(pod for pod in everywhere if pod.node != pods(lab, "app=server")[0].node)
        for flag in ("-4", "-6"):
            fetch = f"curl {flag} -s -m 3 http://server.default.svc.cluster.local/"
            answer = eventually(
                lambda fetch=fetch: lab.kubectl("exec", client.name, "--", "sh", "-c", f"{fetch} || true").strip(),
                20,
                fetch,
            )
            assert answer == "hello"
    finally:
        lab.kubectl("delete", "pod,service", "server", "--grace-period=0")


def test_exec_and_logs_work(lab: Lab, everywhere: list[Pod]) -> None:
    for pod in everywhere[::2]:
        listed = json.loads(lab.kubectl("exec", pod.name, "--", "ip", "-j", "address", "show", "dev", "eth0"))
        found = [f"{each['local']}/{each['prefixlen']}" for each in listed[0]["addr_info"] if each["scope"] == "global"]
        assert found == [f"{pod.addresses[0]}/32", f"{pod.addresses[1]}/128"]
        assert lab.kubectl("logs", pod.name) == ""
    image = (f"--image={TOOLS_IMAGE}", "--image-pull-policy=Never", "--restart=Never")
    lab.kubectl("run", "talker", *image, "--", "echo", "said")
    try:
        eventually(lambda: said(lab) == "said\n", 30, "the log of the pod talker")
    finally:
        lab.kubectl("delete", "pod", "talker", "--grace-period=0")


def said(lab: Lab) -> str:
    """The log of the pod talker; empty while there is none."""
    try:
        return lab.kubectl("logs", "talker")
    except LabError:
        return ""
