"""Says which part of a desired state cannot be honoured and why, so that the rest can be. Pure.

The daemon calls `checked` before it renders ExaBGP's configuration. A neighbour with a wrong field is refused whole;
a wrong announcement is left out and its neighbour served; a wrong entry of a shared list is left out.
"""

import ipaddress
from collections.abc import Callable, Iterable, Mapping

import msgspec

from bgp.prefixes import canonical, family_of, parsed_prefix
from bgp.reasons import ProblemReason, SessionReason
from bgp.values import Announcement, Desired, Family, Neighbour, Problem

MAX_ASN = 2**32 - 1
MAX_PASSWORD = 80  # TCP_MD5SIG_MAXKEYLEN, linux/tcp.h
MAX_PREPEND = 16


class Refusal(msgspec.Struct, frozen=True):
    """Why a neighbour is not configured as the order has it. `kept`: its last good version is served in its place."""

    neighbour: Neighbour
    reason: SessionReason
    message: str
    kept: bool = False


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What is left of a desired state: `desired` holds only what can be served; the rest is named."""

    desired: Desired
    refusals: tuple[Refusal, ...]
    problems: tuple[Problem, ...]


class Experience(msgspec.Struct, frozen=True, kw_only=True):
    """What is known from before an order: `good` is what ExaBGP ran last (None: nothing yet); `rejected` says, in
    ExaBGP's words, why its parser refused a neighbour, which stands there `without_announcements`."""

    good: Desired | None = None
    rejected: Mapping[Neighbour, str] = {}


class _Wrong(ValueError):
    """A field that cannot be honoured; `args` are field, value and remedy."""


_KEPT = "; until then the last good version stays in force"


def checked(desired: Desired, experience: Experience | None = None) -> Checked:
    """Splits a desired state into what can be served and what cannot.

    Where a new version cannot be served, the last good one stays in force: a mistake must not end what runs.
    """
    experience = experience if experience is not None else Experience()
    findings = _Findings()
    try:
        router_id, listen_port = _identity(desired, experience.good, findings)
    except _Wrong as wrong:
        findings.problem("desired", wrong, ProblemReason.INVALID_VALUE)
        refused = [_refusal(neighbour, wrong) for neighbour in desired.neighbours]
        for refusal in refused:
            findings.problem(f"neighbour {refusal.neighbour.name}", wrong, ProblemReason.INVALID_VALUE)
        return Checked(
            desired=msgspec.structs.replace(desired, neighbours=()),
            refusals=tuple(refused),
            problems=tuple(findings.problems),
        )
    neighbours, refusals = _served(desired.neighbours, experience, findings)
    refuse = desired.refuse
    lists = msgspec.structs.replace(
        refuse,
        own_blocks=findings.good("refuse.own_blocks", refuse.own_blocks, _prefix),
        node_ranges=findings.good("refuse.node_ranges", refuse.node_ranges, _prefix),
        service_ranges=findings.good("refuse.service_ranges", refuse.service_ranges, _prefix),
        own_addresses=findings.good("refuse.own_addresses", refuse.own_addresses, _address),
    )
    clean = msgspec.structs.replace(
        desired,
        router_id=router_id,
        listen_port=listen_port,
        neighbours=neighbours,
        refuse=lists,
        on_link=findings.good("on_link", desired.on_link, _prefix),
    )
    # A kept session judges the order's announcements once more.
    return Checked(desired=clean, refusals=refusals, problems=tuple(dict.fromkeys(findings.problems)))


def without_announcements(neighbour: Neighbour) -> Neighbour:
    """The neighbour as far as ExaBGP's configuration may depend on it."""
    return msgspec.structs.replace(neighbour, announcements=())


