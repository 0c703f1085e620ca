"""Keeps one kind in a `Store` true: list, then watch, and list again at every error and on a timer.

Used by the agent for its NodeNetwork and the ClusterNetwork, each by name (the server dispatches such watches by name). It outlives
the API server: whatever goes wrong, it tries again. Deletes that happened while no watch was open are noticed by the next list.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from random import Random

from controller.api.objects import Resource
from controller.kube.client import WATCH_READ_SECONDS, Api
from controller.kube.errors import Expired, KubeError, Unavailable
from controller.kube.resources import collection_of
from controller.kube.store import Change, Store, WatchEvent

# Seconds to wait before the n-th attempt in a row (n from 1).
Backoff = Callable[[int], float]
RELIST_SECONDS = 300.0
# A watch that lasted so long was a good one.
STEADY_SECONDS = 5.0


def exponential(random: Random, first: float = 0.2, most: float = 20.0) -> Backoff:
    """Doubling pauses with jitter (between half and the whole), so that a thousand agents do not come back in one moment."""

    def pause(attempt: int) -> float:
        longest = min(most, first * 2.0 ** min(attempt - 1, 16))
        return longest * (0.5 + random.random() / 2)

    return pause


class Reflector:
    """One kind, or one object of it, from the server into the store; run `run` as a task of its own.

    `on_change` is called after the store took a list or an event that changed something, and after each first answer that ends a
    trouble; `trouble` is the last error as long as the server has not been reached again since.
    """

    def __init__(
        self, api: Api, store: Store, kind: type[Resource], *, backoff: Backoff, on_change: Callable[[Change], None]
    ) -> None:
        self._api = api
        self._store = store
        self._kind = kind
        self._collection = collection_of(kind)
        self._backoff = backoff
        self._on_change = on_change
        self.name = ""
        self.relist_seconds = RELIST_SECONDS
        self.read_seconds = WATCH_READ_SECONDS
        self.trouble: KubeError | None = None

    def named(self, name: str) -> "Reflector":
        """Restricts it to the object of that name, on the server's side."""
        self.name = name
        return self

    @property
    def is_current(self) -> bool:
        """Whether the kind has been listed and nothing has gone wrong since."""
        return self.trouble is None and self._store.shelf(self._kind).is_loaded

    async def run(self) -> None:
        """Never ends by itself; cancel it."""
        hasty = 0
        while True:
            listed_at, trouble = None, None
            try:
                version = await self._list()
                listed_at = time.monotonic()
                await self._follow(version)
            except Expired:
                # History was compacted: the list that follows is the remedy.
                pass
            except KubeError as error:
                trouble = error
                self._note(error)
            is_steady = listed_at is not None and time.monotonic() - listed_at >= STEADY_SECONDS
            hasty = 0 if is_steady else hasty + 1
            await self._pause(hasty, trouble)

    async def _pause(self, hasty: int, trouble: KubeError | None) -> None:
        """Before the next list: after any trouble, and after the second watch in a row that ended as soon as it had begun."""
        asked = trouble.retry_after if isinstance(trouble, Unavailable) else 0.0
        attempt = max(1, hasty) if trouble else hasty - 1
        if attempt > 0:
            await asyncio.sleep(max(asked, self._backoff(attempt)))

    async def _list(self) -> str:
        since, is_first = self._store.highest(self._kind), not self._store.shelf(self._kind).is_loaded
        listing = await self._api.list(self._collection, field_selector=self._selector)
        change = self._store.replace(self._kind, listing.items, listing.resource_version, since)
        was_in_trouble, self.trouble = self.trouble is not None, None
        # The first list counts even if it is empty: only now is it known that there is nothing.
        if change or was_in_trouble or is_first:
            self._on_change(change)
        return listing.resource_version

    async def _follow(self, version: str) -> None:
        """Watches until the server ends it, which it does on the timer: then it is time to list again."""
        events = self._api.watch(
            self._collection,
            version,
            field_selector=self._selector,
            seconds=self.relist_seconds,
            read_seconds=self.read_seconds,
        )
        async with aclosing(events):
            async for event in events:
                if event["type"] != "BOOKMARK":
                    self._take(WatchEvent(self._kind, event["object"], is_delete=event["type"] == "DELETED"))

    def _take(self, event: WatchEvent) -> None:
        change = self._store.apply(event)
        if change:
            self._on_change(change)

    @property
    def _selector(self) -> str:
        return f"metadata.name={self.name}" if self.name else ""

    def _note(self, error: KubeError) -> None:
        is_first = self.trouble is None
        self.trouble = error
        if is_first:
            self._on_change(Change(self._kind))
