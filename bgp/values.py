"""What is asked of the speaker and what it answers: frozen values, no behaviour beyond rendering.

The agent builds a `Desired` (`controller.plan` decides it, `bgp.speaker.client` carries it); the speaker answers with
an `Observed`. Addresses and prefixes are canonical text ("10.244.0.64/26", "2001:db8::40/122"): both sides handle
them by the ten thousand, and text is what the wire, the kernel and the user see. `bgp.checking` says which part of a
`Desired` is wrong and why; nothing here raises.

Times are seconds. Those named `since` or `until` are on CLOCK_MONOTONIC of the node, so they compare across
processes of one boot.
"""

from enum import StrEnum

import msgspec

from bgp.reasons import ImportReason, PathReason, ProblemReason, SessionReason


class Family(StrEnum):
    """Address family of a route (RFC 4760: AFI 1 and 2, SAFI unicast)."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"


class Announcement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One prefix as one neighbour is to hear it.

    `next_hop` is explicit, of the prefix's family. `communities` are RFC 1997 values as "65001:100" (well-known ones
    by number, graceful shutdown is "65535:0"), `large_communities` RFC 8092 values as "65001:1:2". `prepend` is how
    often the local AS is put in front once more (0 to 16).
    """

    prefix: str
    next_hop: str
    communities: tuple[str, ...] = ()
    large_communities: tuple[str, ...] = ()
    local_preference: int | None = None
    med: int | None = None
    prepend: int = 0


