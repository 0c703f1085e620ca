"""What a node's kernel should hold, as frozen values, and the difference between wanted and actual.

Pure: no I/O, no clock. `controller.plan` builds these values, the other modules of this room apply them and read them
back.

Ownership is written in the kernel itself: a route is ours if its protocol and its metric are both 179, an interface if
its name is `podr` and eleven hexadecimal digits, a rule if it stands in the nft table `podroute`.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network

# rtm_protocol (linux/rtnetlink.h) is a byte; 179 is BGP's port and no routing daemon's number (iproute2 rt_protos).
PROTOCOL = 179
# A metric of our own: `ip route replace` at metric 0 would overwrite a foreign route of the same prefix.
METRIC = 179
TABLE = "podroute"
VETH_PREFIX = "podr"
# The pods' gateways: link-local addresses that no ARP or NDP ever asks for, since both ends hold permanent neighbour
# entries.
GATEWAY_V4 = IPv4Address("169.254.1.1")
GATEWAY_V6 = IPv6Address("fe80::a9fe:101")
# ifalias is at most 255 bytes (IFALIASZ in linux/if.h counts the closing zero); some are left for tools that copy it.
ALIAS_LIMIT = 250
# The network whose configuration list the agent installs: an alias leaves its name out.
INSTALLED_NETWORK = "podroute"

_OUR_NAME = re.compile(VETH_PREFIX + "[0-9a-f]{11}")
_ALIAS_FORMAT = "podr1"
_NO_UID = "-"
# Characters of a network's name that fit into an alias beside the longest ids.
_NETWORK_LIMIT = 32
_WORD = re.compile(r"[!-~]+")


class RouteKind(StrEnum):
    """What the kernel does with a packet for the prefix (rtm_type)."""

    UNICAST = "unicast"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True, order=True)
class NextHop:
    """One leg of a route. `via` None: the destination is on the link of `dev`.

    `dev` None: the kernel finds the link by `via`.
    """

    via: Address | None
    dev: str | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """One route of ours in the main table; several next hops make one multipath route with equal weights."""

    prefix: Prefix
    kind: RouteKind = RouteKind.UNICAST
    next_hops: tuple[NextHop, ...] = ()


@dataclass(frozen=True, slots=True)
class ForeignRoute:
    """A route of somebody else's in the main table: shown, never touched.

    `protocol` is rtm_protocol, `metric` is RTA_PRIORITY.
    """

    prefix: Prefix
    protocol: int
    metric: int


@dataclass(frozen=True, slots=True)
class RouteChanges:
    """What brings the kernel's routes to the wanted ones. All empty: nothing is to be written.

    A missing route is created exclusively, so that a foreign route with our metric is reported and not overwritten.
    """

    create: tuple[Route, ...] = ()
    replace: tuple[Route, ...] = ()
    delete: tuple[Route, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.create or self.replace or self.delete)


class RouteReason(StrEnum):
    """Why the kernel does not hold a wanted route."""

    FOREIGN_ROUTE = "ForeignRoute"
    NEXT_HOP_NOT_ON_LINK = "NextHopNotOnLink"
    LINK_DOWN = "LinkDown"
    LINK_MISSING = "LinkMissing"
    KERNEL_REFUSED = "KernelRefused"


@dataclass(frozen=True, slots=True)
class RouteFailure:
    """A change to a route that did not come about, with the kernel's own words."""

    route: Route
    reason: RouteReason
    detail: str


@dataclass(frozen=True, slots=True)
class Attachment:
    """One pod interface, in the words of the CNI specification: container id and interface name are its key.

    `addresses` are the pod's own, in the order in which they are answered to the runtime; at most one of a family.
    `pod_uid` is empty if the runtime gave none. `network` is the configuration that made it, as `network_word` writes it: a
    runtime collects one network's garbage at a time.
    """

    container_id: str
    interface: str
    pod_uid: str
    addresses: tuple[Address, ...]
    network: str = INSTALLED_NETWORK


@dataclass(frozen=True, slots=True)
class PodLink:
    """The host end of a pod's veth as read from the kernel. `attachment` None: the alias is missing or unreadable."""

    name: str
    ifindex: int
    is_up: bool
    mtu: int
    attachment: Attachment | None


@dataclass(frozen=True, slots=True)
class Guard:
    """TCP ports of the node to which no pod connects but those with an address in `allowed`. `name` is that of the nft sets."""

    name: str
    ports: tuple[int, ...]
    allowed: tuple[Prefix, ...] = ()


@dataclass(frozen=True, slots=True)
class Rules:
    """What the nft table `podroute` has to do beyond refusing forged sources.

    A packet from a pod in `nat_outgoing` gets the node's address unless its destination lies in `routed`
    (pools, node addresses, service ranges). A pod, as `guards` mean it, is one of this node or has an address in `pods`.
    Prefixes of one tuple must not overlap: `nft` refuses such a set.
    """

    nat_outgoing: tuple[Prefix, ...] = ()
    routed: tuple[Prefix, ...] = ()
    guards: tuple[Guard, ...] = ()
    pods: tuple[Prefix, ...] = ()


