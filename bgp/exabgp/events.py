"""Reads the lines that ExaBGP 5.0.15 writes to its API process and turns them into typed values. Pure.

`exabgp_api_compact` is on, so prefixes are plain strings. Lines that are not JSON are answers to commands.
"""

from typing import Any

import msgspec

from bgp.decision import Attributes
from bgp.prefixes import canonical
from bgp.values import Family

_FAMILIES = {"ipv4 unicast": Family.IPV4, "ipv6 unicast": Family.IPV6, "ipv4/unicast": Family.IPV4}
_FAMILIES["ipv6/unicast"] = Family.IPV6


class Answer(msgspec.Struct, frozen=True):
    """`done` or `error` for the oldest unanswered command."""

    good: bool


class SessionChange(msgspec.Struct, frozen=True):
    """A session is `connected` (TCP), `up` (Established) or `down`, then with ExaBGP's words for why."""

    address: str
    state: str
    reason: str


class OpenMessage(msgspec.Struct, frozen=True, kw_only=True):
    """An OPEN from the peer. `restart_time` is None without the graceful restart capability (RFC 4724 section 3);
    `restartable` are the families in it, `forwarding` those whose routes it kept while it restarted."""

    address: str
    asn: int
    hold_time: int
    families: tuple[Family, ...]
    restart_time: int | None
    restartable: tuple[Family, ...]
    forwarding: tuple[Family, ...]


class NotificationMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A NOTIFICATION (RFC 4271 section 4.5), sent or received."""

    address: str
    sent: bool
    code: int
    subcode: int
    text: str


class UpdateMessage(msgspec.Struct, frozen=True, kw_only=True):
    """An UPDATE, sent or received: (prefix, next hop) announced with `attributes`, and prefixes withdrawn."""

    address: str
    sent: bool
    attributes: Attributes
    announced: tuple[tuple[str, str], ...]
    withdrawn: tuple[str, ...]


class EndOfRib(msgspec.Struct, frozen=True):
    """An end-of-RIB marker, sent or received."""

    address: str
    sent: bool
    family: Family


class Other(msgspec.Struct, frozen=True):
    """A line that means nothing to us; `unreadable` if it should have meant something."""

    text: str
    unreadable: bool = False


Event = Answer | SessionChange | OpenMessage | NotificationMessage | UpdateMessage | EndOfRib | Other


class _Segment(msgspec.Struct):
    element: str = ""
    value: list[int] = []


class _LargeOrPlain(msgspec.Struct, rename="kebab"):
    origin: str = "igp"
    as_path: dict[str, _Segment] = {}
    local_preference: int | None = None
    med: int | None = None
    community: list[list[int] | str] = []
    large_community: list[list[int]] = []


class _Update(msgspec.Struct):
    attribute: _LargeOrPlain | None = None
    announce: dict[str, dict[str, list[str]]] = {}
    withdraw: dict[str, list[str]] = {}


class _Eor(msgspec.Struct):
    afi: str = ""
    safi: str = ""


class _Message(msgspec.Struct):
    update: _Update | None = None
    eor: _Eor | None = None


class _Notification(msgspec.Struct):
    code: int = 0
    subcode: int = 0
    message: str = ""


class _Open(msgspec.Struct):
    asn: int = 0
    hold_time: int = 0
    capabilities: dict[str, dict[str, Any]] = {}


class _Address(msgspec.Struct):
    peer: str = ""


class _Neighbor(msgspec.Struct):
    address: _Address = msgspec.field(default_factory=_Address)
    direction: str = ""
    state: str = ""
    reason: str = ""
    message: _Message | None = None
    notification: _Notification | None = None
    open: _Open | None = None


class _Line(msgspec.Struct):
    type: str = ""
    neighbor: _Neighbor | None = None


_lines: msgspec.json.Decoder[_Line] = msgspec.json.Decoder(_Line)


def event_of(line: bytes) -> Event:
    """What one line says. Never raises: a line that can't be read is `Other`."""
    if not line.startswith(b"{"):
        word = line.strip()
        return Answer(word == b"done") if word in (b"done", b"error") else Other(word.decode(errors="replace"))
    try:
        parsed = _lines.decode(line)
        event = _neighbour_event(parsed.type, parsed.neighbor) if parsed.neighbor is not None else None
    except (msgspec.DecodeError, ValueError) as error:
        return Other(f"{error}: {line[:500].decode(errors='replace')}", unreadable=True)
    return Other(line[:500].decode(errors="replace")) if event is None else event


