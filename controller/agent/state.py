"""What the agent's tasks share: one object, owned by the event loop, and the bells that wake them.

Data runs one way: keeper → `snapshot` → reconciler → `plan` → kernel and speaker → `observed` → reporter. Each task reads what
the one before it wrote; only `ledger` is written by two, additions and the reconciler, never across an await.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bgp.values import Observed
from controller.agent.bell import Bell, Broadcast, Worklist
from controller.agent.files import RunFolder
from controller.agent.ledger import Key, Ledger
from controller.api.objects import Network
from controller.api.reasons import Reason
from controller.kernel.values import DriftKind, Route
from controller.plan.addresses import Offer
from controller.plan.node import NodePlan, Snapshot
from controller.plan.withdrawal import still_kept


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that keeps the node from being as planned, for the Synced condition."""

    reason: Reason
    message: str


@dataclass(slots=True)
class State:
    """Everything the agent knows. `clock` gives CLOCK_MONOTONIC seconds."""

    node: str
    folder: RunFolder
    clock: Callable[[], float]
    # Where the speaker keeps what it was told.
    speaker_store: Path | None = None
    snapshot: Snapshot = field(default_factory=Snapshot)
    plan: NodePlan | None = None
    # The last plan that was written to the kernel: what is reported follows from it.
    done: NodePlan | None = None
    ledger: Ledger = field(default_factory=Ledger)
    observed: Observed = field(default_factory=Observed)
    # The generation by which the speaker knows the latest desired state; None until it has stored that.
    said_generation: int | None = None
    # Set at the first complete pass: the node may start pods.
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    mtu: int = 1500
    learned_installed: int = 0
    # Host ends whose addition is complete, with their interface index: only these are held to what their alias says. A veth that
    # somebody makes anew under the same name has another index.
    wired: dict[str, int] = field(default_factory=dict)
    # The routes that the last pass left in the kernel, by prefix.
    applied: dict[Network, Route] = field(default_factory=dict)
    rules_are_suspect: bool = True
    # Whether the runtime finds the plugin; None before the first look.
    is_installed: bool | None = None
    drift: Counter[DriftKind] = field(default_factory=Counter)
    troubles: dict[str, Trouble] = field(default_factory=dict)
    # Additions that wait for a block: which pools could serve them.
    waiting: dict[Key, frozenset[str]] = field(default_factory=dict)
    # Offers that a pod waited for in vain: the next one goes without.
    unanswered: set[Offer] = field(default_factory=set)
    reconcile: Worklist = field(default_factory=Worklist)
    report: Bell = field(default_factory=Bell)
    installation: Bell = field(default_factory=Bell)
    blocks_changed: Broadcast = field(default_factory=Broadcast)

    @property
    def is_ready(self) -> bool:
        """Whether the node may start pods."""
        return self.ready.is_set()

    @property
    def speaker_follows(self) -> bool:
        """Whether the speaker has stored the desired state of the plan, and what is observed came after that."""
        return self.said_generation is not None and self.observed.generation == self.said_generation

    @property
    def is_retiring(self) -> bool:
        """Whether podroute is being uninstalled, also if the node has nothing to do yet."""
        return self.snapshot.cluster is not None and bool(self.snapshot.cluster.spec.retiring)

    @property
    def is_withdrawn(self) -> bool:
        """Whether, in an uninstall, no router sends anything to this node's pods any more.

        The speaker keeps sessions until they have heard the withdrawals. One without a stored order announces nothing: it is
        removed already, or never ran. And a router that was dropped while it was cut off must have forgotten what it was told.
        """
        if self.plan is None or self.plan.retirement is None or self.observed.sessions:
            return False
        has_order = self.speaker_store is None or self.speaker_store.exists()
        return (self.speaker_follows or not has_order) and not still_kept(self.snapshot.told.until, self.clock())

    def set_trouble(self, about: str, trouble: Trouble | None) -> None:
        """Notes or clears what is wrong about one thing; wakes the reporter if that changed."""
        if self.troubles.get(about) == trouble:
            return
        if trouble is None:
            self.troubles.pop(about, None)
        else:
            self.troubles[about] = trouble
        self.report.ring()


class Locks:
    """One lock for each key in use, so that a DEL waits for the ADD of the same container."""

    def __init__(self) -> None:
        """Holds none."""
        self._locks: dict[Key, tuple[asyncio.Lock, int]] = {}

    def of(self, key: Key) -> "KeyLock":
        """The lock of a key, as an asynchronous context manager."""
        return KeyLock(self._locks, key)


class KeyLock:
    """Created by `Locks.of`; forgets the lock when nobody holds or waits for it."""

    def __init__(self, locks: dict[Key, tuple[asyncio.Lock, int]], key: Key) -> None:
        """Does not lock yet."""
        self._locks, self._key = locks, key

    async def __aenter__(self) -> None:
        """Waits for the key."""
        lock, users = self._locks.get(self._key, (asyncio.Lock(), 0))
        self._locks[self._key] = (lock, users + 1)
        try:
            await lock.acquire()
        except BaseException:
            self._leave()
            raise

    async def __aexit__(self, *failure: object) -> None:
        """Frees the key."""
        self._locks[self._key][0].release()
        self._leave()

    def _leave(self) -> None:
        lock, users = self._locks[self._key]
        if users == 1:
            del self._locks[self._key]
        else:
            self._locks[self._key] = (lock, users - 1)
