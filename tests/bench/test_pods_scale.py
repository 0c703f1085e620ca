"""Hundreds of pods: on a whole cluster beside the reference plugins, and on one agent beside none."""

import json
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from conftest import ROUNDS
from figures import Figures, Row
from refused_inputs import body
from test_upkeep import processes, processor_seconds
from workloads import apply, deployment_manifest, eventually

from controller.lab.cluster import Lab
from controller.lab.errors import LabError
from controller.lab.images import PAUSE_IMAGE
from controller.lab.podroute import ensure_plugin, processes_on
from controller.lab.teardown import tear_down

pytestmark = pytest.mark.timeout(7200)

# A quick look takes a tenth, once. So many pods are too much here for the reference plugins: they get a fifth, and one try at all.
PODS, REPEATS = (500, 5) if ROUNDS >= 30 else (50, 1)
FEW = PODS // 5
PATIENCE_S = 600.0
SECTION = "pods at scale"
NODE = "n0"
SPAN_SECONDS = 30.0
CONFIGURATION = json.dumps({"cniVersion": "1.0.0", "name": "podroute", "type": "podroute"})


@contextmanager
def cluster(name: str, **shape: Any) -> Iterator[Lab]:
    """With a Deployment of no pods yet."""
    try:
        lab = Lab.up(name, report=print, **shape)
        manifest = deployment_manifest("many", 0)
        (container,) = manifest["spec"]["template"]["spec"]["containers"]
        container |= {"image": PAUSE_IMAGE, "command": ["/pause"]}
        apply(lab, manifest)
        yield lab
    finally:
        tear_down(name)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Four nodes on podroute."""
    with cluster(f"p{os.getpid()}", processes=True) as lab:
        yield lab


@pytest.fixture
def reference() -> Iterator[Lab]:
    """The same shape on ptp and host-local."""
    with cluster(f"r{os.getpid()}", cni="reference") as lab:
        yield lab


def asked(lab: Lab, *words: str) -> str:
    """What `kubectl get` says; a server that starts hundreds of pods on two cores may take minutes for it."""
    return lab.kubectl("get", *words, seconds=PATIENCE_S)


def count_ready(lab: Lab) -> int:
    return int(asked(lab, "deployment", "many", "-o", "jsonpath={.status.readyReplicas}") or 0)


def count_left(lab: Lab) -> int:
    """Pods that are there at all; as a table, since hundreds of whole objects are a load of their own."""
    return len(asked(lab, "pods", "-l", "app=many", "--no-headers").splitlines())


def round_trip(lab: Lab, count: int) -> tuple[float, float]:
    """Seconds until so many are Ready, and until all are gone; AssertionError if it takes too long."""
    begun = time.monotonic()
    lab.kubectl("scale", "deployment", "many", f"--replicas={count}")
    eventually(lambda: count_ready(lab) == count, PATIENCE_S, lambda: f"{count_ready(lab)} of {count} pods are ready")
    ready = time.monotonic() - begun
    begun = time.monotonic()
    lab.kubectl("scale", "deployment", "many", "--replicas=0")
    eventually(lambda: count_left(lab) == 0, PATIENCE_S, lambda: f"all pods are gone: {count_left(lab)} are not")
    return ready, time.monotonic() - begun


def attempt(lab: Lab, count: int) -> tuple[float, float] | str:
    """The same, or how far it came."""
    try:
        return round_trip(lab, count)
    except (AssertionError, LabError) as error:
        return str(error)


def rows(count: int, ours: list[tuple[float, float]], theirs: list[tuple[float, float]], said: str = "") -> list[Row]:
    """Until all were Ready, and until all were gone."""
    made = []
    for index, what in enumerate(("all Ready", "all gone")):
        own, others = ([pair[index] for pair in pairs] for pairs in (ours, theirs))
        made.append(
            Row(
                SECTION,
                f"{count} pods on 4 nodes: {what}, mean of {REPEATS}",
                statistics.mean(own),
                "s",
                reference=statistics.mean(others) if others else None,
                detail=" and ".join(", ".join(f"{s:.0f}" for s in each) for each in (own, others) if each) + said,
            )
        )
    return made


def test_hundreds_of_pods_are_created_and_deleted_again_and_again(lab: Lab, reference: Lab, figures: Figures) -> None:
    few: dict[str, list[tuple[float, float]]] = {"ours": [], "theirs": []}
    for _ in range(REPEATS):
        few["ours"].append(round_trip(lab, FEW))
        few["theirs"].append(round_trip(reference, FEW))
    figures.add(*rows(FEW, few["ours"], few["theirs"]))
    ours = [round_trip(lab, PODS) for _ in range(REPEATS)]
    theirs = attempt(reference, PODS)
    if isinstance(theirs, str):
        figures.add(*rows(PODS, ours, [], f"; with the reference plugins: {theirs}"))
    else:
        figures.add(*rows(PODS, ours, [theirs], " (the reference once)"))


@pytest.fixture
def crowded(lab: Lab) -> Lab:
    """With room for all the pods on one node."""
    apply(lab, body("IPPool", "crowd-v4", cidr="10.251.0.0/19", blockSize=20, headroom=PODS))
    eventually(lambda: any(b["spec"]["pool"] == "crowd-v4" for b in lab.get("ipblocks")["items"]), 30, "a large block")
    return lab


def in_node(lab: Lab, script: str, seconds: float = 300) -> str:
    return lab.node(NODE).run(["sh", "-ec", script], CONFIGURATION, seconds)


def call(verb: str, name: str) -> str:
    """Shell words that call the plugin for a network namespace of that name."""
    words = {
        "COMMAND": verb,
        "CONTAINERID": name,
        "NETNS": f"/run/netns/{name}",
        "IFNAME": "eth0",
        "PATH": "/opt/cni/bin",
    }
    return f"{' '.join(f'CNI_{key}={value}' for key, value in words.items())} /opt/cni/bin/podroute </run/crowd"


def crowd(verb: str) -> str:
    """Shell words that add, or delete, all the pods, one after the other."""
    steps = {
        "ADD": ("ip netns add crowd-$i", call("ADD", "crowd-$i")),
        "DEL": (call("DEL", "crowd-$i"), "ip netns del crowd-$i"),
    }
    return f"cat >/run/crowd; for i in $(seq {PODS}); do {' >/dev/null; '.join(steps[verb])} >/dev/null; done"


def restart(lab: Lab) -> float:
    """Seconds from kill -9 of the agent until a pod is added again."""
    in_node(lab, "cat >/run/crowd; ip netns add again")
    begun = time.monotonic()
    lab.kill(NODE, "agent")
    in_node(lab, f"until {call('ADD', 'again')} >/dev/null 2>&1; do sleep 0.02; done", 60)
    took = time.monotonic() - begun
    in_node(lab, f"{call('DEL', 'again')}; ip netns del again")
    return took


def resync_milliseconds(lab: Lab) -> float:
    """Processor time of a full comparison with the kernel: an agent that makes one a second, beside one that makes none."""
    used = []
    for every in ("1", "0"):
        lab.machine(NODE).stop("agent")
        (spec,) = (s for s in processes_on(NODE, lab.machine(NODE).folder, str(ensure_plugin())) if s.name == "agent")
        lab.start(NODE, msgspec.structs.replace(spec, argv=(*spec.argv, "--resync", every)))
        eventually(lambda: lab.pid(NODE, "agent"), 20, "the agent runs")
        pids = processes(lab, NODE, "agent")
        # Its start is over.
        time.sleep(5)
        before = processor_seconds(pids)
        time.sleep(SPAN_SECONDS)
        used.append(processor_seconds(pids) - before)
    return 1000 * (used[0] - used[1]) / SPAN_SECONDS


def test_one_agent_with_hundreds_of_pods_restarts_and_compares(crowded: Lab, figures: Figures) -> None:
    lab = crowded
    without = restart(lab), resync_milliseconds(lab)
    in_node(lab, crowd("ADD"))
    try:
        with_pods = restart(lab), resync_milliseconds(lab)
    finally:
        in_node(lab, crowd("DEL"))
    whats = ("agent killed → a pod is added again", "processor time of one full comparison")
    for what, value, reference, unit in zip(whats, with_pods, without, ("s", "ms"), strict=True):
        figures.add(Row(SECTION, f"{what}, with {PODS} pods on the node beside none", value, unit, reference=reference))