def _identity(desired: Desired, good: Desired | None, findings: "_Findings") -> tuple[str, int]:
    """The router id and the port to use. Raises _Wrong for a bad one if there is no good one from before."""
    router_id, listen_port = desired.router_id, desired.listen_port
    try:
        _require_address("router_id", router_id, Family.IPV4)
        router_id = canonical(router_id)
        _require(router_id != "0.0.0.0", "router_id", router_id, "use another than 0.0.0.0 (RFC 6286 section 2.1)")
    except _Wrong as wrong:
        router_id = findings.kept_or_raise("desired", wrong, good).router_id
    try:
        _require(1 <= listen_port <= 65535, "listen_port", listen_port, "use a port from 1 to 65535")
    except _Wrong as wrong:
        listen_port = findings.kept_or_raise("desired", wrong, good).listen_port
    return router_id, listen_port


def _served(
    wanted: Iterable[Neighbour], experience: Experience, findings: "_Findings"
) -> tuple[tuple[Neighbour, ...], tuple[Refusal, ...]]:
    """The neighbours to serve, and what is said of the others. New versions come first: a kept one takes no place."""
    served: dict[str, Neighbour] = {}
    names: set[str] = set()
    failed: list[tuple[Refusal, Problem]] = []
    for neighbour in wanted:
        try:
            good = _checked_neighbour(neighbour, findings)
            _require(good.name not in names, "name", good.name, "another neighbour has this name: give it its own")
        except _Wrong as wrong:
            problem = _problem(f"neighbour {neighbour.name}", wrong, ProblemReason.INVALID_VALUE)
            failed.append((_refusal(neighbour, wrong), problem))
            continue
        names.add(good.name)
        words = experience.rejected.get(without_announcements(good))
        if words is not None:
            failed.append(_rejection(good, words))
        elif good.address in served:
            failed.append(_conflict(good, served[good.address]))
        else:
            served[good.address] = good
    refusals = []
    taken = {neighbour.name for neighbour in served.values()}
    for refusal, problem in failed:
        last = _last_good(refusal.neighbour, experience, findings)
        kept = last is not None and last.address not in served and last.name not in taken
        if last is not None and kept:
            served[last.address] = last
            taken.add(last.name)
        refusals.append(msgspec.structs.replace(refusal, kept=kept))
        message = problem.message + _KEPT if kept else problem.message
        findings.problems.append(msgspec.structs.replace(problem, message=message))
    return tuple(served.values()), tuple(refusals)


def _last_good(neighbour: Neighbour, experience: Experience, findings: "_Findings") -> Neighbour | None:
    """What ran before under this name, else at this address, with what the order has to say on it.

    What is announced follows the order even so: an address block that is given back must be withdrawn.
    """
    before = experience.good.neighbours if experience.good is not None else ()
    last = next((one for one in before if one.name == neighbour.name), None)
    last = last or next((one for one in before if one.address == neighbour.address), None)
    if last is None or without_announcements(last) in experience.rejected:
        return None
    announcements = _good_announcements(neighbour, last, findings)
    try:
        accept = tuple(_prefix("accept", prefix) for prefix in neighbour.accept)
    except _Wrong:
        accept = last.accept
    return msgspec.structs.replace(last, accept=accept, announcements=announcements)


