"""Hundreds of pods: on a whole cluster beside the reference plugins, and on one agent beside none."""

import json
import os
import statistics
import time
from collections.abc import Iterator

import msgspec
import pytest
from conftest import ROUNDS
from figures import Figures, Row
from refused_inputs import body
from test_upkeep import processes, processor_seconds
from workloads import apply, deployment_manifest, eventually

from controller.lab.cluster import Lab
from controller.lab.images import PAUSE_IMAGE
from controller.lab.podroute import ensure_plugin, processes_on

pytestmark = pytest.mark.timeout(7200)

# A quick look takes a tenth, once.
PODS, REPEATS = (500, 5) if ROUNDS >= 30 else (50, 1)
SECTION = "pods at scale"
NODE = "n0"
SPAN_SECONDS = 30.0
CONFIGURATION = json.dumps({"cniVersion": "1.0.0", "name": "podroute", "type": "podroute"})


@pytest.fixture(scope="module")
def clusters() -> Iterator[dict[str, Lab]]:
    """Two of the same shape, one on podroute and one on ptp and host-local."""
    labs = {}
    try:
        labs["podroute"] = Lab.up(f"p{os.getpid()}", processes=True, report=print)
        labs["reference"] = Lab.up(f"r{os.getpid()}", cni="reference", report=print)
        yield labs
    finally:
        for lab in labs.values():
            lab.down()


def replicas(lab: Lab) -> tuple[int, int]:
    """Ready ones, and pods that are there at all."""
    status = lab.get("deployment", "many").get("status", {})
    listed = lab.kubectl("get", "pods", "-l", "app=many", "--no-headers", "--chunk-size=0", "-o", "name").split()
    return status.get("readyReplicas", 0), len(listed)


def round_trip(lab: Lab) -> tuple[float, float]:
    """Seconds until all are Ready, and until all are gone."""
    begun = time.monotonic()
    lab.kubectl("scale", "deployment", "many", f"--replicas={PODS}")
    eventually(lambda: replicas(lab)[0] == PODS, 900, lambda: f"{PODS} pods are ready: {replicas(lab)}")
    ready = time.monotonic() - begun
    begun = time.monotonic()
    lab.kubectl("scale", "deployment", "many", "--replicas=0")
    eventually(lambda: replicas(lab)[1] == 0, 900, lambda: f"all pods are gone: {replicas(lab)}")
    return ready, time.monotonic() - begun


def test_hundreds_of_pods_are_created_and_deleted_again_and_again(clusters: dict[str, Lab], figures: Figures) -> None:
    for lab in clusters.values():
        manifest = deployment_manifest("many", 0)
        (container,) = manifest["spec"]["template"]["spec"]["containers"]
        container |= {"image": PAUSE_IMAGE, "command": ["/pause"]}
        apply(lab, manifest)
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in clusters}
    for _ in range(REPEATS):
        for name, lab in clusters.items():
            took[name].append(round_trip(lab))
    for index, what in enumerate(("all Ready", "all gone")):
        ours, theirs = ([pair[index] for pair in took[name]] for name in ("podroute", "reference"))
        figures.add(
            Row(
                SECTION,
                f"{PODS} pods on 4 nodes: {what}, mean of {REPEATS}",
                statistics.mean(ours),
                "s",
                reference=statistics.mean(theirs),
                detail=f"{', '.join(f'{s:.0f}' for s in ours)} and {', '.join(f'{s:.0f}' for s in theirs)}",
            )
        )


@pytest.fixture
def crowded(clusters: dict[str, Lab]) -> Lab:
    """The lab on podroute with room for all the pods on one node."""
    lab = clusters["podroute"]
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
