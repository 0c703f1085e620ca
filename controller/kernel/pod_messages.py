"""The netlink messages that wire a pod: a veth, its two ends, addresses, neighbours and the pod's default routes. Pure;
for `pods`.

Each message comes with the words for the error that it may give. Layouts: linux/if_link.h, linux/if_addr.h,
linux/neighbour.h.
"""

import socket
import struct
from collections.abc import Iterable

from controller.kernel.netlink import (
    NLA_F_NESTED,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    attribute,
    text_attribute,
)
from controller.kernel.values import GATEWAY_V4, GATEWAY_V6, Address, Attachment, mac_addresses

RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_GETLINK = 18
RTM_NEWADDR = 20
RTM_GETADDR = 22
RTM_NEWNEIGH = 28
RTM_GETNEIGH = 30
_RTM_SETLINK = 19
_RTM_NEWROUTE = 24

IFINFOMSG = struct.Struct("=BxHiII")
IFADDRMSG = struct.Struct("=BBBBI")
NDMSG = struct.Struct("=BxxxiHBB")
_RTMSG = struct.Struct("=BBBBBBBBI")
_WORD = struct.Struct("=I")

IFF_UP = 1
IFLA_ADDRESS = 1
IFLA_IFNAME = 3
IFLA_MTU = 4
IFLA_LINKINFO = 18
IFLA_IFALIAS = 20
IFLA_AF_SPEC = 26
_IFLA_NET_NS_FD = 28
IFLA_EXT_MASK = 29
IFLA_LINK_NETNSID = 37
RTEXT_FILTER_SKIP_STATS = 1 << 3
IFLA_INFO_KIND = 1
_IFLA_INFO_DATA = 2
_VETH_INFO_PEER = 1
IFLA_INET_CONF = 1
_IFLA_INET6_ADDR_GEN_MODE = 8
_IN6_ADDR_GEN_MODE_NONE = 1
# linux/ip.h; in a dump the values stand in an array that begins with number 1.
IPV4_DEVCONF_RP_FILTER = 8
STRICT = 1

IFA_ADDRESS = 1
_IFA_LOCAL = 2
_IFA_FLAGS = 8
_IFA_F_NODAD = 0x02
_SCOPE_LINK = 253
NDA_DST = 1
NDA_LLADDR = 2
NUD_PERMANENT = 0x80

_RTA_OIF = 4
_RTA_GATEWAY = 5
_RT_TABLE_MAIN = 254
_RTPROT_BOOT = 3
_RTN_UNICAST = 1
_RTNH_F_ONLINK = 4
# LOOPBACK_IFINDEX in include/net/flow.h: lo is the first interface of every network namespace.
_LOOPBACK = 1

Step = tuple[str, Message]
"""What the message is about, in words for an error, and the message."""


def family_of(address: Address) -> int:
    """AF_INET or AF_INET6."""
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def gateways_for(addresses: Iterable[Address]) -> list[Address]:
    """The gateway of each family that the addresses have."""
    families = {address.version for address in addresses}
    return [gateway for gateway in (GATEWAY_V4, GATEWAY_V6) if gateway.version in families]


def veth_message(name: str, attachment: Attachment, netns_fd: int, mtu: int) -> Message:
    """Create both ends, the peer in the pod's namespace under its final name.

    The alias is ignored in this message: it comes after.
    """
    host_mac, pod_mac = mac_addresses(attachment.container_id, attachment.interface)
    peer = IFINFOMSG.pack(0, 0, 0, 0, 0) + _end(attachment.interface, pod_mac, mtu)
    peer += attribute(_IFLA_NET_NS_FD, _WORD.pack(netns_fd))
    info = text_attribute(IFLA_INFO_KIND, "veth") + _nest(_IFLA_INFO_DATA, _nest(_VETH_INFO_PEER, peer))
    body = IFINFOMSG.pack(0, 0, 0, 0, 0) + _end(name, host_mac, mtu) + _nest(IFLA_LINKINFO, info)
    return RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body


def _end(name: str, mac: bytes, mtu: int) -> bytes:
    return text_attribute(IFLA_IFNAME, name) + attribute(IFLA_ADDRESS, mac) + attribute(IFLA_MTU, _WORD.pack(mtu))


def alias_step(index: int, alias: str) -> Step:
    """Set the alias: from here on the interface says whose it is."""
    return "interface alias", (_RTM_SETLINK, 0, _link(index) + text_attribute(IFLA_IFALIAS, alias))