class DriftKind(StrEnum):
    """Which part of the kernel differed from what was wanted: the label of the agent's counter."""

    ROUTE = "route"
    POD_ROUTE = "pod route"
    NEIGHBOUR = "neighbour"
    VETH = "veth"
    RULE = "rule"


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference that was found, and `what` it concerned, in words for a person."""

    kind: DriftKind
    what: str


def route_changes(desired: Iterable[Route], actual: Iterable[Route]) -> RouteChanges:
    """Classify actual routes as right, wrong or surplus, and desired ones as present or missing.

    `actual` are routes of ours (`routes.read_routes`); foreign ones never get here. Of several desired routes for one
    prefix the last counts.
    """
    wanted = {route.prefix: route for route in desired}
    create = dict(wanted)
    replace = []
    delete = []
    for route in actual:
        want = wanted.get(route.prefix)
        if want is None:
            delete.append(route)
            continue
        create.pop(route.prefix, None)
        if not is_satisfied(want, route):
            replace.append(want)
    return RouteChanges(tuple(create.values()), tuple(replace), tuple(delete))


def is_satisfied(want: Route, actual: Route) -> bool:
    """Whether the kernel's route does what is wanted: same legs in any order; a leg without link fits on any."""
    if want == actual:
        return True
    if want.prefix != actual.prefix or want.kind != actual.kind or len(want.next_hops) != len(actual.next_hops):
        return False
    links_open = {hop.via for hop in want.next_hops if hop.dev is None}
    found = [NextHop(hop.via) if hop.via in links_open else hop for hop in actual.next_hops]
    return sorted(map(_hop_key, found)) == sorted(map(_hop_key, want.next_hops))


def _hop_key(hop: NextHop) -> tuple[str, str]:
    return str(hop.via or ""), hop.dev or ""


def pod_routes(links: Iterable[PodLink]) -> list[Route]:
    """The host's routes to its pods, derived from the aliases: a /32 or /128 for each address, on the pod's veth."""
    return [
        Route(ip_network(address), RouteKind.UNICAST, (NextHop(None, link.name),))
        for link in links
        if link.attachment is not None
        for address in link.attachment.addresses
    ]


def host_interface_name(container_id: str, interface: str) -> str:
    """The name of the host end: `podr` and 11 hexadecimal digits, as long as a name can be (IFNAMSIZ)."""
    return VETH_PREFIX + _digest(container_id, interface).hex()[:11]


def is_our_name(name: str) -> bool:
    """Whether an interface of this name is ours."""
    return _OUR_NAME.fullmatch(name) is not None


def mac_addresses(container_id: str, interface: str) -> tuple[bytes, bytes]:
    """The hardware addresses of host end and pod end, 6 bytes each: local and unicast (first octet xxxxxx10).

    They are set by us, not drawn by the kernel: the neighbour entries follow from the alias alone, and systemd-udevd
    (MACAddressPolicy=persistent) changes only addresses that the kernel drew.
    """
    digest = _digest(container_id, interface)
    return b"\x02" + digest[6:11], b"\x06" + digest[6:11]


def _digest(container_id: str, interface: str) -> bytes:
    return hashlib.sha256(f"{container_id}\0{interface}".encode()).digest()


def alias_for(attachment: Attachment) -> str:
    """The interface alias that keeps an attachment in the kernel.

    Raises ValueError if a part is empty or has spaces or non-ASCII characters, or if the alias would exceed 250 bytes.
    """
    addresses = ",".join(map(str, attachment.addresses))
    parts = [_ALIAS_FORMAT, attachment.container_id, attachment.interface, attachment.pod_uid or _NO_UID, addresses]
    if attachment.network != INSTALLED_NETWORK:
        parts.append(attachment.network)
    for part in parts:
        if not _WORD.fullmatch(part):
            raise ValueError(f"interface alias: {part!r} is empty or has characters other than visible ASCII")
    alias = " ".join(parts)
    if len(alias) > ALIAS_LIMIT:
        raise ValueError(f"interface alias: {len(alias)} bytes, at most {ALIAS_LIMIT} fit: {alias}")
    return alias


def attachment_in(alias: str) -> Attachment | None:
    """The attachment that an alias keeps, or None if `alias_for` did not write it (missing, foreign, cut off)."""
    parts = alias.split(" ")
    if len(parts) not in (5, 6) or parts[0] != _ALIAS_FORMAT or not all(parts) or parts[5:] == [INSTALLED_NETWORK]:
        return None
    _, container_id, interface, pod_uid, listed, *network = parts
    try:
        addresses = tuple(ip_address(text) for text in listed.split(","))
    except ValueError:
        return None
    uid = "" if pod_uid == _NO_UID else pod_uid
    return Attachment(container_id, interface, uid, addresses, *network)


def network_word(name: str) -> str:
    """A network's name as an alias keeps it: the name, or a digest of one that is long or has other characters."""
    is_word = _WORD.fullmatch(name) and len(name) <= _NETWORK_LIMIT and not name.startswith("~")
    return name if is_word else "~" + hashlib.sha256(name.encode()).hexdigest()[:16]
