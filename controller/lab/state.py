"""What a lab remembers on disk: its shape and how far it came. `bringup` writes it; `status`, `down`, `check` and the
tests read it.

/run/podroute-lab/NAME/state.json is written before anything else is made, so that `down` can always undo a start that
was cut short.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Literal

import msgspec

from controller.lab.errors import LabError, Refusal
from controller.lab.topology import Topology

LABS = Path("/run/podroute-lab")
CNI_KINDS = ("podroute", "reference", "none")
Cni = Literal["podroute", "reference", "none"]
Phase = Literal["starting", "running"]


class LabState(msgspec.Struct, frozen=True, kw_only=True):
    """state.json. `namespaces` and `folders` are by machine (`namespaces` also by segment), for readers that know no
    more.
    """

    topology: Topology
    cni: Cni
    containerd: str
    phase: Phase
    created: float
    programs: dict[str, str]
    namespaces: dict[str, str]
    folders: dict[str, str]
    kubeconfig: str
    # podroute as supervised processes instead of by its manifests
    processes: bool = False


def lab_folder(name: str) -> Path:
    """Where a lab keeps its state, logs, sockets and credentials."""
    return LABS / name


def read_state(name: str) -> LabState | None:
    """The state of a lab; None if there is none. Raises LabError if it cannot be read."""
    path = lab_folder(name) / "state.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=LabState)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        message = (
            f"{path} is not what this version writes ({error}); remove the lab with: podroute lab down --name {name}"
        )
        raise LabError(Refusal.NOT_FOUND, message) from error


def write_state(state: LabState) -> None:
    """Replace state.json in one step."""
    folder = lab_folder(state.topology.name)
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / ".state.json"
    scratch.write_bytes(msgspec.json.format(msgspec.json.encode(state), indent=1) + b"\n")
    scratch.rename(folder / "state.json")


def lab_names() -> list[str]:
    """Every lab on this machine, by name."""
    return sorted(path.name for path in LABS.iterdir() if path.is_dir()) if LABS.is_dir() else []


def remove_folder(name: str) -> None:
    """Remove what a lab wrote on the host."""
    shutil.rmtree(lab_folder(name), ignore_errors=True)


@contextmanager
def exclusive(name: str) -> Iterator[None]:
    """Only one `up` or `down` of a lab at a time; the second is told so at once."""
    path = LABS / f".{name}.lock"
    handle = _opened(path)
    while not _locked(handle, path, name):
        handle.close()
        handle = _opened(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        handle.close()
        with suppress(OSError):  # another lab is there
            LABS.rmdir()


def _opened(path: Path) -> IO[str]:
    """The lock's file; another lab's end may remove the folder between the two steps."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            return path.open("w")


def _locked(handle: IO[str], path: Path, name: str) -> bool:
    """Whether the lock is ours; False if the file was removed by its last holder, and so locks nobody else out."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False
    except BlockingIOError as error:
        message = f"lab {name}: another process is starting or removing it; wait for it to end"
        raise LabError(Refusal.NAME_TAKEN, message) from error
