"""Wiring pods: a veth each, whose host end keeps in its alias whose it is. Reading them back, checking and repairing
them.

The agent calls these on a worker thread. `wire_pod` and `unwire_pod` serve ADD and DEL; `read_pods` is the database of
addresses in use; `pod_problems` serves CHECK; `repair_pods` serves the watcher and the full resync, and writes only
what is wrong.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from controller.kernel import pod_messages as messages
from controller.kernel.carrier import has_carrier
from controller.kernel.namespaces import opened_namespaces
from controller.kernel.netlink import KernelError, Netlink, in_netns
from controller.kernel.pod_state import (
    HostEnd,
    PodEnd,
    host_repairs,
    pod_drift,
    read_host_ends,
    read_links,
    read_pod_end,
)
from controller.kernel.routes import create_routes, read_routes_on, replace_routes
from controller.kernel.values import (
    Address,
    Attachment,
    Drift,
    DriftKind,
    PodLink,
    RouteFailure,
    alias_for,
    host_interface_name,
    is_our_name,
    pod_routes,
    route_changes,
)

# A container's own /proc/sys can't be written: there PODROUTE_PROC_SYS names another mount of the node's. Whichever it is, below
# net it shows the network namespace of the thread that looks.
_SYSCTL_IPV6 = f"{os.environ.get('PODROUTE_PROC_SYS', '/proc/sys')}/net/ipv6/conf"


class InterfaceExists(KernelError):
    """The pod has an interface of the wanted name already, or the attachment has its veth already."""


@dataclass(frozen=True, slots=True)
class Wired:
    """A veth that was made, and the gateways by which the pod got no default route, since it has one by another interface."""

    link: PodLink
    without_default: tuple[Address, ...] = ()


def wire_pod(netns_fd: int, attachment: Attachment, mtu: int) -> Wired:
    """Make the veth of an attachment: afterwards the pod reaches and is reached, in each family it has an address of.

    `netns_fd` is the pod's opened network namespace, `mtu` counts bytes. On failure all that was made is removed again.
    Raises InterfaceExists, another KernelError, or ValueError if the attachment does not fit into an alias.
    """
    name = host_interface_name(attachment.container_id, attachment.interface)
    alias = alias_for(attachment)
    with Netlink() as netlink:
        _create_veth(netlink, name, attachment, netns_fd, mtu)
        try:
            index = socket.if_nametoindex(name)
            link = PodLink(name, index, True, mtu, attachment)
            _carry_out(netlink, [messages.alias_step(index, alias)], name)
            _wire_host_end(netlink, link)
            without_default = _wire_pod_end(netns_fd, attachment)
            if not has_carrier(name):
                raise KernelError(name, errno.ENOLINK, "the pod's end is up, and this end has no carrier")
        except BaseException:
            netlink.send([messages.removal_message(name)])
            raise
    return Wired(link, without_default)


def unwire_pod(name: str) -> bool:
    """Remove a veth of ours; False if there is none. The kernel takes some 40 ms: answer the runtime first.

    Raises ValueError for a name that is not ours, KernelError if the kernel refuses.
    """
    if not is_our_name(name):
        raise ValueError(f"interface {name!r} is not ours to remove")
    with Netlink() as netlink:
        for refusal in netlink.send([messages.removal_message(name)]):
            if refusal.number != errno.ENODEV:
                raise KernelError(name, refusal.number, refusal.detail)
            return False
    return True


def read_pods() -> list[PodLink]:
    """All veths of ours, those without a readable alias included. Raises KernelError."""
    with Netlink() as netlink:
        return [end.link for end in read_links(netlink)]


def pod_problems(netns_fd: int, link: PodLink) -> list[Drift]:
    """What is wrong on either end of a wired pod; empty if all is right. Changes nothing. Raises KernelError."""
    attachment = link.attachment
    if attachment is None:
        return [Drift(DriftKind.VETH, f"{link.name}: the alias is missing")]
    found = pod_drift(read_pod(netns_fd, attachment.interface), attachment, link.mtu)
    with Netlink() as netlink:
        ends = [end for end in read_host_ends(netlink) if end.link.name == link.name]
        if not ends:
            return [*found, Drift(DriftKind.VETH, f"{link.name} is missing")]
        found += [drift for drift, _ in host_repairs(ends[0])]
        return found + _missing_routes(netlink, [link])


def read_pod(netns_fd: int, interface: str) -> PodEnd | None:
    """The pod's end as the kernel has it; None if the namespace has no such interface. Raises KernelError."""
    with in_netns(netns_fd):
        inside = Netlink()
    with inside:
        return read_pod_end(inside, interface)


def wiring_problems() -> list[tuple[str, Drift]]:
    """What is wrong on either end of all wired pods, by the host end's name; routes on the node are not looked at.

    For `podroute check`. The inside of a pod whose namespace is not found from here is passed over, as is a pod that goes while it
    is looked at. Raises KernelError.
    """
    with Netlink() as netlink:
        ends = [end for end in read_host_ends(netlink) if end.link.attachment is not None]
    found = [(end.link.name, drift) for end in ends for drift, _ in host_repairs(end)]
    with opened_namespaces({end.namespace for end in ends if end.namespace is not None}) as namespaces:
        for end in ends:
            if end.namespace in namespaces:
                found += [(end.link.name, drift) for drift in _inside(namespaces[end.namespace], end.link)]
    return found


def _inside(netns_fd: int, link: PodLink) -> list[Drift]:
    if link.attachment is None:
        return []
    try:
        found = pod_drift(read_pod(netns_fd, link.attachment.interface), link.attachment, link.mtu)
    except (KernelError, OSError):
        if _is_there(link):
            raise
        return []
    return found if _is_there(link) else []


