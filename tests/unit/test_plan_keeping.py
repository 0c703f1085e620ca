"""An object that does not decode is not an object that is gone: what stands on it stays as it was."""

import pytest
from cluster_simulation import Simulation

from controller.api import IPBlock, IPPool, NodeNetwork
from controller.api.bgpconfiguration import BGPConfiguration, BGPConfigurationSpec
from controller.api.bgppeer import BGPPeer, BGPPeerSpec
from controller.api.clusternetwork import ClusterNetwork
from controller.api.ipblock import block_name, network_of_name
from controller.api.kubernetes import Namespace, Node
from controller.api.objects import LabelSelector, Metadata, Resource
from controller.plan.inventory import Memory


def settled_cluster() -> Simulation:
    sim = Simulation()
    for number, name in enumerate(("n0", "n1", "n2")):
        sim.add_node(name, 11 + number, rack=f"r{number % 2}")
    sim.add_pool("v4", "10.244.0.0/16")
    sim.add_pool("own", "10.245.0.0/16", namespace_selector=LabelSelector(match_labels={"team": "a"}))
    sim.put(Namespace(metadata=Metadata(name="team-a", labels={"team": "a"})))
    spec = BGPConfigurationSpec(as_number=65100, node_mesh="Disabled", metrics_clients=("10.245.0.0/16",))
    sim.put(BGPConfiguration(metadata=Metadata(name="default"), spec=spec))
    router = BGPPeerSpec(address="10.10.0.1", as_number=65001, node_selector=LabelSelector(match_labels={"rack": "r0"}))
    sim.put(BGPPeer(metadata=Metadata(name="tor"), spec=router))
    between = BGPPeerSpec(peer_selector=LabelSelector(match_labels={"rack": "r1"}))
    sim.put(BGPPeer(metadata=Metadata(name="nodes"), spec=between))
    sim.settle()
    return sim


def restart(sim: Simulation) -> None:
    sim.memory = Memory(epoch="e2", unsettled_since=sim.now)


def state(sim: Simulation) -> object:
    specs = {
        n.metadata.name: (n.spec.blocks, n.spec.sessions, n.spec.as_number, n.spec.mesh) for n in sim.all(NodeNetwork)
    }
    blocks = {b.metadata.name: (b.metadata.uid, b.spec) for b in sim.all(IPBlock)}
    finalizers = {p.metadata.name: p.metadata.finalizers for p in sim.all(IPPool)}
    return specs, blocks, finalizers, sim.get(ClusterNetwork, "default").spec


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (IPPool, "v4"),
        (IPPool, "own"),
        (Node, "n0"),
        (Node, "n1"),
        (IPBlock, "10-244-0-0-26"),
        (NodeNetwork, "n0"),
        (ClusterNetwork, "default"),
        (BGPPeer, "tor"),
        (BGPPeer, "nodes"),
        (BGPConfiguration, "default"),
    ],
    ids=lambda each: getattr(each, "__name__", each),
)
def test_what_stands_on_an_object_that_can_not_be_read_stays(kind: type[Resource], name: str) -> None:
    sim = settled_cluster()
    before = state(sim)
    restart(sim)
    sim.unread = {(kind, name)}
    for _ in range(4):
        for _ in range(5):
            sim.look()
            sim.answer()
        sim.now += 1000
    assert state(sim) == before
    sim.unread = set()
    sim.settle()
    assert state(sim) == before


def test_a_pool_that_can_not_be_read_any_more_is_granted_from_as_before_and_not_written() -> None:
    sim = settled_cluster()
    pool = sim.get(IPPool, "v4")
    sim.spoiled = {(IPPool, "v4")}
    sim.add_node("n9", 19)
    sim.settle()
    assert sim.blocks("n9", "v4")
    assert sim.get(IPPool, "v4") is pool
    assert sim.condition(IPPool, "own", "Accepted")[0] == "True"
    sim.spoiled = set()
    sim.settle()
    assert sim.get(IPPool, "v4").status.nodes == pool.status.nodes + 1


def test_a_node_whose_object_can_not_be_read_any_more_is_told_nothing_new_and_the_others_are() -> None:
    sim = settled_cluster()
    before = sim.get(NodeNetwork, "n0").spec
    sim.spoiled = {(NodeNetwork, "n0")}
    spec = BGPConfigurationSpec(as_number=65100, node_mesh="Disabled", hold_time=30)
    sim.put(BGPConfiguration(metadata=Metadata(name="default"), spec=spec))
    sim.settle()
    assert sim.get(NodeNetwork, "n0").spec == before
    assert sim.get(NodeNetwork, "n1").spec.hold_time == 30
    sim.spoiled = set()
    sim.settle()
    assert sim.get(NodeNetwork, "n0").spec.hold_time == 30


def test_a_pool_being_deleted_keeps_its_finalizer_while_a_block_can_not_be_read() -> None:
    sim = settled_cluster()
    for block in [b for b in sim.all(IPBlock) if b.spec.pool == "v4"][1:]:
        sim.remove(IPBlock, block.metadata.name)
    (last,) = (b.metadata.name for b in sim.all(IPBlock) if b.spec.pool == "v4")
    for network in sim.all(NodeNetwork):
        sim.remove(NodeNetwork, network.metadata.name)
    restart(sim)
    sim.unread = {(IPBlock, last)}
    sim.delete_pool("v4")
    for _ in range(5):
        sim.look()
        sim.answer()
    assert sim.get(IPPool, "v4").metadata.finalizers == ("podroute.dev/blocks",)


def test_no_block_is_granted_over_one_that_can_not_be_read_nor_a_pool_accepted_over_one() -> None:
    sim = settled_cluster()
    network = sim.get(NodeNetwork, "n0")
    name = block_name(network.spec.blocks[0].cidr)
    sim.unread = {(IPBlock, name), (IPPool, "own")}
    sim.remove_node("n0")
    sim.add_node("n9", 19)
    sim.add_pool("over", "10.245.8.0/24")
    for _ in range(8):
        sim.look()
        sim.answer()
    assert network.spec.blocks[0].cidr not in {b.spec.cidr for b in sim.all(IPBlock) if b.spec.node.name == "n9"}
    assert sim.blocks("n9", "v4")
    assert sim.condition(IPPool, "over", "Accepted")[:2] == ("False", "OverlapsPool")


@pytest.mark.parametrize("cidr", ["10.244.0.64/26", "2001:db8::40/122", "10.0.0.1/32", "fd00::/116"])
def test_a_blocks_name_says_its_network(cidr: str) -> None:
    assert str(network_of_name(block_name(cidr))) == cidr


@pytest.mark.parametrize("name", ["x", "10-244-0-0", "10-244-0-0-99", "a-b-c-d-26", ""])
def test_another_name_says_none(name: str) -> None:
    assert network_of_name(name) is None
