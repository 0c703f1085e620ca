"""The reconciler's lists, against a server that fails at some."""

import asyncio
from typing import cast

import pytest
from memory_api import MemoryApi

from controller.api import IPBlock, IPPool
from controller.kube import errors
from controller.kube.client import Api, Listing
from controller.kube.events import EventRecorder
from controller.kube.resources import Collection
from controller.kube.store import Store
from controller.operator.health import Metrics
from controller.operator.reconciler import Reconciler
from controller.operator.telling import Teller


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
