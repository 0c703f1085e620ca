"""The traffic probe: numbered packets and a stream between places of a lab, in both directions, with what was lost at the end.

    with Traffic([(one, other)]) as traffic:
        …break something…
    traffic.assert_no_loss()

A place is anything with a network namespace and addresses: a pod, or a machine of the lab.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from controller.lab.execute import wait_until

# In an end's word about a packet from somebody else (`traffic_endpoint`).
WRONG_SOURCE = " instead of "
ENDPOINT = Path(__file__).with_name("traffic_endpoint.py")
RATE = 500
# Seconds: a record comes every 20 to 40 ms; a lost one comes again after TCP's 0.2 s, and two cores may be busy.
STREAM_PAUSE = 1.0
# Seconds in which nothing is sent, so that a loss would go unseen: two busy cores keep the probe waiting for a while.
SEND_PAUSE = 0.5
FIRST_PORT = 7000


@dataclass(frozen=True)
class Place:
    """Where an end runs: `enter` is the command that enters its network namespace."""

    name: str
    enter: tuple[str, ...]
    addresses: tuple[str, ...]

    def address(self, family: int) -> str:
        return next(address for address in self.addresses if (":" in address) == (family == 6))


@dataclass(frozen=True)
class Direction:
    """What one end sent and the other received.

    `sending` is for how long, in seconds; `send_gap` and the other gaps are the longest between two packets sent, or arrived.
    """

    label: str
    sent: int
    sending: float
    send_gap: float
    received: int
    missing: tuple[int, ...]
    gap: float
    stream_bytes: int
    stream_gap: float


class Traffic:
    """Runs while the `with` block does. Both families, both directions, for every pair of places."""

    def __init__(self, pairs: list[tuple[Place, Place]], families: tuple[int, ...] = (4, 6)) -> None:
        self.pairs, self.families = pairs, families
        self._ends: list[tuple[str, str, subprocess.Popen[str]]] = []
        self.directions: list[Direction] = []
        self.errors: list[str] = []

    def __enter__(self) -> Self:
        try:
            self._begin()
        except BaseException:
            for _, _, process in self._ends:
                process.kill()
                process.communicate()
            raise
        return self

    def _begin(self) -> None:
        port = FIRST_PORT
        for one, other in self.pairs:
            for family in self.families:
                own, peer = one.address(family), other.address(family)
                self._ends.append((one.name, other.name, self._start(one, own, peer, port)))
                self._ends.append((other.name, one.name, self._start(other, peer, own, port)))
                port += 1
        wait_until(self._is_flowing, 15.0, "the traffic probe flows in every direction")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        outputs = self._stopped()
        if kind is not None:
            return
        reports = [json.loads(output) for output in outputs]
        for index in range(0, len(reports), 2):
            self._note(self._ends[index], reports[index], reports[index + 1])
            self._note(self._ends[index + 1], reports[index + 1], reports[index])

    @property
    def lost(self) -> int:
        """Packets lost in all directions."""
        return sum(len(direction.missing) for direction in self.directions)

    def assert_no_loss(self) -> None:
        """Nothing lost, nothing from a wrong source, every stream went on, and the probe sent all the while."""
        told = "; ".join(
            f"{d.label}: {len(d.missing)} of {d.sent} lost, gap {d.gap:.3f} s" for d in self.directions if d.missing
        )
        assert not told, told
        assert not self.errors, self.errors
        assert self.directions
        assert not self.troubles(), "; ".join(self.troubles())

    def troubles(self, may_stand: Set[str] = frozenset()) -> list[str]:
        """Besides lost packets: wrong sources, a probe that hardly sent, and streams at a standstill, but for those labels."""
        return [
            *(error for error in self.errors if WRONG_SOURCE in error),
            *(
                f"the probe hardly ran: {d.label}: {d.sent} packets in {d.sending:.2f} s, longest pause {d.send_gap:.3f} s"
                for d in self.directions
                if d.sent < max(RATE, 0.95 * RATE * d.sending) or d.send_gap > SEND_PAUSE
            ),
            *(
                f"{d.label}: stream of {d.stream_bytes} bytes, gap {d.stream_gap:.3f} s"
                for d in self.directions
                if d.label not in may_stand and (not d.stream_bytes or d.stream_gap > STREAM_PAUSE)
            ),
        ]

    def _start(self, place: Place, own: str, peer: str, port: int) -> subprocess.Popen[str]:
        # What measures must not wait for what is measured.
        argv = [*place.enter, "chrt", "--rr", "1", sys.executable, str(ENDPOINT), own, peer, str(port), str(RATE)]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)

    def _is_flowing(self) -> bool:
        """Every UDP socket exists and every stream stands; what was sent before the other end listened is not counted as lost."""
        dead = [end for end in self._ends if end[2].poll() is not None]
        assert not dead, f"an end of the probe ended: {dead[0][:2]}"
        return all(_takes_part(place, port) for place, port in self._sockets())

    def _sockets(self) -> list[tuple[Place, int]]:
        count = len(self.families)
        return [
            (place, FIRST_PORT + index * count + offset)
            for index, pair in enumerate(self.pairs)
            for offset in range(count)
            for place in pair
        ]

    def _stopped(self) -> list[str]:
        for _, _, process in self._ends:
            process.send_signal(signal.SIGTERM)
        outputs = []
        for _, _, process in self._ends:
            try:
                outputs.append(process.communicate(timeout=10)[0])
            except subprocess.TimeoutExpired:
                process.kill()
                outputs.append(process.communicate()[0])
        return outputs

    def _note(self, end: tuple[str, str, object], own: dict, other: dict) -> None:
        got = set(other["received"])
        # Packets before the first that arrived were sent while the other end was being started.
        first = min(got, default=0)
        missing = tuple(number for number in range(first, own["sent"]) if number not in got)
        stream = other["stream_bytes"], other["stream_gap"]
        label = f"{end[0]} to {end[1]}"
        sent = own["sent"], own["sending"], own["send_gap"]
        self.directions.append(Direction(label, *sent, len(got), missing, other["gap"], *stream))
        self.errors += own["errors"]


def _takes_part(place: Place, port: int) -> bool:
    """Whether the place's end has its UDP socket and its side of the stream."""
    datagrams = ("-Hlnu", f"sport = :{port}")
    stream = ("-Htn", "state", "established", f"( sport = :{port} or dport = :{port} )")
    return all(
        f":{port}" in subprocess.run([*place.enter, "ss", *words], capture_output=True, text=True, check=False).stdout
        for words in (datagrams, stream)
    )
