"""Which blocks nodes get, keep and are asked to give back."""

from dataclasses import replace

import msgspec
from cluster_simulation import Simulation, cluster, with_metadata

from controller.api import ClusterNetwork, IPBlock, IPPool, NodeNetwork
from controller.api.ipblock import NodeReference
from controller.api.kubernetes import Node
from controller.api.nodenetwork import NodeNetworkSpec, NodeNetworkStatus
from controller.api.objects import LabelSelector, Metadata
from controller.plan.freeblocks import FreeBlocks
from controller.plan.operator import silent_nodes


def test_every_node_gets_enough_blocks_of_each_family_for_its_allocatable_pods() -> None:
    sim = cluster()
    sim.add_pool("v6", "fd00:10:244::/56")
    sim.settle()
    assert sim.blocks("n0", "v4") == ["10.244.0.0/26", "10.244.0.128/26"]
    assert len(sim.blocks("n1", "v6")) == 2
    assert {g.cidr for g in sim.get(NodeNetwork, "n0").spec.blocks} == set(sim.blocks("n0"))


def test_a_headroom_counts_free_addresses_beyond_those_in_use() -> None:
    sim = cluster(1, headroom=10)
    sim.settle()
    assert sim.blocks() == ["10.244.0.0/26"]
    sim.in_use["10.244.0.0/26"] = 54
    sim.settle()
    assert len(sim.blocks()) == 1, "54 + 10 fit"
    sim.in_use["10.244.0.0/26"] = 55
    sim.settle()
    assert len(sim.blocks()) == 2


def test_waiting_pods_count_as_demand() -> None:
    sim = cluster(1, headroom=0)
    sim.settle()
    assert sim.blocks() == []
    sim.waiting["n0", "v4"] = 1
    sim.settle()
    assert len(sim.blocks()) == 1


def test_nothing_is_granted_before_every_ready_nodes_agent_has_spoken() -> None:
    sim = cluster()
    sim.silent = {"n1"}
    for _ in range(5):
        sim.look()
        sim.answer()
    assert sim.blocks() == []
    assert sim.condition(IPPool, "v4", "Available")[1] == "NotSettled"
    sim.silent = set()
    sim.settle()
    assert len(sim.blocks()) == 4


def test_nodes_whose_blocks_change_are_told_before_those_that_are_told_an_epoch_alone() -> None:
    sim = cluster(3, headroom=0)
    sim.settle()
    sim.waiting["n2", "v4"] = 1
    sim.answer()
    assert [type(each) for each in sim.look().creates] == [IPBlock]
    sim.memory = replace(sim.memory, epoch="e2")
    told = [each.metadata.name for each in sim.look().updates if isinstance(each, NodeNetwork)]
    assert told == ["n2", "n0", "n1"]


def test_a_silent_agent_holds_up_grants_for_the_settle_time_only() -> None:
    sim = cluster()
    sim.silent = {"n1"}
    for _ in range(5):
        plan = sim.look()
        sim.answer()
    assert plan.wake_at == sim.now + 60
    sim.now += 60
    sim.settle()
    assert len(sim.blocks("n1")) == 2


def not_ready(sim: Simulation, name: str) -> None:
    """The node's kubelet and agent say nothing."""
    node = sim.get(Node, name)
    sim.put(msgspec.structs.replace(node, status=msgspec.structs.replace(node.status, conditions=())))
    sim.silent = {name}


def test_a_node_that_is_not_ready_holds_up_nothing_if_it_was_heard_before() -> None:
    sim = cluster()
    status = NodeNetworkStatus(epoch="of another term")
    spec = NodeNetworkSpec(node=NodeReference(name="n1"))
    sim.put(NodeNetwork(metadata=Metadata(name="n1"), spec=spec, status=status))
    not_ready(sim, "n1")
    sim.settle()
    assert len(sim.blocks()) == 4


def test_a_node_that_is_not_ready_and_was_never_heard_is_waited_for() -> None:
    """podroute is installed anew over pods that run: nobody knows their addresses yet."""
    sim = cluster()
    not_ready(sim, "n1")
    assert silent_nodes(sim.inventory(), sim.memory.epoch) == ("n0", "n1")
    for _ in range(5):
        sim.look()
        sim.answer()
    assert sim.blocks() == []
    # Without them this would be the first node's.
    sim.pods_in["n1"] = {"10.244.0.0/26"}
    sim.silent = set()
    sim.settle()
    assert "10.244.0.0/26" in sim.blocks("n1")