class Neighbour(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One BGP session, and what is said and believed on it.

    `name` is the caller's handle (unique, shown in answers). `port` is where an active session connects to; a passive
    one waits on `local_address` and `Desired.listen_port`. `hold_time` and `graceful_restart` are seconds (RFC 4271
    section 4.2: 0 or at least 3; RFC 4724: at most 4095, 0 switches graceful restart off). `ttl_security` is the
    number of hops the peer may be away (RFC 5082; active sessions only), `multihop` the TTL to send with. `accept`
    lists the prefixes inside which routes may be learned: empty means nothing is learned. `max_prefixes` is how many
    prefixes of all families may be accepted; the excess is refused, the session stays.
    """

    name: str
    address: str
    local_address: str
    asn: int
    local_asn: int
    port: int = 179
    passive: bool = False
    hold_time: int = 9
    families: tuple[Family, ...] = (Family.IPV4,)
    password: str = ""
    ttl_security: int | None = None
    multihop: int | None = None
    graceful_restart: int = 120
    accept: tuple[str, ...] = ()
    max_prefixes: int = 10_000
    allow_own_as: bool = False
    announcements: tuple[Announcement, ...] = ()

    def __repr__(self) -> str:
        """The neighbour without its password: a repr ends in logs."""
        secret = "set" if self.password else "none"
        return f"Neighbour(name={self.name!r}, address={self.address!r}, asn={self.asn}, password={secret})"


class Refusals(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is never learned, from whomever: see `bgp.decision.import_refusal`.

    `own_blocks` covers the block itself and all inside. `max_length` is, per family, the longest prefix that may be
    learned (the block size). `own_addresses` are the node's addresses, which are no next hops.
    """

    own_blocks: tuple[str, ...] = ()
    node_ranges: tuple[str, ...] = ()
    service_ranges: tuple[str, ...] = ()
    max_length: dict[Family, int] = {}
    own_addresses: tuple[str, ...] = ()


class Desired(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything the speaker is to do. Replaces whatever was desired before.

    `generation` is the caller's mark; `Observed.generation` returns it. `listen_port` is the port on which passive
    sessions are awaited, each on its own local address; without a passive neighbour nothing listens. `on_link` are the
    networks directly reachable from the node: a next hop elsewhere is refused.

    Draining is a desired state too: leave a neighbour's announcements out and they are withdrawn; leave the
    neighbour out and everything is withdrawn before the session ends.
    """

    router_id: str
    generation: int = 0
    listen_port: int = 179
    neighbours: tuple[Neighbour, ...] = ()
    refuse: Refusals = Refusals()
    on_link: tuple[str, ...] = ()


class SessionState(StrEnum):
    """Where a session stands, coarser than RFC 4271 section 8.2.2."""

    REFUSED = "refused"  # not configured: `reason` says why
    CONNECTING = "connecting"
    ESTABLISHED = "established"
    REMOVING = "removing"


class Session(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One neighbour as it is.

    `since` is when `state` was entered. `reason` and `message` say why it is not established; `last_reason` keeps
    what ended it last. `restarts` counts how often it left Established since the speaker started. `hold_time`
    (seconds) and `families` are what was negotiated. `received` counts prefixes in Adj-RIB-In, `accepted` those that
    import let in, `refused` the others by reason. `forgotten` counts those of the refused that are no longer known
    whole: only the peer can tell them again, on a new session. `is_incomplete` says that even more were refused than
    could be counted. `sent` are the prefixes ExaBGP reported as sent and not withdrawn
    on the present session. `settled` are the families for which the peer's picture is complete (end-of-RIB seen, or
    waited for long enough). `keep_until` is set while routes of a lost session are kept (RFC 4724 section 4.2).
    """

    name: str
    address: str
    state: SessionState
    since: float
    reason: SessionReason | None = None
    message: str = ""
    last_reason: SessionReason | None = None
    restarts: int = 0
    hold_time: int = 0
    families: tuple[Family, ...] = ()
    received: int = 0
    accepted: int = 0
    refused: dict[ImportReason, int] = {}
    forgotten: int = 0
    is_incomplete: bool = False
    sent: tuple[str, ...] = ()
    end_of_rib_sent: tuple[Family, ...] = ()
    end_of_rib_received: tuple[Family, ...] = ()
    settled: tuple[Family, ...] = ()
    keep_until: float | None = None


class Route(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The best way to one prefix: equal-cost next hops (sorted), the sessions they came from, kept-only or not."""

    next_hops: tuple[str, ...]
    sessions: tuple[str, ...]
    stale: bool = False


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A part of the desired state that is not honoured: object, field, value, why, and what to do."""

    object: str
    field: str
    value: str
    reason: ProblemReason
    message: str


class Observed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is.

    `generation` is that of the desired state last stored, `applied` says whether ExaBGP runs its configuration.
    `routes` maps each learned prefix to its best way. A family is in `settled` once every session that could carry it,
    of those that the speaker started with, is settled: only then is a learned route in the kernel that `routes` lacks
    surplus. `started` tells one run of the speaker from the next.
    """

    generation: int = 0
    applied: bool = False
    started: float = 0.0
    sessions: tuple[Session, ...] = ()
    routes: dict[str, Route] = {}
    settled: tuple[Family, ...] = ()
    problems: tuple[Problem, ...] = ()


class Path(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One received route as the command line shows it: what was heard, from whom, and what became of it.

    `refused` says why import did not take it, `lost` why another path is better; neither set means it is used.
    """

    session: str
    prefix: str
    next_hop: str
    as_path: tuple[int, ...] = ()
    origin: str = "igp"
    local_preference: int | None = None
    med: int | None = None
    communities: tuple[str, ...] = ()
    large_communities: tuple[str, ...] = ()
    stale: bool = False
    refused: ImportReason | None = None
    lost: PathReason | None = None


class Sent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One prefix as ExaBGP reported having sent it to `session`."""

    session: str
    prefix: str
    next_hop: str
    as_path: tuple[int, ...] = ()
    communities: tuple[str, ...] = ()
    large_communities: tuple[str, ...] = ()
    local_preference: int | None = None
    med: int | None = None


class Detail(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything the speaker knows, for a person: `Observed`, every received path, every prefix sent."""

    observed: Observed
    paths: tuple[Path, ...] = ()
    sent: tuple[Sent, ...] = ()
