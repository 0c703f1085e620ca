"""When the blocks of a node that was deleted are kept, and when they are free for others."""

import pytest
from cluster_simulation import Simulation, cluster

from controller.api import IPBlock, NodeNetwork
from controller.api.bgpconfiguration import BGPConfiguration, BGPConfigurationSpec, GracePeriods
from controller.api.kubernetes import Node
from controller.api.objects import Metadata
from controller.plan.inventory import Memory


def loses_its_blocks_after(sim: Simulation, seconds: int) -> None:
    """n0 has them until then, and no longer."""
    sim.now += seconds - 1
    sim.settle()
    assert len(sim.blocks("n0")) == 2
    sim.now += 1
    sim.settle()
    assert sim.blocks("n0") == []


def test_a_node_that_comes_back_within_grace_keeps_its_blocks_under_its_new_uid() -> None:
    sim = cluster()
    sim.settle()
    before = sim.blocks("n0")
    sim.remove_node("n0")
    plan = sim.settle()
    assert plan.wake_at == sim.now + 990
    sim.now += 989
    sim.settle()
    assert sim.blocks("n0") == before
    node = sim.add_node("n0", 11)
    sim.settle()
    assert sim.blocks("n0") == before
    assert {b.spec.node.uid for b in sim.all(IPBlock) if b.spec.node.name == "n0"} == {node.metadata.uid}
    assert {g.cidr for g in sim.get(NodeNetwork, "n0").spec.blocks} == set(before)
    (owner,) = sim.get(NodeNetwork, "n0").metadata.owner_references
    assert owner.uid == node.metadata.uid


def test_a_node_that_stays_away_loses_its_blocks_after_the_grace() -> None:
    sim = cluster()
    sim.settle()
    sim.remove_node("n0")
    sim.settle()
    # Its agent may have noticed later: 90 s more than the grace.
    loses_its_blocks_after(sim, 990)
    assert len(sim.blocks("n1")) == 2


def test_the_grace_begins_when_the_nodes_network_is_gone_too_and_that_is_deleted_if_nobody_does_it() -> None:
    sim = cluster()
    sim.settle()
    sim.remove(Node, "n0")
    sim.settle()
    sim.now += 899
    sim.settle()
    assert (NodeNetwork, "n0") in sim.objects
    sim.now += 1
    sim.settle()
    assert (NodeNetwork, "n0") not in sim.objects
    assert len(sim.blocks("n0")) == 2, "its agent only begins to count"
    sim.now += 989
    sim.settle()
    assert len(sim.blocks("n0")) == 2
    sim.now += 1
    sim.settle()
    assert sim.blocks("n0") == []


def configure(sim: Simulation, grace: int) -> None:
    spec = BGPConfigurationSpec(grace_periods=GracePeriods(deleted_node=grace))
    sim.put(BGPConfiguration(metadata=Metadata(name="default"), spec=spec))


def restart_operator(sim: Simulation) -> None:
    sim.memory = Memory(epoch=sim.memory.epoch + "'", unsettled_since=sim.now)


def test_an_operator_that_writes_again_counts_anew_since_the_node_may_have_been_back_meanwhile() -> None:
    sim = cluster()
    sim.settle()
    sim.remove_node("n0")
    sim.settle()
    first = sim.memory
    restart_operator(sim)
    sim.now += 500
    sim.add_node("n0", 11)
    sim.settle()
    sim.remove_node("n0")
    sim.memory = first.next_term("e3", sim.now)
    sim.settle()
    loses_its_blocks_after(sim, 990)


@pytest.mark.parametrize("restarts", [False, True])
def test_a_shorter_grace_counts_only_for_nodes_whose_agent_has_heard_of_it(restarts: bool) -> None:
    sim = cluster()
    sim.settle()
    sim.silent = {"n0"}
    configure(sim, 5)
    sim.settle()
    sim.remove_node("n0")
    sim.remove_node("n1")
    sim.settle()
    if restarts:
        restart_operator(sim)
        sim.settle()
    sim.now += 95
    sim.settle()
    assert (len(sim.blocks("n0")), len(sim.blocks("n1"))) == (2, 0)
    sim.now += 895
    sim.settle()
    assert sim.blocks() == []


def test_a_grace_made_shorter_after_the_node_is_gone_does_not_count_for_it_whoever_looks() -> None:
    sim = cluster()
    sim.settle()
    sim.remove_node("n0")
    sim.settle()
    configure(sim, 0)
    restart_operator(sim)
    sim.settle()
    # Its agent, cut off, goes by what it was told.
    loses_its_blocks_after(sim, 990)


def test_no_node_is_told_of_a_longer_grace_before_all_its_blocks_remember_it() -> None:
    sim = cluster()
    sim.settle()
    configure(sim, 7200)
    seen = []
    while not (plan := sim.look()).is_empty:
        told = sim.get(NodeNetwork, "n0").spec.deleted_node_grace
        seen.append((told, min(b.spec.deleted_node_grace for b in sim.all(IPBlock) if b.spec.node.name == "n0")))
        assert seen[-1][0] <= seen[-1][1], plan
    assert seen[0][0] == 900, "the blocks come first"
    assert seen[-1] == (7200, 7200)


def test_a_block_remembers_a_shorter_grace_once_its_node_goes_by_it() -> None:
    sim = cluster()
    sim.settle()
    sim.silent = {"n0"}
    configure(sim, 5)
    sim.settle()
    graces = {b.spec.node.name: b.spec.deleted_node_grace for b in sim.all(IPBlock)}
    assert graces["n0"] == 900
    assert graces["n1"] == 5
    sim.silent = set()
    sim.settle()
    assert {b.spec.deleted_node_grace for b in sim.all(IPBlock)} == {5}
    assert sim.get(NodeNetwork, "n0").spec.deleted_node_grace == 5


def test_the_grace_of_a_deleted_node_is_configured() -> None:
    sim = cluster()
    configure(sim, 5)
    sim.settle()
    sim.remove_node("n0")
    sim.settle()
    loses_its_blocks_after(sim, 95)
