"""Reading and writing the routes that are ours: main table, protocol 179, metric 179, both families.

The agent reads, lets `values.route_changes` say what differs, and applies that; it reads routes before pods, so that a
pod that is being wired is written twice rather than taken for surplus. Messages are packed here (linux/rtnetlink.h),
many to a send.
"""

import errno
import socket
import struct
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from controller.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    Netlink,
    Refusal,
    attribute,
    attributes,
)
from controller.kernel.values import (
    METRIC,
    PROTOCOL,
    Address,
    ForeignRoute,
    NextHop,
    Prefix,
    Route,
    RouteChanges,
    RouteFailure,
    RouteKind,
    RouteReason,
    is_satisfied,
)

_RTM_NEWROUTE = 24
_RTM_DELROUTE = 25
_RTM_GETROUTE = 26
_RTA_DST = 1
_RTA_OIF = 4
_RTA_GATEWAY = 5
_RTA_PRIORITY = 6
_RTA_MULTIPATH = 9
_RTA_VIA = 18
_RT_TABLE_MAIN = 254
_RT_SCOPE_UNIVERSE = 0
_RT_SCOPE_LINK = 253
_RT_SCOPE_NOWHERE = 255
_RTN_TYPES = {RouteKind.UNICAST: 1, RouteKind.UNREACHABLE: 7}
_KINDS = {number: kind for kind, number in _RTN_TYPES.items()}

# struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags; then the header of RTA_DST.
_RTMSG = struct.Struct("=BBBBBBBBI")
_RTMSG_DST = struct.Struct("=BBBBBBBBIHH")
_WORD = struct.Struct("=I")
_RTNEXTHOP = struct.Struct("=HBBi")
_PRIORITY = attribute(_RTA_PRIORITY, _WORD.pack(METRIC))

_REASONS = {
    errno.EEXIST: RouteReason.FOREIGN_ROUTE,
    errno.ENETUNREACH: RouteReason.NEXT_HOP_NOT_ON_LINK,
    errno.EHOSTUNREACH: RouteReason.NEXT_HOP_NOT_ON_LINK,
    errno.ENETDOWN: RouteReason.LINK_DOWN,
    errno.ENODEV: RouteReason.LINK_MISSING,
}


def read_routes() -> list[Route]:
    """The routes that are ours. Raises KernelError."""
    with Netlink() as netlink:
        return read_routes_on(netlink)


def read_foreign_routes(prefixes: Iterable[Prefix]) -> list[ForeignRoute]:
    """Routes in the main table that are not ours though their prefix is one of `prefixes`. Raises KernelError."""
    wanted = frozenset(prefixes)
    found = []
    with Netlink() as netlink:
        for body in _dump(netlink, protocol=0):
            header, parts = _RTMSG.unpack_from(body), attributes(body, _RTMSG.size)
            metric = _metric(parts)
            if header[4] != _RT_TABLE_MAIN or (header[5] == PROTOCOL and metric == METRIC):
                continue
            prefix = _prefix(header[0], header[1], parts.get(_RTA_DST))
            if prefix in wanted:
                found.append(ForeignRoute(prefix, header[5], metric))
    return found


def apply_routes(changes: RouteChanges) -> list[RouteFailure]:
    """Create, replace and delete; what the kernel refuses is returned with its reason and does not stop the rest.

    No changes: nothing is written. A route that is gone already counts as deleted. Raises KernelError if the kernel
    can't be asked.
    """
    if not changes:
        return []
    with Netlink() as netlink:
        links = {name: index for index, name in socket.if_nameindex()}
        failures = create_routes(netlink, changes.create, links)
        failures += replace_routes(netlink, changes.replace, links)
        refused = netlink.send([(_RTM_DELROUTE, 0, _delete_body(route.prefix)) for route in changes.delete])
        gone = (errno.ESRCH, errno.ENOENT)
        failures += [
            _failure(changes.delete[refusal.position], refusal) for refusal in refused if refusal.number not in gone
        ]
    return failures


def _write(netlink: Netlink, routes: Sequence[Route], flags: int, links: dict[str, int]) -> list[RouteFailure]:
    # Thousands of learned routes share few tuples of next hops: known again by identity, since hashing takes longer than packing.
    suffixes: dict[tuple[int, RouteKind, int], tuple[int, bytes]] = {}
    messages: list[Message] = []
    sent = []
    failures = []
    for route in routes:
        family = socket.AF_INET if route.prefix.version == 4 else socket.AF_INET6
        key = (id(route.next_hops), route.kind, family)
        try:
            scope, tail = suffixes.get(key) or suffixes.setdefault(
                key, _suffix(route.kind, route.next_hops, family, links.__getitem__)
            )
        except KeyError as missing:
            failures.append(RouteFailure(route, RouteReason.LINK_MISSING, f"there is no interface {missing.args[0]}"))
            continue
        messages.append((_RTM_NEWROUTE, flags, _head(route, family, scope) + tail))
        sent.append(route)
    return failures + [_failure(sent[refusal.position], refusal) for refusal in netlink.send(messages)]


def _head(route: Route, family: int, scope: int) -> bytes:
    """struct rtmsg and RTA_DST."""
    address = route.prefix.network_address.packed
    length = route.prefix.prefixlen
    kind = _RTN_TYPES[route.kind]
    head = _RTMSG_DST.pack(family, length, 0, 0, _RT_TABLE_MAIN, PROTOCOL, scope, kind, 0, 4 + len(address), _RTA_DST)
    return head + address


