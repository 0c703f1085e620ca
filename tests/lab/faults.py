"""Faults that lab tests cause, and the frame in which they must not be felt."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec
from router_tables import DropWatch, session_marks
from traffic import Traffic
from workloads import Pod, eventually

from controller.lab.cluster import Lab
from controller.lab.machine import read_spec
from controller.lab.podroute import ensure_plugin, processes_on


@contextmanager
def undisturbed(lab: Lab, across: list[Pod], *, sessions_stay: bool) -> Iterator[None]:
    """Traffic between the racks' pods goes on without loss, and no router drops a pod route; sessions stay if asked for."""
    tors = [f"tor{rack}" for rack in range(2)]
    before = [session_marks(lab, tor) for tor in tors]
    one, other = across
    with DropWatch(lab, tors) as watch, Traffic([(one.place, other.place)]) as traffic:
        yield
        # The consequences of what was done must have had time to show: longer than the hold time of 9 s.
        time.sleep(2)
    traffic.assert_no_loss()
    assert watch.dropped == []
    if sessions_stay:
        assert [session_marks(lab, tor) for tor in tors] == before
    eventually(lambda: all_established(lab, tors), 30, "all sessions are established again")


def all_established(lab: Lab, tors: Sequence[str]) -> bool:
    """Whether every node's session with these routers is up."""
    return all("stablished" in mark for tor in tors for mark in session_marks(lab, tor).values())


def speaker_pid(lab: Lab, node: str, part: str) -> int:
    """The host's pid of a part of the node's speaker: it is a chain of parents and children."""
    entry = lab.pid(node, "speaker")
    assert entry is not None
    exabgp = child_of(entry)
    return {"entry": lambda: entry, "exabgp": lambda: exabgp, "daemon": lambda: child_of(exabgp)}[part]()


def child_of(pid: int) -> int:
    """The only child."""

    def children() -> list[int]:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(word) for word in file.read().split()]

    return eventually(children, 5, f"process {pid} has a child")[0]


def start_again(lab: Lab, machine: str, process: str, environment: Mapping[str, str] | None = None) -> None:
    """Starts a process that was stopped, as it was started first; `environment` is added to its own."""
    folder = lab.machine(machine).folder
    of_machine = read_spec(lab.machine(machine)).processes
    ours = processes_on(machine, folder, str(ensure_plugin()))
    (spec,) = (each for each in (*ours, *of_machine) if each.name == process)
    lab.start(machine, msgspec.structs.replace(spec, env={**spec.env, **(environment or {})}))