class _Findings:
    """Collects problems while the good parts are kept."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def problem(self, subject: str, wrong: _Wrong, reason: ProblemReason) -> None:
        self.problems.append(_problem(subject, wrong, reason))

    def kept_or_raise(self, subject: str, wrong: _Wrong, good: Desired | None) -> Desired:
        """What to fall back on, and says so. Raises what is wrong if there is nothing."""
        if good is None:
            raise wrong
        field, value, remedy = wrong.args
        self.problem(subject, _Wrong(field, value, remedy + _KEPT), ProblemReason.INVALID_VALUE)
        return good

    def good(self, field: str, values: Iterable[str], parse: Callable[[str, str], str]) -> tuple[str, ...]:
        kept = []
        for value in values:
            try:
                kept.append(parse(field, value))
            except _Wrong as wrong:
                self.problem("desired", wrong, ProblemReason.INVALID_VALUE)
        return tuple(kept)


def _problem(subject: str, wrong: _Wrong, reason: ProblemReason) -> Problem:
    field, value, remedy = wrong.args
    return Problem(object=subject, field=field, value=str(value), reason=reason, message=remedy)


def _refusal(neighbour: Neighbour, wrong: _Wrong) -> Refusal:
    field, value, remedy = wrong.args
    return Refusal(neighbour, SessionReason.CONFIGURATION_REFUSED, f"{field} {value!r}: {remedy}")


def _rejection(neighbour: Neighbour, words: str) -> tuple[Refusal, Problem]:
    wrong = _Wrong("", "", words)
    problem = _problem(f"neighbour {neighbour.name}", wrong, ProblemReason.CONFIGURATION_REFUSED)
    return Refusal(neighbour, SessionReason.CONFIGURATION_REFUSED, words), problem


def _conflict(neighbour: Neighbour, first: Neighbour) -> tuple[Refusal, Problem]:
    message = f"neighbour {first.name} has the same address and comes first: remove one of them"
    wrong = _Wrong("address", neighbour.address, message)
    problem = _problem(f"neighbour {neighbour.name}", wrong, ProblemReason.ADDRESS_CONFLICT)
    return Refusal(neighbour, SessionReason.ADDRESS_CONFLICT, message), problem


def _checked_neighbour(neighbour: Neighbour, findings: _Findings) -> Neighbour:
    _check_addresses(neighbour)
    _check_timers(neighbour)
    _check_security(neighbour)
    return msgspec.structs.replace(
        neighbour,
        address=canonical(neighbour.address),
        local_address=canonical(neighbour.local_address),
        families=tuple(sorted(set(neighbour.families))),
        accept=tuple(_prefix("accept", prefix) for prefix in neighbour.accept),
        announcements=_good_announcements(neighbour, neighbour, findings),
    )


def _good_announcements(order: Neighbour, session: Neighbour, findings: _Findings) -> tuple[Announcement, ...]:
    """What the order announces, as far as the session can carry it; what it can't is named."""
    announcements: dict[str, Announcement] = {}
    for announcement in order.announcements:
        try:
            good = _checked_announcement(announcement, session)
            _require(good.prefix not in announcements, "prefix", good.prefix, "announced twice: keep one")
        except _Wrong as wrong:
            subject = f"neighbour {order.name} announcement {announcement.prefix}"
            findings.problem(subject, wrong, ProblemReason.INVALID_VALUE)
            continue
        announcements[good.prefix] = good
    return tuple(announcements.values())


def _check_addresses(neighbour: Neighbour) -> None:
    _require(bool(neighbour.name) and neighbour.name.isprintable(), "name", neighbour.name, "give it a printable name")
    family = family_of(neighbour.address)
    _require_address("address", neighbour.address, family)
    _require_address("local_address", neighbour.local_address, family)
    for field, address in (("address", neighbour.address), ("local_address", neighbour.local_address)):
        parsed = ipaddress.ip_address(address)
        usable = not (parsed.is_unspecified or parsed.is_multicast or parsed.is_link_local or parsed.is_loopback)
        _require(usable, field, address, "use a global or private unicast address, not a link-local or special one")
    different = canonical(neighbour.address) != canonical(neighbour.local_address)
    _require(different, "address", neighbour.address, "this is the local address: name the peer's")
    for field, asn in (("asn", neighbour.asn), ("local_asn", neighbour.local_asn)):
        _require(1 <= asn <= MAX_ASN and asn != 23456, field, asn, "use an AS number from 1 to 4294967295, not 23456")
    _require(1 <= neighbour.port <= 65535, "port", neighbour.port, "use a port from 1 to 65535")
    _require(bool(neighbour.families), "families", "", "name at least one of ipv4 and ipv6")
    _require(neighbour.max_prefixes >= 0, "max_prefixes", neighbour.max_prefixes, "use 0 or more")


