"""podroute's own processes in a lab: those of its pods where it was installed by the manifests, supervised ones otherwise."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workloads import eventually, processes_in

from controller.lab.cluster import Lab
from controller.lab.podroute import NAMESPACE

PARTS = ("agent", "speaker", "operator")
OPERATOR = "system:serviceaccount:podroute-system:podroute-operator"


def is_installed(lab: Lab) -> bool:
    """Whether podroute runs in pods of its own."""
    return not lab.state.processes


def part_pid(lab: Lab, machine: str, part: str) -> int | None:
    """The host's pid of a process: of podroute's `agent` or `speaker` on a node or its `operator`, wherever that is, or of another
    that the machine supervises. None while it does not run.
    """
    if part not in PARTS or not is_installed(lab):
        return lab.pid(machine, part)
    pods = [pod for pod in component_pods(lab, part) if part == "operator" or pod["spec"].get("nodeName") == machine]
    return next((pid for pod in pods if (pid := main_process(pod["metadata"]["uid"]))), None)


def running(lab: Lab, machine: str, part: str) -> int:
    """The same, once it runs."""
    pid: int = eventually(lambda: part_pid(lab, machine, part), 20, f"{part} runs on {machine}")
    return pid


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Meanwhile the processes get no time. They may be ended, too."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def part_stopped(lab: Lab, machine: str, part: str) -> Iterator[None]:
    """The same of one of podroute's: an agent that is stopped repairs nothing."""
    with stopped(running(lab, machine, part)):
        yield


def component_pods(lab: Lab, component: str) -> list[dict[str, Any]]:
    """The component's pods that stay."""
    found = lab.get("pods", "-n", NAMESPACE, "-l", f"app.kubernetes.io/component={component}")["items"]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def main_process(uid: str) -> int | None:
    """The first process of the pod's container: not its sandbox's, nor one that somebody runs in it. None while there is none."""
    inside = {pid: status for pid in processes_in(uid) if (status := _status(pid))}
    first = [pid for pid, (name, parent) in inside.items() if name != "pause" and parent not in inside]
    return min(first, default=None)


def _status(pid: int) -> tuple[str, int] | None:
    """Name and parent; None if the process has ended."""
    with contextlib.suppress(OSError):
        fields = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
        )
        return fields["Name"], int(fields["PPid"])
    return None
