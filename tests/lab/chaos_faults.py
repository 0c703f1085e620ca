"""The faults of the chaos run, each with what it may cost (DESIGN.md, faults). Called by `chaos`.

A fault is caused on a victim by entering what `cause` gives, and taken back by leaving it, also when a run is broken off. The
victims are the machines that it may hit.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from enum import Enum

import msgspec
from faults import HOLD_TIME_S, speaker_pid
from oracle import node_veths
from parts import OPERATOR, component_pods, is_installed, main_process, part_stopped, running, stopped
from router_tables import node_blocks
from workloads import eventually

from controller.lab.cluster import Lab
from controller.lab.podroute import NAMESPACE, processes_on

Cause = Callable[[Lab, str], AbstractContextManager[None]]

# Seconds for which a process gets no time: less than the hold time.
FROZEN_S = 5.0
# Seconds for which a link is down; the longer ones are longer than the hold time.
CUT_S, LONG_S = 1.0, 12.0
# Seconds after a long one's end within which a session stands again, and what it tells has come to every router.
RETURN_S = 12.0
# Seconds within which what was deleted by hand is there again.
REPAIR_S = 1.0


class Cost(Enum):
    """What a fault may cost packets. The victim's own are those that end on it or must cross it."""

    NOTHING = "nothing"
    REPAIR = f"the victim's own, for {REPAIR_S:g} s"
    OWN = f"the victim's own, for {HOLD_TIME_S} s"
    RETURN = f"the victim's own, meanwhile and for {RETURN_S:g} s"
    LOSS = "the victim's own, and some must be lost: the control"


class Machines(Enum):
    """What a fault may hit."""

    NODE = "node"
    TOR = "ToR"
    SPINE = "spine"
    CONTROL_PLANE = "control plane"

    def of(self, lab: Lab) -> tuple[str, ...]:
        """Their names in the lab."""
        shape = lab.topology
        names = {Machines.NODE: shape.node_names, Machines.TOR: shape.tor_names}
        return names.get(self, ("spine",) if self is Machines.SPINE else ("cp",))


@dataclass(frozen=True)
class Fault:
    """`resets`: the victim's own BGP sessions may restart. `withdraws`: routers may lose routes. `which` of those that it may hit
    is the victim; None: any.
    """

    name: str
    hits: Machines
    cause: Cause
    cost: Cost = Cost.NOTHING
    resets: bool = False
    withdraws: bool = False
    which: int | None = None


def killed(process: str) -> Cause:
    """kill -9; the machine's supervisor, or its kubelet, starts it again."""

    @contextmanager
    def cause(lab: Lab, victim: str) -> Iterator[None]:
        os.kill(running(lab, victim, process), signal.SIGKILL)
        yield

    return cause


def frozen(process: str) -> Cause:
    """It gets no time for a while."""

    @contextmanager
    def cause(lab: Lab, victim: str) -> Iterator[None]:
        with part_stopped(lab, victim, process):
            time.sleep(FROZEN_S)
            yield

    return cause


def speaker_killed(part: str) -> Cause:
    """kill -9 of one of the speaker's three processes."""

    @contextmanager
    def cause(lab: Lab, victim: str) -> Iterator[None]:
        os.kill(speaker_pid(lab, victim, part), signal.SIGKILL)
        yield

    return cause


def speaker_frozen(part: str, seconds: float = FROZEN_S) -> Cause:
    """One of the speaker's three processes gets no time for a while."""

    @contextmanager
    def cause(lab: Lab, victim: str) -> Iterator[None]:
        with stopped(speaker_pid(lab, victim, part)):
            time.sleep(seconds)
            yield

    return cause


def bgp_killed(lab: Lab, router: str) -> AbstractContextManager[None]:
    """The routing daemon, whichever the router has."""
    return killed("bird" if lab.is_bird(router) else "bgpd")(lab, router)


def all_killed(lab: Lab, router: str) -> AbstractContextManager[None]:
    """Every routing daemon of the router at once: of FRR the one included that knows which of the kernel's routes are whose."""
    if lab.is_bird(router):
        return bgp_killed(lab, router)
    stack = ExitStack()
    for process in ("zebra", "bgpd"):
        stack.enter_context(killed(process)(lab, router))
    return stack


