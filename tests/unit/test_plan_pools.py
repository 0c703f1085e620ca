"""Which pools are accepted, and what nodes and namespaces they come to."""

from typing import Any

import msgspec
import pytest
from cluster_simulation import Simulation, with_metadata

from controller.api import BGPPeer, ClusterNetwork, IPPool, IPReservation, NodeNetwork
from controller.api.bgppeer import BGPPeerSpec
from controller.api.kubernetes import Namespace, ServiceCIDR, ServiceCIDRSpec
from controller.api.objects import LabelSelector, Metadata


def test_of_two_overlapping_pools_the_older_is_accepted() -> None:
    sim = Simulation()
    sim.add_node("n0", 11)
    sim.add_pool("older", "10.244.0.0/16")
    sim.add_pool("younger", "10.244.128.0/20")
    sim.add_pool("beside", "10.245.0.0/16")
    sim.settle()
    assert sim.condition(IPPool, "older", "Accepted")[0] == "True"
    status, reason, message = sim.condition(IPPool, "younger", "Accepted")
    assert (status, reason) == ("False", "OverlapsPool")
    assert "spec.cidr 10.244.128.0/20 overlaps 10.244.0.0/16 of IPPool older" in message
    assert "delete this pool" in message
    assert sim.condition(IPPool, "beside", "Accepted")[0] == "True"
    assert sim.blocks(pool="younger") == []


def test_a_refused_pool_is_accepted_once_the_older_one_is_gone() -> None:
    sim = Simulation()
    sim.add_node("n0", 11)
    sim.add_pool("older", "10.244.0.0/16")
    sim.add_pool("younger", "10.244.128.0/20")
    sim.settle()
    sim.delete_pool("older")
    sim.settle()
    assert sim.blocks(pool="younger")
    assert sim.blocks(pool="older") == []


def test_a_pool_that_holds_blocks_never_loses_to_one_that_has_none() -> None:
    sim = Simulation()
    sim.add_node("n0", 11)
    sim.add_pool("granted", "10.244.0.0/16")
    sim.settle()
    early = sim.add_pool("early", "10.244.0.0/20")
    sim.objects[IPPool, "early"] = with_metadata(early, creation_timestamp="2020-01-01T00:00:00Z")
    sim.settle()
    assert sim.condition(IPPool, "granted", "Accepted")[0] == "True"
    assert sim.condition(IPPool, "early", "Accepted")[0] == "False"


def test_a_pool_must_contain_no_node_address_and_no_service_range() -> None:
    sim = Simulation()
    sim.add_node("n0", 11)
    sim.put(
        ServiceCIDR(metadata=Metadata(name="kubernetes"), spec=ServiceCIDRSpec(("10.96.0.0/16", "fd00:10:96::/112")))
    )
    sim.add_pool("around-node", "10.10.0.0/24")
    sim.add_pool("beside-node", "10.10.1.0/24")
    sim.add_pool("in-services", "10.96.128.0/20")
    sim.add_pool("around-services6", "fd00:10:96::/64")
    sim.settle()
    assert sim.condition(IPPool, "around-node", "Accepted")[1] == "OverlapsNodeAddress"
    assert "contains 10.10.0.11 of Node n0" in sim.condition(IPPool, "around-node", "Accepted")[2]
    assert sim.condition(IPPool, "beside-node", "Accepted")[1] == "Accepted"
    assert sim.condition(IPPool, "in-services", "Accepted")[1] == "OverlapsServiceRange"
    assert sim.condition(IPPool, "around-services6", "Accepted")[1] == "OverlapsServiceRange"


