"""What was changed behind our back: differences between the kernel and what had been applied before.

Pure; called by `controller.agent.reconciler` to count, and by `podroute check` to name.
"""

from collections.abc import Mapping

from controller.api.objects import Network
from controller.kernel.values import Drift, DriftKind, NextHop, Route, RouteChanges, is_our_name


def route_drift(changes: RouteChanges, applied: Mapping[Network, Route]) -> list[Drift]:
    """The changes that repair what somebody else did: routes that had been applied, or that nobody here made."""
    drifts = [
        Drift(_kind(route), f"{route.prefix} was missing or changed")
        for route in (*changes.create, *changes.replace)
        if applied.get(route.prefix) == route
    ]
    drifts += [
        Drift(_kind(route), f"{route.prefix} was added")
        for route in changes.delete
        if route.prefix not in applied and not _is_pod_route(route)
    ]
    return drifts


def _kind(route: Route) -> DriftKind:
    return DriftKind.POD_ROUTE if _is_pod_route(route) else DriftKind.ROUTE


def _is_pod_route(route: Route) -> bool:
    return any(_is_on_pod_link(hop) for hop in route.next_hops)


def _is_on_pod_link(hop: NextHop) -> bool:
    return hop.via is None and hop.dev is not None and is_our_name(hop.dev)
