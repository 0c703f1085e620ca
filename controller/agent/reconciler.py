"""Brings kernel and speaker to the plan: reads back, computes, writes only what is wrong. One task of the agent.

It runs whenever something changed: the objects, a learned route, or, by the watcher, the kernel itself; and on a timer.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import msgspec

from controller.agent.speaker import Speaking
from controller.agent.state import State, Trouble
from controller.api.objects import Network
from controller.api.reasons import Reason
from controller.kernel import pods, routes, surroundings
from controller.kernel.netlink import KernelError
from controller.kernel.rules import RuleTable
from controller.kernel.values import (
    Drift,
    PodLink,
    Route,
    RouteChanges,
    RouteFailure,
    RouteReason,
    Rules,
    host_interface_name,
    pod_routes,
    route_changes,
)
from controller.plan.drift import route_drift
from controller.plan.learned import (
    Ground,
    Links,
    after_step,
    kept_while_unsettled,
    learned_step,
    route_table,
)
from controller.plan.node import Local, NodePlan, plan_node, returns_after
from controller.plan.speaking import Surroundings
from controller.plan.withdrawal import after_telling

log = logging.getLogger(__name__)

T = TypeVar("T")
Table = dict[Network, Route]

# Seconds between two passes at least: a burst of changes is one pass.
PAUSE = 0.05
# Seconds until a pass that the kernel refused in part is tried again.
RETRY = 1.0


@dataclass(frozen=True, slots=True)
class Readback:
    """What the kernel holds, read in one go: routes before pods, so that a pod that is being wired is at worst written twice."""

    routes: list[Route]
    pods: list[PodLink]
    uplinks: tuple[surroundings.Uplink, ...]

    @property
    def links(self) -> Links:
        """Networks that are directly reachable, and by which device."""
        return tuple((network, uplink.name) for uplink in self.uplinks for network in uplink.networks)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a pass did: what failed, what others had changed, and the routes that are in the kernel now."""

    failures: list[RouteFailure]
    drifts: list[Drift]
    applied: Table
    refusals: list[str]


