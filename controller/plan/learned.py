"""Learned routes as kernel routes, prefix by prefix, and what is surplus in the kernel.

Pure; called by `controller.agent.routes`. `route_table` is the whole computation, and the oracle for the step by step one.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from bgp.values import Route as Learned
from controller.api.objects import Address, Network
from controller.kernel.values import NextHop, Route, RouteKind

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


def kept_while_unsettled(surplus: Iterable[Route], settled: AbstractSet[str]) -> tuple[Route, ...]:
    """Of the surplus routes, those that a session may still bring back (RFC 4724): via a next hop, of an unsettled family."""
    return tuple(
        route for route in surplus if any(hop.via for hop in route.next_hops) and _family(route) not in settled
    )


def _family(route: Route) -> str:
    return f"ipv{route.prefix.version}"