def test_a_pool_is_granted_from_only_after_acceptance_was_written_and_listed_again() -> None:
    sim = cluster()
    sim.settle()
    sim.add_pool("other", "10.245.0.0/16")
    assert sim.look().statuses, "first the acceptance is written"
    assert sim.blocks(pool="other") == []
    assert sim.look().to_verify, "then pools and blocks are listed again"
    assert sim.blocks(pool="other") == []
    sim.look()
    assert sim.blocks(pool="other")


def test_a_pool_that_turns_out_to_overlap_when_listed_again_gets_no_grant() -> None:
    sim = cluster()
    sim.settle()
    sim.add_pool("late", "10.245.0.0/16")
    sim.look()
    # Another server's client created this one earlier; only the list that verifies shows it.
    early = sim.add_pool("early", "10.245.0.0/24")
    sim.objects[IPPool, "early"] = with_metadata(early, creation_timestamp="2025-01-01T00:00:00Z")
    sim.settle()
    assert sim.blocks(pool="late") == []
    assert sim.condition(IPPool, "late", "Accepted")[:2] == ("False", "OverlapsPool")
    assert sim.blocks(pool="early")


def test_an_idle_block_is_asked_back_after_its_grace_and_deleted_once_given_back() -> None:
    sim = cluster(1, headroom=4)
    sim.waiting["n0", "v4"] = 100
    sim.settle()
    assert len(sim.blocks()) == 2
    sim.waiting.clear()
    plan = sim.settle()
    assert plan.wake_at == sim.now + 300
    sim.now += 299
    sim.settle()
    assert len(sim.blocks()) == 2
    sim.now += 1
    sim.look()
    assert sim.blocks(state="Releasing") == ["10.244.0.64/26"]
    sim.settle()
    assert sim.blocks() == ["10.244.0.0/26"]
    assert [b.spec.state for b in sim.deleted_blocks] == ["Releasing"]


def test_a_block_that_is_in_use_is_never_deleted_however_long_it_is_asked_back() -> None:
    sim = cluster(1)
    sim.settle()
    sim.in_use["10.244.0.0/26"] = 1
    sim.delete_pool("v4")
    sim.settle()
    sim.now += 100000
    sim.settle()
    assert sim.blocks() == ["10.244.0.0/26"]
    status, reason, message = sim.condition(IPPool, "v4", "Accepted")
    assert (status, reason) == ("False", "BlocksInUse")
    assert "n0: 10.244.0.0/26 (1 addresses in use)" in message
    sim.in_use.clear()
    sim.settle()
    assert sim.blocks() == []
    assert sim.all(IPPool) == []


def test_a_word_from_before_the_question_is_no_answer() -> None:
    sim = cluster(1)
    sim.settle()
    network = sim.get(NodeNetwork, "n0")
    uid = network.spec.blocks[0].uid
    early = msgspec.structs.replace(network.status, released=(uid,))
    sim.put(msgspec.structs.replace(network, status=early))
    sim.delete_pool("v4")
    for _ in range(4):
        sim.look()
    assert "10.244.0.0/26" in sim.blocks(), "its agent has not seen that it is asked back"
    sim.settle()
    assert sim.blocks() == []


def test_a_disabled_pool_grants_nothing_and_asks_nothing_back() -> None:
    sim = cluster(1)
    sim.settle()
    before = sim.blocks()
    pool = sim.get(IPPool, "v4")
    sim.put(msgspec.structs.replace(pool, spec=msgspec.structs.replace(pool.spec, disabled=True)))
    sim.add_node("n9", 99)
    sim.settle()
    assert sim.blocks() == before
    assert sim.blocks(state="Releasing") == []
    assert sim.condition(IPPool, "v4", "Accepted")[:2] == ("True", "Disabled")


