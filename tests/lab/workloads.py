"""Pods for lab tests: made, awaited, entered, removed."""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from traffic import Place

from controller.lab.cluster import Lab
from controller.lab.execute import wait_until
from controller.lab.images import TOOLS_IMAGE

CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Pod:
    """A running pod."""

    name: str
    namespace: str
    uid: str
    node: str
    addresses: tuple[str, ...]

    @property
    def place(self) -> Place:
        """The pod as an end of the traffic probe."""
        return Place(self.name, ("nsenter", "-n", "-t", str(pid_of(self.uid)), "--"), self.addresses)


def pod_manifest(name: str, node: str = "", **spec: Any) -> dict[str, Any]:
    """A pod of the tools image that sleeps, by default until it is deleted."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            **({"nodeName": node} if node else {}),
            "containers": [
                {"name": "c", "image": TOOLS_IMAGE, "imagePullPolicy": "Never", "command": ["sleep", "1000000"]}
            ],
            **spec,
        },
    }


def deployment_manifest(name: str, replicas: int, node: str = "") -> dict[str, Any]:
    """A Deployment of such pods."""
    spec = pod_manifest(name, node)["spec"]
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def apply(lab: Lab, *objects: dict[str, Any]) -> None:
    """kubectl apply."""
    lab.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))


def pods(lab: Lab, selector: str = "", namespace: str = "default") -> list[Pod]:
    """Pods that are Running and Ready."""
    found = lab.get("pods", "-n", namespace, *(["-l", selector] if selector else []))["items"]
    return [_pod(raw) for raw in found if _is_ready(raw)]


def _pod(raw: dict[str, Any]) -> Pod:
    meta, status = raw["metadata"], raw["status"]
    addresses = tuple(entry["ip"] for entry in status.get("podIPs", []))
    return Pod(meta["name"], meta["namespace"], meta["uid"], raw["spec"].get("nodeName", ""), addresses)


def _is_ready(raw: dict[str, Any]) -> bool:
    conditions = {c["type"]: c["status"] for c in raw["status"].get("conditions", [])}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in raw["metadata"]


@contextmanager
def pods_on(lab: Lab, nodes: Sequence[str], prefix: str = "probe") -> Iterator[list[Pod]]:
    """One ready pod on each of the nodes, in order; removed at the end."""
    names = [f"{prefix}-{index}-{node}" for index, node in enumerate(nodes)]
    apply(lab, *(pod_manifest(name, node) for name, node in zip(names, nodes, strict=True)))
    try:
        yield [ready_pod(lab, name) for name in names]
    finally:
        remove_pods(lab, names)


def remove_pods(lab: Lab, names: Sequence[str]) -> None:
    """Deletes and awaits it."""
    lab.kubectl("delete", "pod", "--ignore-not-found", "--grace-period=0", "--wait=true", *names, seconds=180)


def ready_pod(lab: Lab, name: str, seconds: float = 40.0) -> Pod:
    """The pod once it is ready."""

    def found() -> Pod | None:
        raw = lab.get("pod", name)
        return _pod(raw) if _is_ready(raw) else None

    return eventually(found, seconds, lambda: f"pod {name} is ready: {lab.kubectl('describe', 'pod', name)[-1500:]}")


def eventually(condition: Any, seconds: float, what: Any) -> Any:
    """The first true value of `condition`; fails with `what` (text, or a function giving it) after `seconds`."""
    until = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > until:
            raise AssertionError(f"not within {seconds:g} s: {what() if callable(what) else what}")
        time.sleep(0.1)


def await_no_other_pools(lab: Lab) -> None:
    """Until the lab has its own pools alone: a deleted one goes with its blocks, whose addresses rest before."""
    eventually(
        lambda: {p["metadata"]["name"] for p in lab.get("ippools")["items"]} == {"pods-v4", "pods-v6"},
        90,
        lambda: lab.kubectl("get", "ippools,ipblocks", "-o", "wide"),
    )


def pid_of(uid: str) -> int:
    """The host's pid of a process in the pod: its cgroup is named after its UID."""
    return min(wait_until(lambda: processes_in(uid), 5.0, f"a process of pod {uid} is in {CGROUPS}"))


def processes_in(uid: str) -> set[int]:
    """All processes of the pod, its sandbox included. Others' pods and labs may go while it is looked for."""
    found: set[int] = set()
    with contextlib.suppress(FileNotFoundError):
        for kubepods in CGROUPS.glob("pids/*/*/*/kubepods"):
            for quality in ("", "besteffort", "burstable"):
                found |= _processes_below(kubepods / quality / f"pod{uid}")
    return found


def _processes_below(folder: Path) -> set[int]:
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for container in os.listdir(folder):
            with contextlib.suppress(OSError):
                found.update(map(int, (folder / container / "cgroup.procs").read_text().split()))
    return found
