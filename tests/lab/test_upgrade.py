"""Another version, by `kubectl apply -k` with another tag: node by node, at no packet's cost, there and back; one that is broken
stops at one node.
"""

import itertools
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from faults import all_established, undisturbed
from next_image import VERSION_OF_NEXT, write_next
from test_installed import on_nodes, parts
from workloads import Pod, eventually, pods_on

from controller.lab.cluster import Lab
from controller.lab.images import OWN_IMAGE
from controller.lab.podroute import MANIFESTS, NAMESPACE, ROOT
from controller.lab.rootfs import VERSION

pytestmark = [pytest.mark.lab, pytest.mark.root]

COMPONENTS = ("agent", "speaker")


@pytest.fixture(scope="module")
def across(installed_lab: Lab) -> Iterator[list[Pod]]:
    """Two pods in different racks."""
    first, *_, last = installed_lab.topology.node_names
    with pods_on(installed_lab, [first, last], "upgrade") as found:
        yield found


def change(lab: Lab, component: str, **container: Any) -> None:
    """Another template for the component's pods."""
    containers = [{"name": component, **container}]
    patch = json.dumps({"spec": {"template": {"spec": {"containers": containers}}}})
    lab.kubectl("patch", "daemonset", "-n", NAMESPACE, f"podroute-{component}", "-p", patch)


def apply_tag(lab: Lab, tag: str) -> None:
    """As an administrator changes the version: one line in a kustomization of his own."""
    name = OWN_IMAGE.rpartition(":")[0]
    with tempfile.TemporaryDirectory(prefix="podroute-upgrade-") as folder:
        overlay = {
            "resources": [os.path.relpath(ROOT / MANIFESTS, os.path.realpath(folder))],
            "images": [{"name": name, "newTag": tag}],
        }
        Path(folder, "kustomization.yaml").write_text(json.dumps(overlay))
        lab.kubectl("apply", "-k", folder)


def import_next(lab: Lab, tag: str) -> None:
    """As an administrator without a registry does it."""
    with tempfile.TemporaryDirectory(prefix="podroute-next-") as folder:
        archive = Path(folder, "next.tar")
        write_next(archive, tag)
        for node in lab.topology.node_names:
            load = lab.machine(node).enter(["ctr", "--namespace", "k8s.io", "images", "import", "-"])
            with archive.open("rb") as file:
                done = subprocess.run(load, stdin=file, capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == 0, f"{node}: {done.stderr}"


def version_of(lab: Lab, pod: dict[str, Any]) -> str:
    """What the podroute in the pod calls itself."""
    return lab.kubectl("exec", "-n", NAMESPACE, pod["metadata"]["name"], "--", "podroute", "--version").strip()


def undo(lab: Lab, component: str) -> None:
    lab.kubectl("rollout", "undo", "-n", NAMESPACE, f"daemonset/podroute-{component}")


def uids(lab: Lab, component: str) -> dict[str, str]:
    """The component's ready pods: node to UID."""
    return {pod["spec"]["nodeName"]: pod["metadata"]["uid"] for pod in parts(lab, component)}


def all_others(lab: Lab, component: str, before: dict[str, str]) -> bool:
    now = uids(lab, component)
    return now.keys() == before.keys() and not set(now.values()) & set(before.values())


def at(stamp: str) -> datetime:
    return datetime.fromisoformat(stamp)


def ready_at(pod: dict[str, Any]) -> datetime:
    return at(next(c["lastTransitionTime"] for c in pod["status"]["conditions"] if c["type"] == "Ready"))


@pytest.mark.parametrize(
    "tag", ["next", OWN_IMAGE.rpartition(":")[2]], ids=["another version", "back to the one before"]
)
def test_a_version_is_rolled_out_node_by_node_without_a_lost_packet_or_route(
    installed_lab: Lab, across: list[Pod], tag: str
) -> None:
    lab, nodes = installed_lab, installed_lab.topology.node_names
    before = {component: uids(lab, component) for component in COMPONENTS}
    assert all(set(before[component]) == set(nodes) for component in COMPONENTS)
    operator = set(uids(lab, "operator").values())
    own = VERSION
    if tag != OWN_IMAGE.rpartition(":")[2]:
        own = VERSION_OF_NEXT
        import_next(lab, tag)
    with undisturbed(lab, across, restarting=nodes):
        apply_tag(lab, tag)
        for component in COMPONENTS:
            eventually(lambda c=component: all_others(lab, c, before[c]), 150, lambda c=component: f"{uids(lab, c)}")
    assert set(uids(lab, "operator").values()) - operator, "the operator, too, is another"
    for pod in (pod for component in ("operator", *COMPONENTS) for pod in parts(lab, component)):
        images = {c["image"] for c in (*pod["spec"]["containers"], *pod["spec"].get("initContainers", ()))}
        assert {image.rpartition(":")[2] for image in images} == {tag}
    assert {version_of(lab, pod) for component in ("operator", *COMPONENTS) for pod in parts(lab, component)} == {
        f"podroute {own}"
    }
    agents = {pod["spec"]["nodeName"]: pod for pod in parts(lab, "agent")}
    speakers = sorted(parts(lab, "speaker"), key=lambda pod: at(pod["metadata"]["creationTimestamp"]))
    for one, next_one in itertools.pairwise(speakers):
        assert ready_at(one) <= at(next_one["metadata"]["creationTimestamp"])
    for speaker in speakers:
        assert ready_at(agents[speaker["spec"]["nodeName"]]) <= at(speaker["metadata"]["creationTimestamp"])
    said = lab.get("events", "--field-selector=reason=SpeakerReplaced")["items"]
    assert {event["involvedObject"]["name"] for event in said} == set(nodes)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"image": "podroute.dev/podroute:none"}, "not ready"),
        ({"command": ["python3", "-c", "import time; time.sleep(1e6)"], "args": []}, "2 of its sessions are not back"),
    ],
    ids=["does not start", "runs and speaks to nobody"],
)
def test_a_broken_version_stops_at_one_node_and_goes_back(
    installed_lab: Lab, across: list[Pod], fault: dict[str, Any], said: str
) -> None:
    lab = installed_lab
    before = uids(lab, "speaker")
    lab.kubectl("delete", "events", "--field-selector=reason=SpeakerRolloutHeld")
    change(lab, "speaker", **fault)
    try:
        (held,) = eventually(
            lambda: lab.get("events", "--field-selector=reason=SpeakerRolloutHeld")["items"], 90, "an Event says so"
        )
        node = held["involvedObject"]["name"]
        assert said in held["message"]
        assert "rollout undo" in held["message"]
        now = uids(lab, "speaker")
        assert {name: uid for name, uid in now.items() if name != node} == {
            name: uid for name, uid in before.items() if name != node
        }
        assert now.get(node) != before[node]
    finally:
        undo(lab, "speaker")
    eventually(lambda: on_nodes(lab, "speaker") == list(lab.topology.node_names), 60, "every node has a speaker again")
    after = uids(lab, "speaker")
    assert {name for name in after if after[name] != before[name]} == {node}
    eventually(lambda: all_established(lab, lab.topology.tor_names), 30, "all sessions are established")
