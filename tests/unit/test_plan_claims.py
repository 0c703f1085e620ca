"""Blocks whose IPBlock and whose use disagree: claims, conflicts, restored backups."""

from dataclasses import replace

import msgspec
from cluster_simulation import Simulation, cluster

from controller.api import IPBlock, IPPool, NodeNetwork
from controller.api.ipblock import IPBlockSpec, block_name
from controller.api.nodenetwork import BlockClaim
from controller.api.objects import Metadata
from controller.plan.inventory import Memory


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


def test_a_block_that_is_only_listed_is_created_again_once_all_agents_have_spoken_and_one_in_use_at_once() -> None:
    sim = cluster()
    sim.settle()
    idle, used = sim.blocks("n0")[0], sim.blocks("n1")[0]
    sim.pods_in["n1"] = {used}
    sim.answer()
    # After a restored backup, for example: it may list what others have by now.
    sim.memory = Memory(epoch="e2", unsettled_since=sim.now)
    for cidr in (idle, used):
        sim.remove(IPBlock, block_name(cidr))
    created = {block.metadata.name for block in sim.look().creates if isinstance(block, IPBlock)}
    assert created == {block_name(used)}
    assert idle in {grant.cidr for grant in sim.get(NodeNetwork, "n0").spec.blocks}, "it may use it at any moment"
    sim.settle()
    assert idle in sim.blocks("n0")


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


def late_lock() -> tuple[Simulation, str]:
    """A block that n1 was told of and uses; its IPBlock was deleted by hand, and a create for n0, long under way, came through."""
    sim = cluster(3)
    sim.settle()
    cidr = sim.blocks("n1")[0]
    sim.pods_in["n1"] = {cidr}
    sim.answer()
    block = next(b for b in sim.all(IPBlock) if b.spec.cidr == cidr)
    sim.remove(IPBlock, block.metadata.name)
    owner = next(b for b in sim.all(IPBlock) if b.spec.node.name == "n0").spec.node
    sim.put(msgspec.structs.replace(block, spec=msgspec.structs.replace(block.spec, node=owner)))
    return sim, cidr


def states(sim: Simulation, node: str, cidr: str) -> list[str]:
    return [grant.state for grant in sim.get(NodeNetwork, node).spec.blocks if grant.cidr == cidr]


def test_an_ipblock_alone_gives_its_owner_no_use_of_what_another_node_was_told_of() -> None:
    sim, cidr = late_lock()
    for _ in range(12):
        sim.look()
        # Neither before nor after the other has heard and answered.
        assert "Active" not in states(sim, "n0", cidr)
        sim.look()
        sim.answer()
    assert cidr in sim.blocks("n1", state="Releasing"), "who uses it has the IPBlock again, until its pods are gone"
    sim.pods_in["n1"] = set()
    sim.settle()
    assert cidr not in sim.blocks()


def test_an_owner_without_a_nodenetwork_is_first_told_of_such_a_block_as_asked_back() -> None:
    sim, cidr = late_lock()
    sim.remove(NodeNetwork, "n0")
    sim.look()
    assert states(sim, "n0", cidr) == ["Releasing"]


def test_an_ipblock_of_another_size_gives_no_use_of_what_another_nodes_block_covers() -> None:
    sim = cluster(3)
    sim.settle()
    cidr = sim.blocks("n1")[0]
    owner = next(b for b in sim.all(IPBlock) if b.spec.node.name == "n0").spec.node
    half = cidr.replace("/26", "/27")
    sim.put(IPBlock(metadata=Metadata(name=block_name(half)), spec=IPBlockSpec(cidr=half, pool="v4", node=owner)))
    for _ in range(6):
        sim.look()
        assert "Active" not in states(sim, "n0", half)
        sim.answer()
    assert half not in sim.blocks("n0", state="Active")
    assert states(sim, "n1", cidr) == ["Active"], "who used it goes on"


