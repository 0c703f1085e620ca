"""What the kernel holds of our veths, and what is wrong with it: the reading half of `pods`, and its pure judgement."""

import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from controller.kernel import pod_messages as messages
from controller.kernel.netlink import NLA_F_NESTED, KernelError, Netlink, attribute, attributes, text_attribute
from controller.kernel.values import (
    GATEWAY_V6,
    Address,
    Attachment,
    Drift,
    DriftKind,
    PodLink,
    Prefix,
    attachment_in,
    is_our_name,
    mac_addresses,
)

_WORD = struct.Struct("=I")
_SIGNED = struct.Struct("=i")
_RTMSG = struct.Struct("=BBBBBBBBI")
_RTM_GETROUTE = 26
_RTA_DST = 1
_RTA_OIF = 4
_RTA_GATEWAY = 5
_RT_TABLE_MAIN = 254


@dataclass(frozen=True, slots=True)
class HostEnd:
    """The host end of one veth: link, reverse-path filter (0 to 2), IPv6 addresses, permanent neighbours.

    `namespace` is the kernel's number for the namespace of the other end; None if that is in the node's own.
    """

    link: PodLink
    rp_filter: int
    namespace: int | None = None
    addresses: set[Address] = field(default_factory=set)
    neighbours: dict[Address, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PodEnd:
    """The pod's end: addresses with their prefix lengths, and the gateways of each route of the main table on this interface.

    A route without a gateway has None for one. `defaults_elsewhere` are the IP versions in which another interface of the pod has
    the default route.
    """

    index: int
    is_up: bool
    mtu: int
    mac: bytes
    addresses: dict[Address, int] = field(default_factory=dict)
    neighbours: dict[Address, bytes] = field(default_factory=dict)
    routes: dict[Prefix, set[Address | None]] = field(default_factory=dict)
    defaults_elsewhere: set[int] = field(default_factory=set)

    @property
    def gateways(self) -> set[Address | None]:
        """The gateways of its default routes."""
        return {gateway for prefix, found in self.routes.items() if prefix.prefixlen == 0 for gateway in found}


def read_links(netlink: Netlink) -> list[HostEnd]:
    """All veths of ours, without addresses and neighbours."""
    kind = attribute(messages.IFLA_LINKINFO | NLA_F_NESTED, text_attribute(messages.IFLA_INFO_KIND, "veth"))
    mask = attribute(messages.IFLA_EXT_MASK, _WORD.pack(messages.RTEXT_FILTER_SKIP_STATS))
    bodies = netlink.dump(messages.RTM_GETLINK, messages.IFINFOMSG.pack(0, 0, 0, 0, 0) + mask + kind, "links")
    ends = []
    for body in bodies:
        parts = attributes(body, messages.IFINFOMSG.size)
        name = _text(parts[messages.IFLA_IFNAME])
        if not is_our_name(name):
            continue
        _, _, index, flags, _ = messages.IFINFOMSG.unpack_from(body)
        attachment = attachment_in(_text(parts.get(messages.IFLA_IFALIAS, b"")))
        link = PodLink(
            name, index, bool(flags & messages.IFF_UP), _WORD.unpack(parts[messages.IFLA_MTU])[0], attachment
        )
        number = parts.get(messages.IFLA_LINK_NETNSID)
        ends.append(HostEnd(link, _rp_filter(parts), _SIGNED.unpack(number)[0] if number else None))
    return ends


def read_host_ends(netlink: Netlink) -> list[HostEnd]:
    """All veths of ours with their addresses and permanent neighbours."""
    ends = {end.link.ifindex: end for end in read_links(netlink)}
    for index, address, _ in _addresses(netlink, socket.AF_INET6):
        if index in ends:
            ends[index].addresses.add(address)
    for index, address, mac in _neighbours(netlink):
        if index in ends:
            ends[index].neighbours[address] = mac
    return list(ends.values())


def read_pod_end(netlink: Netlink, interface: str) -> PodEnd | None:
    """The pod's end, through a connection that was opened in the pod's namespace; None if it is missing."""
    for body in netlink.dump(messages.RTM_GETLINK, messages.IFINFOMSG.pack(0, 0, 0, 0, 0), "the pod's links"):
        parts = attributes(body, messages.IFINFOMSG.size)
        if _text(parts[messages.IFLA_IFNAME]) == interface:
            _, _, index, flags, _ = messages.IFINFOMSG.unpack_from(body)
            mtu = _WORD.unpack(parts[messages.IFLA_MTU])[0]
            end = PodEnd(index, bool(flags & messages.IFF_UP), mtu, parts.get(messages.IFLA_ADDRESS, b""))
            break
    else:
        return None
    found = _addresses(netlink, socket.AF_UNSPEC)
    end.addresses.update({address: length for index, address, length in found if index == end.index})
    end.neighbours.update({address: mac for index, address, mac in _neighbours(netlink) if index == end.index})
    for device, prefix, gateway in _routes(netlink):
        if device == end.index:
            end.routes.setdefault(prefix, set()).add(gateway)
        elif device and prefix.prefixlen == 0:
            end.defaults_elsewhere.add(prefix.version)
    return end


def host_repairs(end: HostEnd) -> list[tuple[Drift, messages.Step]]:
    """What is wrong with the host end of a wired pod, each with the message that mends it; no routes. Pure."""
    link, attachment = end.link, end.link.attachment
    if attachment is None:
        return []
    _, pod_mac = mac_addresses(attachment.container_id, attachment.interface)
    found = []
    if end.rp_filter != messages.STRICT:
        what = f"{link.name}: rp_filter is {end.rp_filter}, not {messages.STRICT}"
        found.append((Drift(DriftKind.VETH, what), messages.settings_step(link.ifindex, attachment)))
    if not link.is_up:
        found.append((Drift(DriftKind.VETH, f"{link.name} is down"), messages.up_step(link.ifindex)))
    if messages.has_ipv6(attachment.addresses) and GATEWAY_V6 not in end.addresses:
        what = f"{link.name}: gateway {GATEWAY_V6} is missing"
        found.append((Drift(DriftKind.VETH, what), messages.gateway_step(link.ifindex)))
    for address in attachment.addresses:
        if end.neighbours.get(address) != pod_mac:
            what = f"{link.name}: neighbour {address} is missing or wrong"
            found.append((Drift(DriftKind.NEIGHBOUR, what), messages.neighbour_step(link.ifindex, address, pod_mac)))
    return found


def pod_drift(end: PodEnd | None, attachment: Attachment, mtu: int) -> list[Drift]:
    """What is wrong inside the pod. Pure."""
    name = attachment.interface
    if end is None:
        return [Drift(DriftKind.VETH, f"the pod has no interface {name}")]
    host_mac, pod_mac = mac_addresses(attachment.container_id, name)
    gateways = messages.gateways_for(attachment.addresses)
    found = []
    if not end.is_up:
        found.append(Drift(DriftKind.VETH, f"{name} is down"))
    if end.mtu != mtu:
        found.append(Drift(DriftKind.VETH, f"{name}: MTU is {end.mtu}, not {mtu}"))
    if end.mac != pod_mac:
        found.append(Drift(DriftKind.VETH, f"{name}: hardware address is {end.mac.hex(':')}, not {pod_mac.hex(':')}"))
    missing = [address for address in attachment.addresses if address not in end.addresses]
    found += [Drift(DriftKind.VETH, f"{name}: address {address} is missing") for address in missing]
    wrong = [gateway for gateway in gateways if end.neighbours.get(gateway) != host_mac]
    found += [Drift(DriftKind.NEIGHBOUR, f"{name}: neighbour {gateway} is missing or wrong") for gateway in wrong]
    # A pod's second interface gets no default route: the first one has it.
    own = [gateway for gateway in gateways if gateway.version not in end.defaults_elsewhere]
    absent = [gateway for gateway in own if gateway not in end.gateways]
    return found + [Drift(DriftKind.ROUTE, f"{name}: default route via {gateway} is missing") for gateway in absent]


def _addresses(netlink: Netlink, family: int) -> Iterator[tuple[int, Address, int]]:
    for body in netlink.dump(messages.RTM_GETADDR, messages.IFADDRMSG.pack(family, 0, 0, 0, 0), "addresses"):
        packed = attributes(body, messages.IFADDRMSG.size).get(messages.IFA_ADDRESS)
        if packed:
            _, length, _, _, index = messages.IFADDRMSG.unpack_from(body)
            yield index, ip_address(packed), length


def _neighbours(netlink: Netlink) -> Iterator[tuple[int, Address, bytes]]:
    for body in netlink.dump(messages.RTM_GETNEIGH, messages.NDMSG.pack(0, 0, 0, 0, 0), "neighbours"):
        family, index, state, _, _ = messages.NDMSG.unpack_from(body)
        parts = attributes(body, messages.NDMSG.size)
        if state & messages.NUD_PERMANENT and family in (socket.AF_INET, socket.AF_INET6) and messages.NDA_DST in parts:
            yield index, ip_address(parts[messages.NDA_DST]), parts.get(messages.NDA_LLADDR, b"")


def _routes(netlink: Netlink) -> Iterator[tuple[int, Prefix, Address | None]]:
    """Interface (0 for a multipath route), prefix and gateway of the routes of the main table."""
    for family, size in ((socket.AF_INET, 4), (socket.AF_INET6, 16)):
        head = _RTMSG.pack(family, 0, 0, 0, _RT_TABLE_MAIN, 0, 0, 0, 0)
        try:
            bodies = netlink.dump(_RTM_GETROUTE, head, "the pod's routes")
        except KernelError as error:
            # A namespace whose main table was never used has none yet.
            if error.number != errno.ENOENT:
                raise
            continue
        for body in bodies:
            parts = attributes(body, _RTMSG.size)
            prefix = ip_network((parts.get(_RTA_DST, bytes(size)), _RTMSG.unpack_from(body)[1]))
            gateway = parts.get(_RTA_GATEWAY)
            device = _WORD.unpack(parts.get(_RTA_OIF, bytes(4)))[0]
            yield device, prefix, ip_address(gateway) if gateway else None


def _rp_filter(parts: dict[int, bytes]) -> int:
    inet = attributes(attributes(parts.get(messages.IFLA_AF_SPEC, b"")).get(socket.AF_INET, b""))
    values = inet.get(messages.IFLA_INET_CONF, b"")
    offset = 4 * (messages.IPV4_DEVCONF_RP_FILTER - 1)
    value: int = _WORD.unpack_from(values, offset)[0] if len(values) >= offset + 4 else 0
    return value


def _text(payload: bytes) -> str:
    return payload.rstrip(b"\0").decode(errors="replace")
