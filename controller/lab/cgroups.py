"""The cgroups of a lab on the host: one for each machine, in every hierarchy, made before the machine and removed after
it.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from controller.lab.errors import LabError, Refusal
from controller.lab.inside.mounts import CGROUPS, is_v1, v1_hierarchies

ROOT = "podroute-lab"
REMOVE_LIMIT_S = 10.0


def hierarchies() -> list[Path]:
    """The mounted hierarchies that a machine needs: the one of version 2, or each of version 1's."""
    if not is_v1():
        return [CGROUPS]
    return [CGROUPS / name for name in v1_hierarchies() if (CGROUPS / name).is_dir()]


def make_cgroups(lab: str, machine: str) -> list[Path]:
    """Make a machine's cgroups and give their paths. Raises LabError if this host does not let them be made."""
    made = []
    for hierarchy in hierarchies():
        path = hierarchy
        try:
            for part in (ROOT, lab, machine):
                path = path / part
                path.mkdir(exist_ok=True)
                _prepare(path)
        except OSError as error:
            raise LabError(
                Refusal.NO_CGROUP, f"cgroup {path}: {error.strerror}; a lab must own cgroups below {hierarchy}"
            ) from error
        made.append(path)
    return made


def _prepare(path: Path) -> None:
    """A cpuset takes no process before it has CPUs and memory; version 2 hands on only controllers named."""
    if is_v1() and (path / "cpuset.cpus").exists():
        for name in ("cpuset.cpus", "cpuset.mems"):
            if not (path / name).read_text().strip():
                (path / name).write_text((path.parent / name).read_text())
    if not is_v1():
        control = path.parent / "cgroup.subtree_control"
        available = (path.parent / "cgroup.controllers").read_text().split()
        control.write_text(" ".join(f"+{name}" for name in available))


def lab_cgroups(lab: str) -> list[Path]:
    """The top cgroup of a lab in each hierarchy where there is one."""
    return [path for hierarchy in hierarchies() if (path := hierarchy / ROOT / lab).is_dir()]


def processes_in(path: Path) -> set[int]:
    """Every process in a cgroup or below it, as the host numbers them."""
    found: set[int] = set()
    for folder, _names, _files in os.walk(path):
        try:
            found.update(int(line) for line in (Path(folder) / "cgroup.procs").read_text().split())
        except OSError:  # the cgroup went away while it was read
            continue
    return found


def remove_cgroups(lab: str) -> list[Path]:
    """Remove a lab's cgroups, deepest first; gives those that could not be removed because something still runs in
    them.
    """
    deadline = time.monotonic() + REMOVE_LIMIT_S
    while True:
        for path in _deepest_first(lab):
            try:
                path.rmdir()
            except OSError:  # busy for a moment after its last process ended
                continue
        left = lab_cgroups(lab)
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    for hierarchy in hierarchies():
        try:
            (hierarchy / ROOT).rmdir()
        except OSError:  # absent, or another lab is in it
            continue
    return left


def _deepest_first(lab: str) -> Iterator[Path]:
    for top in lab_cgroups(lab):
        for folder, _names, _files in os.walk(top, topdown=False):
            yield Path(folder)
