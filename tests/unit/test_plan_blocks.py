"""Which blocks nodes get, keep, give back and lose."""

import ipaddress

import msgspec
import pytest
from cluster_simulation import Simulation, with_metadata
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.api import IPBlock, IPPool, IPReservation, NodeNetwork
from controller.api.bgpconfiguration import BGPConfiguration, BGPConfigurationSpec, GracePeriods
from controller.api.kubernetes import Node
from controller.api.nodenetwork import BlockClaim, BlockGrant
from controller.api.objects import LabelSelector, Metadata
from controller.plan.freeblocks import FreeBlocks
from controller.plan.inventory import Memory


def cluster(nodes: int = 2, **pool: object) -> Simulation:
    sim = Simulation()
    for number in range(nodes):
        sim.add_node(f"n{number}", 11 + number)
    sim.add_pool("v4", "10.244.0.0/16", **pool)
    return sim


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


def test_a_node_that_is_not_ready_holds_up_nothing() -> None:
    sim = cluster()
    node = sim.get(Node, "n1")
    sim.put(msgspec.structs.replace(node, status=msgspec.structs.replace(node.status, conditions=())))
    sim.silent = {"n1"}
    sim.settle()
    assert len(sim.blocks()) == 4


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
    sim.now += 989
    sim.settle()
    assert len(sim.blocks("n0")) == 2, "its agent may have noticed later: 90 s more than the grace"
    sim.now += 1
    sim.settle()
    assert sim.blocks("n0") == []
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


def test_a_shorter_grace_counts_only_for_nodes_whose_agent_has_heard_of_it() -> None:
    sim = cluster()
    sim.settle()
    sim.silent = {"n0"}
    spec = BGPConfigurationSpec(grace_periods=GracePeriods(deleted_node=5))
    sim.put(BGPConfiguration(metadata=Metadata(name="default"), spec=spec))
    sim.settle()
    sim.remove_node("n0")
    sim.remove_node("n1")
    sim.settle()
    sim.now += 95
    sim.settle()
    assert (len(sim.blocks("n0")), len(sim.blocks("n1"))) == (2, 0)
    sim.now += 895
    sim.settle()
    assert sim.blocks() == []


def test_the_grace_of_a_deleted_node_is_configured() -> None:
    sim = cluster()
    spec = BGPConfigurationSpec(grace_periods=GracePeriods(deleted_node=5))
    sim.put(BGPConfiguration(metadata=Metadata(name="default"), spec=spec))
    sim.settle()
    sim.remove_node("n0")
    sim.settle()
    sim.now += 94
    sim.settle()
    assert len(sim.blocks("n0")) == 2
    sim.now += 1
    sim.settle()
    assert sim.blocks("n0") == []


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


def test_a_block_deleted_by_hand_is_created_again_for_the_node_that_uses_it() -> None:
    sim = cluster()
    sim.settle()
    sim.remove(IPBlock, "10-244-0-0-26")
    plan = sim.look()
    assert [b.metadata.name for b in plan.creates] == ["10-244-0-0-26"]
    assert "BlockClaimed" in {note.reason for note in plan.notes}
    sim.settle()
    grant = next(g for g in sim.get(NodeNetwork, "n0").spec.blocks if g.cidr == "10.244.0.0/26")
    assert grant.uid == sim.get(IPBlock, "10-244-0-0-26").metadata.uid


def test_a_claim_of_a_block_that_nobody_has_is_granted_and_one_of_anothers_is_a_conflict() -> None:
    sim = cluster()
    sim.settle()
    network = sim.get(NodeNetwork, "n0")
    claims = (
        BlockClaim(cidr="10.244.9.0/26", uid="old", pool="v4"),
        BlockClaim(cidr=sim.blocks("n1")[0], uid="old", pool="v4"),
    )
    sim.put(msgspec.structs.replace(network, status=msgspec.structs.replace(network.status, claims=claims)))
    plan = sim.look()
    assert sim.get(IPBlock, "10-244-9-0-26").spec.node.name == "n0"
    assert sim.condition(IPPool, "v4", "NodesServed")[:2] == ("False", "BlockConflict")
    assert "BlockConflict" in {note.reason for note in plan.notes}
    assert sim.blocks("n1")[0] not in {g.cidr for g in sim.get(NodeNetwork, "n0").spec.blocks}


def restored_backup(owner: str, user: str) -> tuple[Simulation, str]:
    """A cluster in which a block is `owner`'s again, by its IPBlock, while `user` has pods in it."""
    sim = cluster(3)
    sim.settle()
    cidr = sim.blocks(owner)[0]
    sim.pods_in[user] = {cidr}
    sim.memory = Memory(epoch="e2", unsettled_since=sim.now)
    return sim, cidr


