"""One task that looks at the Store, asks `operator_plan` what is to be written, and has it written until nothing is.

Everything else only marks what is dirty: watches, the Lease, timers. Called by `controller.operator.main`.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from controller.api.ipblock import IPBlock
from controller.api.ippool import IPPool
from controller.api.nodenetwork import NodeNetwork
from controller.api.objects import Resource
from controller.kube.client import Api
from controller.kube.errors import KubeError, Unavailable
from controller.kube.resources import collection_of
from controller.kube.store import Store, WatchEvent
from controller.kube.writer import Fenced, Writer
from controller.operator.applying import SLICE_SECONDS, Applier
from controller.operator.health import Metrics
from controller.operator.inventory import inventory_of
from controller.operator.telling import Teller
from controller.plan.inventory import Memory, Moment
from controller.plan.operator import OperatorPlan, operator_plan, silent_nodes

log = logging.getLogger(__name__)

# Seconds: changes that come within this time are looked at together.
DEBOUNCE_SECONDS = 0.05
# After a look that took t seconds comes a rest of at least that many times t, so that a storm of changes costs a quarter of a core.
REST_FACTOR = 3.0
# A plan that took t seconds is written for at least that many times t before there is another, within limits.
WRITE_FACTOR = 4.0
LONGEST_SLICE_SECONDS = 15.0
RETRY_SECONDS = 1.0
ASK_AGAIN_SECONDS = 5.0
MOST_PASSES = 12


class Reconciler:
    """Owns the Store and the Memory. All methods are called in its event loop."""

    def __init__(self, api: Api, store: Store, teller: Teller, metrics: Metrics) -> None:
        self._api = api
        self._store = store
        self._applier = Applier(Writer(api, self.is_plan_valid), store, metrics)
        self._teller = teller
        self._metrics = metrics
        self._dirty = asyncio.Event()
        self._relist: set[type[Resource]] = set(store.kinds)
        self._took = 0.0
        # Terms begun, and the one that the present plan was made in.
        self._terms = 0
        self._planned_in = 0
        self.memory = Memory(epoch="", unsettled_since=time.monotonic())
        self.may_write: Callable[[], bool] = lambda: False
        self.new_epoch: Callable[[], str] = lambda: ""
        self.on_rewound: Callable[[], None] = lambda: None

    def on_event(self, event: WatchEvent) -> None:
        """An event of a watch."""
        change = self._store.apply(event)
        if change:
            self._dirty.set()

    def on_relist(self, kind: type[Resource]) -> None:
        """A watch of `kind` was broken, or may have been: list it."""
        self._relist.add(kind)
        self._dirty.set()

    def relist_all(self) -> None:
        """Lists every kind again."""
        self._relist |= set(self._store.kinds)
        self._dirty.set()

    def begin_term(self) -> None:
        """This process writes from now on: everything is listed, and nothing granted until the agents have spoken.

        A plan that is being written ends here: it stands on what was known in another term.
        """
        self._terms += 1
        self._teller.forget()
        self.memory = self.memory.next_term(self.new_epoch(), time.monotonic())
        self.relist_all()

    def is_plan_valid(self) -> bool:
        """Whether the present plan may be written: this process holds the Lease, and has without a gap since it was made."""
        return self.may_write() and self._planned_in == self._terms

    async def run(self) -> None:
        """Never ends by itself; cancel it."""
        wake_at: float | None = None
        while True:
            await self._wait(wake_at)
            await asyncio.sleep(max(DEBOUNCE_SECONDS, self._took * REST_FACTOR))
            self._dirty.clear()
            started = time.monotonic()
            try:
                wake_at = await self._look()
            except Fenced:
                wake_at = None
            except Unavailable as error:
                log.warning("the API server does not answer, trying again: %s", error)
                wake_at = time.monotonic() + max(RETRY_SECONDS, error.retry_after)
            except KubeError as error:
                log.error("%s", error)
                wake_at = time.monotonic() + RETRY_SECONDS
            self._metrics.looks.observe(time.monotonic() - started)

    async def _wait(self, wake_at: float | None) -> None:
        if wake_at is None:
            await self._dirty.wait()
            return
        try:
            async with asyncio.timeout(max(0.0, wake_at - time.monotonic())):
                await self._dirty.wait()
        except TimeoutError:
            return

    async def _look(self) -> float | None:
        """Plans and writes until there is nothing left to write; gives when to look again at the latest."""
        wake_at: float | None = None
        for _ in range(MOST_PASSES):
            while self._relist:
                await self._list_again(set(self._relist))
            if not self.may_write() or not self._store.is_loaded:
                return None
            plan = await self._plan()
            if plan is None:
                continue
            wake_at = plan.wake_at
            if plan.to_verify:
                await self._verify(plan)
                continue
            seconds = max(SLICE_SECONDS, min(self._took * WRITE_FACTOR, LONGEST_SLICE_SECONDS))
            has_news = await self._applier.apply(plan, seconds)
            if self._applier.has_more and not self.memory.is_settled:
                # An agent that was not asked yet can't have answered: the time to do so begins when the last one was.
                self.memory = replace(self.memory, unsettled_since=time.monotonic())
            self._teller.offer(plan.notes, self._store.invalid())
            if not has_news:
                break
        else:
            # Somebody writes against us, or there is very much to do: rest before going on.
            self._dirty.set()
        times = [at for at in (wake_at, self._applier.wake_at) if at is not None]
        if not self.memory.is_settled:
            # Everybody waits for the agents' words: they are asked for, too, lest one of them was missed.
            times.append(time.monotonic() + ASK_AGAIN_SECONDS)
            self._relist.add(NodeNetwork)
        return min(times, default=None)

    async def _plan(self) -> OperatorPlan | None:
        """What is to be written now; None if another term began meanwhile, whose memory is another.

        In a thread: with thousands of nodes it takes seconds, in which the Lease is renewed and events are heard.
        """
        started = time.monotonic()
        self._planned_in = self._terms
        inventory, memory = inventory_of(self._store), self.memory
        plan = await asyncio.to_thread(operator_plan, inventory, memory, _moment())
        self._took = time.monotonic() - started
        self._metrics.plans.observe(self._took)
        if self._planned_in != self._terms:
            return None
        self._keep(plan, silent_nodes(inventory, memory.epoch))
        return plan

    def _keep(self, plan: OperatorPlan, silent: tuple[str, ...]) -> None:
        if self.memory.unsettled_since is not None and plan.memory.unsettled_since is None:
            waited = time.monotonic() - self.memory.unsettled_since
            log.info("settled after %.1f s: blocks may be granted", waited)
            if silent:
                log.warning("granting although the agents of these nodes say nothing: %s", ", ".join(silent[:16]))
        self.memory = plan.memory
        self._metrics.settled.set(float(plan.memory.is_settled))

    async def _verify(self, plan: OperatorPlan) -> None:
        """Pools that were accepted in writing are granted from once a later list of pools and blocks shows them accepted still."""
        await self._list_again({IPPool, IPBlock})
        if self.memory.epoch == plan.memory.epoch:
            self.memory = replace(self.memory, verified=self.memory.verified | plan.to_verify)

    async def _list_again(self, kinds: set[type[Resource]]) -> None:
        wanted = sorted(kinds, key=lambda kind: kind.__name__)
        # All have ended before the first error is raised: a list left running would meet the next one of its kind.
        results = await asyncio.gather(*(self._list(kind) for kind in wanted), return_exceptions=True)
        error = next((result for result in results if isinstance(result, BaseException)), None)
        if error is not None:
            raise error

    async def _list(self, kind: type[Resource]) -> None:
        self._relist.discard(kind)
        since = self._store.highest(kind)
        try:
            listing = await self._api.list(collection_of(kind))
        except KubeError:
            self._relist.add(kind)
            raise
        change = self._store.replace(kind, listing.items, listing.resource_version, since)
        self._metrics.lists.labels(kind.__name__).inc()
        if change.rewound:
            log.error("%s: the server's history is older than what was seen: a restored backup?", kind.__name__)
            self.begin_term()
            self._relist.discard(kind)
            self.on_rewound()


def _moment() -> Moment:
    return Moment(time.monotonic(), datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
