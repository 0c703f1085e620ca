"""A deleted Node says that its blocks may go in time; the sessions of its machine, which may run on, stay so long."""

import msgspec
import pytest
from cluster_simulation import Simulation

from controller.api import NodeNetwork
from controller.api.bgpconfiguration import BGPConfiguration, BGPConfigurationSpec
from controller.api.bgppeer import BGPPeer, BGPPeerSpec
from controller.api.clusternetwork import ClusterNetwork
from controller.api.kubernetes import Node, NodeAddress
from controller.api.objects import LabelSelector, Metadata

ADDRESSES = ("10.10.0.12", "fd00:10:10::12")


def configure(sim: Simulation, spec: BGPConfigurationSpec) -> None:
    sim.put(BGPConfiguration(metadata=Metadata(name="default"), spec=spec))


@pytest.fixture
def sim() -> Simulation:
    """Three nodes in the mesh, which have blocks; n0 and n1 have a session by a BGPPeer, too."""
    made = Simulation()
    for number in range(3):
        made.add_node(f"n{number}", 11 + number, rack=f"r{number}")
    made.add_pool("v4", "10.244.0.0/16")
    configure(made, BGPConfigurationSpec(node_mesh="Enabled"))
    one, other = (LabelSelector(match_labels={"rack": rack}) for rack in ("r0", "r1"))
    made.put(BGPPeer(metadata=Metadata(name="pair"), spec=BGPPeerSpec(node_selector=one, peer_selector=other)))
    made.settle()
    return made


def mesh(sim: Simulation) -> dict[str, tuple[str, ...]]:
    return {member.node: member.addresses for member in sim.get(ClusterNetwork, "default").spec.mesh}


def node_addresses(sim: Simulation) -> set[str]:
    return set(sim.get(ClusterNetwork, "default").spec.node_addresses)


def towards_n1(sim: Simulation) -> set[str]:
    return {each.address for each in sim.get(NodeNetwork, "n0").spec.sessions if each.node == "n1"}


def delete(sim: Simulation) -> None:
    """As `kubectl delete node` and the garbage collector do."""
    sim.remove(Node, "n1")
    sim.settle()
    sim.remove(NodeNetwork, "n1")
    sim.settle()


def test_a_deleted_node_stays_in_the_mesh_until_it_has_reported_again(sim: Simulation) -> None:
    before, sessions = mesh(sim), towards_n1(sim)
    assert before["n1"] == ADDRESSES
    assert sessions == set(ADDRESSES)
    delete(sim)
    assert (mesh(sim), towards_n1(sim)) == (before, sessions)
    assert node_addresses(sim) >= set(ADDRESSES)
    sim.add_node("n1", 12, families="", rack="r1")
    sim.settle()
    assert (mesh(sim), towards_n1(sim)) == (before, sessions)
    status = msgspec.structs.replace(sim.get(Node, "n1").status, addresses=(NodeAddress("InternalIP", "10.10.0.22"),))
    sim.put(msgspec.structs.replace(sim.get(Node, "n1"), status=status))
    sim.settle()
    assert mesh(sim)["n1"] == ("10.10.0.22",)
    assert towards_n1(sim) == {"10.10.0.22"}


def test_a_node_that_stays_away_leaves_the_mesh_with_its_blocks(sim: Simulation) -> None:
    delete(sim)
    sim.now += 2000
    sim.settle()
    assert sim.blocks("n1") == []
    assert set(mesh(sim)) == {"n0", "n2"}
    assert node_addresses(sim).isdisjoint(ADDRESSES)
    assert towards_n1(sim) == set()


def test_what_no_longer_holds_for_any_node_holds_for_none_that_is_away(sim: Simulation) -> None:
    delete(sim)
    sim.remove(BGPPeer, "pair")
    configure(sim, BGPConfigurationSpec(node_mesh="Enabled", as_number=65100))
    sim.settle()
    assert towards_n1(sim) == set()
    assert {member.as_number for member in sim.get(ClusterNetwork, "default").spec.mesh} == {65100}
    configure(sim, BGPConfigurationSpec(node_mesh="Disabled"))
    sim.settle()
    assert mesh(sim) == {}


def test_its_addresses_are_a_nodes_addresses_still_without_a_mesh(sim: Simulation) -> None:
    configure(sim, BGPConfigurationSpec(node_mesh="Disabled"))
    sim.settle()
    delete(sim)
    assert mesh(sim) == {}
    assert node_addresses(sim) >= set(ADDRESSES)
    sim.now += 2000
    sim.settle()
    assert node_addresses(sim).isdisjoint(ADDRESSES)


def test_an_address_that_another_node_has_now_is_that_nodes_alone(sim: Simulation) -> None:
    delete(sim)
    sim.add_node("n9", 12, rack="r9")
    sim.settle()
    assert mesh(sim)["n9"] == ADDRESSES
    assert "n1" not in mesh(sim)
