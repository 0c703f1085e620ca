"""Faults that lab tests cause, and the frame in which they must not be felt."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec
from parts import running
from router_tables import RouteWatch, session_marks, silences
from told import told_on
from traffic import Traffic
from workloads import Pod, eventually

from controller.lab.cluster import Lab
from controller.lab.machine import read_spec
from controller.lab.podroute import ensure_plugin, processes_on
from controller.lab.topology import Topology

HOLD_TIME_S = 9


@contextmanager
def undisturbed(lab: Lab, across: list[Pod], *, restarting: Sequence[str] = (), watched: float = 0.0) -> Iterator[None]:
    """Traffic between the racks' pods goes on without loss, and no router drops a pod route; no session restarts.

    But for those of the nodes `restarting`: they must, and be whole again before the watch ends. It goes on for `watched` seconds
    after what is done under it: for what may come late.
    """
    tors = lab.topology.tor_names
    before = [session_marks(lab, tor) for tor in tors]
    one, other = across
    with RouteWatch(lab, lab.topology.router_names) as watch, Traffic([(one.place, other.place)]) as traffic:
        yield
        if restarting:
            for node in restarting:
                eventually(lambda node=node: restarted(lab, node, before), 30, f"the sessions of {node} are new and up")
                eventually(lambda node=node: has_said_all(lab, node), 30, f"{node} has sent its end-of-RIB")
            # Routers purge what was not announced again when they hear that.
            time.sleep(1)
        else:
            # A session whose keepalives ended would fall only later.
            ended = time.monotonic()
            eventually(
                lambda: time.monotonic() - ended > watched and all_heard_since(lab, ended),
                HOLD_TIME_S + 2,
                lambda: f"both ends of every session hear the other: silent for {silences(lab, tors)} s at the ToRs",
            )
    traffic.assert_no_loss()
    assert watch.dropped == []
    after = [session_marks(lab, tor) for tor in tors]
    if restarting:
        before, after = ([_of_others(lab, restarting, marks) for marks in each] for each in (before, after))
    assert after == before
    assert all_established(lab, tors)


def all_heard_since(lab: Lab, since: float) -> bool:
    """Whether ToRs and nodes have received something on each BGP connection since then (time.monotonic)."""
    tors = lab.topology.tor_names
    age = time.monotonic() - since
    found = silences(lab, (*tors, *lab.topology.node_names))
    # Both ends of each.
    least = 2 * sum(len(session_marks(lab, tor)) for tor in tors)
    return len(found) >= least and all(silence < age for silence in found)


def restarted(lab: Lab, node: str, before: Sequence[Mapping[str, str]]) -> bool:
    """Whether each session of the node with its ToR is another than before, and up."""
    rack = lab.topology.rack_of(node)
    now = session_marks(lab, lab.topology.tor_names[rack])
    own = set(now) - set(_of_others(lab, [node], now))
    return bool(own) and all(now[name] != before[rack].get(name) and _is_whole(now[name]) for name in own)


def _is_whole(mark: str) -> bool:
    """Whether the session is up on a connection: BIRD calls one established for a moment after its connection has ended."""
    state, *connection = mark.split()
    return state == "Established" and bool(connection)


def sessions_of(shape: Topology, node: str) -> set[str]:
    """How routers name their sessions with a node: FRR by the address, BIRD by node and family."""
    return {*shape.addresses(node), f"{node}_v4", f"{node}_v6"}


def _of_others(lab: Lab, nodes: Sequence[str], marks: Mapping[str, str]) -> dict[str, str]:
    """The marks of sessions with other nodes."""
    own = {name for node in nodes for name in sessions_of(lab.topology, node)}
    return {name: mark for name, mark in marks.items() if name not in own}


def has_said_all(lab: Lab, node: str) -> bool:
    """Whether the node's speaker reports its end-of-RIB as sent on each of its sessions."""
    speaker = told_on(lab, node, "report").get("speaker")
    sessions = speaker["observed"]["sessions"] if speaker else []
    return bool(sessions) and all(each.get("end_of_rib_sent") for each in sessions)


def all_established(lab: Lab, tors: Sequence[str]) -> bool:
    """Whether every node's session with these routers is up."""
    return all(_is_whole(mark) for tor in tors for mark in session_marks(lab, tor).values())


def speaker_pid(lab: Lab, node: str, part: str) -> int:
    """The host's pid of a part of the node's speaker: it is a chain of parents and children."""
    entry = running(lab, node, "speaker")
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