def _suffix(
    kind: RouteKind, next_hops: tuple[NextHop, ...], family: int, index_of: Callable[[str], int]
) -> tuple[int, bytes]:
    """The scope, and the attributes after RTA_DST: the same for all routes with the same next hops."""
    if kind is not RouteKind.UNICAST:
        return _RT_SCOPE_UNIVERSE, _PRIORITY
    legs = [(_gateway(hop.via, family), index_of(hop.dev) if hop.dev else 0) for hop in next_hops]
    if len(legs) > 1:
        nested = b"".join(_RTNEXTHOP.pack(8 + len(gateway), 0, 0, index) + gateway for gateway, index in legs)
        return _RT_SCOPE_UNIVERSE, _PRIORITY + attribute(_RTA_MULTIPATH, nested)
    [(gateway, index)] = legs
    device = attribute(_RTA_OIF, _WORD.pack(index)) if index else b""
    # A destination on the link itself has link scope in IPv4; IPv6 knows no scopes.
    scope = _RT_SCOPE_UNIVERSE if gateway or family == socket.AF_INET6 else _RT_SCOPE_LINK
    return scope, _PRIORITY + gateway + device


def _gateway(via: Address | None, family: int) -> bytes:
    if via is None:
        return b""
    own = socket.AF_INET if via.version == 4 else socket.AF_INET6
    if own == family:
        return attribute(_RTA_GATEWAY, via.packed)
    return attribute(_RTA_VIA, struct.pack("=H", own) + via.packed)


def _delete_body(prefix: Prefix) -> bytes:
    """Protocol and metric have to match: a foreign route of the same prefix stays (fib_table_delete, ip6_route_del)."""
    family = socket.AF_INET if prefix.version == 4 else socket.AF_INET6
    head = _RTMSG.pack(family, prefix.prefixlen, 0, 0, _RT_TABLE_MAIN, PROTOCOL, _RT_SCOPE_NOWHERE, 0, 0)
    return head + attribute(_RTA_DST, prefix.network_address.packed) + _PRIORITY


def _failure(route: Route, refusal: Refusal) -> RouteFailure:
    reason = _REASONS.get(refusal.number, RouteReason.KERNEL_REFUSED)
    return RouteFailure(route, reason, refusal.detail or errno.errorcode.get(refusal.number, str(refusal.number)))


def create_routes(netlink: Netlink, routes: Sequence[Route], links: dict[str, int]) -> list[RouteFailure]:
    """Create routes on an open connection; `links` has the index of each interface that they name. Also for `pods`."""
    failures = _write(netlink, routes, NLM_F_CREATE | NLM_F_EXCL, links)
    # One that exists already may be our own, e.g. of a pod wired since the routes were read: then it is no failure.
    if not any(failure.reason is RouteReason.FOREIGN_ROUTE for failure in failures):
        return failures
    ours = {route.prefix: route for route in read_routes_on(netlink)}
    settled = []
    for failure in failures:
        actual = ours.get(failure.route.prefix)
        if failure.reason is not RouteReason.FOREIGN_ROUTE or actual is None:
            settled.append(failure)
        elif not is_satisfied(failure.route, actual):
            settled += replace_routes(netlink, [failure.route], links)
    return settled


def replace_routes(netlink: Netlink, routes: Sequence[Route], links: dict[str, int]) -> list[RouteFailure]:
    """Replace routes on an open connection, each in one step. Also for `pods`."""
    return _write(netlink, routes, NLM_F_CREATE | NLM_F_REPLACE, links)


def read_routes_on(netlink: Netlink) -> list[Route]:
    """The routes that are ours, on an open connection. Also for `pods`."""
    names = dict(socket.if_nameindex())
    routes = []
    for body in _dump(netlink, PROTOCOL):
        header, parts = _RTMSG.unpack_from(body), attributes(body, _RTMSG.size)
        kind = _KINDS.get(header[7])
        if kind is None or header[4] != _RT_TABLE_MAIN or header[5] != PROTOCOL or _metric(parts) != METRIC:
            continue
        # IPv6 shows an unreachable route as one on lo.
        next_hops = _next_hops(parts, names) if kind is RouteKind.UNICAST else ()
        routes.append(Route(_prefix(header[0], header[1], parts.get(_RTA_DST)), kind, next_hops))
    return routes


def _dump(netlink: Netlink, protocol: int) -> list[bytes]:
    bodies = []
    for family in (socket.AF_INET, socket.AF_INET6):
        bodies += netlink.dump(_RTM_GETROUTE, _RTMSG.pack(family, 0, 0, 0, _RT_TABLE_MAIN, protocol, 0, 0, 0), "routes")
    return bodies


def _metric(parts: dict[int, bytes]) -> int:
    metric: int = _WORD.unpack(parts[_RTA_PRIORITY])[0] if _RTA_PRIORITY in parts else 0
    return metric


def _prefix(family: int, length: int, address: bytes | None) -> Prefix:
    if family == socket.AF_INET:
        return IPv4Network((address or bytes(4), length))
    return IPv6Network((address or bytes(16), length))


def _next_hops(parts: dict[int, bytes], names: dict[int, str]) -> tuple[NextHop, ...]:
    nested = parts.get(_RTA_MULTIPATH)
    if nested is None:
        index = _WORD.unpack(parts[_RTA_OIF])[0] if _RTA_OIF in parts else 0
        return (NextHop(_via(parts), names.get(index)),)
    hops = []
    offset = 0
    while offset + _RTNEXTHOP.size <= len(nested):
        length, _, _, index = _RTNEXTHOP.unpack_from(nested, offset)
        leg = attributes(nested[offset + _RTNEXTHOP.size : offset + length])
        hops.append(NextHop(_via(leg), names.get(index)))
        offset += (length + 3) & ~3
    return tuple(hops)


def _via(parts: dict[int, bytes]) -> Address | None:
    packed = parts.get(_RTA_GATEWAY) or parts.get(_RTA_VIA, b"")[2:]
    if not packed:
        return None
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)