def test_a_block_that_another_node_uses_goes_to_it_once_its_owner_who_does_not_has_answered() -> None:
    sim, cidr = restored_backup("n0", "n1")
    told = set()
    for _ in range(12):
        sim.answer()
        # The operator looks more often than agents answer.
        for plan in (sim.look(), sim.look(), sim.look()):
            told |= {(note.name, note.reason) for note in plan.notes}
    assert cidr in sim.blocks("n1")
    assert [(b.spec.cidr, b.spec.state) for b in sim.deleted_blocks] == [(cidr, "Releasing")], "asked back and answered"
    assert ("n1", "BlockConflict") in told
    assert len(sim.blocks("n0")) == 2, "its owner has another for it"
    sim.settle()


def test_a_block_that_was_asked_back_for_another_is_not_taken_back_though_its_owner_is_short() -> None:
    sim = Simulation()
    sim.add_node("n0", 11, pods=64)
    sim.add_node("n1", 12, pods=64)
    sim.add_pool("v4", "10.244.0.0/25")
    sim.settle()
    (cidr,) = sim.blocks("n0")
    sim.pods_in["n1"] = {cidr}
    sim.answer()
    states = [sim.blocks("n0", state="Releasing") for _ in range(4) if sim.look()]
    assert states == [[cidr]] * 4
    sim.answer()
    sim.look()
    sim.look()
    assert cidr in sim.blocks("n1")


def test_a_block_in_which_both_nodes_have_pods_stays_its_owners_and_the_conflict_is_told() -> None:
    sim, cidr = restored_backup("n0", "n1")
    sim.in_use[cidr] = 2
    plan = sim.settle()
    assert cidr in sim.blocks("n0", state="Active")
    assert ("n1", "BlockConflict") in {(note.name, note.reason) for note in plan.notes}
    sim.in_use.clear()
    sim.settle()
    assert cidr in sim.blocks("n1")


def test_an_owner_that_says_nothing_of_a_block_keeps_it() -> None:
    sim, cidr = restored_backup("n0", "n1")
    sim.silent = {"n0"}
    network = sim.get(NodeNetwork, "n0")
    sim.put(msgspec.structs.replace(network, status=msgspec.structs.replace(network.status, usage=())))
    for _ in range(4):
        sim.answer()
        sim.look()
        sim.now += 61
    assert cidr in sim.blocks("n0", state="Active")


def test_an_active_block_that_its_node_says_it_gave_back_is_asked_back_and_replaced() -> None:
    sim = cluster(1)
    sim.settle()
    block = sim.get(IPBlock, "10-244-0-0-26")
    sim.given_back["n0"] = {block.metadata.uid}
    sim.settle()
    assert [b.metadata.uid for b in sim.deleted_blocks] == [block.metadata.uid]
    assert len(sim.blocks("n0", state="Active")) == 2


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


POOLS = (
    ("v4", "10.244.0.0/22", {}),
    ("v4-small", "10.250.0.0/27", {"block_size": 28}),
    ("v6", "fd00:10:244::/118", {"block_size": 124}),
    ("v6-one", "fd00:10:255::/127", {"block_size": 128}),
)
STEP = st.sampled_from(
    ["add node", "remove node", "add pool", "delete pool", "reserve", "use", "free", "wait", "label", "lose block"]
)


def check(sim: Simulation) -> None:
    """What must hold at every moment."""
    blocks = sim.all(IPBlock)
    networks = [ipaddress.ip_network(b.spec.cidr) for b in blocks]
    for index, one in enumerate(networks):
        assert not any(one.overlaps(other) for other in networks[index + 1 :]), "two blocks overlap"
    cidrs = {name: ipaddress.ip_network(cidr) for name, cidr, _ in POOLS}
    for block, network in zip(blocks, networks, strict=True):
        assert network.subnet_of(cidrs[block.spec.pool]), "a block outside its pool"  # type: ignore[arg-type]
    owner = {b.spec.cidr: b.spec.node.name for b in blocks}
    for network_object in sim.all(NodeNetwork):
        for grant in network_object.spec.blocks:
            assert owner.get(grant.cidr, network_object.metadata.name) == network_object.metadata.name
    for block in sim.deleted_blocks:
        is_known = any(n.metadata.name == block.spec.node.name for n in sim.all(Node))
        assert not is_known or not sim.in_use.get(block.spec.cidr), "a block in use was deleted"
    sim.deleted_blocks.clear()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(STEP, st.integers(0, 5)), max_size=14))
def test_whatever_happens_no_block_has_two_nodes_and_the_work_comes_to_an_end(steps: list[tuple[str, int]]) -> None:
    sim = Simulation()
    sim.add_node("n0", 11, pods=20)
    for step, number in steps:
        act(sim, step, number)
        sim.look()
        check(sim)
        sim.answer()
    sim.settle()
    check(sim)
    assert sim.look().is_empty, "a second look writes nothing"
    check_progress(sim)