def repair_pods(wired: Collection[tuple[str, int]] | None = None) -> list[Drift]:
    """Bring host ends back to what their aliases say, all or those of these names and indices. Returns what had to be mended.

    A second call writes nothing. A veth without alias is left alone, and one that goes meanwhile is passed over. A pod's
    route that the kernel refuses is no drift that was mended; why it refuses, `routes.apply_routes` says. Raises
    KernelError for the first of all other refusals, after everything else was mended.
    """
    mended: list[Drift] = []
    refused: list[KernelError] = []
    with Netlink() as netlink:
        ends = [end for end in read_host_ends(netlink) if wired is None or (end.link.name, end.link.ifindex) in wired]
        for end in ends:
            try:
                mended += _repair_host_end(netlink, end)
            except KernelError as error:
                refused.append(error)
        mended += _restore_routes(netlink, [end.link for end in ends])
    if refused:
        raise refused[0]
    return mended


def _repair_host_end(netlink: Netlink, end: HostEnd) -> list[Drift]:
    repairs = host_repairs(end)
    try:
        _carry_out(netlink, [step for _, step in repairs], end.link.name)
    except KernelError:
        if _is_there(end.link):
            raise
        return []
    return [drift for drift, _ in repairs]


def _is_there(link: PodLink) -> bool:
    try:
        return socket.if_nametoindex(link.name) == link.ifindex
    except OSError:
        return False


def _create_veth(netlink: Netlink, name: str, attachment: Attachment, netns_fd: int, mtu: int) -> None:
    for refusal in netlink.send([messages.veth_message(name, attachment, netns_fd, mtu)]):
        if refusal.number != errno.EEXIST:
            raise KernelError(f"veth {name}", refusal.number, refusal.detail)
        with contextlib.suppress(OSError):
            socket.if_nametoindex(name)
            raise InterfaceExists(name, errno.EEXIST, "the attachment has its veth already")
        raise InterfaceExists(attachment.interface, errno.EEXIST, "the pod has an interface of this name already")


def _wire_host_end(netlink: Netlink, link: PodLink) -> None:
    if link.attachment is None:
        return
    # A pod must not become the node's router by advertising itself, whatever the node's default is.
    _write_sysctl(f"{link.name}/accept_ra", b"0")
    if messages.has_ipv6(link.attachment.addresses):
        _write_sysctl(f"{link.name}/disable_ipv6", b"0")
    _carry_out(netlink, messages.host_steps(link.ifindex, link.attachment), link.name)
    _raise_first(create_routes(netlink, pod_routes([link]), {link.name: link.ifindex}))


def _wire_pod_end(netns_fd: int, attachment: Attachment) -> tuple[Address, ...]:
    """Returns the gateways of the families in which the pod has a default route already: the first interface keeps it."""
    with in_netns(netns_fd):
        # A socket stays in the namespace that it was opened in.
        inside = Netlink()
        index = socket.if_nametoindex(attachment.interface)
        if messages.has_ipv6(attachment.addresses):
            _write_sysctl(f"{attachment.interface}/disable_ipv6", b"0")
            _write_sysctl(f"{attachment.interface}/accept_ra", b"0")
    gateways = messages.gateways_for(attachment.addresses)
    steps = messages.pod_steps(index, attachment)
    first = len(steps)
    steps += messages.default_route_steps(index, attachment)
    without_default = []
    with inside:
        for refusal in inside.send([message for _, message in steps]):
            if refusal.position < first or refusal.number != errno.EEXIST:
                what = f"pod interface {attachment.interface}: {steps[refusal.position][0]}"
                raise KernelError(what, refusal.number, refusal.detail)
            without_default.append(gateways[refusal.position - first])
    return tuple(without_default)


def _write_sysctl(name: str, value: bytes) -> None:
    """Set a per-interface IPv6 setting in the thread's network namespace; a kernel without IPv6 has none to set."""
    path = f"{_SYSCTL_IPV6}/{name}"
    try:
        setting = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(setting, value)
        finally:
            os.close(setting)
    except OSError as error:
        if error.errno != errno.ENOENT or os.path.exists(_SYSCTL_IPV6):
            raise KernelError(path, error.errno or errno.EIO) from error


def _carry_out(netlink: Netlink, steps: list[messages.Step], owner: str) -> None:
    if not steps:
        return
    for refusal in netlink.send([message for _, message in steps]):
        raise KernelError(f"{owner}: {steps[refusal.position][0]}", refusal.number, refusal.detail)


def _raise_first(failures: Iterable[RouteFailure]) -> None:
    for failure in failures:
        raise KernelError(f"route {failure.route.prefix}", errno.EEXIST, f"{failure.reason}: {failure.detail}")


def _missing_routes(netlink: Netlink, links: list[PodLink]) -> list[Drift]:
    changes = route_changes(pod_routes(links), read_routes_on(netlink))
    return [
        Drift(DriftKind.POD_ROUTE, f"route {route.prefix} is missing or wrong")
        for route in (*changes.create, *changes.replace)
    ]


def _restore_routes(netlink: Netlink, links: list[PodLink]) -> list[Drift]:
    # Surplus routes are not this module's to judge: blocks and learned routes have the same owner.
    changes = route_changes(pod_routes(links), read_routes_on(netlink))
    index_of = {link.name: link.ifindex for link in links}
    failures = create_routes(netlink, changes.create, index_of) + replace_routes(netlink, changes.replace, index_of)
    failed = {failure.route.prefix for failure in failures}
    return [
        Drift(DriftKind.POD_ROUTE, f"route {route.prefix} was missing or wrong")
        for route in (*changes.create, *changes.replace)
        if route.prefix not in failed
    ]
