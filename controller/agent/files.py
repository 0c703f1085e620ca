"""What the agent keeps in /run: the last snapshot, addresses in use and at rest, and the marker that it was ready once.

Written atomically and 0600, since a snapshot holds passwords. /run is empty after a boot, as is the kernel.
"""

import contextlib
import ipaddress
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from controller.api.objects import Address
from controller.plan.node import Snapshot

log = logging.getLogger(__name__)


class RunFolder:
    """The agent's folder, by default /run/podroute/agent, of mode 0700.

    A file that can't be written is no reason to end: `problem` says so, and what is known stays known.
    """

    def __init__(self, path: Path) -> None:
        """Creates the folder if need be."""
        self.path = path
        self.problem = ""
        path.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def cni_socket(self) -> Path:
        """Where the CNI plugin asks."""
        return self.path / "cni.sock"

    @property
    def node_socket(self) -> Path:
        """Where `podroute node` asks."""
        return self.path / "node.sock"

    @property
    def ready_marker(self) -> Path:
        """There since the first complete snapshot after boot: the CNI plugin answers STATUS by it while the agent is away."""
        return self.path / "ready"

    def load_snapshot(self) -> Snapshot:
        """The last snapshot; an empty one if there is none or it can't be read (a damaged file)."""
        path = self.path / "snapshot.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Snapshot)
        except FileNotFoundError:
            return Snapshot()
        except (OSError, msgspec.DecodeError) as error:
            log.error("%s can't be read, so that nothing is known before the API server answers: %s", path, error)
            return Snapshot()

    def store_snapshot(self, snapshot: Snapshot) -> None:
        """Keeps the snapshot for the next start."""
        self._write("snapshot.json", msgspec.json.encode(snapshot))

    def load_resting(self) -> dict[Address, float]:
        """Addresses at rest and until when (CLOCK_MONOTONIC seconds), by the last line of each; empty if there is no file."""
        found = {}
        for line in self._lines_of("resting"):
            # A line cut short lacks the mark at its end, and is passed over.
            with contextlib.suppress(ValueError):
                address, until, _ = line.split()
                found[ipaddress.ip_address(address)] = float(until)
        return found

    def store_resting(self, resting: Mapping[Address, float]) -> None:
        """Keeps the rests for the next start; what the file says already is not written."""
        content = _rests(resting)
        try:
            is_kept = (self.path / "resting").read_bytes() == content
        except OSError:
            is_kept = False
        if not is_kept:
            self._write("resting", content)

    def note_resting(self, more: Mapping[Address, float]) -> None:
        """Adds rests to those kept: a line for each, since thousands may be at rest while pods come and go."""
        self._append("resting", _rests(more))

    def load_used(self) -> frozenset[Address]:
        """Addresses that pods had when they were last noted; empty if there is no file. A line cut short is passed over."""
        found = set()
        for line in self._lines_of("used"):
            with contextlib.suppress(ValueError):
                found.add(ipaddress.ip_address(line))
        return frozenset(found)

    def store_used(self, used: Iterable[Address]) -> None:
        """Notes the addresses of pods: what is missing at the next start was freed while no agent ran."""
        self._write("used", _lines(used))

    def note_used(self, more: Iterable[Address]) -> None:
        """Adds addresses to those noted, at once: an agent may end right after its answer, and the pod before the next one runs."""
        self._append("used", _lines(more))

    def mark_ready(self) -> bool:
        """Writes the marker; False if it was there."""
        if self.ready_marker.exists():
            return False
        self._write(self.ready_marker.name, b"")
        return True

    def unmark_ready(self) -> None:
        """Takes the marker away: the node starts no more pods."""
        self.ready_marker.unlink(missing_ok=True)

    def remove(self) -> None:
        """Removes the folder with everything in it, as the end of an uninstall does. What can't be removed stays."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _lines_of(self, name: str) -> list[str]:
        try:
            # What is no text is no line of ours, and no reason to end.
            return (self.path / name).read_text(errors="replace").splitlines()
        except OSError:
            return []

    def _append(self, name: str, content: bytes) -> None:
        path = self.path / name
        try:
            with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "wb") as file:
                # A line before that was cut short takes none of these along.
                file.write(b"\n" + content)
        except OSError as error:
            self._tell(path, error)

    def _write(self, name: str, content: bytes) -> None:
        try:
            write_atomically(self.path / name, content)
        except OSError as error:
            self._tell(self.path / name, error)
        else:
            self.problem = ""

    def _tell(self, path: Path, error: OSError) -> None:
        self.problem = f"{path}: {error.strerror or error}"
        log.error("%s", self.problem)


def _rests(resting: Mapping[Address, float]) -> bytes:
    return "".join(f"{address} {until} .\n" for address, until in resting.items()).encode()


def _lines(addresses: Iterable[Address]) -> bytes:
    return "".join(f"{address}\n" for address in addresses).encode()


def write_atomically(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replaces the file whole: a reader sees the old or the new content, also after a crash."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
        os.rename(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
