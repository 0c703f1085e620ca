"""Carries out an OperatorPlan, object by object: what one of them is refused does not stop the others.

The server's answers go straight into the Store, so that the next plan sees what this one wrote. Called by the reconciler alone.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from controller.api.ipblock import IPBlock
from controller.api.objects import Resource
from controller.kube.client import Raw
from controller.kube.errors import Conflict, KubeError, NotFound, Troubled, Unavailable
from controller.kube.store import Store, WatchEvent
from controller.kube.writer import Fenced, Writer
from controller.operator.health import Metrics
from controller.plan.operator import OperatorPlan
from controller.plan.pools import FINALIZER

log = logging.getLogger(__name__)

PARALLEL = 16
# Seconds of writing after which the rest is left to the next plan, unless the caller says how many: thousands of writes would take
# minutes, in which nothing new is looked at.
SLICE_SECONDS = 5.0
# What blocks leave of that for the rest.
SHARE_OF_OTHERS = 0.4
# Seconds between two writes of one object's status: of any, and of one in which only counts differ.
STATUS_SECONDS = 1.0
COUNT_SECONDS = 2.0
LONGEST_PENALTY = 60.0

Key = tuple[str, str, str]


class Applier:
    """Writes plans. `wake_at` is when something that was put off is due (monotonic seconds)."""

    def __init__(self, writer: Writer, store: Store, metrics: Metrics) -> None:
        self._writer = writer
        self._store = store
        self._metrics = metrics
        self._failures: dict[Key, int] = {}
        self._not_before: dict[Key, float] = {}
        self._status_written: dict[Key, float] = {}
        # Whether the last plan had something left for which there was no time.
        self.has_more = False
        self.wake_at: float | None = None

    async def apply(self, plan: OperatorPlan, seconds: float = SLICE_SECONDS) -> bool:
        """Carries out the plan, for so long; gives whether another is to be made at once: the Store knows more now, or time was up.

        Blocks come first, but leave time for what waits for them; then the few writes about what people applied, which a node's
        block may wait for; then what lists blocks, in the plan's order. A pool's `Accepted` needs no place before the grants: they
        are planned only once the Store has it, from the server's own answer. Raises Unavailable if the server does not answer at
        all, and Fenced: then no write will do.
        """
        self.wake_at = None
        until, self.has_more = time.monotonic() + seconds, False
        self._forget_all_but(plan)
        blocks, others = _split(plan.creates)
        block_updates, other_updates = _split(plan.updates)
        block_deletes, other_deletes = _split(plan.deletes)
        has_news = [
            await self._stage(
                [
                    *((("create", each), self._writer.create) for each in blocks),
                    *((("update", each), self._writer.replace) for each in block_updates),
                    *((("delete", each), self._delete) for each in block_deletes),
                ],
                until - seconds * SHARE_OF_OTHERS,
            ),
            await self._stage([(("finalizers", each), self._finalize) for each in plan.finalizers], until),
            await self._stage(
                [(("status", each), self._writer.replace_status) for each in plan.statuses if self._is_due(each)], until
            ),
            await self._stage(
                [
                    *((("create", each), self._writer.create) for each in others),
                    *((("update", each), self._writer.replace) for each in other_updates),
                    *((("delete", each), self._delete) for each in other_deletes),
                ],
                until,
            ),
        ]
        return self.has_more or any(has_news)

    def _forget_all_but(self, plan: OperatorPlan) -> None:
        """What is not to be written any more has no failures, and an old write holds no new one up: objects come and go."""
        verbs = (
            ("create", plan.creates),
            ("update", plan.updates),
            ("delete", plan.deletes),
            ("finalizers", plan.finalizers),
            ("status", plan.statuses),
        )
        wanted = {(verb, type(body).__name__, body.metadata.name) for verb, bodies in verbs for body in bodies}
        for memory in (self._failures, self._not_before):
            for key in memory.keys() - wanted:
                del memory[key]
        since = time.monotonic() - COUNT_SECONDS
        self._status_written = {key: at for key, at in self._status_written.items() if at > since}

    async def _stage(
        self, writes: Iterable[tuple[tuple[str, Resource], Callable[[Any], Awaitable[Raw | None]]]], until: float
    ) -> bool:
        waiting = iter(writes)
        has_news = False

        async def work() -> None:
            nonlocal has_news
            for (verb, body), write in waiting:
                if time.monotonic() >= until:
                    self.has_more = True
                    return
                # Not `|=`: that would read what others may have changed by the time of the answer.
                if await self._write(verb, body, write):
                    has_news = True

        ends = await asyncio.gather(*(work() for _ in range(PARALLEL)), return_exceptions=True)
        fatal = next((end for end in ends if end is not None), None)
        if fatal is not None:
            raise fatal
        return has_news

    async def _write(self, verb: str, body: Resource, write: Callable[[Any], Awaitable[Raw | None]]) -> bool:
        kind, name = type(body), body.metadata.name
        key = (verb, kind.__name__, name)
        now = time.monotonic()
        if now < self._not_before.get(key, 0.0):
            self._wake(self._not_before[key])
            return False
        try:
            raw = await write(body)
        except Fenced:
            raise
        except (Conflict, NotFound) as error:
            # Somebody else was first, or the object is gone: see what there is now, and decide anew.
            self._put_off(key, now, error)
            return await self._refresh(key, kind, name)
        except KubeError as error:
            if isinstance(error, Unavailable) and not isinstance(error, Troubled):
                raise
            self._put_off(key, now, error)
            return False
        self._failures.pop(key, None)
        self._not_before.pop(key, None)
        self._metrics.writes.labels(verb, kind.__name__).inc()
        if verb == "status":
            self._status_written[key] = now
        if raw is None:
            self._store.forget(kind, name)
        else:
            self._store.apply(WatchEvent(kind, raw))
        return True

    async def _refresh(self, key: Key, kind: type[Resource], name: str) -> bool:
        try:
            raw = await self._writer.read(kind, name)
        except KubeError as error:
            if isinstance(error, Unavailable) and not isinstance(error, Troubled):
                raise
            self._put_off(key, time.monotonic(), error)
            return False
        if raw is None:
            self._store.forget(kind, name)
        else:
            self._store.apply(WatchEvent(kind, raw))
        return True

    def _put_off(self, key: Key, now: float, error: KubeError) -> None:
        """Later again, each time twice as late; only a first conflict is normal, and decided anew at once."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        self._metrics.errors.labels(key[0], key[1], type(error).__name__).inc()
        if isinstance(error, Conflict | NotFound) and failures == 1:
            log.info("%s of %s %s: %s", *key, error)
            return
        log.warning("%s of %s %s failed, %d times so far: %s", *key, failures, error)
        asked_for = error.retry_after if isinstance(error, Unavailable) else 0.0
        self._not_before[key] = now + max(asked_for, min(LONGEST_PENALTY, 0.05 * 2.0 ** min(failures, 16)))
        self._wake(self._not_before[key])

    async def _finalize(self, pool: Resource) -> Raw:
        """Adds or removes our finalizer, and leaves those of others as they are in the version that this write is for."""
        known = self._store.get(type(pool), pool.metadata.name)
        latest = (pool if known is None else known).metadata
        finalizers = [each for each in latest.finalizers if each != FINALIZER]
        if FINALIZER in pool.metadata.finalizers:
            finalizers.append(FINALIZER)
        wanted = {
            "name": pool.metadata.name,
            "uid": pool.metadata.uid,
            "resourceVersion": latest.resource_version,
            "finalizers": finalizers,
        }
        return await self._writer.set_finalizers(type(pool), wanted)

    async def _delete(self, body: Resource) -> None:
        metadata = body.metadata
        await self._writer.delete(type(body), metadata.name, metadata.uid, metadata.resource_version)

    def _is_due(self, body: Resource) -> bool:
        """Whether a status is to be written now: a change after a quiet time at once, then no faster than people can read."""
        known = self._store.get(type(body), body.metadata.name)
        if known is None or known.metadata.resource_version != body.metadata.resource_version:
            # This pass, or somebody else, has written the object since it was looked at: the next plan is about what it is now.
            return False
        least = COUNT_SECONDS if _conditions(known) == _conditions(body) else STATUS_SECONDS
        due = self._status_written.get(("status", type(body).__name__, body.metadata.name), -least) + least
        if time.monotonic() < due:
            self._wake(due)
            return False
        return True

    def _wake(self, at: float) -> None:
        self.wake_at = at if self.wake_at is None else min(self.wake_at, at)


def _conditions(body: Resource) -> object:
    return getattr(getattr(body, "status", None), "conditions", ())


def _split(bodies: Iterable[Resource]) -> tuple[list[Resource], list[Resource]]:
    """IPBlocks, and everything else: what lists blocks is written after them."""
    listed = list(bodies)
    return [b for b in listed if isinstance(b, IPBlock)], [b for b in listed if not isinstance(b, IPBlock)]
