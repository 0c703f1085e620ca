"""Forgetting connections of an address before another pod gets it: a late packet must not reach the new pod as its
predecessor's.

The agent calls `forget` on a worker thread when a released address has rested. Layout:
linux/netfilter/nfnetlink_conntrack.h.
"""

import errno
import socket
import struct
from collections.abc import Iterable

from controller.kernel.netlink import (
    NETLINK_NETFILTER,
    NLA_F_NESTED,
    KernelError,
    Message,
    Netlink,
    attribute,
    attributes,
)
from controller.kernel.values import Address

_IPCTNL_MSG_CT_GET = 1 << 8 | 1
_IPCTNL_MSG_CT_DELETE = 1 << 8 | 2
_NFGENMSG = struct.Struct("!BBH")
_CTA_TUPLE_ORIG = 1
_CTA_TUPLE_REPLY = 2
_CTA_ID = 12
_CTA_ZONE = 18
_CTA_TUPLE_IP = 1
_CTA_IP_SOURCE = {4: 1, 6: 3}
_TUPLES = (_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY)


def forget(addresses: Iterable[Address]) -> int:
    """Delete the conntrack entries that an address opened or answers; returns how many there were.

    The table is read once for each family however many addresses there are. A kernel without conntrack has none to
    forget. Raises KernelError.
    """
    wanted = {address.packed for address in addresses}
    sizes = {len(packed) for packed in wanted}
    with Netlink(NETLINK_NETFILTER) as netlink:
        return sum(_forget_family(netlink, version, wanted) for version, size in ((4, 4), (6, 16)) if size in sizes)


def _forget_family(netlink: Netlink, version: int, wanted: set[bytes]) -> int:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    matching = [message for body in _entries(netlink, family) if (message := _deletion(body, version, wanted))]
    refused = netlink.send(matching)
    for refusal in refused:
        # It ended by itself meanwhile.
        if refusal.number != errno.ENOENT:
            raise KernelError("conntrack", refusal.number, refusal.detail)
    return len(matching) - len(refused)


def _entries(netlink: Netlink, family: int) -> list[bytes]:
    try:
        return netlink.dump(_IPCTNL_MSG_CT_GET, _NFGENMSG.pack(family, 0, 0), "conntrack")
    except KernelError as error:
        if error.number in (errno.EINVAL, errno.EPROTONOSUPPORT, errno.EOPNOTSUPP):
            return []
        raise


def _deletion(entry: bytes, version: int, wanted: set[bytes]) -> Message | None:
    """The message that deletes an entry, if the source of one of its directions is wanted."""
    # Most entries are of other addresses, and to see that takes no parsing.
    if not any(packed in entry for packed in wanted):
        return None
    parts = attributes(entry, _NFGENMSG.size)
    if not any(_source(parts.get(direction, b""), version) in wanted for direction in _TUPLES):
        return None
    head = entry[: _NFGENMSG.size] + attribute(_CTA_TUPLE_ORIG | NLA_F_NESTED, parts[_CTA_TUPLE_ORIG])
    kept = b"".join(attribute(kind, parts[kind]) for kind in (_CTA_ID, _CTA_ZONE) if kind in parts)
    return _IPCTNL_MSG_CT_DELETE, 0, head + kept


def _source(direction: bytes, version: int) -> bytes:
    return attributes(attributes(direction).get(_CTA_TUPLE_IP, b"")).get(_CTA_IP_SOURCE[version], b"")
