"""A wall clock stepped by an hour, under traffic.

At nodes' speakers: no session falls, and one cut afterwards comes back soon. At agents and the operator: the Lease is held, pods
start, changes are honoured, and addresses rest as long as ever.
"""

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults import all_established, speaker_pid, start_again, undisturbed
from stepped_clock import SteppedClock
from test_fault_traffic import the_operator_hears
from told import findings, told_on
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


@contextmanager
def own_clock() -> Iterator[SteppedClock]:
    with tempfile.TemporaryDirectory(prefix="podroute-clock-") as folder:
        # The speaker's unprivileged processes must be able to read it.
        Path(folder).chmod(0o755)
        yield SteppedClock(Path(folder))


@pytest.fixture
def clock(lab: Lab, across: list[Pod]) -> Iterator[SteppedClock]:
    """The nodes' speakers, started with a clock that can be stepped; afterwards with the machine's own again."""
    nodes = [pod.node for pod in across]
    with own_clock() as clock, speakers_started_with(lab, nodes, clock.environment):
        parts = [speaker_pid(lab, node, part) for node in nodes for part in ("entry", "exabgp", "daemon")]
        assert all(map(clock.rules, parts))
        yield clock
        assert [speaker_pid(lab, node, part) for node in nodes for part in ("entry", "exabgp", "daemon")] == parts


@pytest.fixture
def upper_clock(lab: Lab, across: list[Pod]) -> Iterator[SteppedClock]:
    """The nodes' agents and the operator, started with such a clock."""
    parts = [*((pod.node, "agent") for pod in across), ("cp", "operator")]

    def restart_all(more: dict[str, str]) -> None:
        before = epochs(lab)
        for machine, process in parts:
            lab.machine(machine).stop(process)
            start_again(lab, machine, process, more)
        eventually(lambda: len(epochs(lab)) == 1 and not epochs(lab) & before, 40, lambda: f"a new term: {epochs(lab)}")
        eventually(lambda: findings(lab) == [], 40, lambda: f"{findings(lab)}")

    with own_clock() as clock:
        try:
            restart_all(clock.environment)
            pids = [eventually(lambda m=m, p=p: lab.pid(m, p), 10, f"{p} of {m} runs") for m, p in parts]
            assert all(map(clock.rules, pids))
            yield clock
            assert [lab.pid(machine, process) for machine, process in parts] == pids
        finally:
            restart_all({})


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


def epochs(lab: Lab) -> set[str]:
    """What the nodes were told last, and what they answered: of one term, once the operator has begun it with all of them."""
    found = [lab.get("nodenetwork", node) for node in lab.topology.node_names]
    return {word for each in found for word in (each["spec"]["epoch"], each.get("status", {}).get("epoch", ""))}


def resting(lab: Lab, node: str) -> dict[str, float]:
    """The node's addresses that rest, and until when, in seconds of the monotonic clock."""
    lines = lab.machine(node).run(["cat", "/run/podroute/agent/resting"]).splitlines()
    return {address: float(until) for address, until, _ in map(str.split, filter(None, lines))}


def test_agents_and_an_operator_whose_clocks_step_go_on_and_no_rest_becomes_shorter(
    lab: Lab, across: list[Pod], upper_clock: SteppedClock
) -> None:
    node = across[0].node
    term = epochs(lab)
    with pods_on(lab, [node], "released") as (gone,):
        pass
    before = eventually(
        lambda: resting(lab, node) if set(gone.addresses) <= set(resting(lab, node)) else {}, 10, "rests"
    )
    with undisturbed(lab, across):
        for number, step in enumerate((3600, -3600)):
            upper_clock.step(step)
            with pods_on(lab, [node], f"stepped-{number}") as (pod,):
                assert len(pod.addresses) == 2
            the_operator_hears(lab)
            now = resting(lab, node)
            ended = {address for address, until in before.items() if now.get(address) != until}
            assert all(before[address] <= time.monotonic() for address in ended), f"{before}, then {now}"
    eventually(
        lambda: not set(gone.addresses) & set(resting(lab, node)), 60, lambda: f"{resting(lab, node)} rest no more"
    )
    # A lost Lease would be a new term, and that a new epoch.
    assert epochs(lab) == term


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