def test_a_pool_that_no_longer_selects_a_node_asks_its_blocks_back_and_keeps_them_if_it_selects_again() -> None:
    sim = cluster(1)
    sim.settle()
    sim.in_use["10.244.0.0/26"] = 3
    pool = sim.get(IPPool, "v4")
    chosen = LabelSelector(match_labels={"rack": "r0"})
    sim.put(msgspec.structs.replace(pool, spec=msgspec.structs.replace(pool.spec, node_selector=chosen)))
    sim.settle()
    assert sim.blocks() == sim.blocks(state="Releasing") == ["10.244.0.0/26"]
    uid = sim.all(IPBlock)[0].metadata.uid
    sim.put(with_metadata(sim.get(Node, "n0"), labels={"rack": "r0"}))
    sim.settle()
    assert len(sim.blocks(state="Active")) == 2
    assert uid in {block.metadata.uid for block in sim.all(IPBlock)}


def test_a_node_is_told_which_pools_select_it_and_of_no_others() -> None:
    sim = cluster(2)
    sim.put(with_metadata(sim.get(Node, "n0"), labels={"rack": "r0"}))
    pool = sim.get(IPPool, "v4")
    chosen = LabelSelector(match_labels={"rack": "r0"})
    sim.put(msgspec.structs.replace(pool, spec=msgspec.structs.replace(pool.spec, node_selector=chosen)))
    sim.settle()
    told = {node: set(sim.get(NodeNetwork, node).spec.pools or ()) for node in ("n0", "n1")}
    assert told["n0"] - told["n1"] == {"v4"}
    assert told["n1"] <= told["n0"]


def test_never_used_blocks_come_before_those_given_back() -> None:
    sim = cluster(1, headroom=0)
    sim.waiting["n0", "v4"] = 1
    sim.settle()
    assert sim.blocks() == ["10.244.0.0/26"]
    sim.remove_node("n0")
    sim.settle()
    sim.now += 990
    sim.settle()
    sim.add_node("n1", 12)
    sim.waiting["n1", "v4"] = 1
    sim.settle()
    assert sim.blocks() == ["10.244.0.64/26"]


def test_the_longest_unused_block_comes_first_once_all_were_used() -> None:
    pool = IPPool(metadata=Metadata(name="p"), spec=Simulation().add_pool("p", "10.0.0.0/24").spec)
    freed = {"10.0.0.64/26": 5.0, "10.0.0.0/26": 7.0, "10.0.0.128/26": 1.0}
    free = FreeBlocks(pool, (), (), freed)
    assert [free.take() for _ in range(5)] == ["10.0.0.192/26", "10.0.0.128/26", "10.0.0.64/26", "10.0.0.0/26", None]


def test_an_exhausted_pool_says_which_nodes_are_short_and_serves_those_with_waiting_pods_first() -> None:
    sim = Simulation()
    for number in range(3):
        sim.add_node(f"n{number}", 11 + number)
    sim.add_pool("small", "10.244.0.0/25")
    sim.waiting["n2", "small"] = 1
    sim.settle()
    sim_blocks = {node: len(sim.blocks(node)) for node in ("n0", "n1", "n2")}
    assert sum(sim_blocks.values()) == 2
    status, reason, message = sim.condition(IPPool, "small", "Available")
    assert (status, reason) == ("False", "PoolExhausted")
    assert "n2 (1 blocks)" in message
    assert "add a pool" in message
    notes = {note.name for note in sim.look().notes if note.reason == "PoolExhausted"}
    assert {"n1", "n2"} <= notes or {"n0", "n1"} <= notes


def test_a_reserved_range_lowers_a_blocks_worth_and_a_whole_reserved_block_is_not_granted() -> None:
    sim = cluster(1)
    sim.reserve("machines", "10.244.0.0/26", "10.244.0.64/27")
    sim.settle()
    assert sim.blocks() == ["10.244.0.128/26", "10.244.0.64/26"] or len(sim.blocks()) == 3
    assert "10.244.0.0/26" not in sim.blocks()
    grants = {g.cidr: g.reserved for g in sim.get(NodeNetwork, "n0").spec.blocks}
    assert grants["10.244.0.64/26"] == ("10.244.0.64/27",)
    assert sum(64 - 32 * bool(reserved) for reserved in grants.values()) >= 110


