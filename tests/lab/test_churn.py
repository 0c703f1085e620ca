"""Deployments scaled up and down for a while: no address on two pods, nothing leaked, and check has nothing to say."""

import random
import time
from collections import Counter

import oracle
import pytest
from told import findings
from workloads import apply, deployment_manifest, eventually, pods

from controller.lab.cluster import Lab

pytestmark = [pytest.mark.lab, pytest.mark.root]

MOST = 12


@pytest.mark.parametrize(
    "seconds",
    [pytest.param(45, id="short"), pytest.param(600, id="long", marks=[pytest.mark.soak, pytest.mark.timeout(1200)])],
)
def test_scaling_up_and_down_gives_no_address_twice_and_leaks_nothing(lab: Lab, seconds: int) -> None:
    names = [f"churn-{node}" for node in lab.topology.node_names]
    choice = random.Random(7)
    apply(lab, *(deployment_manifest(name, 2, name.removeprefix("churn-")) for name in names))
    until = time.monotonic() + seconds
    rounds = 0
    try:
        while time.monotonic() < until:
            for name in names:
                lab.kubectl("scale", "deployment", name, f"--replicas={choice.randint(0, MOST)}")
            for _ in range(3):
                assert doubled(lab) == []
            rounds += 1
        assert rounds >= 2
        for name in names:
            lab.kubectl("scale", "deployment", name, "--replicas=3")
        eventually(
            lambda: all(len(pods(lab, f"app={name}")) == 3 for name in names),
            120,
            lambda: lab.kubectl("get", "pods", "-o", "wide"),
        )
        eventually(lambda: not oracle.wrong(lab), 60, lambda: f"{oracle.wrong(lab)}")
    finally:
        lab.kubectl("delete", "deployment", "--ignore-not-found", *names)
    eventually(
        lambda: not any(p["metadata"]["name"].startswith("churn-") for p in all_pods(lab)), 90, "the pods are gone"
    )
    eventually(lambda: not oracle.wrong(lab), 60, lambda: f"{oracle.wrong(lab)}")
    eventually(lambda: not findings(lab), 60, lambda: f"{findings(lab)}")
    expected = sum(bool(p["status"].get("podIPs")) and not p["spec"].get("hostNetwork") for p in all_pods(lab))
    assert sum(len(oracle.node_veths(lab, node)) for node in lab.topology.node_names) == expected


def all_pods(lab: Lab) -> list[dict]:
    return list(lab.get("pods", "-A")["items"])


def doubled(lab: Lab) -> list[str]:
    """Addresses that two pods have which are both alive, and addresses on two veths."""
    alive = [p for p in all_pods(lab) if p["status"]["phase"] == "Running" and "deletionTimestamp" not in p["metadata"]]
    of_pods = Counter(a["ip"] for p in alive if not p["spec"].get("hostNetwork") for a in p["status"].get("podIPs", []))
    of_links = Counter(
        a for node in lab.topology.node_names for _, _, found in oracle.node_veths(lab, node) for a in found
    )
    return [address for counts in (of_pods, of_links) for address, count in counts.items() if count > 1]
