"""Changes ExaBGP's configuration safely: validate, replace the file, signal, read in the log that it was taken.

Used by the daemon only. ExaBGP drops a signal while a peer has unsent routes, so an unconfirmed one is repeated; a
refused one leaves ExaBGP damaged, so then the whole unit starts anew.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from bgp.exabgp.configuration import configuration_text
from bgp.speaker.paths import CONFIGURATION_NAME
from bgp.speaker.store import write_atomically
from bgp.values import Desired, Neighbour

_VALIDATION = str(Path(__file__).resolve().parents[1] / "exabgp" / "validation.py")
_CANDIDATE = "candidate-"
VALIDATION_SECONDS = 30.0
ATTEMPTS = 60


class ReloadRefused(Exception):
    """ExaBGP could not load what its own parser had accepted: only a restart of the unit helps."""


class ValidationFailed(Exception):
    """ExaBGP's parser gave no verdict, or one that blames nobody; what runs, goes on running."""


class Reloader:
    """The way from neighbours to a confirmed configuration."""

    def __init__(self, run_dir: Path, run: Sequence[str]) -> None:
        """`run` is the daemon's own command line, which every configuration repeats."""
        self._run_dir = run_dir
        self._run = tuple(run)
        self._parent = os.getppid()
        self._loading = False
        self._outcome: asyncio.Future[bool] | None = None
        for left in run_dir.glob(f"{_CANDIDATE}*"):  # of a run that was killed: they hold passwords
            left.unlink(missing_ok=True)

    def text(self, desired: Desired, neighbours: Sequence[Neighbour]) -> str:
        """The configuration for these neighbours."""
        return configuration_text(self._run, desired, neighbours)

    def on_log_line(self, line: str) -> None:
        """Takes in one line of ExaBGP's log."""
        if "performing reload of exabgp" in line:
            self._loading = True
        elif self._loading and self._outcome is not None and not self._outcome.done():
            if "loaded new configuration successfully" in line:
                self._outcome.set_result(True)
            elif "could not load/reload configuration" in line:
                self._outcome.set_result(False)

    async def refusals(self, desired: Desired, neighbours: Sequence[Neighbour]) -> dict[Neighbour, str]:
        """The neighbours that ExaBGP's parser does not accept, and its words; empty if the whole is good.

        Raises ValidationFailed if it refuses the whole though it accepts each alone; OSError if it can't write a file.
        """
        if not any(await self._validate([self.text(desired, neighbours)])):
            return {}
        answers = await self._validate([self.text(desired, [neighbour]) for neighbour in neighbours])
        refused = {neighbour: words for neighbour, words in zip(neighbours, answers, strict=True) if words}
        if not refused:
            raise ValidationFailed("ExaBGP's parser refuses the neighbours together but none alone")
        return refused

    async def apply(self, text: str, count: int) -> None:
        """Makes ExaBGP run this configuration of `count` neighbours. Raises ReloadRefused, OSError."""
        write_atomically(self._run_dir / CONFIGURATION_NAME, text.encode())
        for _ in range(ATTEMPTS):
            self._loading = False
            self._outcome = asyncio.get_running_loop().create_future()
            os.kill(self._parent, signal.SIGUSR1)
            with contextlib.suppress(TimeoutError):
                # Loading takes ExaBGP about 7 ms a neighbour.
                if await asyncio.wait_for(self._outcome, 1.0 + count / 100):
                    return
                raise ReloadRefused("ExaBGP could not load a configuration that its own parser had accepted")
        raise ReloadRefused(f"ExaBGP did not load its configuration after {ATTEMPTS} requests")

    async def _validate(self, texts: Sequence[str]) -> list[str]:
        """For each configuration why ExaBGP's parser refuses it, "" if it does not."""
        paths = [self._run_dir / f"{_CANDIDATE}{number}.conf" for number in range(len(texts))]
        try:
            for path, text in zip(paths, texts, strict=True):
                write_atomically(path, text.encode())
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", _VALIDATION, *map(str, paths)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
            )
            try:
                output, _ = await asyncio.wait_for(process.communicate(), VALIDATION_SECONDS)
            except BaseException as error:
                process.kill()
                if isinstance(error, TimeoutError):
                    raise ValidationFailed(f"ExaBGP's parser took longer than {VALIDATION_SECONDS:g} s") from error
                raise
            answers = output.decode(errors="replace").split("\n")[:-1]
            if len(answers) != len(texts):
                raise ValidationFailed("ExaBGP's parser ended before it had read everything")
            return answers
        finally:
            for path in paths:
                path.unlink(missing_ok=True)
