"""Hears of changes that others make to routes, links, neighbours, addresses and nftables.

The agent awaits `KernelWatch.changes` and repairs what a change concerns. Our own writes are left out where the kernel
says who wrote (routes, neighbours); elsewhere a repair compares first and writes nothing. A lost notification is a
change of its own: RESYNC. Groups and messages: linux/rtnetlink.h, linux/netfilter/nf_tables.h.
"""

import asyncio
import errno
import socket
import struct
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address, ip_network
from types import TracebackType
from typing import Self

from controller.kernel import pod_messages as messages
from controller.kernel.netlink import (
    NETLINK_NETFILTER,
    NETLINK_ROUTE,
    attributes,
    bound_socket,
    is_own_port,
    messages_in,
)
from controller.kernel.values import TABLE, Prefix, is_our_name

_GROUP_LINK, _GROUP_NEIGHBOUR = 1, 3
_GROUP_IPV4_ADDRESS, _GROUP_IPV4_ROUTE, _GROUP_IPV6_ADDRESS, _GROUP_IPV6_ROUTE = 5, 7, 9, 11
_ROUTE_GROUPS = (
    _GROUP_LINK,
    _GROUP_NEIGHBOUR,
    _GROUP_IPV4_ADDRESS,
    _GROUP_IPV4_ROUTE,
    _GROUP_IPV6_ADDRESS,
    _GROUP_IPV6_ROUTE,
)
_NFTABLES_GROUP = 7
_NFTABLES_SUBSYSTEM = 10
# Tables, chains, rules, sets and their elements all name their table in attribute 1; a generation has a number there.
_NFT_MSG_NEWGEN = 15
_NFTA_TABLE = 1

_RTM_DELADDR = 21
_RTM_NEWROUTE, _RTM_DELROUTE = 24, 25
_RTM_DELNEIGH = 29
_RTMSG = struct.Struct("=BBBBBBBBI")
_RTA_DST = 1
_RT_TABLE_MAIN = 254
_RTPROT_KERNEL = 2
_CREATED = 0xFFFFFFFF

_SO_RCVBUFFORCE = 33
# A burst of 10,000 routes takes some 8 MiB of receive buffer.
_RECEIVE_BUFFER = 16 << 20
_RECEIVE = 1 << 16
# One turn of the event loop reads at most so many datagrams, so that a route storm does not starve the rest of the
# agent.
_READS_PER_TURN = 64
_PENDING_LIMIT = 10_000


class ChangeKind(StrEnum):
    """What a change concerns."""

    ROUTE = "route"
    POD_LINK = "pod link"
    POD_LINK_REMOVED = "pod link removed"
    UPLINK = "uplink"
    RULES = "rules"
    RESYNC = "resync"


@dataclass(frozen=True, slots=True)
class Change:
    """Something that another program, or the kernel itself, changed.

    ROUTE has the `prefix` of a route in the main table. POD_LINK (down, or a neighbour or address lost),
    POD_LINK_REMOVED and UPLINK (any other interface or its addresses) have the interface's `name`. RESYNC:
    notifications were lost, anything may have changed.
    """

    kind: ChangeKind
    name: str = ""
    prefix: Prefix | None = None


_RESYNC = Change(ChangeKind.RESYNC)


