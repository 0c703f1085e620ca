"""The manifests of operator, agent and speaker: one image, and no right beyond the table here, with its reason beside each."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.lab.images import OWN_IMAGE
from controller.lab.rootfs import ACCOUNTS, PLUGIN, SPEAKER_ID, SPEAKER_USER

ROOT = Path(__file__).resolve().parents[2]
# Each container's capabilities (capabilities(7)); all others are dropped.
CAPABILITIES = {
    "operator": set(),
    # The runtime's folder may be another user's.
    "install-cni": {"DAC_OVERRIDE"},
    # The same; links, routes, rules, conntrack; setns(2) into pods.
    "agent": {"DAC_OVERRIDE", "NET_ADMIN", "SYS_ADMIN"},
    # Give the folder away, become the speaker's user with port 179 and nothing else, end what it started.
    "speaker": {"CHOWN", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"},
}
# Which folders of the node each workload sees.
HOST_PATHS = {
    "podroute-operator": set(),
    "podroute-agent": {"/run/podroute", "/opt/cni/bin", "/etc/cni/net.d", "/proc/sys/net"},
    "podroute-speaker": {"/run/podroute"},
}
# An agent and a speaker stay on any node; the operator leaves one that is dead.
ANYWHERE = [{"operator": "Exists"}]
TOLERATED = {
    "podroute-operator": [
        {"operator": "Exists", "effect": "NoSchedule"},
        {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30},
    ],
    "podroute-agent": ANYWHERE,
    "podroute-speaker": ANYWHERE,
}


def workloads() -> dict[str, dict[str, Any]]:
    """The pods' specs by their workload's name."""
    found = {}
    for name in ("operator", "agent", "speaker"):
        for each in yaml.safe_load_all((ROOT / "manifests" / "base" / f"{name}.yaml").read_text()):
            found[each["metadata"]["name"]] = each
    return found


def containers() -> dict[str, dict[str, Any]]:
    specs = [each["spec"]["template"]["spec"] for each in workloads().values()]
    return {c["name"]: c for spec in specs for c in (*spec["containers"], *spec.get("initContainers", ()))}


def test_every_container_is_in_the_table_of_capabilities() -> None:
    assert containers().keys() == CAPABILITIES.keys()


@pytest.mark.parametrize("name", CAPABILITIES)
def test_a_container_has_the_capabilities_of_the_table_and_can_gain_no_others(name: str) -> None:
    context = containers()[name]["securityContext"]
    assert context["capabilities"]["drop"] == ["ALL"]
    assert set(context["capabilities"].get("add", ())) == CAPABILITIES[name]
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert "privileged" not in context
    assert containers()[name]["image"] == OWN_IMAGE


@pytest.mark.parametrize("name", HOST_PATHS)
def test_a_workload_sees_only_the_folders_of_the_table_and_survives_any_taint(name: str) -> None:
    spec = workloads()[name]["spec"]["template"]["spec"]
    assert {each["hostPath"]["path"] for each in spec["volumes"] if "hostPath" in each} == HOST_PATHS[name]
    assert spec["tolerations"] == TOLERATED[name]
    assert spec["hostNetwork"] is True
    assert "hostPID" not in spec
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


def test_each_workload_is_replaced_in_its_own_way_and_evicted_for_nobody() -> None:
    found = workloads()
    assert {name: each["spec"]["template"]["spec"]["priorityClassName"] for name, each in found.items()} == {
        "podroute-operator": "system-cluster-critical",
        "podroute-agent": "system-node-critical",
        "podroute-speaker": "system-node-critical",
    }
    assert found["podroute-operator"]["spec"]["strategy"] == {"type": "Recreate"}
    assert found["podroute-agent"]["spec"]["updateStrategy"]["type"] == "RollingUpdate"
    assert found["podroute-speaker"]["spec"]["updateStrategy"] == {"type": "OnDelete"}


def test_only_operator_and_agent_have_an_account() -> None:
    specs = {name: each["spec"]["template"]["spec"] for name, each in workloads().items()}
    assert {name: spec.get("serviceAccountName") for name, spec in specs.items()} == {
        "podroute-operator": "podroute-operator",
        "podroute-agent": "podroute-agent",
        "podroute-speaker": None,
    }
    assert specs["podroute-speaker"]["automountServiceAccountToken"] is False


def test_the_dockerfile_makes_what_the_lab_makes() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert f"docker build -t {OWN_IMAGE}" in text
    assert f"/{PLUGIN}" in text
    assert f"--uid {SPEAKER_ID} --gid {SPEAKER_ID}" in text
    assert f"{SPEAKER_USER}:x:{SPEAKER_ID}:{SPEAKER_ID}:" in ACCOUNTS["etc/passwd"]
    assert 'ENTRYPOINT ["/usr/local/bin/podroute"]' in text
    (speaker,) = workloads()["podroute-speaker"]["spec"]["template"]["spec"]["containers"]
    assert speaker["args"] == ["speaker", "--user", SPEAKER_USER]
