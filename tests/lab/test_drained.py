"""A node leaves as the handbook says: drained, switched off, deleted. Others get its addresses; later it may join again."""

from collections.abc import Iterator

import pytest
from faults import HOLD_TIME_S, all_established
from oracle import wrong
from refused_inputs import body
from router_tables import node_blocks
from test_node_changes import blocks_of
from test_power import held, is_ready
from traffic import Traffic
from workloads import apply, deployment_manifest, eventually, pods, pods_on

from controller.lab.cluster import Lab
from controller.lab.node import node_object
from controller.plan.inventory import RECLAIM_MARGIN

# A short form, without drain and power, is test_outlived.
pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.soak, pytest.mark.timeout(500)]

REPLICAS = 8


@pytest.fixture
def workload(installed_lab: Lab) -> Iterator[None]:
    """A Deployment over all nodes, and no grace for deleted Nodes beyond what their agents need."""
    lab = installed_lab
    apply(
        lab,
        body("BGPConfiguration", "default", gracePeriods={"deletedNode": 0}),
        deployment_manifest("moved", REPLICAS),
    )
    eventually(lambda: len(pods(lab, "app=moved")) == REPLICAS, 60, "the Deployment is ready")
    yield
    lab.kubectl("delete", "deployment", "moved", "--wait=true")
    lab.kubectl("delete", "bgpconfiguration", "default")


def drain(lab: Lab, node: str) -> None:
    lab.kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=100s", seconds=120)


def granted_of(lab: Lab) -> dict[str, int]:
    """Blocks granted, by pool, as each pool's status tells."""
    return {pool["metadata"]["name"]: pool["status"].get("blocks", 0) for pool in lab.get("ippools")["items"]}


def test_a_drained_and_deleted_nodes_blocks_are_free_again_and_the_node_may_return(
    installed_lab: Lab, workload: None
) -> None:
    lab = installed_lab
    *others, victim = lab.topology.node_names
    kept = {cidr: owner for cidr, owner in node_blocks(lab).items() if owner != victim}
    own = blocks_of(lab, victim)
    assert own
    assert own <= held(lab)
    with pods_on(lab, [others[0], others[-1]], "drained") as (one, other), Traffic([(one.place, other.place)]) as probe:
        drain(lab, victim)
        eventually(
            lambda: len(pods(lab, "app=moved")) == REPLICAS, 60, lambda: lab.kubectl("get", "pods", "-o", "wide")
        )
        assert victim not in {pod.node for pod in pods(lab, "app=moved")}
        assert own <= held(lab), "a drained node is a node like others"
        lab.power_off(victim)
        lab.kubectl("delete", "node", victim)
        eventually(lambda: not own & held(lab), HOLD_TIME_S + 3, lambda: f"still there: {own & held(lab)}")
        assert own <= set(node_blocks(lab)), "nobody gets them before an agent that still runs must know"
        eventually(lambda: node_blocks(lab) == kept, RECLAIM_MARGIN + 60, lambda: f"{node_blocks(lab)} as {kept}")
        counts = {"pods-v4": sum(":" not in cidr for cidr in kept), "pods-v6": sum(":" in cidr for cidr in kept)}
        eventually(lambda: granted_of(lab) == counts, 10, lambda: f"{granted_of(lab)} as {counts}")
    probe.assert_no_loss()
    lab.power_on(victim)
    apply(lab, node_object(victim, lab.topology, "podroute"))
    eventually(lambda: is_ready(lab, victim), 90, lambda: lab.kubectl("describe", "node", victim)[-3000:])
    eventually(lambda: blocks_of(lab, victim), 40, "it has blocks again")
    eventually(lambda: set(node_blocks(lab)) == held(lab), 40, lambda: f"{held(lab)} as {node_blocks(lab)}")
    eventually(lambda: all_established(lab, lab.topology.tor_names), 30, "all sessions are established")
    with pods_on(lab, [victim, others[0]], "returned") as (back, other):
        with Traffic([(back.place, other.place)]) as again:
            pass
        assert not again.errors
        assert all(direction.received for direction in again.directions)
    assert wrong(lab) == set()
