"""An operator's process as `controller.operator` runs it, one effect at a time: for the state machine of address safety.

The decisions, the Store and the Memory are the real ones. What is here is the order of the effects between them (reconciler and
applier), so that a crash, a lost answer or another operator can come between any two.
"""

from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from typing import Any

from safety_server import Refused, Server

from controller.api import IPBlock, IPPool, NodeNetwork
from controller.api.objects import Metadata, Resource
from controller.kube.store import Store, WatchEvent
from controller.operator.inventory import WATCHED, inventory_of
from controller.plan.inventory import Memory, Moment
from controller.plan.operator import OperatorPlan, operator_plan
from controller.plan.pools import FINALIZER

LEASE_SECONDS = 15.0
# For how long the holder trusts a renewal; others wait longer.
TRUST_SECONDS = 10.0

Request = Callable[[], dict[str, Any] | None]


class Fate(Enum):
    """What becomes of a request."""

    ANSWERED = "answered"
    LOST = "lost before it arrived"
    UNHEARD = "carried out, its answer lost"
    LATE = "carried out later, after its sender gave it up"


class Operator:
    """`pending` are the writes of the present plan that were not sent yet; a new plan is made once there are none."""

    def __init__(self, server: Server, name: str, now: float, epoch: Callable[[], str]) -> None:
        self.server, self.name, self._epoch = server, name, epoch
        self.store = Store(WATCHED)
        self.memory = Memory(epoch="", unsettled_since=now)
        self.trusted_until = 0.0
        # The process gets no time, or does not reach the server.
        self.is_paused = False
        self.pending: list[tuple[str, Resource]] = []
        self.relist: set[type[Resource]] = set(WATCHED)
        self._watches: dict[type[Resource], tuple[int, int]] = {}
        self._was_held = False
        self._terms = self._planned_in = 0

    def hear(self, kind: type[Resource], most: int = 1000) -> None:
        """The next events of its watch; a watch of before a restore stays silent."""
        era, position = self._watches.get(kind, (-1, 0))
        if era != self.server.era:
            return
        events = self.server.events.get(kind, [])[position : position + most]
        self._watches[kind] = (era, position + len(events))
        for event in events:
            self.store.apply(event)

    def miss(self, kind: type[Resource]) -> None:
        """The watch breaks: events are lost, and then kopf lists again and says so."""
        self._watches[kind] = (self.server.era, len(self.server.events.get(kind, [])))
        self.relist.add(kind)

    def watch_again(self) -> None:
        """A watch that hears nothing since a restore is begun anew after a while."""
        for kind in WATCHED:
            if self._watches.get(kind, (-1, 0))[0] != self.server.era:
                self.miss(kind)

    def hear_again(self, kind: type[Resource]) -> None:
        """The watch goes on from an earlier version: what was heard comes once more."""
        era, position = self._watches.get(kind, (-1, 0))
        if era == self.server.era:
            self._watches[kind] = (era, max(0, position - 5))

    def list_kind(self, kind: type[Resource], now: float) -> None:
        self.relist.discard(kind)
        since = self.store.highest(kind)
        raws, version = self.server.list(kind)
        change = self.store.replace(kind, raws, version, since)
        self._watches.setdefault(kind, (self.server.era, len(self.server.events.get(kind, []))))
        if change.rewound:
            self._begin_term(now)
            self.relist.discard(kind)
            # All watches begin anew.
            self._watches = {each: (self.server.era, len(self.server.events.get(each, []))) for each in WATCHED}

    def renew(self, now: float) -> None:
        """Asks for the Lease; a term begins when it was won, or won anew after a lapse."""
        lease = self.server.lease
        has_lapsed = now >= self.trusted_until
        if lease.holder != self.name and now < lease.until:
            self._was_held, self.trusted_until = False, 0.0
            return
        lease.holder, lease.until, self.trusted_until = self.name, now + LEASE_SECONDS, now + TRUST_SECONDS
        if has_lapsed or not self._was_held:
            self._begin_term(now)
        self._was_held = True

    def may_write(self, now: float) -> bool:
        return now < self.trusted_until

    def _begin_term(self, now: float) -> None:
        self._terms += 1
        self.memory = self.memory.next_term(self._epoch(), now)
        self.relist |= set(WATCHED)

    def look(self, now: float) -> None:
        """Makes a plan, unless the present one is being written."""
        if self.pending:
            return
        while self.relist:
            for kind in sorted(self.relist, key=lambda each: each.__name__):
                self.list_kind(kind, now)
        if not self.may_write(now) or not self.store.is_loaded:
            return
        self._planned_in = self._terms
        plan = operator_plan(inventory_of(self.store), self.memory, Moment(now, "2026-01-01T01:00:00Z"))
        self.memory = plan.memory
        self._check_grants([each for each in plan.creates if isinstance(each, IPBlock)])
        if not plan.to_verify:
            self.pending = _in_order(plan)
            return
        for kind in (IPPool, IPBlock):
            self.list_kind(kind, now)
        if self.memory.epoch == plan.memory.epoch:
            self.memory = replace(self.memory, verified=self.memory.verified | plan.to_verify)

    def _check_grants(self, blocks: list[IPBlock]) -> None:
        """What a node names is created for that node alone, and all else from a pool that can't go meanwhile."""
        names = [block.metadata.name for block in blocks]
        assert len(names) == len(set(names)), f"a block is given out that a node names: {names}"
        networks = self.store.all(NodeNetwork)
        named = {grant.cidr for network in networks for grant in network.spec.blocks}
        named |= {claim.cidr for network in networks for claim in network.status.claims}
        named |= {usage.cidr for network in networks for usage in network.status.usage}
        for block in blocks:
            pool = self.store.get(IPPool, block.spec.pool)
            is_held = (
                pool is not None and FINALIZER in pool.metadata.finalizers and not pool.metadata.deletion_timestamp
            )
            assert is_held or block.spec.cidr in named, f"{block.spec.cidr} is granted from a pool that may go"

    def send(self, now: float, fate: Fate = Fate.ANSWERED) -> Request | None:
        """Sends the next write; gives what comes to the server later, if that is its fate."""
        if not self.pending:
            return None
        verb, body = self.pending.pop(0)
        if not self.may_write(now) or self._planned_in != self._terms:
            self.pending = []
            return None
        request = self._request(verb, body)
        if request is None:
            return None
        if fate is not Fate.ANSWERED:
            # No answer: the plan ends here.
            self.pending = []
            return request if fate in (Fate.UNHEARD, Fate.LATE) else None
        kind, name = type(body), body.metadata.name
        try:
            raw = request()
        except Refused:
            kept = self.server.objects.get((kind, name))
            raw = None if kept is None else kept.raw
        if raw is None:
            self.store.forget(kind, name)
        else:
            self.store.apply(WatchEvent(kind, raw))
        return None

    def _request(self, verb: str, body: Resource) -> Request | None:
        server, metadata, kind = self.server, body.metadata, type(body)
        match verb:
            case "create":
                return lambda: server.create(body)
            case "update":
                return lambda: server.replace(body)
            case "delete":
                return lambda: server.delete_by_operator(kind, metadata)
            case "finalizers":
                return self._finalize(body)
        known = self.store.get(kind, metadata.name)
        if known is None or known.metadata.resource_version != metadata.resource_version:
            return None
        return lambda: server.replace_status(body)

    def _finalize(self, pool: Resource) -> Request:
        known = self.store.get(IPPool, pool.metadata.name)
        latest = (pool if known is None else known).metadata
        wanted = Metadata(
            name=latest.name,
            uid=pool.metadata.uid,
            resource_version=latest.resource_version,
            finalizers=(FINALIZER,) if FINALIZER in pool.metadata.finalizers else (),
        )
        return lambda: self.server.set_finalizers(IPPool, wanted)


def _in_order(plan: OperatorPlan) -> list[tuple[str, Resource]]:
    """As the applier writes: blocks, then what lists them, then what people read."""
    writes = [("create", each) for each in plan.creates]
    writes += [("update", each) for each in plan.updates]
    writes += [("delete", each) for each in plan.deletes]
    writes.sort(key=lambda write: not isinstance(write[1], IPBlock))
    return writes + [("finalizers", p) for p in plan.finalizers] + [("status", s) for s in plan.statuses]
