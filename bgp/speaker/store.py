"""Keeps the last desired state on disk (in /run), so that a restarted speaker needs nobody to tell it what to do.

Beside it, in a file of the same form, lies what ExaBGP ran last: see `bgp.speaker.wanted`.
"""

import contextlib
import os
from pathlib import Path

import msgspec

from bgp.values import Desired


class Store:
    """One file, readable by the speaker's user only: it holds passwords."""

    def __init__(self, path: Path) -> None:
        """`path` need not exist yet."""
        self._path = path

    def load(self) -> Desired | None:
        """What was stored last; None if nothing was. Raises msgspec.DecodeError for a damaged file."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Desired)
        except FileNotFoundError:
            return None

    def save(self, desired: Desired) -> None:
        """Stores it whole or not at all. Raises OSError, e.g. for a full disk."""
        write_atomically(self._path, msgspec.json.encode(desired))


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file's content in one step, mode 0600. Raises OSError; the old file then stands."""
    beside = path.with_name(f"{path.name}.new")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
