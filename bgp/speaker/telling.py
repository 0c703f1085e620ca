"""What each neighbour is told, and whether it has heard it: commands out, answers in. No I/O.

Owned by `bgp.speaker.state`; what a neighbour was told stands in its `Record`.
"""

from collections.abc import Iterator

from bgp.exabgp.commands import (
    Command,
    Window,
    announce_commands,
    end_of_rib_command,
    liveness_command,
    teardown_command,
    withdraw_commands,
)
from bgp.exabgp.events import Answer
from bgp.speaker.record import Record

WITHDRAW_SECONDS = 5.0  # an established neighbour that can't be told of the withdrawal is removed after this long
QUIET_SECONDS = 0.05  # between ExaBGP's report of a sent UPDATE and its being on the wire
RETRY_SECONDS = 5.0
RETRY_WITHDRAWAL_SECONDS = 1.0  # of a neighbour that waits for it to be removed
ASK_AFTER_SECONDS = 30.0  # ExaBGP is asked for a sign of life when it had nothing to answer for so long
ANSWER_SECONDS = 20.0  # far longer than it needs to load a thousand neighbours


class Telling:
    """The commands to ExaBGP."""

    def __init__(self, now: float) -> None:
        """Nothing was said yet."""
        self._window = Window()
        self._heard_at = self._idle_at = now

    def reconcile(self, record: Record) -> None:
        """Queues the commands that turn what the neighbour was told into what it should hear."""
        if not record.established:
            return
        neighbour, told = record.neighbour, record.told
        wanted = {} if record.removing_since is not None else {a.prefix: a for a in neighbour.announcements}
        surplus = [announcement for prefix, announcement in told.items() if prefix not in wanted]
        changed = [
            announcement
            for prefix, announcement in wanted.items()
            if told.get(prefix) != announcement or prefix in record.doubtful
        ]
        self._window.add(withdraw_commands(neighbour, surplus))
        self._window.add(announce_commands(neighbour, changed))
        record.told = wanted
        record.doubtful.clear()
        if not record.end_of_rib_told:
            record.end_of_rib_told = True
            self._window.add(end_of_rib_command(neighbour.address, family) for family in record.families)

    def restart_session(self, record: Record) -> None:
        """Has the neighbour tell everything again, on a new session."""
        record.reset_expected = True
        self._window.add([teardown_command(record.neighbour.address)])

    def forget(self, address: str) -> None:
        """The session is gone, and with it what was still to be said on it."""
        self._window.forget(address)

    # Answers

    def on_answer(self, answer: Answer, now: float) -> Command | None:
        """Takes in an answer; returns the command if it was refused."""
        self._heard_at = now
        command = self._window.answered()
        return None if answer.good else command

    @staticmethod
    def doubt(record: Record, command: Command, now: float) -> None:
        """ExaBGP refused the command: whatever the neighbour knows of these prefixes now, it is to be told again."""
        for announcement in command.announcements:
            record.told.setdefault(announcement.prefix, announcement)
            record.doubtful.add(announcement.prefix)
        record.retry_at = now + (RETRY_SECONDS if record.removing_since is None else RETRY_WITHDRAWAL_SECONDS)

    def watch_withdrawal(self, record: Record, now: float) -> None:
        """Marks a neighbour that is to be removed as withdrawn from, once it must have forgotten our routes."""
        if record.removing_since is None or record.is_withdrawn:
            return
        if not record.established:
            # RFC 4724 section 4.2: it may keep the routes of the lost session, and hears end-of-RIB on the next one.
            record.is_withdrawn = record.holds_until is None or now >= record.holds_until
            return
        if now - max(record.removing_since, record.since) >= WITHDRAW_SECONDS:
            record.is_withdrawn = True
        elif record.told or record.sent or record.holds_until or self._window.busy_with(record.neighbour.address):
            record.quiet_since = None
        elif record.quiet_since is None:
            record.quiet_since = now
        else:
            record.is_withdrawn = now - record.quiet_since >= QUIET_SECONDS

    # ExaBGP

    def exabgp_is_alive(self, now: float) -> bool:
        """Whether ExaBGP still answers. Asks it something if it was not heard for a while."""
        if not self._window.idle:
            return now - max(self._heard_at, self._idle_at) < ANSWER_SECONDS
        self._idle_at = now
        if now - self._heard_at >= ASK_AFTER_SECONDS:
            self._window.add([liveness_command()])
        return True

    @property
    def commands_wait(self) -> bool:
        """Whether a command waits for its turn or for its answer."""
        return not self._window.idle

    def lines(self) -> Iterator[str]:
        """What may be written to ExaBGP now."""
        yield from self._window.lines()
