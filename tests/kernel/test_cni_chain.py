"""The plugins chained behind ours, as the CNI project releases them, understand our result and do their part."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from netns_world import Pod, World, in_netns, ip_json, run

from controller.cni.install import CHAINED, supported_versions
from controller.cni.result import Success, rendered_success
from controller.kernel.values import GATEWAY_V4, GATEWAY_V6, mac_addresses
from controller.lab.programs import CNI_PLUGINS, ensure_programs

pytestmark = pytest.mark.root
VERSION = "1.0.0"


@pytest.fixture(scope="module")
def plugins() -> dict[str, Path]:
    """The plugins by name, as a lab has them; built if they are missing."""
    return ensure_programs(CNI_PLUGINS, print)


def our_result(pod: Pod) -> dict[str, Any]:
    attachment = pod.attachment
    host_mac, pod_mac = mac_addresses(attachment.container_id, attachment.interface)
    netns = f"/run/netns/{pod.name}"
    gateways = (GATEWAY_V4, GATEWAY_V6)
    success = Success(pod.host_end, host_mac, "eth0", pod_mac, netns, 1500, attachment.addresses, gateways)
    result: dict[str, Any] = json.loads(rendered_success(success, VERSION))
    return result


def call(plugin: Path, command: str, pod: Pod, runtime: dict[str, Any]) -> dict[str, Any]:
    """Call a chained plugin as a runtime does after ours."""
    configuration = {
        "cniVersion": VERSION,
        "name": "podroute",
        "type": plugin.name,
        "runtimeConfig": runtime,
        "prevResult": our_result(pod),
    }
    environment = {
        "PATH": os.environ["PATH"],
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": pod.attachment.container_id,
        "CNI_NETNS": f"/run/netns/{pod.name}",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(plugin.parent),
    }
    done = subprocess.run(
        [plugin],
        input=json.dumps(configuration),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
    return answer


def test_each_plugin_says_which_versions_it_speaks(plugins: dict[str, Path]) -> None:
    for name in CHAINED:
        assert {"1.0.0", "1.1.0"} <= set(supported_versions(plugins[name]))


def test_bandwidth_finds_the_host_end_and_shapes_it(world: World, plugins: dict[str, Path]) -> None:
    pod = world.pod()
    limits = {"ingressRate": 10_000_000, "ingressBurst": 1_000_000, "egressRate": 10_000_000, "egressBurst": 1_000_000}

    answer = call(plugins["bandwidth"], "ADD", pod, {"bandwidth": limits})
    assert answer["ips"] == our_result(pod)["ips"]
    assert "tbf" in run("tc", "qdisc", "show", "dev", pod.host_end)
    assert world.pod().reaches(pod.v4)
    call(plugins["bandwidth"], "DEL", pod, {"bandwidth": limits})


def test_portmap_forwards_a_port_of_the_node_to_the_pod(world: World, plugins: dict[str, Path]) -> None:
    pod = world.pod()
    ports = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]

    answer = call(plugins["portmap"], "ADD", pod, {"portMappings": ports})
    assert answer["interfaces"] == our_result(pod)["interfaces"]
    server = ["busybox", "nc", "-l", "-p", "80", "-e", "echo", "hello"]
    with in_netns(pod.fd):
        listening = subprocess.Popen(server)
    try:
        with in_netns(world.uplink_fd):
            run("ip", "route", "add", "10.1.0.0/24", "via", "192.0.2.10")
            heard = run("bash", "-c", "for try in {1..50}; do nc -N -w 2 192.0.2.10 8080 </dev/null && break; done")
        assert heard == "hello\n"
    finally:
        listening.kill()
        listening.wait()
    call(plugins["portmap"], "DEL", pod, {"portMappings": ports})
    assert ip_json("link", "show", pod.host_end)
