"""A wall clock stepped by an hour at nodes' speakers, under traffic: no session falls, and one cut afterwards comes back soon."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults import all_established, speaker_pid, start_again, undisturbed
from stepped_clock import SteppedClock
from told import told_on
from workloads import Pod, eventually, pods_on

from controller.lab.cluster import Lab

pytestmark = [pytest.mark.lab, pytest.mark.root]

STEPS = pytest.mark.parametrize("step", [3600, -3600], ids=["an hour on", "an hour back"])


@pytest.fixture(scope="module")
def across(lab: Lab) -> Iterator[list[Pod]]:
    """Two pods in different racks, one with an FRR router and one with BIRD; it is their nodes' clocks that are stepped."""
    first, *_, last = lab.topology.node_names
    with pods_on(lab, [first, last], "clock") as pods:
        yield pods


@pytest.fixture
def clock(lab: Lab, across: list[Pod]) -> Iterator[SteppedClock]:
    """The nodes' speakers, started with a clock that can be stepped; afterwards with the machine's own again."""
    nodes = [pod.node for pod in across]
    with tempfile.TemporaryDirectory(prefix="podroute-clock-") as folder:
        # The speaker's unprivileged processes must be able to read it.
        Path(folder).chmod(0o755)
        clock = SteppedClock(Path(folder))
        with speakers_started_with(lab, nodes, clock.environment):
            parts = [speaker_pid(lab, node, part) for node in nodes for part in ("entry", "exabgp", "daemon")]
            assert all(map(clock.rules, parts))
            yield clock
            assert [speaker_pid(lab, node, part) for node in nodes for part in ("entry", "exabgp", "daemon")] == parts


@contextmanager
def speakers_started_with(lab: Lab, nodes: list[str], environment: dict[str, str]) -> Iterator[None]:
    try:
        restart_speakers(lab, nodes, environment)
        yield
    finally:
        restart_speakers(lab, nodes, {})


def restart_speakers(lab: Lab, nodes: list[str], more: dict[str, str]) -> None:
    for node in nodes:
        lab.machine(node).stop("speaker")
        start_again(lab, node, "speaker", more)
    all_up(lab)


def all_up(lab: Lab) -> None:
    eventually(lambda: all_established(lab, ["tor0", "tor1"]), 30, "all sessions are established")


def keepalives(lab: Lab, node: str) -> list[int]:
    """How many the FRR router has received from a node's addresses."""
    neighbours = lab.vtysh("tor0", "show bgp neighbors json")
    return [neighbours[address]["messageStats"]["keepalivesRecv"] for address in lab.topology.addresses(node)]


@STEPS
def test_a_stepped_clock_loses_no_packet_and_no_session(
    lab: Lab, across: list[Pod], clock: SteppedClock, step: int
) -> None:
    node = across[0].node

    def received_since(before: list[int]) -> int:
        return min(now - then for now, then in zip(keepalives(lab, node), before, strict=True))

    with undisturbed(lab, across):
        clock.step(step)
        before = keepalives(lab, node)
        # Six keepalives take two hold times: a timer that went by the wall clock would have ended the session.
        eventually(lambda: received_since(before) >= 6, 30, f"six keepalives from {node} on both sessions")


@STEPS
def test_sessions_that_are_cut_after_the_step_are_back_within_ten_seconds(
    lab: Lab, across: list[Pod], clock: SteppedClock, step: int
) -> None:
    nodes = [pod.node for pod in across]
    clock.step(step)
    with cut_off(lab, nodes):
        eventually(
            lambda: not any(sessions_of(lab, node) for node in nodes), 30, f"routers have lost sessions of {nodes}"
        )
        # The nodes must have noticed, too, and be in the back-off between two attempts.
        eventually(lambda: all(no_session_is_up(lab, node) for node in nodes), 30, f"{nodes} have lost their sessions")
    both = [2 for _ in nodes]
    eventually(lambda: [len(sessions_of(lab, node)) for node in nodes] == both, 10, f"all sessions of {nodes} are back")
    all_up(lab)


@contextmanager
def cut_off(lab: Lab, nodes: list[str]) -> Iterator[None]:
    """The nodes' ports at their racks' bridges are down."""
    try:
        set_ports(lab, nodes, "down")
        yield
    finally:
        set_ports(lab, nodes, "up")


def set_ports(lab: Lab, nodes: list[str], state: str) -> None:
    for node in nodes:
        rack = lab.topology.namespace(f"rack{lab.topology.rack_of(node)}")
        subprocess.run(["ip", "-n", rack, "link", "set", node, state], check=True)


def sessions_of(lab: Lab, node: str) -> list[str]:
    """The node's addresses with which its router has an established session."""
    states = lab.sessions(lab.topology.tor_names[lab.topology.rack_of(node)])
    return [address for address in lab.topology.addresses(node) if states[address] == "Established"]


def no_session_is_up(lab: Lab, node: str) -> bool:
    """As the node's own speaker says: its status does not reach the API server now."""
    states = [session["state"] for session in told_on(lab, node, "sessions")]
    return len(states) == 2 and "established" not in states
