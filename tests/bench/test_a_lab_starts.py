"""How long `make lab` takes once everything is built, and `make lab-down`. First by its name: it wants the machine for itself."""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from figures import Figures, Row
from host_state import need_root

from controller.lab.teardown import tear_down

GOAL_S = 40.0
RUNS = 3


def seconds_of(*words: str) -> float:
    """How long a command of the installed program takes."""
    program = Path(sys.executable).with_name("podroute")
    begun = time.monotonic()
    subprocess.run([program, "lab", *words], capture_output=True, text=True, timeout=600, check=True)
    return time.monotonic() - begun


def test_a_whole_lab_starts_and_ends(figures: Figures, rounds: int) -> None:
    need_root()
    name = f"s{os.getpid()}"
    try:
        # Builds and installs what may be missing, which is no part of a warm start.
        seconds_of("up", "--name", name)
        seconds_of("down", "--name", name)
        ups, downs = [], []
        for _ in range(RUNS if rounds >= 30 else 1):
            ups.append(seconds_of("up", "--name", name))
            downs.append(seconds_of("down", "--name", name))
    finally:
        tear_down(name)
    detail = f"slowest {max(ups):.1f} s, {len(ups)} runs; 4 nodes in 2 racks, podroute, a pod on each node"
    figures.add(
        Row("lab", "`make lab`, warm, p50", statistics.median(ups), "s", goal=GOAL_S, detail=detail),
        Row("lab", "`make lab-down`, p50", statistics.median(downs), "s"),
    )
    assert statistics.median(ups) < GOAL_S, detail
