"""What `podroute uninstall` tells before and while it works (`controller.cli.uninstall`, `removal`)."""

import asyncio
from typing import Any, cast

import pytest
from memory_api import MemoryApi

from controller.api import ClusterNetwork, IPPool, NodeNetwork
from controller.api.kubernetes import Namespace
from controller.cli.removal import DEPLOYMENTS, KINDS, NAMESPACE, RIGHTS, NotRemoved, Removal, retirement
from controller.cli.uninstall import what_stays
from controller.kube import errors
from controller.kube.client import Api
from controller.kube.resources import DAEMON_SETS, LEASES, PODS, collection_of


def test_the_pods_that_stay_are_named_by_node_with_what_becomes_of_them() -> None:
    head, *lines = what_stays({"n1": ["b/two", "a/one"], "n0": ["c/three"]})
    assert "no router will know the way" in head
    assert lines == ["node n0: c/three", "node n1: a/one, b/two"]
    assert what_stays({}) == ["no pod has an address of podroute"]


def condition(kind: str, status: str, reason: str, message: str) -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        ([condition("Retired", "False", "Retiring", "not withdrawn yet: tor (idle)")], "not withdrawn yet: tor (idle)"),
        (
            [
                condition("Synced", "False", "SpeakerAway", "its socket does not answer"),
                condition("Retired", "False", "Retiring", "the node is being cleaned"),
            ],
            "the node is being cleaned; SpeakerAway: its socket does not answer",
        ),
        ([condition("Synced", "True", "Synced", "")], "its agent has not answered"),
        ([], "its agent has not answered"),
    ],
)
def test_a_node_is_waited_for_until_it_says_that_it_is_clean_and_what_it_waits_for_is_told(
    conditions: list[dict[str, str]], said: str
) -> None:
    assert retirement({"status": {"conditions": conditions, "retired": "one before"}}, "one") == said
    assert retirement({"status": {"conditions": conditions, "retired": "one"}}, "one") == ""


OURS = {"app.kubernetes.io/part-of": "podroute"}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> MemoryApi:
    """An installation of two nodes, of which one is clean already."""
    monkeypatch.setattr("controller.cli.removal.LOOK_SECONDS", 0.01)
    served = MemoryApi()
    for name in ("podroute-agent", "podroute-speaker"):
        served.put(DAEMON_SETS, {"metadata": {"name": name}})
    served.put(DEPLOYMENTS, {"metadata": {"name": "podroute-operator"}, "spec": {"replicas": 1}})
    served.put(collection_of(ClusterNetwork), {"metadata": {"name": "default"}, "spec": {}})
    for name, retired in (("n0", "one"), ("n1", "one before")):
        served.put(collection_of(NodeNetwork), {"metadata": {"name": name}, "status": {"retired": retired}})
    served.put(KINDS, {"metadata": {"name": "clusternetworks.podroute.dev"}, "spec": {"group": "podroute.dev"}})
    served.put(collection_of(IPPool), {"metadata": {"name": "pods", "finalizers": ["podroute.dev/blocks"]}})
    for name, group in (("ippools.podroute.dev", "podroute.dev"), ("others.example.com", "example.com")):
        served.put(KINDS, {"metadata": {"name": name}, "spec": {"group": group}})
    for collection in RIGHTS:
        served.put(collection, {"metadata": {"name": "ours", "labels": OURS, "finalizers": ["podroute.dev/uninstall"]}})
        served.put(collection, {"metadata": {"name": "theirs"}})
    served.put(collection_of(Namespace), {"metadata": {"name": NAMESPACE}})
    return served


def removed(api: MemoryApi, *without: str) -> list[str]:
    """What the removal tells; it gives up soon."""
    told: list[str] = []
    asyncio.run(Removal(cast(Api, api), told.append, 0.1, frozenset(without)).run("one"))
    return told


def deleted(api: MemoryApi) -> list[tuple[str, str]]:
    return [(plural, name) for verb, plural, name in api.requests if verb == "delete"]


def test_nothing_is_removed_before_every_node_is_clean_and_the_one_that_is_not_is_named(api: MemoryApi) -> None:
    with pytest.raises(NotRemoved, match=r"n1 \(its agent has not answered\)"):
        removed(api)
    assert deleted(api) == []
    assert api.objects[DEPLOYMENTS.plural, "podroute-operator"]["spec"]["replicas"] == 0
    assert api.objects["clusternetworks", "default"]["spec"] == {"retiring": "one"}


