"""The reconciler's lists, against a server that fails at some; and plans that take long."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest
from memory_api import MemoryApi

from controller.api import IPBlock, IPPool, NodeNetwork
from controller.api.ipblock import NodeReference
from controller.api.nodenetwork import NodeNetworkSpec
from controller.api.objects import Metadata
from controller.kube import errors
from controller.kube.client import Api, Listing
from controller.kube.events import EventRecorder
from controller.kube.resources import Collection
from controller.kube.store import Store
from controller.operator import reconciler as module
from controller.operator.health import Metrics
from controller.operator.inventory import WATCHED
from controller.operator.reconciler import Reconciler
from controller.operator.telling import Teller
from controller.plan.inventory import Inventory, Memory, Moment
from controller.plan.operator import OperatorPlan

EMPTY = OperatorPlan(
    creates=(), updates=(), deletes=(), finalizers=(), statuses=(), notes=(), memory=Memory("first", None)
)
SPEC = NodeNetworkSpec(node=NodeReference(name="n0", uid="u"))


class OneFails(MemoryApi):
    """IPBlocks can't be listed; the list of pools takes a while."""

    async def list(self, collection: Collection, *, field_selector: str = "", namespace: str = "") -> Listing:
        if collection.plural == IPBlock.PLURAL:
            raise errors.Troubled("list", collection.plural)
        for _ in range(5):
            await asyncio.sleep(0)
        return await super().list(collection)


def test_a_list_that_fails_leaves_no_other_running_and_is_asked_for_again() -> None:
    api, store = cast(Api, OneFails()), Store([IPPool, IPBlock])
    teller = Teller(api, EventRecorder(api, "podroute.dev/operator", "one"), lambda: True)
    reconciler = Reconciler(api, store, teller, Metrics())

    async def body() -> None:
        with pytest.raises(errors.Troubled):
            await reconciler._look()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(body())
    assert store.shelf(IPPool).is_loaded
    assert reconciler._relist == {IPBlock}


def ready(monkeypatch: pytest.MonkeyPatch, plan: Callable[..., OperatorPlan]) -> Reconciler:
    """One that holds the Lease, knows every object, and plans so."""
    api, store = cast(Api, MemoryApi()), Store(WATCHED)
    teller = Teller(api, EventRecorder(api, "podroute.dev/operator", "one"), lambda: True)
    reconciler = Reconciler(api, store, teller, Metrics())
    reconciler.may_write = lambda: True
    monkeypatch.setattr(module, "operator_plan", plan)
    return reconciler


def test_the_loop_goes_on_while_a_plan_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    def waits(*_: object) -> OperatorPlan:
        answered = threading.Event()
        loops[0].call_soon_threadsafe(answered.set)
        assert answered.wait(5), "the loop answers"
        return EMPTY

    reconciler = ready(monkeypatch, waits)

    async def body() -> None:
        loops.append(asyncio.get_running_loop())
        await reconciler._look()

    asyncio.run(body())
    assert reconciler.memory is EMPTY.memory


def test_a_plan_that_was_made_while_a_term_began_is_dropped_with_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    epochs: list[str] = []

    def another_term(inventory: Inventory, memory: Memory, _: Moment) -> OperatorPlan:
        epochs.append(memory.epoch)
        if len(epochs) == 1:
            reconciler.new_epoch = lambda: "second"
            reconciler.begin_term()
            return replace(EMPTY, creates=(NodeNetwork(metadata=Metadata(name="n0"), spec=SPEC),))
        return replace(EMPTY, memory=memory)

    reconciler = ready(monkeypatch, another_term)
    asyncio.run(reconciler._look())
    assert epochs == ["", "second"]
    assert reconciler.memory.epoch == "second"
    assert reconciler._store.all(NodeNetwork) == ()


@pytest.mark.parametrize("has_more", [True, False])
def test_agents_have_the_time_to_settle_from_when_the_last_one_was_asked(
    monkeypatch: pytest.MonkeyPatch, has_more: bool
) -> None:
    reconciler = ready(monkeypatch, lambda _inventory, memory, _moment: replace(EMPTY, memory=memory))
    reconciler.memory = Memory("first", unsettled_since=5.0)

    async def applied(*_: object) -> bool:
        reconciler._applier.has_more = has_more
        return False

    monkeypatch.setattr(reconciler._applier, "apply", applied)
    asyncio.run(reconciler._look())
    assert (reconciler.memory.unsettled_since != 5.0) is has_more
