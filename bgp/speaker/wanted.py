"""What ExaBGP is to run: the last order, checked, beside what ran well before it. No I/O; owned by `bgp.speaker.state`.

A version of a neighbour that can't be served, whoever found it out, leaves the last good one in force.
"""

from collections.abc import Iterable, Mapping

import msgspec

from bgp.checking import Checked, Experience, checked, without_announcements
from bgp.exabgp.configuration import neighbour_section
from bgp.reasons import SessionReason
from bgp.values import Desired, Neighbour


class Wanted:
    """The order in force and what ExaBGP has confirmed."""

    def __init__(self, now: float) -> None:
        """Nothing is ordered yet."""
        self.desired: Desired | None = None
        self.since = now
        self.missing_addresses: frozenset[str] = frozenset()
        self.configured: dict[str, Neighbour] = {}  # what ExaBGP runs, by address
        self.good: Desired | None = None  # what it ran last of each neighbour that is still ordered
        self.checked = Checked(desired=Desired(router_id="0.0.0.0"), refusals=(), problems=())
        self._rejected: dict[Neighbour, str] = {}  # refused by ExaBGP's parser, and its words
        self._sections: dict[str, str] = {}

    @property
    def clean(self) -> Desired:
        """The order without what can't be honoured."""
        return self.checked.desired

    def recall(self, good: Desired) -> None:
        """What an earlier run of the speaker had confirmed."""
        self.good = good

    def order(self, desired: Desired, now: float) -> None:
        """Replaces the order."""
        before = self.desired
        if before is None or (before.router_id, before.listen_port) != (desired.router_id, desired.listen_port):
            self._rejected.clear()  # every section of the configuration is another one
        self.desired, self.since = desired, now
        self._prune_good()
        self._check(desired)
        ordered = {without_announcements(neighbour) for neighbour in self.clean.neighbours}
        ordered |= {without_announcements(refusal.neighbour) for refusal in self.checked.refusals}
        self._rejected = {neighbour: words for neighbour, words in self._rejected.items() if neighbour in ordered}

    def reject(self, refused: Mapping[Neighbour, str]) -> None:
        """ExaBGP's parser refuses these; the order is checked again without them."""
        self._rejected.update({without_announcements(neighbour): words for neighbour, words in refused.items()})
        if self.desired is not None:
            self._check(self.desired)

    def _check(self, desired: Desired) -> None:
        self.checked = checked(desired, Experience(good=self.good, rejected=self._rejected))

    def confirm(self, clean: Desired, neighbours: Iterable[Neighbour]) -> None:
        """ExaBGP runs exactly these neighbours, with the router id and the port of `clean`."""
        self.configured = {neighbour.address: neighbour for neighbour in neighbours}
        self._sections = {
            address: neighbour_section(neighbour, clean.router_id, clean.listen_port)
            for address, neighbour in self.configured.items()
        }
        known = {neighbour.name: neighbour for neighbour in self.good.neighbours} if self.good is not None else {}
        ordered = {neighbour.address for neighbour in clean.neighbours}  # the others still hear their withdrawal
        running = [neighbour for address, neighbour in self.configured.items() if address in ordered]
        known.update({neighbour.name: without_announcements(neighbour) for neighbour in running})
        self.good = Desired(
            router_id=clean.router_id,
            listen_port=clean.listen_port,
            neighbours=tuple(known[name] for name in sorted(known)),
        )
        self._prune_good()

    def _prune_good(self) -> None:
        """A neighbour that is no longer ordered is not brought back by a later mistake."""
        if self.good is None or self.desired is None:
            return
        ordered = {neighbour.name for neighbour in self.desired.neighbours}
        ordered |= {neighbour.address for neighbour in self.desired.neighbours}
        kept = tuple(one for one in self.good.neighbours if ordered & {one.name, one.address})
        self.good = msgspec.structs.replace(self.good, neighbours=kept)

    def is_confirmed(self, neighbour: Neighbour) -> bool:
        """Whether ExaBGP runs this neighbour with the parameters that the order gives it, or does not run it at all."""
        section = neighbour_section(neighbour, self.clean.router_id, self.clean.listen_port)
        return self._sections.get(neighbour.address, section) == section

    def is_rejected(self, neighbour: Neighbour) -> bool:
        """Whether ExaBGP's parser has refused this version."""
        return without_announcements(neighbour) in self._rejected

    def ran_before(self, neighbour: Neighbour) -> bool:
        """Whether an earlier run of the speaker had it: the peer may still hold what it was told then."""
        return self.good is not None and any(one.address == neighbour.address for one in self.good.neighbours)

    def lacks_local_address(self, neighbour: Neighbour) -> bool:
        """Whether no interface of the node has the address that the session is to use."""
        return neighbour.local_address in self.missing_addresses


def why_no_local_address(neighbour: Neighbour) -> tuple[SessionReason, str]:
    """The reason that a neighbour is held back for its local address, and the remedy."""
    text = f"no interface of this node has {neighbour.local_address}: add the address or name another"
    return SessionReason.LOCAL_ADDRESS_MISSING, text
