"""podroute as users install it, by `kubectl apply -k manifests/`: containers with few rights, and what their replacement costs."""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from faults import all_established, undisturbed
from host_state import need_root
from parts import component_pods, stopped
from router_tables import pod_table
from workloads import Pod, eventually, pods_on, processes_in

from controller.lab.cluster import Lab
from controller.lab.errors import LabError
from controller.lab.podroute import NAMESPACE, ROOT
from controller.lab.rootfs import SPEAKER_ID

pytestmark = [pytest.mark.lab, pytest.mark.root]

# Bits of capabilities(7), as in linux/capability.h.
BITS = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "NET_BIND_SERVICE": 10,
    "NET_ADMIN": 12,
    "SYS_ADMIN": 21,
}


@pytest.fixture(scope="module")
def across(installed_lab: Lab) -> Iterator[list[Pod]]:
    """Two pods in different racks."""
    first, *_, last = installed_lab.topology.node_names
    with pods_on(installed_lab, [first, last], "inst") as found:
        yield found


def parts(lab: Lab, component: str) -> list[dict[str, Any]]:
    """The component's pods that are Ready and stay."""
    return [
        pod
        for pod in component_pods(lab, component)
        if any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))
    ]


def statuses(pod: dict[str, Any]) -> list[dict[str, str]]:
    """/proc/PID/status of every process in the pod's containers but the one that holds its namespaces."""
    found: list[dict[str, str]] = []
    for pid in processes_in(pod["metadata"]["uid"]):
        # One that an agent runs for a moment may be gone.
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            found.append(dict(re.split(r":\s*", line, maxsplit=1) for line in lines))
    return [status for status in found if status["Name"] != "pause"]


def on_nodes(lab: Lab, component: str) -> list[str]:
    return sorted(pod["spec"]["nodeName"] for pod in parts(lab, component))


def capabilities(component: str) -> int:
    """What the manifest gives the component's container, as the kernel counts it."""
    (manifest,) = yaml.safe_load_all((ROOT / "manifests" / "base" / f"{component}.yaml").read_text())
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    return sum(1 << BITS[name] for name in container["securityContext"]["capabilities"].get("add", ()))


def test_every_node_has_an_agent_and_a_speaker_and_the_cluster_an_operator(installed_lab: Lab) -> None:
    nodes = list(installed_lab.topology.node_names)
    for component in ("agent", "speaker"):
        eventually(
            lambda c=component: on_nodes(installed_lab, c) == nodes,
            30,
            lambda c=component: f"{on_nodes(installed_lab, c)}",
        )
    eventually(lambda: len(parts(installed_lab, "operator")) == 1, 30, "one operator")
    (operator,) = parts(installed_lab, "operator")
    log = installed_lab.kubectl("logs", "-n", NAMESPACE, operator["metadata"]["name"])
    assert "writes now" in log
    # Where they do, it lists everything every two seconds, and nothing but its log shows it.
    assert "the watches ended" not in log
    assert all_established(installed_lab, installed_lab.topology.tor_names)


def test_operator_and_agents_have_the_manifests_capabilities_and_can_gain_none(installed_lab: Lab) -> None:
    for component, user, count in (("operator", "65534", 1), ("agent", "0", len(installed_lab.topology.node_names))):
        pods = parts(installed_lab, component)
        assert len(pods) == count
        for pod in pods:
            found = statuses(pod)
            assert found
            for status in found:
                assert status["Uid"].split() == [user] * 4
                assert int(status["CapBnd"], 16) == capabilities(component)
                assert status["NoNewPrivs"] == "1"
                assert status["Seccomp"] == "2"


def test_exabgp_and_the_daemon_are_unprivileged_but_for_low_ports(installed_lab: Lab) -> None:
    assert on_nodes(installed_lab, "speaker") == list(installed_lab.topology.node_names)
    for pod in parts(installed_lab, "speaker"):
        by_user: dict[str, list[dict[str, str]]] = {}
        for status in statuses(pod):
            by_user.setdefault(status["Uid"].split()[1], []).append(status)
        assert {user: len(each) for user, each in by_user.items()} == {"0": 1, str(SPEAKER_ID): 2}
        assert {int(status["CapBnd"], 16) for status in by_user["0"]} == {capabilities("speaker")}
        for status in by_user[str(SPEAKER_ID)]:
            for held in ("CapPrm", "CapEff", "CapAmb"):
                assert int(status[held], 16) == 1 << BITS["NET_BIND_SERVICE"], held
            # What the bounding set still has, they can't come by.
            assert status["NoNewPrivs"] == "1"


def test_an_agents_own_token_writes_its_own_nodes_status_and_no_others(installed_lab: Lab, tmp_path: Path) -> None:
    lab, (own, other, *_) = installed_lab, installed_lab.topology.node_names
    (pod,) = (each for each in parts(lab, "agent") if each["spec"]["nodeName"] == own)
    read = "print(open('/var/run/secrets/kubernetes.io/serviceaccount/token').read())"
    token = lab.kubectl("exec", "-n", NAMESPACE, pod["metadata"]["name"], "--", "python3", "-c", read).strip()
    config = yaml.safe_load(Path(lab.state.kubeconfig).read_text())
    config["users"] = [{"name": each["name"], "user": {"token": token}} for each in config["users"]]
    path = tmp_path / "agent.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    path.chmod(0o600)

    def write(node: str) -> str:
        """What the API server says against it."""
        update = ("replace", "--subresource=status", "-f", "-")
        try:
            lab.kubectl(f"--kubeconfig={path}", *update, text=json.dumps(lab.get("nodenetwork", node)))
        except LabError as error:
            return str(error)
        return ""

    # The agent itself may write between the two requests.
    eventually(lambda: not write(own), 10, lambda: write(own))
    eventually(lambda: "the NodeNetwork of its own node only" in write(other), 10, lambda: write(other))
    assert write(other)


