"""What is believed: the import policy and the choice of the best path. Pure; called by `bgp.rib`.

The steps of the choice are data with the section that asks for each. All next hops that import lets in are on link,
so RFC 4271 section 9.1.2.2 step e (interior cost) cannot differ; steps f and g only pick one path among equals, and
here equals are kept together, sorted, as equal-cost next hops.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from bgp.prefixes import PrefixSet, family_of, host_prefix, parsed_prefix
from bgp.reasons import ImportReason, PathReason
from bgp.values import Family, Neighbour, Refusals

GRACEFUL_SHUTDOWN = "65535:0"  # RFC 8326 section 5
DEFAULT_LOCAL_PREFERENCE = 100


class Attributes(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """Path attributes as received. One object is shared by all prefixes of an UPDATE.

    `as_path` holds every AS number in order, members of sets too; `path_length` counts as RFC 4271 section 9.1.2.2 a
    does (a set is one, RFC 5065 confederation segments are none); `neighbour_as` is the AS the route was heard from.
    """

    as_path: tuple[int, ...] = ()
    path_length: int = 0
    neighbour_as: int = 0
    origin: str = "igp"
    local_preference: int | None = None
    med: int | None = None
    communities: tuple[str, ...] = ()
    large_communities: tuple[str, ...] = ()


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """One accepted path to a prefix as the choice sees it."""

    session: str
    external: bool
    stale: bool
    next_hop: str
    attributes: Attributes


class Step(msgspec.Struct, frozen=True):
    """One step of the choice: `survivors` keeps the best; the others lost for `reason`. `section` asks for it."""

    reason: PathReason
    section: str
    survivors: Callable[[Sequence[Candidate]], Sequence[Candidate]]


def _lowest(key: Callable[[Candidate], Any]) -> Callable[[Sequence[Candidate]], Sequence[Candidate]]:
    def survivors(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        best = min(map(key, candidates))
        return [candidate for candidate in candidates if key(candidate) == best]

    return survivors


def _lowest_med(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """MED only compares paths heard from one AS; a missing MED counts as 0."""
    best: dict[int, int] = {}
    for candidate in candidates:
        neighbour, med = candidate.attributes.neighbour_as, candidate.attributes.med or 0
        best[neighbour] = min(med, best.get(neighbour, med))
    return [path for path in candidates if (path.attributes.med or 0) == best[path.attributes.neighbour_as]]


def _local_preference(candidate: Candidate) -> int:
    """LOCAL_PREF is only believed from inside the AS (RFC 4271 section 5.1.5)."""
    received = None if candidate.external else candidate.attributes.local_preference
    return DEFAULT_LOCAL_PREFERENCE if received is None else received


_ORIGIN_RANK = {"igp": 0, "egp": 1, "incomplete": 2}

STEPS: tuple[Step, ...] = (
    Step(PathReason.STALE, "RFC 4724 section 4.2", _lowest(lambda path: path.stale)),
    Step(
        PathReason.GRACEFUL_SHUTDOWN,
        "RFC 8326 section 4",
        _lowest(lambda path: GRACEFUL_SHUTDOWN in path.attributes.communities),
    ),
    Step(PathReason.LOCAL_PREFERENCE, "RFC 4271 section 9.1.1", _lowest(lambda path: -_local_preference(path))),
    Step(PathReason.AS_PATH, "RFC 4271 section 9.1.2.2 a", _lowest(lambda path: path.attributes.path_length)),
    Step(
        PathReason.ORIGIN,
        "RFC 4271 section 9.1.2.2 b",
        _lowest(lambda path: _ORIGIN_RANK.get(path.attributes.origin, 2)),
    ),
    Step(PathReason.MED, "RFC 4271 section 9.1.2.2 c", _lowest_med),
    Step(PathReason.EXTERNAL, "RFC 4271 section 9.1.2.2 d", _lowest(lambda path: not path.external)),
)


def best_paths(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """The equal-cost set among the accepted paths to one prefix; empty only if there is none."""
    if len(candidates) < 2:
        return candidates
    for step in STEPS:
        candidates = step.survivors(candidates)
        if len(candidates) == 1:
            break
    return candidates


def losing_reasons(candidates: Sequence[Candidate]) -> dict[str, PathReason]:
    """For each path that is not best: session name → the first step at which it lost."""
    reasons: dict[str, PathReason] = {}
    for step in STEPS:
        survivors = step.survivors(candidates) if candidates else candidates
        kept = {candidate.session for candidate in survivors}
        reasons.update({path.session: step.reason for path in candidates if path.session not in kept})
        candidates = survivors
    return reasons


class ImportPolicy:
    """What one neighbour may teach us. Built once for a neighbour, asked for every prefix it sends."""

    def __init__(self, neighbour: Neighbour, refuse: Refusals, on_link: Sequence[str]) -> None:
        """Raises ValueError for a malformed prefix or address; `bgp.checking` has removed those."""
        self._families = frozenset(neighbour.families)
        self._own_as = None if neighbour.allow_own_as else neighbour.local_asn
        self._own_blocks = PrefixSet(refuse.own_blocks)
        self._node_ranges = PrefixSet(refuse.node_ranges)
        self._service_ranges = PrefixSet(refuse.service_ranges)
        self._accept = PrefixSet(neighbour.accept)
        self._max_length = {family: refuse.max_length.get(family, 128) for family in Family}
        self._own_addresses = {host_prefix(address) for address in refuse.own_addresses}
        self._on_link = PrefixSet(on_link)
        self.key = msgspec.json.encode(
            (neighbour.families, neighbour.allow_own_as, neighbour.local_asn, neighbour.accept, refuse, on_link)
        )
        # What lets routes in, and what keeps them out: see `widens`.
        self._admits = {
            *(("family", family) for family in neighbour.families),
            *(("accept", prefix) for prefix in neighbour.accept),
            *(("link", prefix) for prefix in on_link),
        }
        self._refuses = {
            *(("block", prefix) for prefix in refuse.own_blocks),
            *(("node", prefix) for prefix in refuse.node_ranges),
            *(("service", prefix) for prefix in refuse.service_ranges),
            *(("own address", address) for address in refuse.own_addresses),
            *([("AS", str(self._own_as))] if self._own_as is not None else []),
        }

    def widens(self, before: "ImportPolicy") -> bool:
        """Whether a route that `before` refused may be let in now. A block more that is refused widens nothing."""
        return (
            not self._admits <= before._admits
            or not self._refuses >= before._refuses
            or any(self._max_length[family] > before._max_length[family] for family in Family)
        )

    def refusal(self, prefix: str, next_hop: str, attributes: Attributes) -> ImportReason | None:
        """Why this route is refused, or None. The limit on their number is `bgp.rib`'s affair."""
        try:
            parsed = parsed_prefix(prefix)
            host = host_prefix(next_hop)
        except ValueError:
            return ImportReason.MALFORMED
        checks: tuple[tuple[bool, ImportReason], ...] = (
            (parsed.family not in self._families, ImportReason.FAMILY_NOT_ENABLED),
            (self._own_as in attributes.as_path, ImportReason.OWN_AS),
            (self._own_blocks.covers(parsed), ImportReason.OWN_BLOCK),
            (self._node_ranges.covers(parsed), ImportReason.NODE_RANGE),
            (self._service_ranges.covers(parsed), ImportReason.SERVICE_RANGE),
            (not self._accept.covers(parsed), ImportReason.NOT_ACCEPTED),
            (parsed.length > self._max_length[parsed.family], ImportReason.LONGER_THAN_BLOCK),
        )
        for refused, reason in checks:
            if refused:
                return reason
        if host in self._own_addresses:
            return ImportReason.NEXT_HOP_OWN
        return None if self._on_link.covers(host) else ImportReason.NEXT_HOP_NOT_ON_LINK


def is_link_local(address: str) -> bool:
    """Whether an IPv6 next hop is fe80::/10: routers send it beside the global one (RFC 2545 section 3)."""
    return family_of(address) is Family.IPV6 and host_prefix(address).network >> 118 == 0xFE80 >> 6