def test_a_pool_in_which_a_node_appears_later_keeps_what_it_granted() -> None:
    sim = Simulation()
    sim.add_node("n0", 11)
    sim.add_pool("v4", "10.10.0.0/16", node_selector=None, headroom=1)
    sim.remove_node("n0")
    sim.put(with_metadata(sim.add_node("n1", 12, families="6"), labels={}))
    sim.settle()
    pool = sim.add_pool("p", "10.200.0.0/16", headroom=1)
    sim.add_node("n2", 13)
    sim.settle()
    before = sim.blocks(pool=pool.metadata.name)
    assert before
    node = sim.add_node("n3", 14, families="")
    status = msgspec.structs.replace(
        node.status, addresses=(type(sim.get(type(node), "n2").status.addresses[0])("InternalIP", "10.200.0.9"),)
    )
    sim.put(msgspec.structs.replace(node, status=status))
    sim.settle()
    assert sim.condition(IPPool, "p", "Accepted")[:2] == ("False", "OverlapsNodeAddress")
    assert sim.blocks(pool="p") == before
    assert "p" in {pool.name for pool in sim.get(ClusterNetwork, "default").spec.pools}


def test_a_node_selector_that_matches_nothing_says_so() -> None:
    sim = Simulation()
    sim.add_node("n0", 11, rack="r0")
    sim.add_pool("r0", "10.244.0.0/17", node_selector=LabelSelector(match_labels={"rack": "r0"}))
    sim.add_pool("r9", "10.244.128.0/17", node_selector=LabelSelector(match_labels={"rack": "r9"}))
    sim.settle()
    assert sim.condition(IPPool, "r0", "NodesServed")[0] == "True"
    assert sim.condition(IPPool, "r9", "NodesServed")[:2] == ("False", "NoNodeSelected")


def test_namespaces_with_pools_of_their_own_are_told_to_every_node() -> None:
    sim = Simulation()
    sim.add_node("n0", 11)
    sim.put(Namespace(metadata=Metadata(name="red", labels={"team": "red"})))
    sim.put(Namespace(metadata=Metadata(name="blue", labels={"team": "blue"})))
    sim.add_pool("all", "10.244.0.0/17", nat_outgoing=True)
    sim.add_pool("red", "10.244.128.0/17", namespace_selector=LabelSelector(match_labels={"team": "red"}))
    sim.settle()
    cluster = sim.get(ClusterNetwork, "default").spec
    assert cluster.namespaces == {"red": ("red",)}
    flags = {pool.name: (pool.selected, pool.nat_outgoing) for pool in cluster.pools}
    assert flags == {"all": (False, True), "red": (True, False)}


def test_a_reservation_outside_every_pool_says_so() -> None:
    sim = Simulation()
    sim.add_pool("v4", "10.244.0.0/16")
    sim.reserve("inside", "10.244.1.1/32")
    sim.reserve("outside", "10.245.1.1/32")
    sim.settle()
    assert sim.condition(IPReservation, "inside", "Accepted")[0] == "True"
    status, reason, message = sim.condition(IPReservation, "outside", "Accepted")
    assert (status, reason) == ("False", "OutsidePools")
    assert "10.245.1.1/32" in message


def test_totals_count_blocks_nodes_and_addresses() -> None:
    sim = Simulation()
    sim.add_node("n0", 11)
    sim.add_node("n1", 12)
    sim.add_pool("v6", "fd00:10:244::/56")
    sim.settle()
    sim.in_use = {sim.blocks("n0")[0]: 3, sim.blocks("n1")[0]: 4}
    sim.settle()
    status = sim.get(IPPool, "v6").status
    assert (status.blocks, status.nodes, status.in_use, status.usage) == (4, 2, 7, "4/2^66")
    assert status.total_blocks == 2**63 - 1


def test_identifiers_of_nodes_without_ipv4_are_derived_fixed_and_distinct() -> None:
    sim = Simulation()
    for number in range(40):
        sim.add_node(f"n{number}", 11 + number, families="6")
    sim.add_node("both", 99)
    sim.settle()
    identifiers = {n.metadata.name: n.spec.router_id for n in sim.all(NodeNetwork)}
    assert identifiers["both"] == "10.10.0.99"
    assert len(set(identifiers.values())) == 41
    assert "0.0.0.0" not in identifiers.values()
    again = Simulation()
    again.add_node("n7", 18, families="6")
    again.settle()
    assert again.get(NodeNetwork, "n7").spec.router_id == identifiers["n7"]


