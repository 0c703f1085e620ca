"""Writes the node's status to its NodeNetwork: what the operator waits for at once, the rest without haste.

One task of the agent. The content is `controller.plan.report`'s; the timing is decided here by a pure function.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import msgspec

from controller.agent.state import State
from controller.api.nodenetwork import NodeNetworkStatus
from controller.plan.report import Seen, node_status, notable_part, urgent_part
from controller.plan.returned import Return, after_giving_back
from controller.plan.withdrawal import UNKNOWN, forgotten_at, still_kept

log = logging.getLogger(__name__)

# Seconds between writes: at least this long between any two; after a notable change; and when only counters moved.
LEAST = 1.0
NOTABLE = 1.0
COUNTERS = 60.0
# After a write that failed.
RETRY = 2.0
# Seconds between a ring and the status of it: many pods that come at once are counted once.
PAUSE = 0.05

Write = Callable[[str, NodeNetworkStatus], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Written:
    """The last status that the API server took and when, and since when what people look at differs from it.

    CLOCK_MONOTONIC seconds.
    """

    status: NodeNetworkStatus | None = None
    at: float = float("-inf")
    differs_since: float | None = None


def seconds_until_write(status: NodeNetworkStatus, written: Written, now: float, jitter: float) -> float | None:
    """How long to wait before writing; None if nothing changed. `jitter` is between 0 and 1, so that a thousand nodes
    do not write their counters at once.
    """
    if written.status is None:
        return 0.0
    since = now - written.at
    if urgent_part(status) != urgent_part(written.status):
        return max(0.0, LEAST - since)
    if is_notable(status, written):
        differs_for = now - (now if written.differs_since is None else written.differs_since)
        return max(0.0, NOTABLE - differs_for, LEAST - since)
    if status != written.status:
        return max(0.0, COUNTERS * (1 + jitter / 2) - since)
    return None


def is_notable(status: NodeNetworkStatus, written: Written) -> bool:
    """Whether more than counters changed."""
    return written.status is None or notable_part(status) != notable_part(written.status)


class Reporter:
    """The task that writes; `write` sends a status to the API server and raises on failure."""

    def __init__(self, state: State, write: Write, failures: tuple[type[Exception], ...]) -> None:
        """`failures` are what `write` may raise and what is tried again."""
        self._state, self._write, self._failures = state, write, failures
        self._written = Written()
        self._failure = ""
        self._uid = ""
        self._jitter = random.SystemRandom()

    async def run(self) -> None:
        """Writes until cancelled."""
        wait: float | None = None
        while True:
            await self._state.report.wait(wait)
            # A burst is one status, and what rang is done first: a plugin's answer does not wait for the counting.
            await asyncio.sleep(PAUSE)
            status = self.current()
            wait = await self._write_if_due(status) if status is not None else None
            wait = min((each for each in (wait, self._until_forgotten()) if each is not None), default=None)

    def current(self) -> NodeNetworkStatus | None:
        """The status as of now; None before the first plan."""
        state = self._state
        node, plan = state.snapshot.node, state.done
        if node is None or plan is None:
            return None
        if node.metadata.uid != self._uid:
            # Another object of the same name: nothing has been written to it yet.
            self._uid, self._written = node.metadata.uid, Written()
        seen = Seen(
            pods=len(set(state.ledger.used.values())),
            occupied=state.ledger.occupied,
            observed=state.observed,
            speaker_follows=state.speaker_follows,
            kept=still_kept(forgotten_at(state.snapshot.told, state.observed), state.clock()),
            learned_installed=state.learned_installed,
            is_installed=state.is_installed is not False,
            waiting=tuple(state.waiting.values()),
            drift={str(kind): count for kind, count in sorted(state.drift.items())},
            troubles=tuple((t.reason, t.message) for t in state.troubles.values()),
        )
        if self._written.status is not None:
            # Transition times follow from what was written, not from what a watch has brought back so far.
            node = msgspec.structs.replace(node, status=self._written.status)
        return node_status(node, plan, state.snapshot.passwords, seen, rfc3339_now())

    def _until_forgotten(self) -> float | None:
        """How long until a router has forgotten what was withdrawn, if a block waits for that: nothing rings then."""
        state = self._state
        if state.done is None or not state.done.withdrawn:
            return None
        now = state.clock()
        times = forgotten_at(state.snapshot.told, state.observed).values()
        return min((at - now for at in times if now < at < UNKNOWN), default=None)

    async def _write_if_due(self, status: NodeNetworkStatus) -> float | None:
        now = self._state.clock()
        if not is_notable(status, self._written):
            self._written = replace(self._written, differs_since=None)
        elif self._written.differs_since is None:
            self._written = replace(self._written, differs_since=now)
        delay = seconds_until_write(status, self._written, now, self._jitter.random())
        if delay is None or delay > 0:
            return delay
        status = self._remembered(status)
        try:
            await self._write(self._state.node, status)
        except self._failures as error:
            # Once for each text: while the API server is away it is the same every time.
            if str(error) != self._failure:
                log.warning("the status was not written: %s", error)
            self._failure = str(error)
            return RETRY
        self._failure = ""
        self._written = Written(status, self._state.clock())
        return None

    def _remembered(self, status: NodeNetworkStatus) -> NodeNetworkStatus:
        """The status, once what it gives back is kept: others may get the blocks then, whatever comes of this process.

        While that can't be written nothing is given back.
        """
        state = self._state
        if state.done is None:
            return status
        answer = Return(state.done.object_uid, status.observed_generation, status.epoch)
        returns = after_giving_back(state.snapshot.returns, status.released, answer)
        if returns == state.snapshot.returns:
            return status
        snapshot = msgspec.structs.replace(state.snapshot, returns=returns)
        state.folder.store_snapshot(snapshot)
        if state.folder.problem:
            return msgspec.structs.replace(status, released=())
        state.snapshot = snapshot
        state.reconcile.ring()
        return status


def rfc3339_now() -> str:
    """The time as Kubernetes writes it (RFC 3339, whole seconds, UTC)."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