def test_an_answer_to_an_earlier_question_does_not_take_a_block_from_the_node_that_was_told_to_go_on() -> None:
    sim = cluster()
    sim.settle()
    block = next(b for b in sim.all(IPBlock) if b.spec.node.name == "n0" and ":" not in b.spec.cidr)
    network = sim.get(NodeNetwork, "n0")
    said = msgspec.structs.replace(network.status, released=(block.metadata.uid,), observed_generation=1)
    sim.put(msgspec.structs.replace(network, status=said))
    sim.remove(IPBlock, block.metadata.name)
    plan = sim.look()
    assert [(b.metadata.name, b.spec.node.name) for b in plan.creates if isinstance(b, IPBlock)] == [
        (block.metadata.name, "n0")
    ]


def test_an_answer_to_an_earlier_question_is_none_to_the_same_question_asked_again() -> None:
    """Between them the node was told to go on, and did."""
    sim = cluster()
    sim.settle()
    block = next(b for b in sim.all(IPBlock) if b.spec.node.name == "n0")
    network = sim.get(NodeNetwork, "n0")
    grants = tuple(
        msgspec.structs.replace(each, state="Releasing") if each.uid == block.metadata.uid else each
        for each in network.spec.blocks
    )
    said = msgspec.structs.replace(network.status, released=(block.metadata.uid,))
    spec = msgspec.structs.replace(network.spec, blocks=grants)
    assert (
        sim.put(msgspec.structs.replace(network, spec=spec, status=said)).metadata.generation > said.observed_generation
    )
    sim.remove(IPBlock, block.metadata.name)
    created = [b for b in sim.look().creates if isinstance(b, IPBlock) and b.spec.cidr == block.spec.cidr]
    assert [(b.spec.node.name, b.spec.state) for b in created] == [("n0", "Releasing")]


def test_a_spec_that_is_written_with_a_deletion_does_not_list_what_was_given_back() -> None:
    """Otherwise the answer would be one to an earlier spec, and the block the node's again."""
    sim = cluster(1, headroom=10)
    sim.settle()
    sim.in_use["10.244.0.0/26"] = 60
    sim.settle()
    sim.in_use.clear()
    sim.answer()
    (_, block) = sim.all(IPBlock)
    sim.put(msgspec.structs.replace(block, spec=msgspec.structs.replace(block.spec, state="Releasing")))
    sim.look()
    sim.answer()
    sim.memory = replace(sim.memory, epoch="e2")
    plan = sim.look()
    assert [each.metadata.name for each in plan.deletes] == [block.metadata.name]
    (told,) = [each for each in plan.updates if isinstance(each, NodeNetwork) and each.metadata.name == "n0"]
    assert block.spec.cidr not in {grant.cidr for grant in told.spec.blocks}
    assert block.spec.cidr not in [b.spec.cidr for b in sim.look().creates if isinstance(b, IPBlock)]


def test_a_block_that_its_node_gave_back_in_answer_to_what_it_is_told_now_is_not_created_again() -> None:
    sim = cluster()
    sim.settle()
    block = next(b for b in sim.all(IPBlock) if b.spec.node.name == "n0")
    sim.given_back["n0"] = {block.metadata.uid}
    sim.answer()
    sim.remove(IPBlock, block.metadata.name)
    plan = sim.look()
    assert block.spec.cidr not in [b.spec.cidr for b in plan.creates if isinstance(b, IPBlock)]


def test_a_block_that_only_its_owner_uses_stays_in_use_though_another_nodes_old_report_names_none_of_it() -> None:
    sim = cluster(3)
    sim.settle()
    cidr = sim.blocks("n1")[0]
    sim.look()
    assert states(sim, "n1", cidr) == ["Active"]


def test_an_active_block_that_its_node_says_it_gave_back_is_asked_back_and_replaced() -> None:
    sim = cluster(1)
    sim.settle()
    block = sim.get(IPBlock, "10-244-0-0-26")
    sim.given_back["n0"] = {block.metadata.uid}
    sim.settle()
    assert [b.metadata.uid for b in sim.deleted_blocks] == [block.metadata.uid]
    assert len(sim.blocks("n0", state="Active")) == 2