def test_a_pool_must_not_contain_the_address_of_an_older_peer() -> None:
    sim = Simulation()
    sim.add_node("n0", 11)
    sim.put(BGPPeer(metadata=Metadata(name="tor"), spec=BGPPeerSpec(address="10.99.0.1", as_number=65001)))
    sim.add_pool("around", "10.99.0.0/16")
    sim.add_pool("beside", "10.98.0.0/16")
    sim.settle()
    status, reason, message = sim.condition(IPPool, "around", "Accepted")
    assert (status, reason) == ("False", "OverlapsPeerAddress")
    assert "spec.cidr 10.99.0.0/16 contains 10.99.0.1 of BGPPeer tor" in message
    assert sim.blocks(pool="around") == []
    assert sim.blocks(pool="beside")


def test_a_pool_that_serves_loses_nothing_by_a_later_peer() -> None:
    sim = Simulation()
    sim.add_node("n0", 11)
    sim.add_pool("around", "10.99.0.0/16")
    sim.settle()
    sim.put(BGPPeer(metadata=Metadata(name="tor"), spec=BGPPeerSpec(address="10.99.0.1", as_number=65001)))
    sim.settle()
    assert sim.condition(IPPool, "around", "Accepted")[0] == "True"


def replaced(cidr: str, **spec: Any) -> Simulation:
    """A pool that vanished with its blocks granted and used, and another one of its name."""
    sim = Simulation()
    sim.add_node("n0", 11)
    sim.add_pool("p", "10.244.0.0/16", headroom=4)
    sim.waiting["n0", "p"] = 1
    sim.settle()
    sim.in_use["10.244.0.0/26"] = 1
    sim.remove(IPPool, "p")
    sim.settle()
    assert sim.blocks(state="Releasing") == ["10.244.0.0/26"]
    sim.add_pool("p", cidr, headroom=4, **spec)
    sim.settle()
    return sim


@pytest.mark.parametrize(("cidr", "spec"), [("10.250.0.0/16", {}), ("10.244.0.0/16", {"block_size": 28})])
def test_blocks_of_a_deleted_pool_do_not_join_another_of_its_name(cidr: str, spec: dict[str, Any]) -> None:
    sim = replaced(cidr, **spec)
    assert sim.blocks(state="Releasing") == ["10.244.0.0/26"], "in use, so it stays, and goes once it is empty"
    (fresh,) = sim.blocks(state="Active")
    assert fresh != "10.244.0.0/26"
    sim.in_use.clear()
    sim.settle()
    assert sim.blocks() == [fresh]


def test_a_pool_that_is_applied_again_as_it_was_takes_its_blocks_over() -> None:
    assert replaced("10.244.0.0/16").blocks(state="Active") == ["10.244.0.0/26"]


def test_blocks_of_a_namesake_do_not_let_a_younger_pool_win() -> None:
    sim = replaced("10.250.0.0/16")
    early = sim.add_pool("early", "10.251.0.0/16")
    sim.objects[IPPool, "early"] = with_metadata(early, creation_timestamp="2020-01-01T00:00:00Z")
    sim.settle()
    sim.remove(IPPool, "p")
    sim.add_pool("p", "10.251.0.0/20", headroom=4)
    sim.settle()
    assert sim.condition(IPPool, "p", "Accepted")[:2] == ("False", "OverlapsPool")
    assert "10.251.0.0/20" not in {pool.cidr for pool in sim.get(ClusterNetwork, "default").spec.pools}


@pytest.mark.parametrize(
    "cidr",
    ["0.0.0.0/8", "127.5.0.0/16", "126.0.0.0/7", "169.254.0.0/24", "224.0.0.0/4", "::/112", "fe80::/64", "ff02::/56"],
)
def test_a_pool_of_which_no_pod_can_have_an_address_is_not_accepted(cidr: str) -> None:
    sim = Simulation()
    sim.add_node("n0", 11)
    sim.add_pool("special", cidr)
    sim.settle()
    status, reason, message = sim.condition(IPPool, "special", "Accepted")
    assert (status, reason) == ("False", "SpecialRange")
    assert cidr in message
    assert sim.blocks() == []
