"""Finding the network namespace that the other end of a veth is in, for `pods.wiring_problems`.

The kernel has numbers for them (IFLA_LINK_NETNSID). Namespaces that have a name below /run/netns, where runtimes keep them, or a
process that can be seen from here are asked for theirs (RTM_GETNSID, linux/net_namespace.h). One that has neither is not found.
"""

import contextlib
import glob
import os
import struct
from collections.abc import Collection, Iterator

from controller.kernel.netlink import KernelError, Netlink, attribute, attributes

_RTM_GETNSID = 90
_NETNSA_NSID = 1
_NETNSA_FD = 3
_RTGENMSG = b"\0\0\0\0"
_SIGNED = struct.Struct("=i")
_PLACES = ("/run/netns/*", "/proc/[0-9]*/ns/net")


@contextlib.contextmanager
def opened_namespaces(numbers: Collection[int]) -> Iterator[dict[int, int]]:
    """Descriptors of the namespaces of these numbers, as the thread's namespace numbers them; closed afterwards."""
    found: dict[int, int] = {}
    try:
        with Netlink() as netlink:
            _open_into(found, frozenset(numbers), netlink)
        yield found
    finally:
        for descriptor in found.values():
            os.close(descriptor)


def _open_into(found: dict[int, int], numbers: frozenset[int], netlink: Netlink) -> None:
    """One by one, so that those opened are known to the caller should a later one fail."""
    seen: set[tuple[int, int]] = set()
    for path in (path for place in _PLACES for path in glob.iglob(place)):
        if len(found) == len(numbers):
            break
        descriptor = _opened(path, seen)
        if descriptor is None:
            continue
        number = _number(netlink, descriptor)
        if number in numbers and number not in found:
            found[number] = descriptor
        else:
            os.close(descriptor)


def _opened(path: str, seen: set[tuple[int, int]]) -> int | None:
    """The namespace, unless it was seen before or goes just now."""
    try:
        status = os.stat(path)
        if (status.st_dev, status.st_ino) in seen:
            return None
        seen.add((status.st_dev, status.st_ino))
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _number(netlink: Netlink, descriptor: int) -> int:
    """Its number here; -1 if it has none, as a namespace that no link leads to, or is no network namespace."""
    try:
        body = netlink.ask(_RTM_GETNSID, _RTGENMSG + attribute(_NETNSA_FD, _SIGNED.pack(descriptor)), "namespace")
    except KernelError:
        return -1
    number: int = _SIGNED.unpack(attributes(body, len(_RTGENMSG))[_NETNSA_NSID])[0]
    return number
