"""A seeded list of faults under traffic: what each cost, and whether that is more than it may.

    python tests/lab/chaos.py --seed 7 --table docs/faults.md       (make chaos)

Numbered packets run between pods of one rack, of two racks, and a pod and the outside host. Called by `test_chaos`, too.
"""

import argparse
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

from chaos_faults import CONTROL, FAULTS, Cost, Fault
from chaos_outcome import Outcome, document, row
from faults import HOLD_TIME_S, all_established, has_said_all, sessions_of
from oracle import wrong
from parts import is_installed, part_pid
from router_tables import RouteWatch, node_blocks, pod_table, session_marks
from seen_source import place_of
from told import findings
from traffic import Place, Traffic
from workloads import Pod, apply, eventually, pod_manifest, pods_on, ready_pod, remove_pods

from controller.lab.cluster import Lab
from controller.lab.errors import LabError
from controller.lab.teardown import tear_down
from controller.lab.topology import Topology

HEAL_S = 60.0
LOOKS_AT_ONCE = 4
NEWBORN = "newborn"


@dataclass(frozen=True)
class Flow:
    """Two ends, the machines that packets between them end on or must cross, and the ToRs whose BGP says where the other end is."""

    ends: tuple[Place, Place]
    machines: frozenset[str]
    tellers: frozenset[str]

    def is_of(self, victim: str, fault: Fault) -> bool:
        """Whether the fault may cost it packets: also where a ToR is cut off whose BGP ends, and its routes with it."""
        return victim in self.machines or (fault.resets and fault.withdraws and victim in self.tellers)

    @property
    def labels(self) -> set[str]:
        """As the probe names its directions."""
        one, other = (end.name for end in self.ends)
        return {f"{one} to {other}", f"{other} to {one}"}


def flows_between(lab: Lab, pods: Sequence[Pod]) -> list[Flow]:
    """Within each rack, across the racks, and to the outside host; `pods` is one on each node."""
    shape = lab.topology
    racks = [[pod for pod in pods if shape.rack_of(pod.node) == rack] for rack in range(shape.racks)]
    within = [(rack[0], rack[1]) for rack in racks]
    across = (racks[0][0], racks[-1][0])
    pairs = (*within, across)
    inner = [flow(shape, (one.place, other.place), one.node, other.node) for one, other in pairs]
    last = racks[-1][1]
    return [*inner, flow(shape, (last.place, place_of(lab, "outside")), last.node)]


def flow(shape: Topology, ends: tuple[Place, Place], *nodes: str) -> Flow:
    """Between two nodes, or a node and what is behind the spine; within a rack packets go straight."""
    tors = frozenset(shape.tor_names[shape.rack_of(each)] for each in nodes)
    is_within = len(nodes) == 2 and len(tors) == 1
    return Flow(ends, frozenset(nodes) if is_within else frozenset({*nodes, *tors, "spine"}), tors)


def chosen(seed: int, count: int) -> list[tuple[Fault, int]]:
    """So many faults in a random order, none twice before each was there, and the control among them.

    The number beside each chooses its victim.
    """
    rng = random.Random(seed)
    faults: list[Fault] = []
    while len(faults) < count:
        faults += rng.sample(FAULTS, len(FAULTS))
    faults = faults[:count]
    faults.insert(rng.randrange(len(faults) + 1), CONTROL)
    return [(fault, rng.randrange(1000)) for fault in faults]


def suffer(lab: Lab, flows: Sequence[Flow], fault: Fault, victim: str) -> Outcome:
    """Causes one fault under traffic, and waits until all is well again."""
    before = _marks(lab)
    node = victim if victim in lab.topology.node_names else lab.topology.node_names[0]
    with ExitStack() as stack:
        watches = {router: stack.enter_context(RouteWatch(lab, [router])) for router in lab.topology.router_names}
        traffic = stack.enter_context(Traffic([flow.ends for flow in flows]))
        asked = Thread(target=_ask_for_pod, args=(lab, node), name="asks for a pod")
        with fault.cause(lab, victim):
            asked.start()
        healed = _healing(lab)
        asked.join()
        started = _started(lab, node)
    own = {label for flow in flows if flow.is_of(victim, fault) for label in flow.labels}
    reset = [name for name, mark in sorted(_marks(lab).items()) if before.get(name) != mark]
    return Outcome(
        fault=fault,
        victim=victim,
        lost=sum(len(d.missing) for d in traffic.directions if d.label in own),
        lost_by_others=sum(len(d.missing) for d in traffic.directions if d.label not in own),
        gap=max((d.gap for d in traffic.directions if d.missing), default=0.0),
        reset=[name for name in reset if is_of(lab.topology, victim, name)],
        reset_of_others=[name for name in reset if not is_of(lab.topology, victim, name)],
        withdrawn={router: len(watch.dropped) for router, watch in watches.items()},
        healed=healed,
        started=started,
        wrong=[
            *traffic.troubles(set() if fault.cost is Cost.NOTHING else own),
            *(f"{kind}: {what}" for kind, what in sorted(wrong(lab))),
            *(f"check: {each['kind']}: {each['object']}: {each['message']}" for each in findings(lab)),
        ],
    )


def _ask_for_pod(lab: Lab, node: str) -> None:
    # While the API server is away nobody can ask.
    with suppress(LabError):
        apply(lab, pod_manifest(NEWBORN, node))


