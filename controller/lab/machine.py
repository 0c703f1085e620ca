"""A machine of the lab: processes in namespaces of their own, under a process 1 of the lab's.

`cluster` starts nodes, control plane and routers with `start_machine`; tests enter them with `Machine.run` and stop or
kill what runs inside. The host finds a machine by the pid of the process that holds its namespaces, whose arguments
name the machine's folder: a pid alone may be another's by now.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from controller.lab.cgroups import make_cgroups
from controller.lab.errors import LabError, Refusal
from controller.lab.execute import run_checked, wait_until
from controller.lab.network import NAMESPACES

START_LIMIT_S = 20.0
ANSWER_LIMIT_S = 5.0
# Joins its cgroups first, since the cgroup namespace starts where the process is; then tells its pid, which exec keeps.
_ENTER = """set -e
folder=$1; netns=$2; python=$3; root=$4; shift 4
for path do echo $$ >"$path/cgroup.procs"; done
echo $$ >"$folder/pid"
cd "$root"
exec nsenter --net="$netns" unshare -m -u -i -p -C --fork --kill-child --mount-proc --propagation private -- \\
  "$python" -m controller.lab.inside "$folder/spec.json"
"""


class ProcessSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One supervised process of a machine. `wait_for` is a path that must exist first; `backoff` in seconds."""

    name: str
    argv: tuple[str, ...]
    env: dict[str, str] = msgspec.field(default_factory=dict)
    folder: str = "/"
    wait_for: str = ""
    restart: bool = True
    backoff: float = 1.0


class MachineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine's process 1 makes and starts (read by `controller.lab.inside`).

    `overlays` are folders whose changes stay in memory, `fresh` ones start empty, `read_only` are (source, target)
    binds, `archives` are (tar file, folder), `copies` (file, target), `masked` are small files laid over the host's
    kernel settings, `files` are written last. `memory` limits all that is written.
    """

    hostname: str
    overlays: tuple[str, ...] = ("/etc", "/var", "/opt")
    fresh: tuple[str, ...] = ()
    read_only: tuple[tuple[str, str], ...] = ()
    archives: tuple[tuple[str, str], ...] = ()
    copies: tuple[tuple[str, str], ...] = ()
    masked: dict[str, str] = msgspec.field(default_factory=dict)
    files: dict[str, str] = msgspec.field(default_factory=dict)
    cgroups: bool = False
    memory: str = "4g"
    processes: tuple[ProcessSpec, ...] = ()


class Machine:
    """A running (or stopped) machine, by its folder; every method asks afresh, nothing is cached."""

    def __init__(self, lab: str, name: str, folder: Path) -> None:
        self.lab, self.name, self.folder = lab, name, folder

    @property
    def log_folder(self) -> Path:
        """One file for each process, and `machine.log` for process 1 itself."""
        return self.folder / "log"

    def holder(self) -> int | None:
        """The host's pid of the process that holds the machine; None if it does not run."""
        try:
            pid = int((self.folder / "pid").read_text())
        except (OSError, ValueError):
            return None
        return pid if is_running(pid) and str(self.folder) in command_line(pid) else None

    def first_process(self) -> int:
        """The host's pid of the machine's process 1. Raises LabError if the machine does not run."""
        holder = self.holder()
        inside = children(holder) if holder else []
        if not inside:
            raise LabError(
                Refusal.PROCESS_ENDED, f"machine {self.name} does not run; see {self.log_folder}/machine.log"
            )
        return inside[0]

    def enter(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` inside."""
        return ["nsenter", "-t", str(self.first_process()), "-m", "-u", "-i", "-n", "-p", "-C", "--", *argv]

    def run(self, argv: Sequence[str], text: str = "", seconds: float = 60.0) -> str:
        """Run a program inside to its end and give its output; LabError if it fails."""
        return run_checked(self.enter(argv), text, seconds)

    def ask(self, request: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Put a request to process 1 (see `inside.supervisor`) and give its processes by name."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(ANSWER_LIMIT_S)
            try:
                connection.connect(str(self.folder / "machine.sock"))
                connection.sendall(json.dumps(request).encode() + b"\n")
                answer = json.loads(connection.makefile("rb").readline() or b"{}")
            except OSError as error:
                raise LabError(Refusal.PROCESS_ENDED, f"machine {self.name} does not answer: {error}") from error
        if "processes" not in answer:
            raise LabError(Refusal.NOT_FOUND, f"machine {self.name}: {answer.get('error', 'no answer')}")
        processes: dict[str, dict[str, Any]] = answer["processes"]
        return processes

    def start(self, process: ProcessSpec) -> None:
        """Add a process; one of that name which runs is left as it is."""
        self.ask({"do": "start", "process": msgspec.to_builtins(process)})

    def stop(self, name: str, seconds: float = 15.0) -> None:
        """SIGTERM a process and wait for its end; it stays down until started again."""
        self.ask({"do": "stop", "name": name})
        wait_until(
            lambda: not self.ask({"do": "list"})[name]["pid"], seconds, f"{name} on {self.name} ends after SIGTERM"
        )

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal as a fault would; a process that is to run for ever comes back after its backoff."""
        self.ask({"do": "kill", "name": name, "signal": int(number)})

    def pid(self, name: str) -> int | None:
        """The host's pid of a supervised process; None while it is down."""
        inner = self.ask({"do": "list"}).get(name, {}).get("pid")
        return next((pid for pid in children(self.first_process()) if inner and pid_inside(pid) == inner), None)


def start_machine(machine: Machine, spec: MachineSpec, root: Path) -> None:
    """Start a machine whose network namespace exists; returns at once, `wait_for_machine` waits. `root` holds the
    source tree.
    """
    machine.log_folder.mkdir(parents=True, exist_ok=True)
    (machine.folder / "machine.sock").unlink(missing_ok=True)
    path = machine.folder / "spec.json"
    path.touch(0o600)
    path.write_bytes(msgspec.json.encode(spec))
    cgroups = [str(each) for each in make_cgroups(machine.lab, machine.name)]
    netns = NAMESPACES / f"{machine.lab}-{machine.name}"
    # --fork: the holder must not be a child of ours, or it would stay a zombie for as long as we run.
    command = ["setsid", "--fork", "sh", "-c", _ENTER, "sh", str(machine.folder), str(netns), sys.executable, str(root)]
    with (machine.log_folder / "machine.log").open("ab") as log:
        subprocess.run(
            [*command, *cgroups], stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=START_LIMIT_S, check=True
        )


def read_spec(machine: Machine) -> MachineSpec:
    """What a machine was started with."""
    return msgspec.json.decode((machine.folder / "spec.json").read_bytes(), type=MachineSpec)


def wait_for_machine(machine: Machine) -> None:
    """Wait until process 1 answers; LabError with its own words if it does not."""

    def answers() -> bool:
        machine.ask({"do": "list"})
        return True

    try:
        wait_until(answers, START_LIMIT_S, f"machine {machine.name} starts")
    except LabError as error:
        log = machine.log_folder / "machine.log"
        said = log.read_text()[-1500:] if log.exists() else ""
        raise LabError(Refusal.PROCESS_ENDED, f"{error}\n{log}: {said}") from error


def kill_machine(machine: Machine) -> None:
    """Take a machine's power: everything in it ends at once."""
    holder = machine.holder()
    if holder is None:
        return
    # Process 1 first: the kernel ends its whole pid namespace before its parent can learn of it.
    ends = (*children(holder), holder)
    for pid in ends:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:  # it went by itself meanwhile
            continue
    # Process 1 lasts until all others of its namespace are gone, and their sockets with them.
    wait_until(lambda: not any(map(is_running, ends)), START_LIMIT_S, f"machine {machine.name} ends after SIGKILL")


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False


def command_line(pid: int) -> str:
    """A process's arguments, separated by blanks; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def children(pid: int) -> list[int]:
    """The direct children of a process; empty if it is gone."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def pid_inside(pid: int) -> int:
    """The number that a process has in its own pid namespace; 0 if it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[-1]) for line in status.splitlines() if line.startswith("NSpid:")), 0)
