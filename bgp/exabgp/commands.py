"""Renders commands for ExaBGP's API and paces them. Pure; the daemon writes the lines to its standard output.

ExaBGP finds its commands by substring, so a stray word could stop it: every word here comes from a checked value, and
communities are numbers only. At most 25 prefixes a line and four lines unanswered: measured to be the fastest by far,
since its queue costs quadratic time.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

import msgspec

from bgp.values import Announcement, Family, Neighbour

PREFIXES_PER_LINE = 25
WINDOW = 4


class Command(msgspec.Struct, frozen=True):
    """One line for ExaBGP and what it is about, so that an answer can be told to the right session.

    `withdrawn` is what a withdrawal takes back: if it is refused, the neighbour still has been told of it.
    """

    line: str
    address: str
    announcements: tuple[Announcement, ...] = ()


def announce_commands(neighbour: Neighbour, announcements: Iterable[Announcement]) -> list[Command]:
    """Announces, grouped by equal attributes."""
    return _commands("announce", neighbour, announcements)


def withdraw_commands(neighbour: Neighbour, announcements: Iterable[Announcement]) -> list[Command]:
    """Withdraws what was announced; ExaBGP's parser wants a next hop, so the attributes are repeated."""
    return _commands("withdraw", neighbour, announcements)


def _commands(verb: str, neighbour: Neighbour, announcements: Iterable[Announcement]) -> list[Command]:
    commands = []
    for attributes, chunk in _grouped(neighbour, announcements):
        prefixes = " ".join(announcement.prefix for announcement in chunk)
        line = f"neighbor {neighbour.address} {verb} {attributes} nlri {prefixes}"
        commands.append(Command(line, neighbour.address, chunk))
    return commands


def end_of_rib_command(address: str, family: Family) -> Command:
    """The end-of-RIB marker (RFC 4724 section 2), only valid while the session is established."""
    return Command(f"neighbor {address} announce eor {family} unicast", address)


def liveness_command() -> Command:
    """Something ExaBGP answers at once. Only for an empty window: its answer overtakes those of announcements."""
    return Command("version", "")


def teardown_command(address: str) -> Command:
    """Restarts one session (RFC 4486 subcode 4). Answered like any other."""
    return Command(f"neighbor {address} teardown 4", address)


def _grouped(
    neighbour: Neighbour, announcements: Iterable[Announcement]
) -> Iterator[tuple[str, tuple[Announcement, ...]]]:
    groups: dict[tuple[Family, str], list[Announcement]] = {}
    for announcement in announcements:
        family = Family.IPV6 if ":" in announcement.prefix else Family.IPV4
        groups.setdefault((family, attributes_text(neighbour, announcement)), []).append(announcement)
    for (_, attributes), members in groups.items():
        remaining = iter(members)
        while chunk := tuple(islice(remaining, PREFIXES_PER_LINE)):
            yield attributes, chunk


def attributes_text(neighbour: Neighbour, announcement: Announcement) -> str:
    """The attributes in ExaBGP's words. A prepended AS path is given whole, the local AS once more than asked."""
    words = [f"attributes next-hop {announcement.next_hop} origin igp"]
    if announcement.prepend:
        words.append(f"as-path [ {' '.join([str(neighbour.local_asn)] * (announcement.prepend + 1))} ]")
    if announcement.med is not None:
        words.append(f"med {announcement.med}")
    if announcement.local_preference is not None:
        words.append(f"local-preference {announcement.local_preference}")
    if announcement.communities:
        words.append(f"community [ {' '.join(announcement.communities)} ]")
    if announcement.large_communities:
        words.append(f"large-community [ {' '.join(announcement.large_communities)} ]")
    return " ".join(words)


class Window:
    """Commands waiting for their turn, and those ExaBGP has not answered yet. Answers come in order."""

    def __init__(self, size: int = WINDOW) -> None:
        """`size` is how many lines may be unanswered at once."""
        self._size = size
        self._waiting: deque[Command] = deque()
        self._unanswered: deque[Command] = deque()

    def add(self, commands: Iterable[Command]) -> None:
        """Queues commands behind those already there."""
        self._waiting.extend(commands)

    @property
    def idle(self) -> bool:
        """Whether nothing waits, neither for its turn nor for an answer."""
        return not self._waiting and not self._unanswered

    def lines(self) -> Iterator[str]:
        """The lines that may be written now; each counts as unanswered from here on."""
        while self._waiting and len(self._unanswered) < self._size:
            command = self._waiting.popleft()
            self._unanswered.append(command)
            yield command.line

    def answered(self) -> Command | None:
        """The command that an answer belongs to; None if nothing was asked."""
        return self._unanswered.popleft() if self._unanswered else None

    def forget(self, address: str) -> None:
        """Drops what still waits for one neighbour: its session is down."""
        self._waiting = deque(command for command in self._waiting if command.address != address)

    def busy_with(self, address: str) -> bool:
        """Whether anything for this neighbour is waiting or unanswered."""
        return any(command.address == address for queue in (self._waiting, self._unanswered) for command in queue)