def has_ipv6(addresses: Iterable[Address]) -> bool:
    """Whether one of the addresses is of IPv6: only then is the kernel asked for anything of that family, which it may lack."""
    return any(address.version == 6 for address in addresses)


def settings_step(index: int, attachment: Attachment) -> Step:
    """Strict reverse-path filter, and no link-local address by itself: ours is the gateway, and needs no detection."""
    conf = _nest(IFLA_INET_CONF, attribute(IPV4_DEVCONF_RP_FILTER, _WORD.pack(STRICT)))
    mode = attribute(_IFLA_INET6_ADDR_GEN_MODE, bytes([_IN6_ADDR_GEN_MODE_NONE]))
    spec = _nest(socket.AF_INET, conf) + (_nest(socket.AF_INET6, mode) if has_ipv6(attachment.addresses) else b"")
    return "interface settings", (_RTM_SETLINK, 0, _link(index) + _nest(IFLA_AF_SPEC, spec))


def up_step(index: int) -> Step:
    """Set an interface up."""
    return "interface up", (_RTM_SETLINK, 0, _link(index, flags=IFF_UP))


def _link(index: int, flags: int = 0) -> bytes:
    return IFINFOMSG.pack(0, 0, index, flags, flags)


def removal_message(name: str) -> Message:
    """Remove an interface by name; its peer goes with it."""
    return RTM_DELLINK, 0, _link(0) + text_attribute(IFLA_IFNAME, name)


def gateway_step(index: int) -> Step:
    """The IPv6 gateway on the host end: where there is a link-local prefix the `fib` rule lets such sources pass."""
    return _address_step(index, GATEWAY_V6, prefix_length=64, scope=_SCOPE_LINK)


def _address_step(index: int, address: Address, prefix_length: int, scope: int = 0) -> Step:
    nodad = _IFA_F_NODAD if address.version == 6 else 0
    body = IFADDRMSG.pack(family_of(address), prefix_length, nodad, scope, index)
    body += attribute(_IFA_LOCAL, address.packed) + attribute(IFA_ADDRESS, address.packed)
    return f"address {address}/{prefix_length}", (RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body)


def neighbour_step(index: int, address: Address, mac: bytes) -> Step:
    """A permanent neighbour entry."""
    body = NDMSG.pack(family_of(address), index, NUD_PERMANENT, 0, 0)
    body += attribute(NDA_DST, address.packed) + attribute(NDA_LLADDR, mac)
    return f"neighbour {address}", (RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body)


def host_steps(index: int, attachment: Attachment) -> list[Step]:
    """The host end after its alias: settings, up, the IPv6 gateway, and the pod's addresses as neighbours.

    The routes come after.
    """
    _, pod_mac = mac_addresses(attachment.container_id, attachment.interface)
    steps = [settings_step(index, attachment), up_step(index)]
    if has_ipv6(attachment.addresses):
        steps.append(gateway_step(index))
    return steps + [neighbour_step(index, address, pod_mac) for address in attachment.addresses]


def pod_steps(index: int, attachment: Attachment) -> list[Step]:
    """The pod's end: loopback and interface up, addresses, gateways as neighbours. The default routes come after."""
    host_mac, _ = mac_addresses(attachment.container_id, attachment.interface)
    gateways = gateways_for(attachment.addresses)
    steps = [up_step(_LOOPBACK), up_step(index)]
    steps += [_address_step(index, address, address.max_prefixlen) for address in attachment.addresses]
    return steps + [neighbour_step(index, gateway, host_mac) for gateway in gateways]


def default_route_steps(index: int, attachment: Attachment) -> list[Step]:
    """A default route by each of `gateways_for`; the kernel refuses it with EEXIST if the pod has one."""
    return [_default_route_step(index, gateway) for gateway in gateways_for(attachment.addresses)]


def _default_route_step(index: int, gateway: Address) -> Step:
    onlink = _RTNH_F_ONLINK if gateway.version == 4 else 0
    body = _RTMSG.pack(family_of(gateway), 0, 0, 0, _RT_TABLE_MAIN, _RTPROT_BOOT, 0, _RTN_UNICAST, onlink)
    body += attribute(_RTA_OIF, _WORD.pack(index)) + attribute(_RTA_GATEWAY, gateway.packed)
    return f"default route via {gateway}", (_RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body)


def _nest(kind: int, payload: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, payload)
