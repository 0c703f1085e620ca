"""The routing tables: Adj-RIB-In of each session, and what they give together (Loc-RIB). No I/O; time is an argument.

Owned and fed by the speaker's daemon from ExaBGP's events; tests replay recorded events through it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

import msgspec

from bgp.decision import Attributes, Candidate, ImportPolicy, best_paths, is_link_local, losing_reasons
from bgp.prefixes import family_of
from bgp.reasons import ImportReason
from bgp.values import Family, Neighbour, Path, Route

# A full table sent by mistake must fit in memory. Of the refused routes of a session so many are kept whole, and of
# so many more the prefix and the reason; beyond that nothing is known but that there are more.
REFUSED_KEPT = 1000
REFUSED_NAMED = 50_000


class Entry(msgspec.Struct, gc=False):
    """One prefix in an Adj-RIB-In. `epoch` is that of the session which carried it: an older one is stale."""

    next_hop: str
    attributes: Attributes
    refused: ImportReason | None
    epoch: int


class AdjRibIn:
    """What one neighbour sent. Methods that change it return the prefixes whose best path may be another one now."""

    def __init__(self, neighbour: Neighbour, policy: ImportPolicy) -> None:
        """`neighbour` and `policy` change through `set_policy`."""
        self.session = neighbour.name
        self.external = neighbour.asn != neighbour.local_asn
        self.policy = policy
        self.epoch = 0
        self.accepted = 0
        self.forgotten: dict[str, ImportReason] = {}  # refused, and no longer known whole
        self._unnamed: set[ImportReason] = set()  # why still more was refused than could be named
        self._max_prefixes = neighbour.max_prefixes
        self._refused: Counter[ImportReason] = Counter()  # forgotten ones included
        self._surplus: dict[str, None] = {}  # refused for their number only, oldest first
        self._unwelcome: dict[str, None] = {}  # refused for what they are, oldest first
        self.entries: dict[str, Entry] = {}

    @property
    def received(self) -> int:
        """Prefixes the neighbour has sent and not withdrawn, forgotten refused ones included."""
        return len(self.entries) + len(self.forgotten)

    def refused_counts(self) -> dict[ImportReason, int]:
        """Refused prefixes by reason, forgotten ones included."""
        return {reason: count for reason, count in sorted(self._refused.items()) if count}

    @property
    def is_incomplete(self) -> bool:
        """Whether more was refused than could be named: the counts are the least there is."""
        return bool(self._unnamed)

    @property
    def room(self) -> int:
        """How many prefixes more may be accepted."""
        return max(0, self._max_prefixes - self.accepted)

    @property
    def lacks_surplus(self) -> bool:
        """Whether routes could be accepted now that are no longer known: only the peer can tell them again."""
        reason = ImportReason.ABOVE_MAX_PREFIXES
        return self.room > 0 and (reason in self._unnamed or self._refused[reason] > len(self._surplus))

    def lacks_for(self, neighbour: Neighbour, policy: ImportPolicy) -> bool:
        """Whether routes that are no longer known may be welcome under another policy: only the peer can tell them."""
        if not self.forgotten and not self.is_incomplete:
            return False
        return policy.widens(self.policy) or neighbour.max_prefixes > self._max_prefixes

    def announce(self, prefix: str, next_hop: str, attributes: Attributes) -> Iterable[str]:
        """A route was received (RFC 4271 section 9.1.4: it replaces the earlier one for the prefix)."""
        old = self.entries.get(prefix)
        if old is not None and old.epoch == self.epoch and old.attributes is attributes and is_link_local(next_hop):
            return ()  # the same UPDATE named a global next hop too, which the kernel can use without an interface
        self._remove(prefix)
        refused = self.policy.refusal(prefix, next_hop, attributes)
        self._insert(prefix, Entry(next_hop, attributes, refused, self.epoch))
        return (prefix, *self._promote())

    def withdraw(self, prefix: str) -> Iterable[str]:
        """A route was withdrawn."""
        removed = self._remove(prefix)
        if removed is None or removed.refused is not None:
            return ()
        return (prefix, *self._promote())

    def restart(self) -> None:
        """The session was lost: everything received so far is stale from now on (RFC 4724 section 4.2)."""
        self.epoch += 1
        self._refused.subtract(Counter(self.forgotten.values()))
        self.forgotten.clear()
        self._unnamed.clear()

    def stale(self, family: Family | None = None) -> list[str]:
        """Prefixes kept from an earlier session, of one family or all."""
        return [
            prefix
            for prefix, entry in self.entries.items()
            if entry.epoch != self.epoch and (family is None or family_of(prefix) is family)
        ]

    def flush_stale(self, family: Family | None = None) -> list[str]:
        """Drops what an earlier session brought and the present one did not repeat."""
        gone = self.stale(family)
        for prefix in gone:
            self._remove(prefix)
        return [*gone, *self._promote()]

    def set_policy(self, neighbour: Neighbour, policy: ImportPolicy) -> list[str]:
        """Judges everything again under a new policy."""
        if (neighbour.name, policy.key, neighbour.max_prefixes) == (self.session, self.policy.key, self._max_prefixes):
            return []
        self.session, self.policy, self._max_prefixes = neighbour.name, policy, neighbour.max_prefixes
        self.external = neighbour.asn != neighbour.local_asn
        entries, self.entries = self.entries, {}
        self.accepted = 0
        self._refused = Counter(self.forgotten.values())
        self._surplus.clear()
        self._unwelcome.clear()
        for prefix, entry in entries.items():
            refused = policy.refusal(prefix, entry.next_hop, entry.attributes)
            self._insert(prefix, Entry(entry.next_hop, entry.attributes, refused, entry.epoch))
        return list(entries)

    def candidate(self, prefix: str) -> Candidate | None:
        """The accepted path to a prefix, if there is one."""
        entry = self.entries.get(prefix)
        if entry is None or entry.refused is not None:
            return None
        return Candidate(self.session, self.external, entry.epoch != self.epoch, entry.next_hop, entry.attributes)

    def _insert(self, prefix: str, entry: Entry) -> None:
        if entry.refused is None and self.accepted >= self._max_prefixes:
            entry.refused = ImportReason.ABOVE_MAX_PREFIXES
        if entry.refused is None:
            self.accepted += 1
        elif self._make_place(entry.refused):
            self._refused[entry.refused] += 1
            queue = self._surplus if entry.refused is ImportReason.ABOVE_MAX_PREFIXES else self._unwelcome
            queue[prefix] = None
        else:
            self._forget(prefix, entry.refused)
            return
        self.entries[prefix] = entry

    def _make_place(self, reason: ImportReason) -> bool:
        """Whether one more refused route can be kept. One that only waits for room takes the place of an unwelcome."""
        if len(self._surplus) + len(self._unwelcome) < REFUSED_KEPT:
            return True
        if reason is not ImportReason.ABOVE_MAX_PREFIXES or not self._unwelcome:
            return False
        oldest = next(iter(self._unwelcome))
        entry = self._remove(oldest)
        if entry is not None and entry.refused is not None:
            self._forget(oldest, entry.refused)
        return True

    def _forget(self, prefix: str, reason: ImportReason) -> None:
        if len(self.forgotten) < REFUSED_NAMED:
            self.forgotten[prefix] = reason
            self._refused[reason] += 1
        else:
            self._unnamed.add(reason)

    def _remove(self, prefix: str) -> Entry | None:
        forgotten = self.forgotten.pop(prefix, None)
        if forgotten is not None:
            self._refused[forgotten] -= 1
        entry = self.entries.pop(prefix, None)
        if entry is None:
            return None
        if entry.refused is None:
            self.accepted -= 1
        else:
            self._refused[entry.refused] -= 1
            self._surplus.pop(prefix, None)
            self._unwelcome.pop(prefix, None)
        return entry

    def _promote(self) -> list[str]:
        """Accepts prefixes that were only refused for their number, as far as there is room."""
        promoted: list[str] = []
        while self._surplus and self.room:
            prefix = next(iter(self._surplus))
            entry = self._remove(prefix)
            if entry is not None:
                entry.refused = None
                self._insert(prefix, entry)
                promoted.append(prefix)
        return promoted


class LocRib:
    """The best way to each prefix over all sessions, kept up to date prefix by prefix."""

    def __init__(self) -> None:
        """Starts empty; `sessions` is keyed by neighbour address."""
        self.sessions: dict[str, AdjRibIn] = {}
        self.routes: dict[str, Route] = {}
        self.dirty: set[str] = set()

    def remove(self, address: str) -> None:
        """A neighbour is gone for good, with all that it sent."""
        rib = self.sessions.pop(address, None)
        if rib is not None:
            self.dirty.update(rib.entries)

    def candidates(self, prefix: str) -> list[Candidate]:
        """The accepted paths to a prefix, from all sessions."""
        return [path for rib in self.sessions.values() if (path := rib.candidate(prefix)) is not None]

    def decide(self, limit: int) -> dict[str, Route | None]:
        """Decides at most `limit` dirty prefixes anew; returns those whose route changed (None: no route any more)."""
        changed: dict[str, Route | None] = {}
        for _ in range(min(limit, len(self.dirty))):
            prefix = self.dirty.pop()
            route = route_of(best_paths(self.candidates(prefix)))
            if route == self.routes.get(prefix):
                continue
            changed[prefix] = route
            if route is None:
                del self.routes[prefix]
            else:
                self.routes[prefix] = route
        return changed

    def paths(self) -> Iterator[Path]:
        """Every path of every session, with what became of it: for a person to read, while routes come and go."""
        for rib in list(self.sessions.values()):
            for prefix, entry in list(rib.entries.items()):
                lost = None if entry.refused else losing_reasons(self.candidates(prefix)).get(rib.session)
                yield Path(
                    session=rib.session,
                    prefix=prefix,
                    next_hop=entry.next_hop,
                    as_path=entry.attributes.as_path,
                    origin=entry.attributes.origin,
                    local_preference=entry.attributes.local_preference,
                    med=entry.attributes.med,
                    communities=entry.attributes.communities,
                    large_communities=entry.attributes.large_communities,
                    stale=entry.epoch != rib.epoch,
                    refused=entry.refused,
                    lost=lost,
                )


def route_of(best: Iterable[Candidate]) -> Route | None:
    """The equal-cost set as one route; None for an empty set."""
    paths = tuple(best)
    if not paths:
        return None
    return Route(
        next_hops=tuple(sorted({path.next_hop for path in paths})),
        sessions=tuple(sorted({path.session for path in paths})),
        stale=paths[0].stale,
    )
