"""What the operator decides at each moment of a recorded run: every watch event that a real API server sent, in order.

The recording, which `record_operator.py` makes, holds four Nodes in two racks that come and go, two pools and a younger overlapping
one, a BGPPeer of each family, a label that moves a node, and the deletion of a pool that is held by one block. What must hold at
every event is checked, and that at the end the recorded operator had left nothing undone.
"""

import ipaddress
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.api import IPBlock, IPPool, NodeNetwork
from controller.api.kubernetes import Node
from controller.kube.store import Store, WatchEvent
from controller.operator.inventory import WATCHED, inventory_of
from controller.plan.inventory import Memory, Moment
from controller.plan.operator import OperatorPlan, operator_plan

RECORDING = Path(__file__).with_name("operator-events.jsonl")


def recorded() -> list[WatchEvent]:
    kinds = {kind.__name__: kind for kind in WATCHED}
    events = [json.loads(line) for line in RECORDING.read_text().splitlines()]
    return [WatchEvent(kinds[e["kind"]], e["object"], is_delete=e["type"] == "DELETED") for e in events]


def empty_store() -> Store:
    store = Store(WATCHED)
    for kind in WATCHED:
        store.replace(kind, [], "0")
    return store


def plan_for(store: Store) -> OperatorPlan:
    """The plan of an operator that is settled and has verified every pool."""
    pools = frozenset(pool.metadata.uid for pool in store.all(IPPool))
    epochs = {network.spec.epoch for network in store.all(NodeNetwork)}
    memory = Memory(epoch=max(epochs, default=""), unsettled_since=None, verified=pools)
    return operator_plan(inventory_of(store), memory, Moment(0.0, "2026-01-01T00:00:00Z"))


def moments() -> Iterator[tuple[Store, OperatorPlan]]:
    store = empty_store()
    for event in recorded():
        store.apply(event)
        yield store, plan_for(store)


def test_at_no_moment_a_block_is_planned_that_overlaps_one_that_exists() -> None:
    planned = 0
    for store, plan in moments():
        held = [ipaddress.ip_network(block.spec.cidr) for block in store.all(IPBlock)]
        for body in plan.creates:
            if isinstance(body, IPBlock):
                planned += 1
                network = ipaddress.ip_network(body.spec.cidr)
                assert not any(network.overlaps(other) for other in held), body.spec
                held.append(network)
    assert planned > 16, "the recording has grants in it"


def test_at_no_moment_a_block_of_a_present_node_is_deleted_unless_it_was_asked_back_and_given_back() -> None:
    deleted = 0
    for store, plan in moments():
        present = {node.metadata.name for node in store.all(Node)}
        for body in plan.deletes:
            if isinstance(body, IPBlock) and body.spec.node.name in present:
                deleted += 1
                network = store.get(NodeNetwork, body.spec.node.name)
                assert body.spec.state == "Releasing"
                assert network is not None
                assert body.metadata.uid in network.status.released
    assert deleted, "the recording has releases in it"


def test_at_the_end_nothing_is_left_to_write() -> None:
    *_, (_, plan) = moments()
    assert plan.is_empty, plan


def test_the_order_in_which_kinds_are_heard_of_does_not_matter_at_the_end() -> None:
    """Watches of different kinds run beside each other: within a kind the order is kept, between kinds it is not."""
    *_, (expected, _) = moments()
    store = empty_store()
    for event in sorted(recorded(), key=lambda event: event.kind.__name__):
        store.apply(event)
    assert sorted(inventory_of(store).blocks, key=str) == sorted(inventory_of(expected).blocks, key=str)
    assert plan_for(store).is_empty


@pytest.mark.parametrize("lost", range(0, len(RECORDING.read_text().splitlines()), 13))
def test_a_list_repairs_what_a_lost_event_left(lost: int) -> None:
    events = recorded()
    *_, (whole, _) = moments()
    store = empty_store()
    for number, event in enumerate(events):
        if number != lost:
            store.apply(event)
    for kind in WATCHED:
        left = {}
        for event in events:
            if event.kind is kind:
                left[event.raw["metadata"]["name"]] = None if event.is_delete else event.raw
        raws = [raw for raw in left.values() if raw is not None]
        store.replace(kind, raws, "999999", store.highest(kind))
    assert {b.metadata.uid for b in store.all(IPBlock)} == {b.metadata.uid for b in whole.all(IPBlock)}
    assert plan_for(store).is_empty
