"""The operator as a process, against a real API server, with Nodes that are objects only and agents that only answer."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from apiserver_world import World, wait_for
from echo_agents import EchoAgents

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

POOL4 = {
    "apiVersion": "podroute.dev/v1alpha1",
    "kind": "IPPool",
    "metadata": {"name": "v4"},
    "spec": {"cidr": "10.244.0.0/16"},
}
POOL6 = {**POOL4, "metadata": {"name": "v6"}, "spec": {"cidr": "fd00:10:244::/56"}}


def node(name: str, number: int, **labels: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "number": number}


def add_nodes(
    world: World, *nodes: dict[str, Any], families: tuple[str, ...] = ("ipv4", "ipv6"), pods: int = 110
) -> None:
    for each in nodes:
        number = each.pop("number")
        world.apply(each)
        addresses = [f"10.10.0.{number}"] * ("ipv4" in families) + [f"fd00:10:10::{number}"] * ("ipv6" in families)
        status = {
            "addresses": [{"type": "InternalIP", "address": address} for address in addresses],
            "allocatable": {"pods": str(pods)},
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        import json

        world.kubectl(
            "patch",
            "node",
            each["metadata"]["name"],
            "--subresource=status",
            "--type=merge",
            "-p",
            json.dumps({"status": status}),
        )


class OperatorProcess:
    def __init__(self, world: World, name: str, *arguments: str) -> None:
        self.log = world.folder / f"{name}.log"
        command = [sys.executable, "-m", "controller.cli.main", "operator", f"--kubeconfig={world.kubeconfig}"]
        command += [f"--identity={name}", "--namespace=default", "--lease-seconds=3", "--log-level=info", *arguments]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], stdout=log, stderr=log)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


Start = Callable[..., OperatorProcess]


@pytest.fixture
def start(world: World) -> Iterator[Start]:
    started: list[OperatorProcess] = []

    def start_one(name: str = "one", *arguments: str) -> OperatorProcess:
        started.append(OperatorProcess(world, name, *arguments))
        return started[-1]

    yield start_one
    for each in started:
        each.kill()
        print(f"--- {each.log.name}\n{each.log.read_text()[-3000:]}")
        assert "Traceback" not in each.log.read_text()


@pytest.fixture
def agents(world: World) -> Iterator[EchoAgents]:
    with EchoAgents(str(world.kubeconfig)) as agents:
        yield agents


def blocks_of(world: World, node: str = "", pool: str = "") -> dict[str, dict[str, Any]]:
    specs = (item["spec"] | {"uid": item["metadata"]["uid"]} for item in world.items("ipblocks"))
    return {s["cidr"]: s for s in specs if node in ("", s["node"]["name"]) and pool in ("", s["pool"])}


def granted(world: World, node: str) -> dict[str, dict[str, Any]]:
    """What the node's NodeNetwork lists; empty if there is none."""
    for item in world.items("nodenetworks"):
        if item["metadata"]["name"] == node:
            return {grant["cidr"]: grant for grant in item["spec"].get("blocks", ())}
    return {}


def condition(world: World, plural: str, name: str, type_: str) -> dict[str, Any]:
    conditions = world.get(plural, name).get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == type_), {})


def settled(world: World, nodes: tuple[str, ...], per_node: int) -> bool:
    """Every node's NodeNetwork lists exactly its IPBlocks, `per_node` of them."""
    return all(
        len(granted(world, n)) == per_node
        and {c: g["uid"] for c, g in granted(world, n).items()} == {c: s["uid"] for c, s in blocks_of(world, n).items()}
        for n in nodes
    )


def test_one_pool_of_each_family_gives_every_node_blocks(world: World, start: Start, agents: EchoAgents) -> None:
    add_nodes(world, *(node(f"n{i}", 11 + i) for i in range(4)))
    start()
    world.apply(POOL4, POOL6)
    wait_for(lambda: settled(world, ("n0", "n1", "n2", "n3"), 4), "two blocks of each family on each node")
    assert len(blocks_of(world)) == 16
    assert condition(world, "ippools", "v4", "Accepted")["status"] == "True"
    cluster = world.get("clusternetwork", "default")["spec"]
    assert [p["cidr"] for p in cluster["pools"]] == ["10.244.0.0/16", "fd00:10:244::/56"]
    assert [m["node"] for m in cluster["mesh"]] == ["n0", "n1", "n2", "n3"]
    assert world.get("nodenetwork", "n0")["spec"]["addresses"] == ["10.10.0.11", "fd00:10:10::11"]
