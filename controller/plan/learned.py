"""Learned routes as kernel routes, prefix by prefix, and what is surplus in the kernel.

Pure; called by `controller.agent.reconciler`. `route_table` is the whole computation, and the oracle of tests for `learned_step`,
which costs what changed and not what there is.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from bgp.values import Route as Learned
from controller.api.objects import Address, Network
from controller.kernel.values import NextHop, Route, RouteChanges, RouteKind

Links = tuple[tuple[Network, str], ...]


def learned_route(prefix: str, learned: Learned, links: Links) -> Route | None:
    """The kernel's route for a learned prefix; None if no next hop is on one of the `links` (network and device)."""
    hops = [
        NextHop(address, device)
        for address in map(ipaddress.ip_address, learned.next_hops)
        if (device := device_for(address, links)) is not None
    ]
    if not hops:
        return None
    return Route(ipaddress.ip_network(prefix), RouteKind.UNICAST, tuple(sorted(hops, key=str)))


def device_for(address: Address, links: Links) -> str | None:
    """The device on whose network the address lies, the longest prefix first."""
    fitting = [(network.prefixlen, device) for network, device in links if address in network]
    return max(fitting)[1] if fitting else None


def route_table(own: Iterable[Route], learned: Mapping[str, Learned], links: Links) -> dict[Network, Route]:
    """All routes that the kernel should have: own ones come before learned ones of the same prefix."""
    table: dict[Network, Route] = {}
    for prefix, path in learned.items():
        route = learned_route(prefix, path, links)
        if route is not None:
            table[route.prefix] = route
    table.update((route.prefix, route) for route in own)
    return table


@dataclass(frozen=True, slots=True)
class Ground:
    """What a learned route depends on beside the speaker: own routes by prefix, links, and families that are settled."""

    own: Mapping[Network, Route]
    links: Links
    settled: AbstractSet[str]


def learned_step(
    prefixes: Iterable[str], learned: Mapping[str, Learned], applied: Mapping[Network, Route], ground: Ground
) -> RouteChanges:
    """What the kernel lacks after the best ways to `prefixes` changed; `applied` are the routes of ours that it has.

    `after_step` gives the routes that it has then.
    """
    create, replace, delete = [], [], []
    for prefix in prefixes:
        network = ipaddress.ip_network(prefix)
        if network in ground.own:
            continue
        path, before = learned.get(prefix), applied.get(network)
        want = learned_route(prefix, path, ground.links) if path is not None else None
        if want is not None and before is None:
            create.append(want)
        elif want is not None and want != before:
            replace.append(want)
        elif want is None and before is not None and not kept_while_unsettled([before], ground.settled):
            delete.append(before)
    return RouteChanges(tuple(create), tuple(replace), tuple(delete))


def after_step(applied: dict[Network, Route], changes: RouteChanges) -> None:
    """Brings the picture of the kernel to what it is once the changes are made. In place: there may be 100,000 routes."""
    for route in (*changes.create, *changes.replace):
        applied[route.prefix] = route
    for route in changes.delete:
        applied.pop(route.prefix, None)


def kept_while_unsettled(surplus: Iterable[Route], settled: AbstractSet[str]) -> tuple[Route, ...]:
    """Of the surplus routes, those that a session may still bring back (RFC 4724): via a next hop, of an unsettled family."""
    return tuple(
        route for route in surplus if any(hop.via for hop in route.next_hops) and _family(route) not in settled
    )


def _family(route: Route) -> str:
    return f"ipv{route.prefix.version}"
