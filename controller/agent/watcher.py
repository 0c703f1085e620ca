"""Hears of changes that others make to the kernel and wakes the reconciler for those that matter. One task of the agent."""

import ipaddress
from collections.abc import Iterable

from controller.agent.state import State
from controller.api.objects import Network
from controller.kernel.watch import Change, ChangeKind, KernelWatch


async def watch_kernel(state: State) -> None:
    """The task: listens until cancelled."""
    with KernelWatch() as watch:
        while True:
            changes = await watch.changes()
            if any(change.kind in (ChangeKind.RULES, ChangeKind.RESYNC) for change in changes):
                state.rules_are_suspect = True
            if is_relevant(changes, state):
                state.reconcile.ring()


def is_relevant(changes: Iterable[Change], state: State) -> bool:
    """Whether one of the changes may concern what is ours; a routing daemon's own churn does not."""
    return any(_is_relevant(change, state) for change in changes)


def _is_relevant(change: Change, state: State) -> bool:
    match change.kind:
        case ChangeKind.ROUTE:
            return change.prefix is not None and (change.prefix in state.applied or _is_in_pool(change.prefix, state))
        case ChangeKind.POD_LINK | ChangeKind.POD_LINK_REMOVED:
            return change.name in state.wired
        case ChangeKind.UPLINK | ChangeKind.RULES | ChangeKind.RESYNC:
            return True


def _is_in_pool(prefix: Network, state: State) -> bool:
    cluster = state.snapshot.cluster
    if cluster is None:
        return False
    pools = (ipaddress.ip_network(pool.cidr) for pool in cluster.spec.pools)
    return any(pool.version == prefix.version and prefix.overlaps(pool) for pool in pools)
