"""A node loses its power: only its own pods are hurt, its routes go within the hold time, and it has its blocks after."""

import pytest
from faults import HOLD_TIME_S, all_established
from router_tables import node_blocks, pod_table
from traffic import Traffic
from workloads import eventually, pods_on

from controller.lab.cluster import Lab

pytestmark = [pytest.mark.lab, pytest.mark.root]


def held(lab: Lab) -> set[str]:
    """The pod prefixes that any router holds."""
    return {prefix for router in lab.topology.router_names for f in (4, 6) for prefix in pod_table(lab, router, f)}


def is_ready(lab: Lab, node: str) -> bool:
    conditions = lab.get("node", node)["status"].get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def test_a_node_without_power_hurts_nobody_else_and_returns_to_its_blocks(lab: Lab) -> None:
    *others, victim = lab.topology.node_names
    blocks = node_blocks(lab)
    own = {cidr for cidr, owner in blocks.items() if owner == victim}
    eventually(lambda: own <= held(lab), 20, "its blocks are at the routers")
    try:
        with pods_on(lab, [others[0], others[-1]], "power") as (one, other):
            with Traffic([(one.place, other.place)]) as traffic:
                lab.power_off(victim)
                # Nobody is told; a router may have heard the node just before, and then waits for the whole hold time.
                eventually(lambda: not own & held(lab), HOLD_TIME_S + 3, lambda: f"still there: {own & held(lab)}")
            traffic.assert_no_loss()
        assert held(lab) == set(blocks) - own
        eventually(lambda: not is_ready(lab, victim), 60, f"{victim} is not ready")
        assert node_blocks(lab) == blocks, "a node that does not answer keeps its blocks"
    finally:
        lab.power_on(victim)
    eventually(lambda: is_ready(lab, victim), 90, f"{victim} is ready again")
    eventually(lambda: held(lab) == set(blocks), 30, lambda: f"back at the routers: {held(lab)}")
    eventually(lambda: all_established(lab, lab.topology.tor_names), 30, "all sessions are established")
    assert node_blocks(lab) == blocks
    with pods_on(lab, [victim, others[0]], "again") as (back, other):
        with Traffic([(back.place, other.place)]) as traffic:
            pass
        assert not traffic.errors
        assert all(direction.received for direction in traffic.directions)
