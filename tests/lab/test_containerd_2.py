"""The same lab on containerd 2, which reads configuration lists and chooses a version of them in ways of its own."""

import os
import subprocess
from collections.abc import Iterator

import pytest
from host_state import need_root
from parts import component_pods, part_pid
from router_tables import node_blocks, pod_table
from test_runtime import hold_rates, reach_host_port, runtime_versions, serving
from workloads import Pod, eventually, pods_on

from controller.lab.cluster import Lab
from controller.lab.podroute import MANIFESTS, NAMESPACE, ROOT

pytestmark = [pytest.mark.lab, pytest.mark.root]


@pytest.fixture(scope="module")
def newer_lab() -> Iterator[Lab]:
    """Two nodes in two racks."""
    need_root()
    if name := os.environ.get("PODROUTE_NEWER_LAB"):
        yield Lab.find(name)
        return
    lab = Lab.up(f"c{os.getpid()}", nodes=2, racks=2, containerd="2", report=print)
    yield lab
    lab.down()


def test_every_kubelet_speaks_to_containerd_2(newer_lab: Lab) -> None:
    assert all(version.startswith("2.") for version in runtime_versions(newer_lab)), runtime_versions(newer_lab)


def test_pods_start_reach_each_other_and_leave_their_addresses(newer_lab: Lab) -> None:
    lab = newer_lab
    with pods_on(lab, list(lab.topology.node_names), "newer") as (one, other):
        for address in other.addresses:
            subprocess.run([*one.place.enter, "ping", "-c1", "-W2", address], check=True, capture_output=True)
        for tor in lab.topology.tor_names:
            tables = {prefix for family in (4, 6) for prefix in pod_table(lab, tor, family)}
            assert tables == set(node_blocks(lab))
        names = [one, other]

    def left() -> list[str]:
        return [each.name for each in names if each.uid in lab.netns_exec(each.node, ["ip", "link"])]

    eventually(lambda: not left(), 10, lambda: f"veths are left: {left()}")


@pytest.fixture(scope="module")
def served(newer_lab: Lab) -> Iterator[Pod]:
    with serving(newer_lab) as pod:
        yield pod


@pytest.mark.parametrize("family", [4, 6])
def test_the_chained_portmap_and_bandwidth_plugins_work(newer_lab: Lab, served: Pod, family: int) -> None:
    reach_host_port(newer_lab, served, family)
    hold_rates(newer_lab, served, family)


def test_a_node_stays_ready_while_its_agent_is_away_and_starts_pods_afterwards(newer_lab: Lab) -> None:
    lab, node = newer_lab, newer_lab.topology.node_names[0]
    heartbeats: dict[str, str] = {}

    def beats() -> bool:
        conditions = lab.get("node", node)["status"]["conditions"]
        (ready,) = (each for each in conditions if each["type"] == "Ready")
        heartbeats[ready["lastHeartbeatTime"]] = ready["status"]
        return len(heartbeats) > 3

    daemons = ("-n", NAMESPACE, "daemonset", "podroute-agent")
    # Otherwise the policy that guards podroute would refuse it.
    lab.kubectl("label", *daemons, "app.kubernetes.io/part-of-")
    try:
        lab.kubectl("delete", *daemons, "--cascade=orphan")
        (agent,) = (pod for pod in component_pods(lab, "agent") if pod["spec"]["nodeName"] == node)
        lab.kubectl("delete", "pod", "-n", NAMESPACE, agent["metadata"]["name"])
        # Whatever containerd asks meanwhile: without the agent it must not find the network gone.
        eventually(beats, 60, lambda: f"the kubelet reports, and again: {heartbeats}")
        assert part_pid(lab, node, "agent") is None
    finally:
        lab.kubectl("apply", "-k", str(ROOT / MANIFESTS))
    assert set(heartbeats.values()) == {"True"}
    with pods_on(lab, [node], "after") as (pod,):
        assert len(pod.addresses) == 2