class Reconciler:
    """Applies plans; the only one who writes routes, rules and repairs."""

    def __init__(self, state: State, speaking: Speaking, resync_seconds: float | None) -> None:
        """`resync_seconds` None: only what is heard of is repaired."""
        self._state, self._speaking, self._resync = state, speaking, resync_seconds
        self._worker = ThreadPoolExecutor(1, "reconciler")
        self._table = RuleTable()
        # None: no table.
        self._rules: Rules | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._links: Links = ()
        # When everything was compared last.
        self._whole_at = state.clock()

    async def run(self) -> None:
        """Works until cancelled."""
        state = self._state
        while True:
            await state.reconcile.wait(self._until_resync())
            prefixes = state.reconcile.take()
            if self._until_resync() == 0.0:
                # However much a router has to say meanwhile.
                state.rules_are_suspect, prefixes = True, None
            try:
                refusals = await (self._pass() if prefixes is None else self._learn(prefixes))
            except (KernelError, OSError) as error:
                refusals = [str(error)]
            for text in refusals:
                log.error("the kernel refused: %s", text)
            state.set_trouble("kernel", Trouble(Reason.APPLY_FAILED, "; ".join(refusals)) if refusals else None)
            if refusals:
                asyncio.get_running_loop().call_later(RETRY, state.reconcile.ring)
            await asyncio.sleep(PAUSE)

    def _until_resync(self) -> float | None:
        """Seconds until everything is to be compared though nobody asked for it; None: never."""
        if self._resync is None:
            return None
        return max(0.0, self._whole_at + self._resync - self._state.clock())

    async def _pass(self) -> list[str]:
        """One pass; returns what could not be read or written, in words. One part that fails does not stop the others."""
        state = self._state
        self._whole_at = state.clock()
        # Wired before the kernel was read: a route of theirs that was not found then is drift.
        wired = dict(state.wired)
        readback = await self._on_worker(_read)
        self._adopt_removals(readback.pods, wired)
        plan = plan_node(state.snapshot, self._local(readback))
        if plan is None:
            return []
        before, state.plan = state.plan, plan
        self._remember(plan)
        # In the same step as the plan: from here on the speaker follows an older one.
        self._speaking.want(plan.desired)
        state.mtu = self._mtu(readback.uplinks)
        # Taken once: routes and whether they are complete must be of one moment.
        observed = state.observed
        table = route_table(plan.routes, observed.routes, readback.links)
        settled = frozenset(observed.settled)
        readback = replace(readback, routes=self._without_additions(readback.routes))
        outcome = await self._on_worker(lambda: self._write(plan.table, readback, table, settled, wired))
        state.applied, state.done, self._links = outcome.applied, plan, readback.links
        self._count(outcome.drifts)
        self._note(outcome.failures)
        state.learned_installed = len(state.applied) - len({route.prefix for route in plan.routes})
        self._become_ready(plan)
        if before is None or before.retirement != plan.retirement:
            state.installation.ring()
        if before is None or before.blocks != plan.blocks:
            state.blocks_changed.ring()
        problem = state.folder.problem
        state.set_trouble("files", Trouble(Reason.STORE_FAILED, problem) if problem else None)
        state.report.ring()
        return outcome.refusals

    async def _learn(self, prefixes: frozenset[str]) -> list[str]:
        """Follows the speaker in these prefixes alone: a router's change costs what changed, not what there is."""
        state = self._state
        if state.done is None or not state.troubles.keys().isdisjoint(("routes", "kernel")):
            return await self._pass()
        own = {route.prefix: route for route in state.done.routes}
        ground = Ground(own, self._links, frozenset(state.observed.settled))
        changes = learned_step(prefixes, state.observed.routes, state.applied, ground)
        failures = await self._on_worker(lambda: routes.apply_routes(changes))
        after_step(state.applied, changes)
        state.learned_installed = len(state.applied) - len(own)
        if failures:
            # Which ones last, and whether others do, a whole look says.
            state.reconcile.ring()
        return []

    def _mtu(self, uplinks: tuple[surroundings.Uplink, ...]) -> int:
        """The smallest MTU of the links that carry the node's addresses; other bridges of the machine do not count."""
        node = self._state.snapshot.node
        own = set(node.spec.addresses) if node else set()
        carrying = [uplink.mtu for uplink in uplinks if own & set(map(str, uplink.addresses))]
        return min(carrying or [uplink.mtu for uplink in uplinks], default=self._state.mtu)

    def _local(self, readback: Readback) -> Local:
        addresses = tuple(str(address) for uplink in readback.uplinks for address in uplink.addresses)
        networks = tuple(dict.fromkeys(str(network) for network, _ in readback.links))
        state = self._state
        pods_complete = tuple(link for link in readback.pods if is_wired(link, state.wired))
        here = Surroundings(addresses, networks)
        return Local(pods_complete, state.ledger.occupied, here, state.clock(), state.is_withdrawn)

    def _without_additions(self, found: list[Route]) -> list[Route]:
        """Leaves out routes of additions under way: the plan has only pods that are complete, so they would look surplus."""
        used = self._state.ledger.used.items()
        in_flight = {address for address, key in used if host_interface_name(*key) not in self._state.wired}
        return [
            route
            for route in found
            if route.prefix.prefixlen < route.prefix.max_prefixlen or route.prefix.network_address not in in_flight
        ]

    def _adopt_removals(self, links: Iterable[PodLink], wired: Mapping[str, int]) -> None:
        """Releases the addresses of pods whose veth is gone: their namespace went without a DEL.

        `wired` were complete before `links` were read: one that was made since is not missing, though it may have the name of one
        that is.
        """
        state = self._state
        present = {(link.name, link.ifindex) for link in links}
        for key in set(state.ledger.used.values()):
            name = host_interface_name(*key)
            index = wired.get(name)
            if index is not None and state.wired.get(name) == index and (name, index) not in present:
                del state.wired[name]
                released = state.ledger.release(key, state.clock())
                state.ledger.unlinked(name)
                state.folder.note_resting({address: state.ledger.resting[address] for address in released})
                state.blocks_changed.ring()

    def _write(
        self, rules: Rules | None, readback: Readback, table: Table, settled: frozenset[str], wired: Mapping[str, int]
    ) -> Outcome:
        """On the worker thread: routes, pods' host ends and rules."""
        changes = route_changes(table.values(), readback.routes)
        kept = set(kept_while_unsettled(changes.delete, settled))
        changes = RouteChanges(changes.create, changes.replace, tuple(r for r in changes.delete if r not in kept))
        of_pods = {route.prefix: route for route in pod_routes(link for link in readback.pods if is_wired(link, wired))}
        drifts = route_drift(changes, {**self._state.applied, **of_pods})
        failures: list[RouteFailure] = []
        refusals: list[str] = []
        with _noted(refusals):
            failures = routes.apply_routes(changes)
        with _noted(refusals):
            drifts += pods.repair_pods(set(wired.items()))
        with _noted(refusals):
            drifts += self._keep_rules(rules)
        return Outcome(failures, drifts, {**table, **{route.prefix: route for route in kept}}, refusals)

    def _keep_rules(self, rules: Rules | None) -> list[Drift]:
        """Writes the table if it may differ. It stays suspect until that has succeeded."""
        if self._rules == rules and not self._state.rules_are_suspect:
            return []
        self._state.rules_are_suspect = False
        try:
            drifts = self._table.apply(rules)
        except (KernelError, OSError):
            self._state.rules_are_suspect = True
            raise
        self._rules = rules
        return drifts

    def _count(self, drifts: list[Drift]) -> None:
        for drift in drifts:
            log.warning("repaired %s: %s", drift.kind, drift.what)
            self._state.drift[drift.kind] += 1

    def _note(self, failures: list[RouteFailure]) -> None:
        # A pod may go while its route is written.
        lasting = [failure for failure in failures if failure.reason is not RouteReason.LINK_MISSING]
        if not lasting:
            self._state.set_trouble("routes", None)
            return
        foreign = any(failure.reason is RouteReason.FOREIGN_ROUTE for failure in lasting)
        texts = "; ".join(f"{failure.route.prefix}: {failure.reason} {failure.detail}" for failure in lasting[:5])
        reason = Reason.FOREIGN_ROUTE if foreign else Reason.APPLY_FAILED
        self._state.set_trouble("routes", Trouble(reason, f"{texts}; {reason.remedy}"))

    def _remember(self, plan: NodePlan) -> None:
        """What outlives this process: the blocks held, those given back, and the sessions, before the speaker is told."""
        state = self._state
        neighbours, has_blocks = plan.desired.neighbours, bool(plan.blocks)
        told = after_telling(state.snapshot.told, neighbours, state.observed, state.clock(), has_blocks=has_blocks)
        returns = returns_after(state.snapshot, plan, state.clock())
        retired = plan.retirement is Reason.RETIRED
        snapshot = msgspec.structs.replace(
            state.snapshot, held=plan.blocks, returns=returns, told=told, retired=retired
        )
        if snapshot != state.snapshot or state.folder.problem:
            # Also what could not be written before: a disk that was full has room again.
            state.snapshot = snapshot
            state.folder.store_snapshot(snapshot)
        self._tell_returned(plan)

    def _tell_returned(self, plan: NodePlan) -> None:
        """Blocks that the spec grants and that this node gave back: not used, and told until the operator's word is newer."""
        node = self._state.snapshot.node
        listed = node.spec.blocks if node else ()
        withheld = [block.cidr for block in listed if block.state == "Active" and block.uid in plan.returned]
        if not withheld:
            self._state.set_trouble("returned", None)
            return
        reason = Reason.BLOCK_RETURNED
        text = f"{', '.join(withheld[:5])}: {reason.meaning}; {reason.remedy}"
        self._state.set_trouble("returned", Trouble(reason, text))
        wait = 0.0 if plan.decided_at is None else plan.decided_at - self._state.clock()
        if wait > 0:
            self._wake_in(wait)

    def _wake_in(self, seconds: float) -> None:
        """Has a pass made then; a later call takes an earlier one's place."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._state.reconcile.ring)

    def _become_ready(self, plan: NodePlan) -> None:
        state = self._state
        if plan.retirement:
            if plan.retirement is Reason.RETIRING:
                # Routers that have heard, or forgotten, ring nothing.
                self._wake_in(0.0 if state.is_withdrawn else RETRY)
        elif not state.is_ready:
            state.ready.set()
            state.folder.mark_ready()
            state.installation.ring()
            log.info("node %s is ready for pods", state.node)

    async def _on_worker(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)


def is_wired(link: PodLink, wired: Mapping[str, int]) -> bool:
    """Whether this very link was made for a pod, not one that somebody else gave its name."""
    return wired.get(link.name) == link.ifindex


@contextmanager
def _noted(refusals: list[str]) -> Iterator[None]:
    """Puts what the kernel refuses into words and goes on."""
    try:
        yield
    except (KernelError, OSError) as error:
        refusals.append(str(error))


def _read() -> Readback:
    found = routes.read_routes()
    return Readback(found, pods.read_pods(), surroundings.uplinks())