def uplink_cut(seconds: float) -> Cause:
    """No carrier at the node's uplink: the far end, a port of the rack's bridge, is down."""

    def cause(lab: Lab, node: str) -> AbstractContextManager[None]:
        return _port_down(lab, f"rack{lab.topology.rack_of(node)}", node, seconds)

    return cause


def fabric_cut(seconds: float) -> Cause:
    """No carrier between a ToR and the spine."""

    def cause(lab: Lab, tor: str) -> AbstractContextManager[None]:
        return _port_down(lab, "spine", tor, seconds)

    return cause


@contextmanager
def _port_down(lab: Lab, place: str, port: str, seconds: float) -> Iterator[None]:
    # An interface that is set down loses its IPv6 addresses otherwise; here it is its far end's carrier that is meant.
    lab.netns_exec(place, ["sysctl", "-qw", f"net.ipv6.conf.{port}.keep_addr_on_down=1"])
    lab.netns_exec(place, ["ip", "link", "set", port, "down"])
    try:
        time.sleep(seconds)
        yield
    finally:
        lab.netns_exec(place, ["ip", "link", "set", port, "up"])


def by_hand(change: Callable[[Lab, str], None]) -> Cause:
    """Somebody changes something once; nobody takes it back."""

    @contextmanager
    def cause(lab: Lab, victim: str) -> Iterator[None]:
        change(lab, victim)
        yield

    return cause


def flushed(*words: str) -> Callable[[Lab, str], None]:
    """Our routes that match are deleted, in both families."""

    def change(lab: Lab, node: str) -> None:
        for family in ("-4", "-6"):
            lab.netns_exec(node, ["ip", family, "route", "flush", "proto", "179", *words])

    return change


def pod_routes_deleted(lab: Lab, node: str) -> None:
    """Of every pod at once."""
    for device, _, _ in node_veths(lab, node):
        flushed("dev", device)(lab, node)


def neighbours_deleted(lab: Lab, node: str) -> None:
    """The permanent entries of every pod."""
    for device, _, _ in node_veths(lab, node):
        lab.netns_exec(node, ["ip", "neigh", "flush", "dev", device, "nud", "permanent"])


def veths_flapped(lab: Lab, node: str) -> None:
    """Every pod's host end."""
    for device, _, _ in node_veths(lab, node):
        for state in ("down", "up"):
            lab.netns_exec(node, ["ip", "link", "set", device, state])


def table_deleted(lab: Lab, node: str) -> None:
    """Our nftables table."""
    lab.netns_exec(node, ["nft", "delete", "table", "inet", "podroute"])


def network_deleted(lab: Lab, node: str) -> None:
    """The node's NodeNetwork."""
    lab.kubectl("delete", "nodenetwork", node, "--wait=false")


def cluster_network_deleted(lab: Lab, _: str) -> None:
    """The ClusterNetwork."""
    lab.kubectl("delete", "clusternetwork", "default", "--wait=false")


def block_deleted(lab: Lab, node: str) -> None:
    """One of the node's IPBlocks, with the operator's rights, since nobody else may."""
    cidr = min(cidr for cidr, owner in node_blocks(lab).items() if owner == node)
    name = next(each["metadata"]["name"] for each in lab.get("ipblocks")["items"] if each["spec"]["cidr"] == cidr)
    lab.kubectl("delete", "--as", OPERATOR, "ipblock", name, "--wait=false")


def rival_operator(lab: Lab, victim: str) -> AbstractContextManager[None]:
    """A second operator runs beside the first, which dies in the middle of it."""
    return _second_pod(lab) if is_installed(lab) else _second_process(lab, victim)


@contextmanager
def _second_pod(lab: Lab) -> Iterator[None]:
    scale = ("scale", "-n", NAMESPACE, "deployment/podroute-operator")
    (writer,) = component_pods(lab, "operator")
    lab.kubectl(*scale, "--replicas=2")
    try:
        eventually(lambda: len(_running_operators(lab)) == 2, 30, "a second operator runs")
        time.sleep(FROZEN_S)
        os.kill(_running_operators(lab)[writer["metadata"]["name"]], signal.SIGKILL)
        time.sleep(FROZEN_S)
        yield
    finally:
        lab.kubectl(*scale, "--replicas=1")


