"""The same lab on containerd 2, which reads configuration lists and chooses a version of them in ways of its own."""

import os
import subprocess
from collections.abc import Iterator

import pytest
from faults import start_again
from host_state import need_root
from router_tables import node_blocks, pod_table
from workloads import eventually, pods_on

from controller.lab.cluster import Lab

pytestmark = [pytest.mark.lab, pytest.mark.root]


@pytest.fixture(scope="module")
def newer_lab() -> Iterator[Lab]:
    """Two nodes in two racks."""
    need_root()
    if name := os.environ.get("PODROUTE_NEWER_LAB"):
        yield Lab.find(name)
        return
    lab = Lab.up(f"c{os.getpid()}", nodes=2, racks=2, containerd="2", processes=True, report=print)
    yield lab
    lab.down()


def test_every_kubelet_speaks_to_containerd_2(newer_lab: Lab) -> None:
    runtimes = {n["status"]["nodeInfo"]["containerRuntimeVersion"] for n in newer_lab.get("nodes")["items"]}
    assert {runtime.rpartition("/")[2].lstrip("v").partition(".")[0] for runtime in runtimes} == {"2"}


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


def test_a_node_stays_ready_while_its_agent_is_away_and_starts_pods_afterwards(newer_lab: Lab) -> None:
    lab, node = newer_lab, newer_lab.topology.node_names[0]
    heartbeats: dict[str, str] = {}

    def beats() -> bool:
        conditions = lab.get("node", node)["status"]["conditions"]
        (ready,) = (each for each in conditions if each["type"] == "Ready")
        heartbeats[ready["lastHeartbeatTime"]] = ready["status"]
        return len(heartbeats) > 3

    lab.machine(node).stop("agent")
    try:
        # Whatever containerd asks meanwhile: without the agent it must not find the network gone.
        eventually(beats, 60, lambda: f"the kubelet reports, and again: {heartbeats}")
    finally:
        start_again(lab, node, "agent")
    assert set(heartbeats.values()) == {"True"}
    with pods_on(lab, [node], "after") as (pod,):
        assert len(pod.addresses) == 2