def test_replacing_every_agent_costs_running_pods_nothing(installed_lab: Lab, across: list[Pod]) -> None:
    before = {pod["metadata"]["uid"] for pod in parts(installed_lab, "agent")}
    with undisturbed(installed_lab, across):
        installed_lab.kubectl("rollout", "restart", "-n", NAMESPACE, "daemonset/podroute-agent")
        installed_lab.kubectl("rollout", "status", "-n", NAMESPACE, "daemonset/podroute-agent", "--timeout=90s")
    after = {pod["metadata"]["uid"] for pod in parts(installed_lab, "agent")}
    assert len(after) == len(before)
    assert after.isdisjoint(before)


def test_replacing_a_speaker_costs_running_pods_nothing(installed_lab: Lab, across: list[Pod]) -> None:
    node = across[0].node
    (old,) = (pod for pod in parts(installed_lab, "speaker") if pod["spec"]["nodeName"] == node)
    with undisturbed(installed_lab, across, restarting=[node]):
        installed_lab.kubectl("delete", "pod", "-n", NAMESPACE, old["metadata"]["name"])

    def replaced() -> bool:
        there = [pod["metadata"]["uid"] for pod in parts(installed_lab, "speaker") if pod["spec"]["nodeName"] == node]
        return len(there) == 1 and there != [old["metadata"]["uid"]]

    eventually(replaced, 20, f"another speaker's pod on {node}")


def test_a_pod_starts_while_the_operator_is_replaced(installed_lab: Lab) -> None:
    lab = installed_lab
    (old,) = parts(lab, "operator")
    lab.kubectl("delete", "pod", "-n", NAMESPACE, old["metadata"]["name"], "--wait=false")
    with pods_on(lab, [lab.topology.node_names[1]], "meanwhile") as (pod,):
        assert len(pod.addresses) == 2
    eventually(
        lambda: [p for p in parts(lab, "operator") if p["metadata"]["uid"] != old["metadata"]["uid"]], 60, "another"
    )


def test_the_readmes_installation_works_word_for_word_on_a_bare_cluster() -> None:
    need_root()
    (block,) = re.findall(r"## Install\n(?:(?!    ).*\n)*((?:    .*\n)+)", (ROOT / "README.md").read_text())
    commands = [line.strip() for line in block.splitlines()]
    assert commands[0] == "kubectl apply -k manifests/"
    lab = Lab.up(f"v{os.getpid()}", nodes=2, racks=2, bare=True)
    try:
        assert lab.get("customresourcedefinitions")["items"] == []
        for command in commands:
            shell = [str(Path(sys.executable).with_name("podroute")), "lab", "shell", "--name", lab.name, "cp", "--"]
            done = subprocess.run([*shell, "sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}: {done.stderr}"
        eventually(
            lambda: all(pod_table(lab, tor, f) for tor in lab.topology.tor_names for f in (4, 6)),
            30,
            "blocks at the ToRs",
        )
        with pods_on(lab, list(lab.topology.node_names), "first") as (one, other):
            for address in other.addresses:
                subprocess.run([*one.place.enter, "ping", "-c1", "-W2", address], check=True, capture_output=True)
    finally:
        lab.down()


def test_check_asks_the_agents_pods_and_finds_what_is_planted(installed_lab: Lab) -> None:
    lab, node, prefix = installed_lab, installed_lab.topology.node_names[0], "10.244.250.2/32"
    eventually(lambda: findings_by_kubectl(lab) == [], 30, lambda: f"{findings_by_kubectl(lab)}")
    (pod,) = (each for each in parts(lab, "agent") if each["spec"]["nodeName"] == node)
    # Otherwise it would be repaired within a second.
    with stopped(*(int(status["Pid"]) for status in statuses(pod))):
        lab.netns_exec(node, ["ip", "route", "add", prefix, "dev", "lo", "proto", "179", "metric", "179"])
        wanted = ("RouteSurplus", f"node {node}, route {prefix}")
        eventually(
            lambda: wanted in {(each["kind"], each["object"]) for each in findings_by_kubectl(lab)}, 20, f"{wanted}"
        )
    eventually(lambda: findings_by_kubectl(lab) == [], 30, "the agent has repaired it")


def findings_by_kubectl(lab: Lab) -> list[dict[str, str]]:
    """What `podroute check` finds in any cluster: by the administrator's kubeconfig, with kubectl exec into the agents' pods."""
    argv = [
        "nsenter",
        f"--net={lab.netns('cp')}",
        "--",
        sys.executable,
        "-m",
        "controller.cli.main",
        "check",
        "-o",
        "json",
    ]
    environment = {**os.environ, **lab.environment("cp")}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, 1), done.stderr
    return list(json.loads(done.stdout))
