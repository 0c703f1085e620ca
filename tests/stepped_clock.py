"""A wall clock that a test can step for single processes, for the speaker's tests in namespaces and on a lab's node."""

import os
import struct
import subprocess
from pathlib import Path


class SteppedClock:
    """The wall clock of the processes that are started with `environment`, and their children; their monotonic clock stays true.

    `folder` must be one that these processes may read, whatever user they become.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "clock"
        self.step(0)
        self.file.chmod(0o644)
        self.library = folder / "step_clock.so"
        source = Path(__file__).with_name("step_clock.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(self.library), str(source)], check=True, timeout=60)
        self.environment = {"LD_PRELOAD": str(self.library), "STEP_CLOCK": str(self.file)}

    def step(self, seconds: int) -> None:
        """Sets how far the clock is ahead of the machine's (behind it, if negative)."""
        with self.file.open("r+b" if self.file.exists() else "wb") as file:
            os.pwrite(file.fileno(), struct.pack("=q", seconds), 0)

    def rules(self, process: int) -> bool:
        """Whether the process really has this clock."""
        return str(self.library) in Path(f"/proc/{process}/maps").read_text()