def test_a_node_gets_no_more_blocks_than_its_object_may_hold_and_pool_and_node_say_so() -> None:
    sim = Simulation()
    sim.add_node("n0", 11)
    sim.add_pool("single", "10.244.0.0/16", block_size=32, headroom=65536)
    sim.add_pool("late", "10.245.0.0/16")
    plan = sim.settle()
    assert len(sim.get(NodeNetwork, "n0").spec.blocks) == 4096
    status, reason, message = sim.condition(IPPool, "single", "Available")
    assert (status, reason) == ("False", "NodeFull")
    assert "n0" in message
    assert sim.condition(IPPool, "late", "Available")[1] == "NodeFull"
    assert {(note.name, note.reason) for note in plan.notes} == {("n0", "NodeFull")}


def test_a_block_that_reservations_cover_in_parts_is_not_granted_over_and_over() -> None:
    sim = Simulation()
    sim.add_node("n0", 11, pods=4000)
    sim.add_pool("v4", "10.240.0.0/12", block_size=20)
    # So many single addresses that the node is told of whole ranges: nothing of the first block is left.
    for third in range(16):
        sim.reserve(f"r{third}", *(f"10.240.{third}.{fourth}/32" for fourth in range(0, 256, 2)))
    sim.settle()
    assert "10.240.0.0/20" not in sim.blocks()
    assert sim.blocks() == ["10.240.16.0/20"]


def test_a_held_block_that_is_reserved_as_a_whole_later_is_replaced_once() -> None:
    sim = cluster(1)
    sim.settle()
    sim.reserve("all", "10.244.0.0/25")
    sim.settle()
    assert len(sim.blocks("n0")) == 4


def test_no_block_of_a_family_that_the_node_can_not_announce() -> None:
    sim = Simulation()
    sim.add_node("n0", 11, families="4")
    sim.add_node("n1", 12)
    sim.add_pool("v6", "fd00:10:244::/56")
    sim.settle()
    assert sim.blocks("n0") == []
    assert len(sim.blocks("n1")) == 2
    status, reason, message = sim.condition(IPPool, "v6", "NodesServed")
    assert (status, reason) == ("False", "NodeWithoutAddress")
    assert "Node n0: no InternalIP of family ipv6" in message
    assert "--node-ip" in message


def test_of_two_nodes_with_one_address_the_older_keeps_it() -> None:
    sim = Simulation()
    sim.add_node("n0", 11)
    sim.add_node("n1", 11)
    sim.add_pool("v4", "10.244.0.0/16")
    plan = sim.settle()
    assert sim.blocks("n0")
    assert sim.blocks("n1") == []
    assert sim.get(NodeNetwork, "n1").spec.addresses == ()
    assert [n.name for n in plan.notes if n.reason == "NodeAddressConflict"] == ["n1"]
    assert "InternalIP 10.10.0.11 is Node n0's" in sim.condition(IPPool, "v4", "NodesServed")[2]


def test_a_node_that_joined_later_and_is_not_ready_yet_is_not_waited_for() -> None:
    sim = cluster()
    sim.settle()
    sim.add_node("n9", 29)
    not_ready(sim, "n9")
    sim.put(with_metadata(sim.get(Node, "n9"), creation_timestamp="2027-01-01T00:00:00Z"))
    for one in sim.all(ClusterNetwork):
        sim.put(with_metadata(one, creation_timestamp="2026-01-01T00:00:00Z"))
    assert "n9" not in silent_nodes(sim.inventory(), "another epoch")
    sim.put(with_metadata(sim.get(Node, "n9"), creation_timestamp="2025-01-01T00:00:00Z"))
    assert "n9" in silent_nodes(sim.inventory(), "another epoch")


def test_addresses_of_before_an_installation_give_no_block_of_a_pool_that_is_refused() -> None:
    sim = Simulation()
    sim.add_node("n0", 11)
    sim.add_pool("refused", "10.10.0.0/16")
    sim.settle()
    assert sim.condition(IPPool, "refused", "Accepted")[1] == "OverlapsNodeAddress"
    sim.pods_in["n0"] = {"10.10.7.0/26"}
    sim.settle()
    assert sim.blocks() == []
