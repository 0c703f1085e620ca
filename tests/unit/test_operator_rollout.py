"""The speakers' rollout asks for one deletion at a time, of its own pods alone, and only while this operator writes."""

import asyncio
from typing import Any, cast

import pytest
from memory_api import MemoryApi

from controller.api import NodeNetwork
from controller.api.kubernetes import Node
from controller.kube import errors
from controller.kube.client import Api
from controller.kube.events import EventRecorder
from controller.kube.resources import DAEMON_SETS, PODS, REVISIONS
from controller.kube.store import Store
from controller.operator.rollout import SpeakerRollout

NODES = ("a", "b")


def labelled(component: str, revision: str) -> dict[str, str]:
    return {"app.kubernetes.io/component": component, "controller-revision-hash": revision}


def pod(component: str, node: str, revision: str, owner: str) -> dict[str, Any]:
    owners = [{"uid": owner}]
    return {
        "metadata": {
            "name": f"{component}-{node}",
            "labels": labelled(component, revision),
            "ownerReferences": owners,
        },
        "spec": {"nodeName": node},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }


@pytest.fixture
def api() -> MemoryApi:
    """Two nodes, whose agents are of the latest version and whose speakers are not; and a speaker of somebody else."""
    served = MemoryApi()
    for component in ("agent", "speaker"):
        status = {"observedGeneration": 2, "desiredNumberScheduled": 2, "currentNumberScheduled": 2}
        metadata = {"name": f"podroute-{component}", "uid": f"set-{component}", "generation": 2}
        served.put(DAEMON_SETS, {"metadata": metadata, "status": status})
        owners = [{"uid": f"set-{component}"}]
        revision = {"name": f"{component}-2", "labels": labelled(component, "new"), "ownerReferences": owners}
        served.put(REVISIONS, {"metadata": revision, "revision": 2})
        for node in NODES:
            served.put(PODS, pod(component, node, "new" if component == "agent" else "old", f"set-{component}"))
    served.put(
        PODS,
        {
            **pod("speaker", "a", "any", "theirs"),
            "metadata": {**pod("speaker", "a", "any", "theirs")["metadata"], "name": "0-other"},
        },
    )
    return served


def rollout(api: MemoryApi, may_write: bool = True) -> SpeakerRollout:
    store = Store((Node, NodeNetwork))
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    nodes = [{"metadata": {"name": name, "uid": name, "resourceVersion": "1"}, "status": ready} for name in NODES]
    networks = [
        {"metadata": {"name": name, "uid": name, "resourceVersion": "1"}, "spec": {"node": {"name": name}}}
        for name in NODES
    ]
    store.replace(Node, nodes, "1", 0)
    store.replace(NodeNetwork, networks, "1", 0)
    recorder = EventRecorder(cast(Api, api), "podroute.dev/operator", "one")
    return SpeakerRollout(cast(Api, api), store, recorder, lambda: may_write)


def look(task: SpeakerRollout) -> None:
    asyncio.run(task._look())


def test_one_speaker_is_deleted_and_the_next_waits(api: MemoryApi) -> None:
    task = rollout(api)
    look(task)
    look(task)
    assert api.asked("delete") == ["speaker-a"]
    assert ("pods", "0-other") in api.objects


def test_a_deletion_whose_answer_is_lost_is_remembered(api: MemoryApi) -> None:
    task = rollout(api)

    def lost(verb: str, plural: str, name: str) -> Exception | None:
        if verb == "delete":
            api.objects.pop((plural, name), None)
            return errors.Unavailable("DELETE", "timed out")
        return None

    api.trouble = lost
    with pytest.raises(errors.Unavailable):
        look(task)
    api.trouble = lambda *_: None
    api.put(PODS, pod("speaker", "a", "new", "set-speaker"))
    look(task)
    assert api.asked("delete") == []


def test_nothing_is_deleted_by_an_operator_that_does_not_write_nor_before_the_controller_has_seen_the_change(
    api: MemoryApi,
) -> None:
    look(rollout(api, may_write=False))
    agents = api.objects["daemonsets", "podroute-agent"]
    agents["metadata"]["generation"] = 3
    look(rollout(api))
    assert api.asked("delete") == []
    agents["metadata"]["generation"] = 2
    look(rollout(api))
    assert api.asked("delete") == ["speaker-a"]