def _neighbour_event(kind: str, neighbor: _Neighbor) -> Event | None:
    address, sent = canonical(neighbor.address.peer), neighbor.direction == "send"
    if kind == "update" and neighbor.message is not None:
        return _update_event(address, sent, neighbor.message)
    if kind == "state":
        return SessionChange(address, neighbor.state, neighbor.reason)
    if kind == "open" and neighbor.open is not None and not sent:
        return _open_event(address, neighbor.open)
    if kind == "notification" and neighbor.notification is not None:
        told = neighbor.notification
        return NotificationMessage(address=address, sent=sent, code=told.code, subcode=told.subcode, text=told.message)
    return None


def _update_event(address: str, sent: bool, message: _Message) -> Event | None:
    if message.eor is not None:
        family = _FAMILIES.get(f"{message.eor.afi} {message.eor.safi}")
        return None if family is None else EndOfRib(address, sent, family)
    if message.update is None:
        return None
    update = message.update
    return UpdateMessage(
        address=address,
        sent=sent,
        attributes=_attributes(update.attribute) if update.attribute is not None else Attributes(),
        announced=tuple(
            (prefix, next_hop)
            for family, by_next_hop in update.announce.items()
            if family in _FAMILIES
            for next_hop, prefixes in by_next_hop.items()
            for prefix in prefixes
        ),
        withdrawn=tuple(p for family, prefixes in update.withdraw.items() if family in _FAMILIES for p in prefixes),
    )


def _attributes(raw: _LargeOrPlain) -> Attributes:
    segments = [raw.as_path[index] for index in sorted(raw.as_path, key=int)]
    path: list[int] = []
    length = 0
    for segment in segments:
        if segment.element.startswith("confed"):
            continue
        path.extend(segment.value)
        length += len(segment.value) if segment.element == "as-sequence" else 1
    first = segments[0] if segments else None
    return Attributes(
        as_path=tuple(path),
        path_length=length,
        neighbour_as=first.value[0] if first is not None and first.element == "as-sequence" and first.value else 0,
        origin=raw.origin,
        local_preference=raw.local_preference,
        med=raw.med,
        communities=tuple(_community(community) for community in raw.community),
        large_communities=tuple(":".join(map(str, community)) for community in raw.large_community),
    )


def _community(raw: list[int] | str) -> str:
    return raw if isinstance(raw, str) else ":".join(map(str, raw))


def _open_event(address: str, raw: _Open) -> OpenMessage:
    asn = raw.asn
    restart_time: int | None = None
    families: tuple[Family, ...] = ()
    restartable: tuple[Family, ...] = ()
    forwarding: tuple[Family, ...] = ()
    for capability in raw.capabilities.values():
        name = capability.get("name")
        if name == "asn4":
            asn = int(capability.get("asn4", asn))
        elif name == "multiprotocol":
            families = tuple(_FAMILIES[family] for family in capability.get("families", ()) if family in _FAMILIES)
        elif name == "graceful restart":
            restart_time = int(capability.get("time", 0))
            flags = capability.get("address-family-flags", {})
            restartable = tuple(_FAMILIES[family] for family in flags if family in _FAMILIES)
            forwarding = tuple(_FAMILIES[family] for family in flags if family in _FAMILIES and flags[family])
    return OpenMessage(
        address=address,
        asn=asn,
        hold_time=raw.hold_time,
        families=families,
        restart_time=restart_time,
        restartable=restartable,
        forwarding=forwarding,
    )
