"""A block that a node gave back is not used again before the operator's word is newer (`controller.plan.returned`)."""

import ipaddress

import msgspec
import pytest

from controller.api.clusternetwork import ClusterNetwork
from controller.api.ipblock import NodeReference
from controller.api.nodenetwork import BlockGrant, NodeNetwork, NodeNetworkSpec, SessionSpec
from controller.api.objects import Metadata
from controller.plan.addresses import Occupied, Refusal, choose
from controller.plan.node import Local, NodePlan, Snapshot, plan_node
from controller.plan.returned import (
    MOST_EPOCHS,
    MOST_RETURNS,
    SETTLE_SECONDS,
    Return,
    Returns,
    after_giving_back,
    after_hearing,
    after_holding,
    after_taking_back,
)
from controller.plan.speaking import Surroundings

V4 = BlockGrant(cidr="10.244.0.64/26", uid="b4", pool="p4")
V6 = BlockGrant(cidr="fd00:10:244::40/122", uid="b6", pool="p6")
OTHER = BlockGrant(cidr="10.244.0.0/26", uid="b0", pool="p4")
TORS = tuple(
    SessionSpec(peer="tor", address=address, asn=65001, local_address=own, local_asn=64512)
    for address, own in (("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2"))
)
# The story of each test: generation 10, written in epoch "late", asked for the block, and it was given back.
ANSWER = Return("object", 10, "late")


def returns(block: BlockGrant, *epochs: str, since: float | None = 0.0) -> Returns:
    return Returns(blocks={block.uid: ANSWER}, epochs=epochs or ("late",), since=since)


def planned(block: BlockGrant, known: Returns, generation: int, epoch: str, now: float = 0.0) -> NodePlan:
    """The plan for a spec that lists the block, beside another one."""
    spec = NodeNetworkSpec(
        node=NodeReference(name="n1"), epoch=epoch, addresses=("10.0.0.2",), blocks=(OTHER, block), sessions=TORS
    )
    node = NodeNetwork(metadata=Metadata(name="n1", uid="object", generation=generation), spec=spec)
    cluster = ClusterNetwork(metadata=Metadata(name="default"))
    plan = plan_node(Snapshot(node=node, cluster=cluster, returns=known), Local((), frozenset(), Surroundings(), now))
    assert plan is not None
    return plan


def is_used(plan: NodePlan, block: BlockGrant) -> bool:
    """Whether pods get addresses of it; then it is routed and announced, and otherwise it is neither."""
    prefix = ipaddress.ip_network(block.cidr)
    signs = {
        not isinstance(choose([b for b in plan.blocks if b.uid == block.uid], Occupied(set(), {}), {}), Refusal),
        prefix in {route.prefix for route in plan.routes},
        block.cidr in plan.desired.refuse.own_blocks,
        block.cidr in {a.prefix for n in plan.desired.neighbours for a in n.announcements},
        block.uid not in plan.returned,
    }
    (answer,) = signs
    return answer


@pytest.mark.parametrize("block", [V4, V6])
def test_an_old_object_that_grants_it_again_is_not_followed_and_other_blocks_are_served(block: BlockGrant) -> None:
    for generation in (7, 10):
        plan = planned(block, returns(block), generation, "late", now=10_000.0)
        assert not is_used(plan, block)
        assert is_used(plan, OTHER)
        # The operator hears of it again.
        assert plan.withdrawn == {block.cidr}


@pytest.mark.parametrize("block", [V4, V6])
def test_what_the_operator_took_back_in_the_same_term_is_used_at_once(block: BlockGrant) -> None:
    assert is_used(planned(block, returns(block), 11, "late"), block)


def test_the_same_term_counts_for_the_same_object_alone() -> None:
    known = Returns(blocks={"b4": Return("another object", 1, "late")}, epochs=("late",), since=0.0)
    assert not is_used(planned(V4, known, 11, "late"), V4)