def _started(lab: Lab, node: str) -> float | None:
    """Seconds from the creation of the pod that was asked for until it was ready, as the API server counts them; None: never."""
    try:
        apply(lab, pod_manifest(NEWBORN, node))
        ready_pod(lab, NEWBORN)
        pod = lab.get("pod", NEWBORN)
    except (AssertionError, LabError):
        return None
    finally:
        remove_pods(lab, [NEWBORN])
    (ready,) = (each for each in pod["status"]["conditions"] if each["type"] == "Ready")
    born, at = (datetime.fromisoformat(t) for t in (pod["metadata"]["creationTimestamp"], ready["lastTransitionTime"]))
    return (at - born).total_seconds()


def _healing(lab: Lab) -> float | None:
    """Seconds until all is well for good; None if it is not within HEAL_S."""
    since = time.monotonic()
    try:
        healed = _well_at(lab) - since
        # A session whose keepalives ended falls only now, and what routers kept for it goes.
        time.sleep(HOLD_TIME_S + 1)
        return healed if is_well(lab) else _well_at(lab) - since
    except AssertionError:
        return None


def _well_at(lab: Lab) -> float:
    """When the first look ended that found all well."""
    eventually(lambda: is_well(lab), HEAL_S, "all is well")
    return time.monotonic()


def is_well(lab: Lab) -> bool:
    """Whether everything runs, all sessions are up and have said all, the API server answers, and every router has every block."""
    nodes = lab.topology.node_names
    looks: list[Callable[[], object]] = [
        lambda: all(part_pid(lab, "cp", part) for part in ("etcd", "kube-apiserver", "operator")),
        lambda: all_established(lab, lab.topology.tor_names),
        lambda: lab.kubectl("get", "--raw", "/readyz") == "ok",
        lambda: all(is_synced(each) for each in networks(lab)),
        lambda: lab.get("clusternetwork", "default")["spec"]["pools"] != [],
        *(partial(_runs, lab, node) for node in nodes),
        *(partial(has_said_all, lab, node) for node in nodes),
        *(partial(_has_every_block, lab, router) for router in lab.topology.router_names),
    ]
    # Whoever does not answer is not well.
    with suppress(LabError), ThreadPoolExecutor(LOOKS_AT_ONCE) as threads:
        return all(list(threads.map(lambda look: look(), looks)))
    return False


def _runs(lab: Lab, node: str) -> bool:
    return all(part_pid(lab, node, part) for part in ("kubelet", "containerd", "agent", "speaker"))


def _has_every_block(lab: Lab, router: str) -> bool:
    return _pod_prefixes(lab, router) == set(node_blocks(lab))


def networks(lab: Lab) -> list[dict[str, Any]]:
    """Every node's NodeNetwork. Raises LabError if one is missing."""
    return [lab.get("nodenetwork", node) for node in lab.topology.node_names]


def is_synced(network: dict[str, Any]) -> bool:
    """Whether the node's kernel and speaker are as planned, by its own word."""
    conditions = network.get("status", {}).get("conditions", [])
    return any(each["type"] == "Synced" and each["status"] == "True" for each in conditions)


def _pod_prefixes(lab: Lab, router: str) -> set[str]:
    return {prefix for family in (4, 6) for prefix in pod_table(lab, router, family)}


def _marks(lab: Lab) -> dict[tuple[str, str], str]:
    """A mark of each session that a ToR has with a node, by the ToR and its name for the session."""
    return {(tor, name): mark for tor in lab.topology.tor_names for name, mark in session_marks(lab, tor).items()}


def is_of(shape: Topology, victim: str, session: tuple[str, str]) -> bool:
    """Whether a session is one of the victim's."""
    tor, name = session
    return name in sessions_of(shape, victim) if victim in shape.node_names else victim == tor


def run(lab: Lab, seed: int, count: int) -> Iterator[Outcome]:
    """One outcome after the other; ends early if the lab does not become well again."""
    with pods_on(lab, lab.topology.node_names, "chaos") as pods:
        flows = flows_between(lab, pods)
        for fault, number in chosen(seed, count):
            victims = fault.hits.of(lab)
            victim = victims[(number if fault.which is None else fault.which) % len(victims)]
            print(f"{fault.name} ({victim})", file=sys.stderr)
            outcome = suffer(lab, flows, fault, victim)
            yield outcome
            if outcome.healed is None:
                return


@contextmanager
def lab_named(name: str, processes: bool) -> Iterator[Lab]:
    """The running lab of that name, or one that is made and removed again, with podroute in pods or as `processes`."""
    if name:
        yield Lab.find(name)
        return
    own = f"chaos{os.getpid()}"
    try:
        yield Lab.up(own, processes=processes, report=print)
    finally:
        tear_down(own)


def main() -> int:
    """Exit code 1 if a fault cost more than it may."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--lab", default="", help="a running lab (podroute lab up); default: one of its own")
    parser.add_argument("--processes", action="store_true", help="podroute as supervised processes in a lab of its own")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 16), help="default: any")
    parser.add_argument("--count", type=int, default=len(FAULTS), help="faults besides the control; default: each once")
    parser.add_argument("--table", type=Path, help="the table's file, for example docs/faults.md")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"seed {given.seed}, {given.count} faults and the control", flush=True)
    outcomes: list[Outcome] = []
    with lab_named(given.lab, given.processes) as lab:
        since = time.monotonic()
        look = _well_at(lab) - since
        form = "in pods, by its manifests" if is_installed(lab) else "as processes of the machines"
        for outcome in run(lab, given.seed, given.count):
            outcomes.append(outcome)
            print(row(outcome), flush=True)
    is_complete = len(outcomes) > given.count
    if given.table and is_complete:
        given.table.write_text(document(given.seed, outcomes, form, look))
    return int(not is_complete or any(outcome.excess for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