def _running_operators(lab: Lab) -> dict[str, int]:
    pods = component_pods(lab, "operator")
    return {pod["metadata"]["name"]: pid for pod in pods if (pid := main_process(pod["metadata"]["uid"]))}


@contextmanager
def _second_process(lab: Lab, victim: str) -> Iterator[None]:
    machine = lab.machine(victim)
    (spec,) = processes_on(victim, machine.folder, "")
    lab.start(victim, msgspec.structs.replace(spec, name="rival"))
    try:
        time.sleep(FROZEN_S)
        lab.kill(victim, "operator")
        time.sleep(FROZEN_S)
        yield
    finally:
        machine.stop("rival")


@contextmanager
def routes_deleted_while_nobody_repairs(lab: Lab, node: str) -> Iterator[None]:
    """The control: here packets must be lost."""
    with part_stopped(lab, node, "agent"):
        pod_routes_deleted(lab, node)
        time.sleep(CUT_S)
        yield


_NODE, _TOR, _SPINE, _PLANE = Machines.NODE, Machines.TOR, Machines.SPINE, Machines.CONTROL_PLANE
CONTROL = Fault("pod routes deleted, agent frozen (control)", _NODE, routes_deleted_while_nobody_repairs, Cost.LOSS)
FAULTS = (
    *(Fault(f"{name} killed", _NODE, killed(name)) for name in ("agent", "kubelet", "containerd", "kube-proxy")),
    Fault("agent frozen", _NODE, frozen("agent")),
    *(
        Fault(f"speaker's {part} killed", _NODE, speaker_killed(part), resets=True)
        for part in ("entry", "exabgp", "daemon")
    ),
    *(Fault(f"speaker's {part} frozen", _NODE, speaker_frozen(part)) for part in ("entry", "exabgp", "daemon")),
    *(
        Fault(f"{name} killed", _PLANE, killed(name))
        for name in ("operator", "kube-apiserver", "etcd", "kube-controller-manager", "kube-scheduler")
    ),
    *(Fault(f"{name} frozen", _PLANE, frozen(name)) for name in ("operator", "kube-apiserver", "etcd")),
    Fault("two operators at once", _PLANE, rival_operator),
    Fault("NodeNetwork deleted", _NODE, by_hand(network_deleted)),
    Fault("IPBlock deleted", _NODE, by_hand(block_deleted)),
    Fault("ClusterNetwork deleted", _PLANE, by_hand(cluster_network_deleted)),
    Fault("pod routes deleted", _NODE, by_hand(pod_routes_deleted), Cost.REPAIR),
    Fault("learned routes deleted", _NODE, by_hand(flushed("dev", "eth0")), Cost.REPAIR),
    Fault("block routes deleted", _NODE, by_hand(flushed("type", "unreachable"))),
    Fault("pods' neighbours deleted", _NODE, by_hand(neighbours_deleted), Cost.REPAIR),
    Fault("pods' links down and up", _NODE, by_hand(veths_flapped), Cost.REPAIR),
    Fault("nft table deleted", _NODE, by_hand(table_deleted)),
    Fault(f"uplink down for {CUT_S:g} s", _NODE, uplink_cut(CUT_S), Cost.OWN),
    Fault(f"uplink down for {LONG_S:g} s", _NODE, uplink_cut(LONG_S), Cost.RETURN, resets=True, withdraws=True),
    Fault(
        f"speaker's exabgp frozen for {LONG_S:g} s",
        _NODE,
        speaker_frozen("exabgp", LONG_S),
        Cost.RETURN,
        resets=True,
        withdraws=True,
    ),
    Fault("every routing daemon of a ToR killed", _TOR, all_killed, Cost.OWN, resets=True, withdraws=True, which=0),
    # FRR and BIRD.
    *(
        Fault("ToR's BGP daemon killed", _TOR, bgp_killed, Cost.OWN, resets=True, withdraws=True, which=which)
        for which in range(2)
    ),
    Fault(f"ToR's link to the spine down for {CUT_S:g} s", _TOR, fabric_cut(CUT_S), Cost.OWN, withdraws=True),
    Fault(f"ToR's link to the spine down for {LONG_S:g} s", _TOR, fabric_cut(LONG_S), Cost.RETURN, withdraws=True),
    Fault("spine's BGP daemon killed", _SPINE, bgp_killed, Cost.OWN, withdraws=True),
)
