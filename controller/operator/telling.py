"""Tells people: Events about objects, and a condition on each that does not decode. A task of its own: nothing waits for it.

The reconciler offers what there is to say at each look; the newest offer counts, so what waits is never more than one plan holds.
What the server did not take is said again later. Called by `controller.operator.reconciler` and `main`.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from controller.api.notes import Note
from controller.api.objects import Invalid
from controller.api.reasons import Reason
from controller.kube.client import Api
from controller.kube.errors import KubeError, NotFound, Troubled, Unavailable
from controller.kube.events import EventRecorder
from controller.kube.resources import collection_of
from controller.operator.inventory import BY_USERS

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 600.0

Item = Note | Invalid


class Teller:
    """Says each thing once. `may_write` is asked before every request."""

    def __init__(self, api: Api, recorder: EventRecorder, may_write: Callable[[], bool]) -> None:
        self._api = api
        self._recorder = recorder
        self._may_write = may_write
        self._offered: dict[Item, None] = {}
        self._told: set[Invalid] = set()
        self._failures: dict[Item, int] = {}
        self._not_before: dict[Item, float] = {}
        self._news = asyncio.Event()

    def offer(self, notes: Iterable[Note], invalid: Iterable[Invalid]) -> None:
        """What is to be said as of now, in place of what was offered before."""
        self._offered = dict.fromkeys((*invalid, *notes))
        # An object that was mended and is broken again is told again.
        self._told &= self._offered.keys()
        for memory in (self._failures, self._not_before):
            for item in memory.keys() - self._offered.keys():
                del memory[item]
        self._news.set()

    def forget(self) -> None:
        """The server may have lost what was told: conditions are written once more."""
        self._offered.clear()
        self._told.clear()
        # What is not offered any more is not due either: `run` would wake for it for ever.
        self._not_before.clear()
        self._failures.clear()

    async def run(self) -> None:
        """Never ends by itself; cancel it."""
        while True:
            self._news.clear()
            await self._tell_offered()
            soonest = min(self._not_before.values(), default=None)
            try:
                async with asyncio.timeout(None if soonest is None else max(0.0, soonest - time.monotonic())):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def _tell_offered(self) -> None:
        for item in tuple(self._offered):
            now = time.monotonic()
            is_due = item in self._offered and now >= self._not_before.get(item, now)
            if not is_due or not self._is_news(item, now):
                continue
            if not self._may_write():
                # The next holder of the Lease says it; should that be this process, its next look offers it again.
                self._offered.clear()
                self._not_before.clear()
                return
            if not await self._tell(item, now):
                return

    def _is_news(self, item: Item, now: float) -> bool:
        return self._recorder.is_due(item, now) if isinstance(item, Note) else item not in self._told

    async def _tell(self, item: Item, now: float) -> bool:
        """Says it; gives whether the server answers."""
        if item not in self._failures:
            _log(item)
        try:
            if isinstance(item, Note):
                await self._recorder.record(item, now, datetime.now(UTC))
            else:
                await self._refuse(item)
                self._told.add(item)
        except KubeError as error:
            failures = self._failures[item] = self._failures.get(item, 0) + 1
            log.warning("%s %s could not be told, %d times so far: %s", item.kind, item.name, failures, error)
            wait = RETRY_SECONDS * 2.0 ** min(failures - 1, 16)
            self._not_before[item] = time.monotonic() + min(LONGEST_RETRY_SECONDS, wait)
            return isinstance(error, Troubled) or not isinstance(error, Unavailable)
        self._failures.pop(item, None)
        self._not_before.pop(item, None)
        return True

    async def _refuse(self, invalid: Invalid) -> None:
        """An object that does not decode says so itself."""
        kind = next((kind for kind in BY_USERS if kind.__name__ == invalid.kind), None)
        if kind is None:
            return
        condition = {
            "type": "Accepted",
            "status": "False",
            "reason": Reason.INVALID,
            "message": f"{invalid.field}: {invalid.message}; {Reason.INVALID.remedy}",
            "observedGeneration": invalid.generation,
            "lastTransitionTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        body = {"metadata": {"name": invalid.name}, "status": {"conditions": [condition]}}
        try:
            await self._api.patch(collection_of(kind), body, subresource="status")
        except NotFound:
            log.info("%s %s is gone", invalid.kind, invalid.name)


def _log(item: Item) -> None:
    if isinstance(item, Note):
        log.warning("%s %s: %s", item.kind, item.name, item.message)
    else:
        log.error("%s %s: %s: %s", item.kind, item.name, item.field, item.message)