def test_a_node_that_is_left_out_is_not_waited_for_and_what_is_not_ours_stays(api: MemoryApi) -> None:
    told = removed(api, "n1")
    assert "node n0: clean" in told
    first, second, *rest = deleted(api)
    assert (first[1], second[1]) == ("podroute-speaker", "podroute-agent")
    assert rest == [
        *((collection.plural, "ours") for collection in RIGHTS[:2]),
        (KINDS.plural, "ippools.podroute.dev"),
        (KINDS.plural, "clusternetworks.podroute.dev"),
        *((collection.plural, "ours") for collection in RIGHTS[2:]),
        ("namespaces", NAMESPACE),
    ]
    assert api.objects["ippools", "pods"]["metadata"]["finalizers"] is None


def test_agents_are_kept_until_the_speakers_pods_are_gone(api: MemoryApi) -> None:
    labels = {"app.kubernetes.io/name": "podroute", "app.kubernetes.io/component": "speaker"}
    for node in ("n0", "n1"):
        api.put(PODS, {"metadata": {"name": f"speaker-{node}", "labels": labels}, "spec": {"nodeName": node}})
    with pytest.raises(NotRemoved, match=r"the speakers' pods end: speaker-n0$"):
        removed(api, "n1")
    assert deleted(api) == [(DAEMON_SETS.plural, "podroute-speaker")]
    # On a machine that is gone nobody would say that its pod has ended.
    assert api.asked("delete at once") == ["speaker-n1"]


def test_a_removal_that_was_broken_off_goes_on_under_its_own_name(api: MemoryApi) -> None:
    spec = {"retiring": "one before"}
    api.put(collection_of(ClusterNetwork), {"metadata": {"name": "default"}, "spec": spec})
    with pytest.raises(NotRemoved, match="n0"):
        removed(api)
    removed(api, "n0")
    assert api.objects["clusternetworks", "default"]["spec"] == {"retiring": "one before", "retired": True}


def test_an_operator_that_is_started_again_ends_the_removal_before_an_agent_is_deleted(api: MemoryApi) -> None:
    def taken_back(verb: str, plural: str, name: str) -> None:
        if (verb, name) == ("delete", "podroute-speaker"):
            api.put(collection_of(ClusterNetwork), {"metadata": {"name": "default"}, "spec": {"retiring": ""}})

    api.trouble = taken_back
    with pytest.raises(NotRemoved, match="taken the uninstall back"):
        removed(api, "n1")
    assert deleted(api) == [(DAEMON_SETS.plural, "podroute-speaker")]


def test_nodes_that_can_not_be_told_are_named_and_nothing_is_deleted(api: MemoryApi) -> None:
    del api.objects["clusternetworks", "default"]
    with pytest.raises(NotRemoved, match="ClusterNetwork default is missing, so nodes can't be told: n0, n1"):
        removed(api)
    assert deleted(api) == []


def test_a_server_that_does_not_answer_for_a_moment_is_asked_again(api: MemoryApi) -> None:
    troubles = [errors.Unavailable("list", "timeout")]
    api.trouble = lambda verb, plural, _: troubles.pop() if plural == "nodenetworks" and troubles else None
    assert "node n0: clean" in removed(api, "n1")


def test_an_operator_that_runs_elsewhere_and_renews_its_lease_is_named(
    api: MemoryApi,
) -> None:
    lease: dict[str, Any] = {
        "metadata": {"name": "podroute-operator"},
        "spec": {"holderIdentity": "elsewhere", "leaseDurationSeconds": 0.05},
    }
    api.put(LEASES, lease)
    # Left behind by one that ended without giving it up.
    with pytest.raises(NotRemoved, match="n1"):
        removed(api)
    api.trouble = lambda verb, plural, _: (
        api.put(LEASES, lease) and None if (verb, plural) == ("get", "leases") else None
    )
    with pytest.raises(NotRemoved, match="operator elsewhere renews the Lease"):
        removed(api)


def test_a_removal_that_ended_among_the_kinds_goes_on(api: MemoryApi) -> None:
    del api.objects["clusternetworks", "default"]
    del api.objects[KINDS.plural, "clusternetworks.podroute.dev"]
    removed(api)
    assert (KINDS.plural, "ippools.podroute.dev") in deleted(api)


def test_a_server_that_has_not_heard_yet_that_all_are_clean_is_asked_again(api: MemoryApi) -> None:
    refusals = [errors.Forbidden("delete", "podroute routes pods")]
    api.trouble = lambda verb, plural, _: refusals.pop() if verb == "delete" and refusals else None
    removed(api, "n1")
    assert deleted(api)[0] == (DAEMON_SETS.plural, "podroute-speaker")
