"""Taking a lab down, whatever state it is in: running, half started, or with machines that died. Called by `Lab.down`
and `bringup`.

It goes by what the lab's own names say (its cgroups, its folder, its namespaces), never by the names of programs: other
daemons of the same name may run on this machine.
"""

import os
import signal
from pathlib import Path

from controller.lab.cgroups import lab_cgroups, processes_in, remove_cgroups
from controller.lab.errors import LabError, Refusal
from controller.lab.execute import wait_until
from controller.lab.machine import Machine, is_running, kill_machine
from controller.lab.network import delete_namespaces, namespaces_of
from controller.lab.state import exclusive, lab_folder, remove_folder

END_LIMIT_S = 20.0


def require_root() -> None:
    """Namespaces, mounts and cgroups need root."""
    if os.geteuid() != 0:
        raise LabError(Refusal.NO_ROOT, "a lab makes namespaces, mounts and cgroups: run this as root")


def tear_down(name: str) -> bool:
    """Remove a lab completely; False if there was none."""
    require_root()
    with exclusive(name):
        return undo(name)


def undo(name: str) -> bool:
    """Remove everything of a lab that exists; the caller holds the lab's lock. False if there was nothing."""
    folder = lab_folder(name)
    namespaces = namespaces_of(name)
    if not (folder.exists() or namespaces or lab_cgroups(name)):
        return False
    if folder.exists():
        for path in folder.iterdir():
            if path.is_dir():
                kill_machine(Machine(name, path.name, path))
    _kill_the_rest(name)
    delete_namespaces(namespaces)
    left = remove_cgroups(name)
    if left:
        raise LabError(Refusal.PROCESS_ENDED, f"lab {name}: these cgroups are still busy: {', '.join(map(str, left))}")
    remove_folder(name)
    return True


def _kill_the_rest(name: str) -> None:
    """Whatever else is in the lab's cgroups: a machine that was just starting has not told its pid yet."""

    def remaining() -> set[int]:
        return {pid for path in lab_cgroups(name) for pid in processes_in(path) if is_running(pid)}

    def none_left() -> bool:
        for pid in remaining():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:  # it went by itself meanwhile
                continue
        return not remaining()

    wait_until(none_left, END_LIMIT_S, f"every process of lab {name} ends")


def leftovers(name: str) -> list[str]:
    """What of a lab is still on this machine, in words; empty after a complete `down`."""
    found = [f"cgroup {path}" for path in lab_cgroups(name)]
    found += [f"namespace {each}" for each in namespaces_of(name)]
    if lab_folder(name).exists():
        found.append(f"folder {lab_folder(name)}")
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return found + [f"mount {line.split()[4]}" for line in mounts if f"{lab_folder(name)}/" in line]
