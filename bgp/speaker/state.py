"""Everything the speaker knows and decides, without I/O: events and orders in, commands and answers out.

`bgp.speaker.daemon` owns the only instance and feeds it from one task; times are CLOCK_MONOTONIC seconds.
"""

from collections.abc import Iterable, Mapping, Sequence

from bgp.decision import ImportPolicy
from bgp.exabgp.events import (
    Answer,
    EndOfRib,
    Event,
    NotificationMessage,
    OpenMessage,
    SessionChange,
    UpdateMessage,
)
from bgp.reasons import ProblemReason, SessionReason
from bgp.rib import AdjRibIn, LocRib
from bgp.speaker.graceful import (
    note_what_it_holds,
    stale_after_end_of_rib,
    stale_after_loss,
    stale_after_return,
)
from bgp.speaker.record import Record
from bgp.speaker.telling import QUIET_SECONDS, Telling
from bgp.speaker.wanted import Wanted, why_no_local_address
from bgp.values import (
    Desired,
    Family,
    Neighbour,
    Problem,
    Route,
    Sent,
    SessionState,
)

SETTLE_SECONDS = 30.0  # a neighbour without end-of-RIB has sent its table by then


class SpeakerState:
    """The speaker's memory. Mutating methods take the time; nothing blocks."""

    def __init__(self, now: float) -> None:
        """Nothing is desired yet."""
        self.started = now
        self.rib = LocRib()
        self.records: dict[str, Record] = {}  # by neighbour address
        self.wanted = Wanted(now)
        self._first_order_at: float | None = None
        self.applied = False
        self.notes: dict[str, Problem] = {}
        self.telling = Telling(now)
        self._decided: set[Family] = set()

    # Orders

    def set_desired(self, desired: Desired, now: float) -> None:
        """Replaces what is wanted. Routes already received are judged again under the new policy."""
        self.wanted.order(desired, now)
        self._follow(now)

    def reject(self, refused: Mapping[Neighbour, str], now: float) -> None:
        """ExaBGP's parser refuses these, in its words: their last good versions stay, and the others are served."""
        self.wanted.reject(refused)
        self._follow(now)

    def _follow(self, now: float) -> None:
        self.applied = False
        wanted = {neighbour.address: neighbour for neighbour in self.clean.neighbours}
        for address, record in list(self.records.items()):
            if address in wanted or record.removing_since is not None:
                continue
            if address not in self.wanted.configured and not record.established and record.holds_until is None:
                self._forget(address)  # ExaBGP has never heard of it
                continue
            record.removing_since = now
            self.telling.reconcile(record)
            self.telling.watch_withdrawal(record, now)
        for neighbour in wanted.values():
            self._want(neighbour, now)
        if self._first_order_at is None:
            self._first_order_at = now

    def _want(self, neighbour: Neighbour, now: float) -> None:
        policy = ImportPolicy(neighbour, self.clean.refuse, self.clean.on_link)
        record = self.records.get(neighbour.address)
        if record is None:
            record = Record(neighbour, AdjRibIn(neighbour, policy), now)
            record.is_inherited = self._first_order_at is None
            if record.is_inherited and self.wanted.ran_before(neighbour):
                record.holds_until = now + neighbour.graceful_restart
            self.records[neighbour.address] = record
            self.rib.sessions[neighbour.address] = record.rib
        lacking = record.rib.lacks_for(neighbour, policy)
        self.rib.dirty.update(record.rib.set_policy(neighbour, policy))
        record.neighbour, record.removing_since, record.quiet_since = neighbour, None, None
        record.is_withdrawn = False
        if not record.established and record.restarts == 0 and record.last_reason is None:
            record.explain_silence()
        if lacking and record.established:
            # Refused routes beyond the number kept may be welcome now: only the peer knows them.
            self.telling.restart_session(record)
            return
        self.telling.reconcile(record)

    @property
    def clean(self) -> Desired:
        """The desired state without what can't be honoured."""
        return self.wanted.clean

    def neighbours_to_configure(self) -> list[Neighbour]:
        """Who should be in ExaBGP's configuration now, by address: the wanted, and those still being withdrawn from."""
        chosen = []
        for address in sorted(self.records):
            record = self.records[address]
            running = self.wanted.configured.get(address)
            if record.removing_since is not None:
                if not record.is_withdrawn and not self.wanted.is_rejected(record.neighbour):
                    chosen.append(running or record.neighbour)
            elif not self.wanted.lacks_local_address(record.neighbour):
                chosen.append(record.neighbour)
            elif record.established and running is not None:
                chosen.append(running)
        return chosen

    def set_configured(self, neighbours: Sequence[Neighbour], clean: Desired | None = None) -> None:
        """ExaBGP has confirmed a configuration with exactly these; `clean` is the order it was made from."""
        self.wanted.confirm(clean if clean is not None else self.clean, neighbours)
        for address, record in list(self.records.items()):
            if record.removing_since is not None and address not in self.wanted.configured:
                self._forget(address)
        # A neighbour that still hears its withdrawal is in the configuration but not in the order.
        self.applied = not any(record.removing_since is not None for record in self.records.values())

    def _forget(self, address: str) -> None:
        self.notes.pop(f"neighbour {self.records[address].neighbour.name} announcements", None)
        del self.records[address]
        self.telling.forget(address)
        self.rib.remove(address)

    def expect_resets(self, neighbours: Iterable[Neighbour]) -> None:
        """A configuration is about to be loaded: sessions whose parameters change will restart."""
        for neighbour in neighbours:
            record = self.records.get(neighbour.address)
            if record is not None and not self.wanted.is_confirmed(neighbour):
                record.reset_expected = True

    # Events

    def on_event(self, event: Event, now: float) -> None:
        """Takes in one thing that ExaBGP said."""
        if isinstance(event, Answer):
            self._on_answer(event, now)
            return
        record = self.records.get(getattr(event, "address", ""))
        if record is None:
            return
        if isinstance(event, UpdateMessage):
            self._on_update(record, event)
        elif isinstance(event, SessionChange):
            self._on_session(record, event, now)
        elif isinstance(event, OpenMessage):
            record.open = event
        elif isinstance(event, NotificationMessage):
            record.notification = event
        elif isinstance(event, EndOfRib):
            self.rib.dirty.update(stale_after_end_of_rib(record, event))

    def _on_answer(self, answer: Answer, now: float) -> None:
        refused = self.telling.on_answer(answer, now)
        record = self.records.get(refused.address) if refused is not None else None
        if refused is None or record is None or not record.established or not refused.announcements:
            return
        self.telling.doubt(record, refused, now)
        self.note(
            Problem(
                object=f"neighbour {record.neighbour.name}",
                field="announcements",
                value=" ".join(announcement.prefix for announcement in refused.announcements),
                reason=ProblemReason.NOT_APPLIED,
                message="ExaBGP refused the command; it is repeated every few seconds",
            )
        )

    def _on_update(self, record: Record, update: UpdateMessage) -> None:
        if update.sent:
            for prefix in update.withdrawn:
                record.sent.pop(prefix, None)
            for prefix, next_hop in update.announced:
                record.sent[prefix] = _sent(record.neighbour.name, prefix, next_hop, update)
            return
        for prefix in update.withdrawn:
            self.rib.dirty.update(record.rib.withdraw(prefix))
        for prefix, next_hop in update.announced:
            self.rib.dirty.update(record.rib.announce(prefix, next_hop, update.attributes))

    def _on_session(self, record: Record, change: SessionChange, now: float) -> None:
        if change.state == "up":
            self._on_up(record, now)
        elif change.state == "down":
            self._on_down(record, change.reason, now)

    def _on_up(self, record: Record, now: float) -> None:
        if record.established:
            self._on_down(record, "", now)
        record.enter(SessionState.ESTABLISHED, now)
        record.reason, record.message, record.reset_expected = None, "", False
        record.peer = record.open
        self.rib.dirty.update(stale_after_return(record, now))
        self.telling.reconcile(record)

    def _on_down(self, record: Record, words: str, now: float) -> None:
        established = record.established
        reason = record.explain_end(words)
        if not established:
            record.reset_expected = False
            return
        record.last_reason = reason
        record.restarts += 1
        record.enter(SessionState.CONNECTING, now)
        note_what_it_holds(record, reason, now)
        record.told.clear()
        record.doubtful.clear()
        record.sent.clear()
        record.end_of_rib_told = False
        record.end_of_rib_sent.clear()
        record.end_of_rib_received.clear()
        record.reset_expected = False
        self.telling.forget(record.neighbour.address)
        self.rib.dirty.update(stale_after_loss(record, reason, now))

    # Time

    def seconds_to_wait(self, usual: float) -> float:
        """How long `tick` can wait: shorter while a withdrawal is under way."""
        told = any(r.removing_since is not None and r.established for r in self.records.values())
        return QUIET_SECONDS / 2 if told else usual

    def tick(self, now: float) -> bool:
        """Does what is due: stale routes whose time is over, withdrawals that are on the wire, retries.

        Returns whether anything was due.
        """
        due = [self._tick_one(record, now) for record in self.records.values()]
        return any(due)

    def _tick_one(self, record: Record, now: float) -> bool:
        due = False
        if record.keep_until is not None and now >= record.keep_until:
            record.keep_until, due = None, True
            self.rib.dirty.update(record.rib.flush_stale())
        if self._was_waited_for(record, now) and not record.settled.issuperset(record.neighbour.families):
            record.settled.update(record.neighbour.families)
            due = True
        if record.retry_at is not None and now >= record.retry_at:
            record.retry_at, due = None, True
            self.notes.pop(f"neighbour {record.neighbour.name} announcements", None)
            self.telling.reconcile(record)
        self.telling.watch_withdrawal(record, now)
        return due

    def _was_waited_for(self, record: Record, now: float) -> bool:
        """Whether a neighbour that sends no end-of-RIB has had its time: since the first order, and since it came up."""
        if self._first_order_at is None:
            return False
        patience = max(record.neighbour.graceful_restart, SETTLE_SECONDS)
        came_up = record.since if record.established else self._first_order_at
        return now >= self._first_order_at + patience and now >= came_up + SETTLE_SECONDS

    # Answers

    def note(self, problem: Problem) -> None:
        """Remembers a problem under its object and field until `notes` is told otherwise."""
        self.notes[f"{problem.object} {problem.field}"] = problem

    def decide(self, limit: int) -> dict[str, Route | None]:
        """Decides up to `limit` prefixes anew: see `bgp.rib.LocRib.decide`."""
        changed = self.rib.decide(limit)
        if not self.rib.dirty:
            self._decided = {family for family in Family if self._is_heard(family)}
        return changed

    def is_settled(self, family: Family) -> bool:
        """Heard and decided: whoever reads `settled` takes a route that is missing for one that is gone."""
        return family in self._decided and self._is_heard(family)

    def _is_heard(self, family: Family) -> bool:
        """Only an inherited session may bring back what the kernel has from before; a later one is no reason to wait."""
        records = [r for r in self.records.values() if r.is_inherited and r.removing_since is None]
        return self.wanted.desired is not None and all(
            family in record.settled for record in records if family in record.neighbour.families
        )

    def why_held_back(self, record: Record) -> tuple[SessionReason, str] | None:
        """Why a wanted neighbour is not in ExaBGP's configuration as ordered, and what to do; None if it is."""
        if record.removing_since is not None or not self.wanted.lacks_local_address(record.neighbour):
            return None
        return why_no_local_address(record.neighbour)


def _sent(session: str, prefix: str, next_hop: str, update: UpdateMessage) -> Sent:
    attributes = update.attributes
    return Sent(
        session=session,
        prefix=prefix,
        next_hop=next_hop,
        as_path=attributes.as_path,
        communities=attributes.communities,
        large_communities=attributes.large_communities,
        local_preference=attributes.local_preference,
        med=attributes.med,
    )
