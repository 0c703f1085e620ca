"""A wall clock stepped by an hour at a node's speaker, under traffic: no session falls, and one cut afterwards comes back soon."""

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
    """Two pods in different racks; it is the first one's node whose clock is stepped."""
    first, *_, last = lab.topology.node_names
    with pods_on(lab, [first, last], "clock") as pods:
        yield pods


@pytest.fixture
def clock(lab: Lab, across: list[Pod]) -> Iterator[SteppedClock]:
    """The node's speaker, started with a clock that can be stepped; afterwards with the machine's own again."""
    node = across[0].node
    with tempfile.TemporaryDirectory(prefix="podroute-clock-") as folder:
        # The speaker's unprivileged processes must be able to read it.
        Path(folder).chmod(0o755)
        clock = SteppedClock(Path(folder))
        with speaker_started_with(lab, node, clock.environment):
            parts = [speaker_pid(lab, node, part) for part in ("entry", "exabgp", "daemon")]
            assert all(map(clock.rules, parts))
            yield clock
            assert [speaker_pid(lab, node, part) for part in ("entry", "exabgp", "daemon")] == parts


@contextmanager
def speaker_started_with(lab: Lab, node: str, environment: dict[str, str]) -> Iterator[None]:
    try:
        restart_speaker(lab, node, environment)
        yield
    finally:
        restart_speaker(lab, node, {})


def restart_speaker(lab: Lab, node: str, more: dict[str, str]) -> None:
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
def test_a_session_that_is_cut_after_the_step_is_back_within_ten_seconds(
    lab: Lab, across: list[Pod], clock: SteppedClock, step: int
) -> None:
    node = across[0].node
    clock.step(step)
    with cut_off(lab, node):
        eventually(lambda: sessions_of(lab, node) == [], 30, f"tor0 has lost the sessions of {node}")
        # The node must have noticed, too, and be in the back-off between two attempts.
        eventually(lambda: no_session_is_up(lab, node), 30, f"{node} has lost its sessions")
    eventually(lambda: len(sessions_of(lab, node)) == 2, 10, f"both sessions of {node} are back")
    all_up(lab)


@contextmanager
def cut_off(lab: Lab, node: str) -> Iterator[None]:
    """The node's port at its rack's bridge is down."""
    rack = lab.topology.namespace("rack0")
    subprocess.run(["ip", "-n", rack, "link", "set", node, "down"], check=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "-n", rack, "link", "set", node, "up"], check=True)


def sessions_of(lab: Lab, node: str) -> list[str]:
    """The node's addresses with which tor0 has an established session."""
    states = lab.sessions("tor0")
    return [address for address in lab.topology.addresses(node) if states[address] == "Established"]


def no_session_is_up(lab: Lab, node: str) -> bool:
    """As the node's own speaker says: its status does not reach the API server now."""
    states = [session["state"] for session in told_on(lab, node, "sessions")]
    return len(states) == 2 and "established" not in states
