"""Nothing that restarts loses a packet between running pods, or a route at a router (DESIGN.md, faults)."""

import subprocess
import time
from collections.abc import Iterator

import pytest
from faults import HOLD_TIME_S, speaker_pid, start_again, undisturbed
from parts import part_stopped
from router_tables import RouteWatch, node_blocks
from seen_source import place_of
from told import told_on
from traffic import Traffic
from workloads import Pod, apply, eventually, pods, pods_on, processes_in

from controller.lab.cluster import Lab
from controller.lab.execute import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.root]

# How long after an API server's return a kubelet's watch of its pods may still pause: the reflector's waits double up to 30 s,
# and each is prolonged by up to as much again (client-go 0.36, tools/cache/reflector.go: defaultBackoffMax, defaultBackoffJitter).
# While it pauses the kubelet corrects no status that the node controller has turned meanwhile. Then comes its next round of 10 s.
KUBELET_HEARS_S = 60.0 + 10.0 + 10.0
# The victim's ToR is FRR, or BIRD.
RACKS = pytest.mark.parametrize("rack", [0, 1], ids=["FRR", "BIRD"])


@pytest.fixture(scope="module")
def across(lab: Lab) -> Iterator[list[Pod]]:
    """Two pods in different racks."""
    first, *_, last = lab.topology.node_names
    with pods_on(lab, [first, last], "fault") as pods:
        yield pods


@pytest.mark.parametrize("family", [4, 6])
def test_the_probe_notices_a_route_that_is_gone_for_a_tenth_of_a_second(
    lab: Lab, across: list[Pod], family: int
) -> None:
    one, other = across
    node = one.node
    address = one.place.address(family)
    host = [*nsenter(lab, node), "ip", f"-{family}", "route"]
    with part_stopped(lab, node, "agent"), Traffic([(one.place, other.place)], families=(family,)) as traffic:
        link = subprocess.check_output([*host, "show", address, "proto", "179"], text=True).split()[2]
        route = [address, "dev", link, "proto", "179", "metric", "179"]
        time.sleep(0.5)
        subprocess.run([*host, "del", *route], check=True)
        time.sleep(0.1)
        subprocess.run([*host, "add", *route, *(["scope", "link"] if family == 4 else [])], check=True)
        time.sleep(2)
    assert 20 <= traffic.lost <= 200, [d for d in traffic.directions if d.missing]
    assert max(direction.stream_gap for direction in traffic.directions) >= 0.1
    with pytest.raises(AssertionError, match="lost"):
        traffic.assert_no_loss()


def test_the_probe_notices_a_stream_that_comes_to_a_standstill(lab: Lab, across: list[Pod]) -> None:
    one, other = across
    stop = "table inet standstill { chain c { type filter hook forward priority 0; tcp dport 7000 drop; tcp sport 7000 drop; }; }"
    try:
        with Traffic([(one.place, other.place)], families=(4,)) as traffic:
            subprocess.run([*nsenter(lab, one.node), "nft", stop], check=True)
            time.sleep(2)
    finally:
        subprocess.run([*nsenter(lab, one.node), "nft", "delete table inet standstill"], check=True)
    assert traffic.lost == 0
    with pytest.raises(AssertionError, match="stream of"):
        traffic.assert_no_loss()


def nsenter(lab: Lab, machine: str) -> list[str]:
    return ["nsenter", f"--net={lab.netns(machine)}", "--"]


def test_the_watch_notices_a_pod_route_that_a_router_drops_and_takes_back(lab: Lab) -> None:
    block = next(cidr for cidr in node_blocks(lab) if ":" not in cidr)
    ip = [*nsenter(lab, "spine"), "ip", "route"]
    route = subprocess.check_output([*ip, "show", block], text=True).split()
    longer = f"{block.split('/')[0]}/32"
    with RouteWatch(lab, ["spine"]) as watch:
        subprocess.run([*ip, "del", *route], check=True)
        subprocess.run([*ip, "add", *route], check=True)
        subprocess.run([*ip, "add", "unreachable", longer], check=True)
        subprocess.run([*ip, "del", "unreachable", longer], check=True)
    assert set(watch.dropped) == set(watch.added) == {block, longer}


@RACKS
def test_a_killed_agent_loses_no_packet_resets_no_session_and_withdraws_nothing(
    lab: Lab, across: list[Pod], rack: int
) -> None:
    node = across[rack].node
    with undisturbed(lab, across, watched=HOLD_TIME_S + 1):
        old = lab.pid(node, "agent")
        lab.kill(node, "agent")
        eventually(lambda: lab.pid(node, "agent") not in (None, old), 10, "the agent runs again")


