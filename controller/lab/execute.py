"""Running a program to its end, and waiting for a condition: the two things that every part of the lab does."""

import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

from controller.lab.errors import LabError, Refusal, WaitExpired

Result = TypeVar("Result")


def run_checked(argv: list[str], text: str = "", seconds: float = 60.0) -> str:
    """Run a program with `text` on its standard input and give its output; LabError with its own words if it fails."""
    try:
        done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as expired:
        raise LabError(Refusal.DEADLINE, f"{' '.join(argv)} did not end within {seconds:.0f} s") from expired
    except OSError as error:
        raise LabError(Refusal.COMMAND_FAILED, f"could not run {argv[0]}: {error}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-1500:]
        raise LabError(Refusal.COMMAND_FAILED, f"{' '.join(argv)} failed ({done.returncode}): {said}")
    return done.stdout


def wait_until(condition: Callable[[], Result], seconds: float, what: str, every: float = 0.05) -> Result:
    """Ask `condition` until its answer is true, and give that answer.

    A LabError inside counts as not yet. Raises WaitExpired after `seconds`, saying `what` was awaited and what was seen
    last.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            last: object = (answer := condition())
            if answer:
                return answer
        except LabError as error:
            last = error
        if time.monotonic() > deadline:
            raise WaitExpired(f"{what}: not so; last seen {str(last)[:600]!r}", seconds)
        time.sleep(every)
