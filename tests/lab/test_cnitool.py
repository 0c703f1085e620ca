"""The plugin as libcni drives it: its own `cnitool` calls every operation, with another plugin chained behind ours."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from workloads import Pod, eventually, pods_on

from controller.lab.cluster import Lab
from controller.lab.programs import CNITOOL, TUNING, ensure_programs

pytestmark = [pytest.mark.lab, pytest.mark.root]

NODE, NETWORK = "n1", "tool"
FOLDER = "/run/cnitool"
SYSCTL = "net.ipv4.conf.eth0.log_martians"
CONFIGURATION = {
    "cniVersion": "1.1.0",
    "name": NETWORK,
    "plugins": [
        {"type": "podroute", "capabilities": {"io.kubernetes.cri.pod-annotations": True}},
        {"type": "tuning", "sysctl": {SYSCTL: "1"}},
    ],
}


@dataclass(frozen=True)
class Tool:
    """cnitool on a node, with a network of its own."""

    lab: Lab

    def __call__(self, command: str, container: str) -> subprocess.CompletedProcess[str]:
        environment = [f"CNI_PATH=/opt/cni/bin:{FOLDER}", f"NETCONFPATH={FOLDER}", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
        argv = ["env", "-i", *environment, f"{FOLDER}/cnitool", command, NETWORK, f"/run/netns/{container}"]
        return subprocess.run(self.lab.node(NODE).enter(argv), capture_output=True, text=True, timeout=90, check=False)

    def succeeds(self, command: str, container: str) -> str:
        done = self(command, container)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def inside(self, container: str, *argv: str) -> str:
        return self.lab.node(NODE).run(["ip", "netns", "exec", container, *argv])

    def addresses(self, container: str) -> set[str]:
        """What the container's interface has; nothing if there is none."""
        links: list[dict[str, Any]] = json.loads(self.inside(container, "ip", "-j", "address") or "[]")
        found = (each for link in links if link["ifname"] == "eth0" for each in link["addr_info"])
        return {each["local"] for each in found if each["scope"] == "global"}


@pytest.fixture(scope="module")
def tool(lab: Lab) -> Iterator[Tool]:
    programs = ensure_programs([CNITOOL, TUNING], print)
    node = lab.node(NODE)
    node.run(["mkdir", "-p", FOLDER])
    for path in programs.values():
        shutil.copy(path, Path(f"/proc/{node.first_process()}/root{FOLDER}"))
    node.run(["sh", "-c", f"cat >{FOLDER}/{NETWORK}.conflist"], json.dumps(CONFIGURATION))
    yield Tool(lab)
    node.run(["rm", "-r", FOLDER])


@pytest.fixture
def containers(lab: Lab, tool: Tool) -> Iterator[list[str]]:
    """Two network namespaces; what a test leaves attached to them is detached."""
    names = ["tool-a", "tool-b"]
    for name in names:
        lab.node(NODE).run(["ip", "netns", "add", name])
    yield names
    for name in names:
        tool("del", name)
        lab.node(NODE).run(["ip", "netns", "del", name])


@pytest.fixture(scope="module")
def pod(lab: Lab) -> Iterator[Pod]:
    """A pod of the kubelet's on the same node."""
    with pods_on(lab, [NODE], "beside-cnitool") as (found,):
        yield found


def test_libcni_adds_checks_and_deletes_and_a_plugin_chained_behind_ours_does_its_part(
    tool: Tool, containers: list[str], pod: Pod
) -> None:
    name = containers[0]
    result = json.loads(tool.succeeds("add", name))
    listed = {entry["address"].partition("/")[0] for entry in result["ips"]}
    assert len(listed) == 2
    assert tool.addresses(name) == listed
    assert tool.inside(name, "sysctl", "-n", SYSCTL).strip() == "1"
    for address in pod.addresses:
        tool.inside(name, "ping", "-c1", "-W2", address)
    tool.succeeds("status", name)
    tool.succeeds("check", name)
    # Inside a pod nobody repairs: CHECK has to see it.
    tool.inside(name, "ip", "route", "del", "default")
    refused = tool("check", name)
    assert refused.returncode != 0
    assert "default" in refused.stdout + refused.stderr
    for _ in range(2):
        tool.succeeds("del", name)
    assert tool.addresses(name) == set()


def test_collecting_one_networks_garbage_ends_its_attachments_and_no_pod_of_the_kubelets(
    tool: Tool, containers: list[str], pod: Pod
) -> None:
    for name in containers:
        tool.succeeds("add", name)
        assert len(tool.addresses(name)) == 2
    # cnitool lists no attachment as valid.
    tool.succeeds("gc", containers[0])
    eventually(lambda: [tool.addresses(name) for name in containers] == [set(), set()], 10, "both are detached")
    for address in pod.addresses:
        tool.lab.netns_exec(NODE, ["ping", "-c1", "-W2", address])