@pytest.mark.parametrize("block", [V4, V6])
def test_a_new_term_counts_once_the_operator_must_have_heard_everybody(block: BlockGrant) -> None:
    known = after_hearing(returns(block), "new", 100.0)
    early = planned(block, known, 8, "new", now=100.0 + SETTLE_SECONDS - 1)
    assert not is_used(early, block)
    assert early.decided_at == 100.0 + SETTLE_SECONDS
    assert is_used(planned(block, known, 8, "new", now=100.0 + SETTLE_SECONDS), block)


def test_an_epoch_that_was_heard_before_never_counts_however_long_it_stands() -> None:
    known = after_hearing(returns(V4, "early", "late"), "early", 100.0)
    assert not is_used(planned(V4, known, 7, "early", now=10_000.0), V4)


def test_a_block_that_is_still_asked_back_stays_given_back() -> None:
    releasing = msgspec.structs.replace(V4, state="Releasing")
    assert not is_used(planned(releasing, returns(V4), 11, "late", now=10_000.0), releasing)


def test_hearing_the_present_epoch_again_changes_nothing() -> None:
    known = after_hearing(Returns(), "e", 5.0)
    assert (known.epochs, known.since) == (("e",), 5.0)
    assert after_hearing(known, "e", 50.0) is known


def test_the_first_answer_is_remembered_until_the_block_is_used_again() -> None:
    known = after_giving_back(Returns(), ("b4",), ANSWER)
    assert after_giving_back(known, ("b4",), Return("object", 12, "later")) is known
    assert after_taking_back(known, frozenset({"b0"})) is known
    assert after_taking_back(known, frozenset({"b4"})).blocks == {}


@pytest.mark.parametrize("block", [V4, V6])
def test_what_was_given_back_counts_by_every_ipblock_that_it_was_held_by(block: BlockGrant) -> None:
    second, third = (msgspec.structs.replace(block, uid=uid) for uid in ("second", "third"))
    known = after_holding(Returns(epochs=("late",), since=0.0), (OTHER, block), (OTHER, second), ANSWER)
    known = after_holding(known, (OTHER, second), (OTHER, third), ANSWER)
    assert is_used(planned(block, known, 10, "late"), block), "it is held all along"
    known = after_giving_back(known, ("third",), ANSWER)
    for each in (block, second, third):
        assert not is_used(planned(each, known, 10, "late", now=10_000.0), each)
    assert known.former == {}
    fresh = msgspec.structs.replace(block, uid="fresh")
    assert is_used(planned(fresh, known, 11, "late"), fresh)


@pytest.mark.parametrize("block", [V4, V6])
def test_an_empty_block_that_no_spec_lists_any_more_was_given_back(block: BlockGrant) -> None:
    known = after_holding(Returns(epochs=("late",), since=0.0), (OTHER, block), (OTHER,), ANSWER)
    assert not is_used(planned(block, known, 10, "late", now=10_000.0), block)
    assert is_used(planned(block, known, 11, "late"), block)


def test_holding_what_was_held_changes_nothing() -> None:
    known = returns(V4)
    assert after_holding(known, (OTHER,), (OTHER,), ANSWER) is known
    assert after_holding(known, (OTHER,), (OTHER, V6), ANSWER) is known


def test_former_ipblocks_are_remembered_within_bounds() -> None:
    known = Returns()
    for number in range(MOST_RETURNS + 2):
        old = msgspec.structs.replace(V4, uid=str(number))
        new = msgspec.structs.replace(V4, uid=str(number + 1))
        known = after_holding(known, (old,), (new,), ANSWER)
    assert len(known.former) == MOST_RETURNS
    assert set(known.former.values()) == {str(MOST_RETURNS + 2)}


def test_what_is_remembered_is_bounded_and_the_oldest_goes_first() -> None:
    known = Returns()
    for number in range(MOST_RETURNS + 2):
        known = after_giving_back(known, (str(number),), ANSWER)
        known = after_hearing(known, f"e{number}", 0.0)
    assert (len(known.blocks), len(known.epochs)) == (MOST_RETURNS, MOST_EPOCHS)
    assert "0" not in known.blocks
    assert str(MOST_RETURNS + 1) in known.blocks