class KernelWatch:
    """Two sockets in the network namespace in which it is made, read by the running event loop. A context manager."""

    def __init__(self, receive_buffer: int = _RECEIVE_BUFFER) -> None:
        """Subscribes at once: what happens from now on is heard. `receive_buffer` counts bytes.

        Needs a running event loop.
        """
        self._loop = asyncio.get_running_loop()
        # As an ordered set: changes that are not fetched yet and are equal count once.
        self._pending: dict[Change, None] = {}
        self._wake = asyncio.Event()
        self._sockets = [
            self._subscribed(NETLINK_ROUTE, _ROUTE_GROUPS, receive_buffer),
            self._subscribed(NETLINK_NETFILTER, (_NFTABLES_GROUP,), receive_buffer),
        ]

    def _subscribed(self, protocol: int, groups: tuple[int, ...], receive_buffer: int) -> socket.socket:
        sock = bound_socket(protocol, sum(1 << (group - 1) for group in groups))
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_buffer)
        self._loop.add_reader(sock, self._on_readable, sock, protocol)
        return sock

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening."""
        for sock in self._sockets:
            self._loop.remove_reader(sock)
            sock.close()
        self._sockets = []

    async def changes(self) -> list[Change]:
        """Wait until something changed; returns all that did since the last call, equal ones once, oldest first."""
        await self._wake.wait()
        self._wake.clear()
        changes, self._pending = list(self._pending), {}
        return changes

    def _on_readable(self, sock: socket.socket, protocol: int) -> None:
        for _ in range(_READS_PER_TURN):
            try:
                data = sock.recv(_RECEIVE)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._note(_RESYNC)
                continue
            for kind, _, _, port, body in messages_in(data):
                change = _rule_change(kind, body) if protocol == NETLINK_NETFILTER else _route_change(kind, port, body)
                if change is not None:
                    self._note(change)

    def _note(self, change: Change) -> None:
        if len(self._pending) >= _PENDING_LIMIT:
            self._pending = {_RESYNC: None}
        self._pending[change] = None
        self._wake.set()


def _rule_change(kind: int, body: bytes) -> Change | None:
    if kind >> 8 != _NFTABLES_SUBSYSTEM or kind & 0xFF == _NFT_MSG_NEWGEN:
        return None
    table = attributes(body, 4).get(_NFTA_TABLE, b"").rstrip(b"\0")
    return Change(ChangeKind.RULES) if table == TABLE.encode() else None


def _route_change(kind: int, port: int, body: bytes) -> Change | None:
    if kind in (_RTM_NEWROUTE, _RTM_DELROUTE):
        return None if is_own_port(port) else _prefix_change(body)
    if kind in (messages.RTM_NEWLINK, messages.RTM_DELLINK):
        return _link_change(kind, body)
    if kind in (messages.RTM_NEWNEIGH, _RTM_DELNEIGH):
        return None if is_own_port(port) else _neighbour_change(body)
    if kind in (messages.RTM_NEWADDR, _RTM_DELADDR):
        return _address_change(kind, body)
    return None


def _prefix_change(body: bytes) -> Change | None:
    header = _RTMSG.unpack_from(body)
    family, length, table, protocol = header[0], header[1], header[4], header[5]
    # The kernel's own routes follow from addresses, which are heard of by themselves.
    if table != _RT_TABLE_MAIN or protocol == _RTPROT_KERNEL or family not in (socket.AF_INET, socket.AF_INET6):
        return None
    destination = attributes(body, _RTMSG.size).get(_RTA_DST, bytes(4 if family == socket.AF_INET else 16))
    return Change(ChangeKind.ROUTE, prefix=ip_network((destination, length)))


def _link_change(kind: int, body: bytes) -> Change | None:
    # A bridge tells of its ports in its own family: those are no links of ours.
    family, _, _, flags, changed = messages.IFINFOMSG.unpack_from(body)
    if family != socket.AF_UNSPEC:
        return None
    name = attributes(body, messages.IFINFOMSG.size)[messages.IFLA_IFNAME].rstrip(b"\0").decode(errors="replace")
    if kind == messages.RTM_DELLINK:
        return Change(ChangeKind.POD_LINK_REMOVED if is_our_name(name) else ChangeKind.UPLINK, name)
    if not is_our_name(name):
        return Change(ChangeKind.UPLINK, name)
    # Whatever a link loses, it loses by going down; one that was just made is down, and not yet to be repaired.
    went_down = changed != _CREATED and changed & messages.IFF_UP and not flags & messages.IFF_UP
    return Change(ChangeKind.POD_LINK, name) if went_down else None


def _neighbour_change(body: bytes) -> Change | None:
    family, index, _, _, _ = messages.NDMSG.unpack_from(body)
    address = attributes(body, messages.NDMSG.size).get(messages.NDA_DST)
    # A pod's link-local address is resolved and forgotten by the kernel all the time.
    if family not in (socket.AF_INET, socket.AF_INET6) or address is None or ip_address(address).is_link_local:
        return None
    name = _name_of(index)
    return Change(ChangeKind.POD_LINK, name) if is_our_name(name) else None


def _address_change(kind: int, body: bytes) -> Change | None:
    index = messages.IFADDRMSG.unpack_from(body)[4]
    name = _name_of(index)
    if not is_our_name(name):
        return Change(ChangeKind.UPLINK, name)
    return Change(ChangeKind.POD_LINK, name) if kind == _RTM_DELADDR else None


def _name_of(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""