def check_progress(sim: Simulation) -> None:
    """Every node has what it should have of every accepted pool, or the pool says that it is exhausted."""
    for pool in sim.all(IPPool):
        name, family = pool.metadata.name, 6 if ":" in pool.spec.cidr else 4
        if pool.metadata.deletion_timestamp or sim.condition(IPPool, name, "Accepted")[0] == "False":
            continue
        if sim.condition(IPPool, name, "Available")[0] == "False":
            taken = [ipaddress.ip_network(b) for b in sim.blocks(pool=name)]
            free = FreeBlocks(pool, taken, [ipaddress.ip_network(c) for c in reserved_of(sim, family)], {})
            assert free.take() is None, "a pool that is not exhausted says so"
            continue
        for node in sim.all(Node):
            size = sum(ipaddress.ip_network(b).num_addresses for b in sim.blocks(node.metadata.name, name, "Active"))
            assert size >= 20, f"{node.metadata.name} lacks blocks of {name}"


def reserved_of(sim: Simulation, family: int) -> list[str]:
    return [c for r in sim.all(IPReservation) for c in r.spec.cidrs if (":" in c) == (family == 6)]


def is_assigned_from(network: NodeNetwork, grant: BlockGrant) -> bool:
    """Whether the node's agent gives addresses of the block to new pods."""
    return grant.state == "Active" and grant.uid not in network.status.released


def act(sim: Simulation, step: str, number: int) -> None:
    name, pool = f"n{number}", POOLS[number % len(POOLS)]
    blocks = sim.blocks()
    usable = sorted(g.cidr for n in sim.all(NodeNetwork) for g in n.spec.blocks if is_assigned_from(n, g))
    match step:
        case "add node" if (Node, name) not in sim.objects:
            sim.add_node(name, 11 + number, pods=20, rack=f"r{number % 2}")
        case "remove node" if (Node, name) in sim.objects:
            for cidr in sim.blocks(name):
                sim.in_use.pop(cidr, None)
            sim.remove_node(name)
        case "add pool" if (IPPool, pool[0]) not in sim.objects:
            sim.add_pool(pool[0], pool[1], **pool[2])
        case "delete pool" if (IPPool, pool[0]) in sim.objects:
            sim.delete_pool(pool[0])
        case "reserve":
            sim.reserve(f"r{number}", f"10.244.{number % 4}.{number * 16}/28")
        case "use" if usable:
            sim.in_use[usable[number % len(usable)]] = number
        case "free" if blocks:
            sim.in_use.pop(blocks[number % len(blocks)], None)
        case "wait":
            sim.now += number * 200
        case "label" if (Node, name) in sim.objects:
            sim.put(with_metadata(sim.get(Node, name), labels={"rack": f"r{number % 3}"}))
        case "lose block" if blocks:
            block = next(b for b in sim.all(IPBlock) if b.spec.cidr == blocks[number % len(blocks)])
            sim.remove(IPBlock, block.metadata.name)


@settings(deadline=None)
@given(
    st.integers(16, 24),
    st.integers(0, 4),
    st.lists(st.integers(0, 255), max_size=30),
    st.lists(st.integers(0, 255), max_size=10),
)
def test_free_blocks_are_all_that_is_neither_taken_nor_reserved(
    length: int, more: int, taken: list[int], reserved: list[int]
) -> None:
    size = length + more
    pool = IPPool(metadata=Metadata(name="p"), spec=Simulation().add_pool("p", "10.0.0.0/16").spec)
    pool = msgspec.structs.replace(
        pool, spec=msgspec.structs.replace(pool.spec, cidr=f"10.0.0.0/{length}", block_size=size)
    )
    blocked = [ipaddress.ip_network(f"10.0.{n}.0/24") for n in taken]
    kept = [ipaddress.ip_network(f"10.0.{n}.0/24") for n in reserved]
    free = FreeBlocks(pool, blocked, kept, {})
    found = []
    while (cidr := free.take()) is not None:
        found.append(cidr)
    every = ipaddress.ip_network(f"10.0.0.0/{length}").subnets(new_prefix=size)
    expected = [
        str(block)
        for block in every
        if not any(block.overlaps(t) for t in blocked) and not any(block.subnet_of(r) for r in kept)  # type: ignore[arg-type]
    ]
    assert found == expected


@pytest.mark.parametrize("cidr", ["10.0.0.0/4", "fd00::/8"])
def test_a_huge_pool_costs_no_more_than_what_is_taken(cidr: str) -> None:
    network = ipaddress.ip_network(cidr, strict=False)
    pool = IPPool(metadata=Metadata(name="p"), spec=Simulation().add_pool("p", str(network)).spec)
    free = FreeBlocks(pool, (), (), {})
    assert free.take() is not None
