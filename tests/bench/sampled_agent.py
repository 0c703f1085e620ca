"""Runs the agent with a thread that notes what its other threads are doing: says where the time goes.

`test_cni` starts it in a node in place of the agent. SIGUSR1 begins a span of sampling, and the next one ends it and writes the
counts to the file that the first argument names; the other arguments are podroute's own.
"""

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType

from controller.cli.main import main

INTERVAL_SECONDS = 0.002
OWN = ("/controller/", "/bgp/")
# Where a thread waits for work: the event loop in its selector, a pool's thread at its queue.
WAITING = {("selectors.py", "select"), ("thread.py", "_worker"), ("threading.py", "wait")}


class Sampler:
    """Counts thread and place: the innermost function of the project, and what it was calling."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts: Counter[str] = Counter()
        self.is_on = threading.Event()

    def toggle(self, _number: int, _frame: FrameType | None) -> None:
        if not self.is_on.is_set():
            self.counts.clear()
            self.is_on.set()
            return
        self.is_on.clear()
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps(dict(self.counts)))
        os.replace(fresh, self.path)

    def run(self) -> None:
        own = threading.get_ident()
        while self.is_on.wait():
            names = {thread.ident: thread.name for thread in threading.enumerate()}
            self.counts["samples"] += 1
            for ident, frame in sys._current_frames().items():
                if ident != own:
                    self.counts[f"{names.get(ident, '?').partition('_')[0]}: {place(frame)}"] += 1
            time.sleep(INTERVAL_SECONDS)


def place(frame: FrameType) -> str:
    """`idle`, or the innermost function of the project (with the function of others that it is in), or of others alone."""
    leaf = (os.path.basename(frame.f_code.co_filename), frame.f_code.co_name)
    if leaf in WAITING:
        return "idle"
    at: FrameType | None = frame
    while at is not None and not any(part in at.f_code.co_filename for part in OWN):
        at = at.f_back
    if at is None or at.f_code.co_name in ("main", "<module>"):
        return f"{leaf[0]} {leaf[1]}"
    inner = "" if at is frame else f" → {leaf[1]}"
    return f"{Path(at.f_code.co_filename).stem}.{at.f_code.co_name}{inner}"


if __name__ == "__main__":
    sampler = Sampler(Path(sys.argv.pop(1)))
    signal.signal(signal.SIGUSR1, sampler.toggle)
    threading.Thread(target=sampler.run, daemon=True, name="sampler").start()
    main()