def _check_timers(neighbour: Neighbour) -> None:
    hold = neighbour.hold_time
    _require(hold == 0 or 3 <= hold <= 65535, "hold_time", hold, "use 0 or 3 to 65535 seconds (RFC 4271 section 4.2)")
    restart = neighbour.graceful_restart
    _require(0 <= restart <= 4095, "graceful_restart", restart, "use 0 to 4095 seconds (RFC 4724 section 3)")


def _check_security(neighbour: Neighbour) -> None:
    size = len(neighbour.password.encode())
    _require(size <= MAX_PASSWORD, "password", f"({size} bytes)", f"use at most {MAX_PASSWORD} bytes (RFC 2385)")
    ttl, multihop = neighbour.ttl_security, neighbour.multihop
    if ttl is not None:
        _require(1 <= ttl <= 254, "ttl_security", ttl, "use 1 to 254 hops (RFC 5082)")
        _require(
            not neighbour.passive,
            "ttl_security",
            ttl,
            "a passive session cannot have it: its first answer leaves with the system's TTL; let this side connect",
        )
        _require(multihop is None, "multihop", multihop, "ttl_security already sets the TTL: leave one of them out")
    if multihop is not None:
        _require(1 <= multihop <= 255, "multihop", multihop, "use a TTL from 1 to 255")


def _checked_announcement(announcement: Announcement, neighbour: Neighbour) -> Announcement:
    prefix = _prefix("prefix", announcement.prefix)
    family = family_of(prefix)
    _require(family in neighbour.families, "prefix", prefix, f"add {family} to the neighbour's families")
    _require_address("next_hop", announcement.next_hop, family)
    for community in announcement.communities:
        _require_numbers("communities", community, (0xFFFF, 0xFFFF), "65001:100")
    for community in announcement.large_communities:
        _require_numbers("large_communities", community, (MAX_ASN, MAX_ASN, MAX_ASN), "65001:1:2")
    internal = neighbour.asn == neighbour.local_asn
    preference = announcement.local_preference
    if preference is not None:
        _require(0 <= preference <= MAX_ASN, "local_preference", preference, "use 0 to 4294967295")
        remedy = "is only sent inside one AS (RFC 4271 section 5.1.5): leave it out"
        _require(internal, "local_preference", preference, remedy)
    if announcement.med is not None:
        _require(0 <= announcement.med <= MAX_ASN, "med", announcement.med, "use 0 to 4294967295")
    _require(0 <= announcement.prepend <= MAX_PREPEND, "prepend", announcement.prepend, f"use 0 to {MAX_PREPEND}")
    remedy = "the AS path does not change inside one AS (RFC 4271 section 5.1.2): leave it out"
    _require(not (internal and announcement.prepend), "prepend", announcement.prepend, remedy)
    return msgspec.structs.replace(announcement, prefix=prefix, next_hop=canonical(announcement.next_hop))


def _require(condition: bool, field: str, value: object, remedy: str) -> None:
    if not condition:
        raise _Wrong(field, value, remedy)


def _require_address(field: str, text: str, family: Family) -> None:
    try:
        right = family_of(canonical(text)) is family and "/" not in text
    except ValueError:
        right = False
    _require(right, field, text, f"write an {'IPv4' if family is Family.IPV4 else 'IPv6'} address")


def _require_numbers(field: str, text: str, limits: tuple[int, ...], example: str) -> None:
    parts = text.split(":")
    right = len(parts) == len(limits) and all(
        part.isascii() and part.isdigit() and int(part) <= limit for part, limit in zip(parts, limits, strict=True)
    )
    _require(right, field, text, f"write {len(limits)} numbers, e.g. {example}")


def _prefix(field: str, text: str) -> str:
    try:
        parsed_prefix(text)
        return canonical(text)
    except ValueError as error:
        raise _Wrong(field, text, str(error)) from None


def _address(field: str, text: str) -> str:
    try:
        _require("/" not in text, field, text, "write an address, without a length")
        return canonical(text)
    except ValueError as error:
        if isinstance(error, _Wrong):
            raise
        raise _Wrong(field, text, str(error)) from None