@RACKS
@pytest.mark.parametrize("with_agent", [True, False], ids=["agent there", "agent away"])
@pytest.mark.parametrize("victim", ["entry", "exabgp", "daemon"])
def test_a_killed_part_of_the_speaker_loses_no_packet_and_no_route(
    lab: Lab, across: list[Pod], victim: str, with_agent: bool, rack: int
) -> None:
    node = across[rack].node
    machine = lab.machine(node)
    if not with_agent:
        machine.stop("agent")
    try:
        with undisturbed(lab, across, restarting=[node]):
            subprocess.run(["kill", "-9", str(speaker_pid(lab, node, victim))], check=True)
    finally:
        if not with_agent:
            start_again(lab, node, "agent")


def test_pods_go_on_starting_while_the_operator_is_down(lab: Lab, across: list[Pod]) -> None:
    machine = lab.machine("cp")
    machine.stop("operator")
    try:
        with (
            undisturbed(lab, across),
            pods_on(lab, list(lab.topology.node_names), "orphan") as pods,
        ):
            assert all(len(pod.addresses) == 2 for pod in pods)
    finally:
        start_again(lab, "cp", "operator")


def test_the_outside_host_and_a_pod_exchange_packets_by_their_own_addresses(lab: Lab, across: list[Pod]) -> None:
    with Traffic([(across[0].place, place_of(lab, "outside"))]) as traffic:
        time.sleep(2)
    traffic.assert_no_loss()


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "seconds", [pytest.param(15.0, id="a while"), pytest.param(60.0, id="a minute", marks=pytest.mark.soak)]
)
def test_the_api_server_may_be_away_with_an_agent_restart_in_it(lab: Lab, across: list[Pod], seconds: float) -> None:
    """In that time the agent restarts, and the kubelet makes a pod's sandbox anew."""
    node = across[0].node
    with pods_on(lab, [node], "known") as (known,):
        with undisturbed(lab, across):
            take_away(lab, "cp", "kube-apiserver")
            since = time.monotonic()
            try:
                old = lab.pid(node, "agent")
                lab.kill(node, "agent")
                eventually(lambda: lab.pid(node, "agent") not in (None, old), 10, "the agent runs again")
                before = processes_in(known.uid)
                subprocess.run(["kill", "-9", *map(str, before)], check=True)
                eventually(lambda: len(processes_in(known.uid) - before) >= 2, 30, "sandbox and container run again")
                eventually(
                    lambda: "SnapshotStale" in str(told_on(lab, node, "report")), 20, "the node says what it uses"
                )
                eventually(lambda: time.monotonic() - since > seconds, seconds + 5, "the time is over")
            finally:
                start_again(lab, "cp", "kube-apiserver")
                wait_until(lambda: lab.kubectl("get", "--raw", "/readyz"), 30, "the API server is ready again")
        again = eventually(
            lambda: _with_new_addresses(lab, known),
            KUBELET_HEARS_S,
            lambda: f"not {known.addresses}: {lab.kubectl('describe', 'pod', known.name)[-3000:]}",
        )
        assert len(again.addresses) == 2
    the_operator_hears(lab)


def the_operator_hears(lab: Lab) -> None:
    """What is applied now is honoured soon, in every node's blocks that it concerns."""
    block = next(b for b in lab.get("ipblocks")["items"] if ":" not in b["spec"]["cidr"])["spec"]
    reserved = block["cidr"].split("/")[0] + "/32"
    head = {"apiVersion": "podroute.dev/v1alpha1", "kind": "IPReservation", "metadata": {"name": "heard"}}
    apply(lab, {**head, "spec": {"cidrs": [reserved]}})

    def is_honoured() -> bool:
        grants = lab.get("nodenetwork", block["node"]["name"])["spec"]["blocks"]
        return any(reserved in grant.get("reserved", []) for grant in grants)

    try:
        eventually(is_honoured, 30, f"the reservation of {reserved} reaches its node")
    finally:
        lab.kubectl("delete", "ipreservation", "heard")


def take_away(lab: Lab, machine: str, process: str) -> None:
    """Ends a process at once and keeps it down: the API server would serve its watches to their end."""
    lab.machine(machine).ask({"do": "stop", "name": process})
    lab.kill(machine, process)
    wait_until(lambda: lab.pid(machine, process) is None, 5, f"{process} is down")


def _with_new_addresses(lab: Lab, pod: Pod) -> Pod | None:
    return next((now for now in pods(lab, f"app={pod.name}") if now.addresses not in ((), pod.addresses)), None)
