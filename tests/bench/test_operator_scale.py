"""An operator with 5,000 nodes and 20,000 blocks beside a real API server: what its start, one change, and its rest cost."""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from apiserver_world import World, wait_for
from conftest import ROUNDS
from echo_agents import EchoAgents
from figures import Figures, Row
from test_apiserver_operator import OperatorProcess
from test_upkeep import mebibytes, processor_seconds

from controller.api.objects import GROUP, VERSION
from controller.kube.client import Api, connect
from controller.kube.lease import LeaseTerms
from controller.kube.resources import Collection
from controller.operator.main import Options

pytestmark = [pytest.mark.root, pytest.mark.timeout(3600)]

# A quick look takes a tenth.
NODES = 5000 if ROUNDS >= 30 else 500
BLOCKS_EACH = 4
# Four blocks of 64 addresses for 250 free ones.
POOL = {
    "apiVersion": "podroute.dev/v1alpha1",
    "kind": "IPPool",
    "metadata": {"name": "scale"},
    "spec": {"cidr": "10.32.0.0/11", "headroom": 250},
}
# So many nodes peer with their ToRs: a mesh of them would be of no use.
PEER = {
    "apiVersion": "podroute.dev/v1alpha1",
    "kind": "BGPPeer",
    "metadata": {"name": "tor"},
    "spec": {"address": "10.255.255.1", "asNumber": 65001},
}
AT_ONCE = 32
# The operator lists everything once in this time: a span as long has its part of that.
REST_SECONDS = Options().relist_seconds if ROUNDS >= 30 else 30.0
NODE_KIND = Collection("", "v1", "nodes", "Node")


def node(number: int) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"n{number}"}}


async def add(api: Api, number: int) -> None:
    """A Node, and what its kubelet would say of it."""
    made = await api.create(NODE_KIND, node(number))
    made["status"] = {
        "addresses": [{"type": "InternalIP", "address": f"10.0.{number // 250}.{number % 250 + 1}"}],
        "allocatable": {"pods": "110"},
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    await api.replace(NODE_KIND, made, subresource="status")


def add_nodes(world: World, numbers: range) -> None:
    async def work() -> None:
        gate = asyncio.Semaphore(AT_ONCE)
        async with connect(str(world.kubeconfig)) as api:

            async def one(number: int) -> None:
                async with gate:
                    await add(api, number)

            await asyncio.gather(*map(one, numbers))

    asyncio.run(work())


def counted(world: World, plural: str) -> int:
    """How many objects of a kind of ours there are: the server counts what it leaves out of a page of one."""
    page = json.loads(world.kubectl("get", "--raw", f"/apis/{GROUP}/{VERSION}/{plural}?limit=1"))
    return len(page["items"]) + page["metadata"].get("remainingItemCount", 0)


def metrics(world: World) -> str:
    return world.kubectl("get", "--raw", "/metrics")


def requests(world: World) -> float:
    """Requests so far for what the operator reads and writes."""
    rows = re.findall(r"apiserver_request_total{([^}]*)} (\S+)", metrics(world))
    ours = ('group="podroute.dev"', 'resource="leases"', 'resource="nodes"', 'resource="events"')
    return sum(float(value) for labels, value in rows if any(word in labels for word in ours))


def blocks(world: World, name: str) -> int:
    return len(world.get("nodenetwork", name)["spec"].get("blocks", []))


def started(world: World, name: str) -> OperatorProcess:
    """With a Lease as long as users have it."""
    return OperatorProcess(world, name, f"--lease-seconds={LeaseTerms().duration:g}")


@contextmanager
def timed(into: dict[str, float], name: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    into[name] = time.monotonic() - begun


def serves(world: World, number: int) -> bool:
    """Whether a node that just joined has its blocks, in its NodeNetwork."""
    try:
        return blocks(world, f"n{number}") == BLOCKS_EACH
    except AssertionError:
        return False


def test_an_operator_of_many_nodes_starts_changes_and_rests(figures: Figures) -> None:
    took: dict[str, float] = {}
    with World() as world:
        world.install_crds()
        add_nodes(world, range(NODES))
        world.apply(POOL, PEER)
        with EchoAgents(str(world.kubeconfig)) as agents:
            with timed(took, "first"):
                operator = started(world, "first")
                wait_for(
                    lambda: counted(world, "ipblocks") >= NODES * BLOCKS_EACH and serves(world, NODES - 1),
                    f"{NODES} nodes have {BLOCKS_EACH} blocks each",
                    1800,
                    # Asking takes a third of a second of processor time, which the others need.
                    pause=2.0,
                )
            wait_for(lambda: agents.is_quiet, "every agent has said what it had to say", 600, pause=1.0)
            operator.stop()
            with timed(took, "start"):
                operator = started(world, "second")
                add_nodes(world, range(NODES, NODES + 1))
                wait_for(lambda: serves(world, NODES), "a new node's blocks after a restart", 300)
            wait_for(lambda: agents.is_quiet, "every agent has said what it had to say", 600, pause=1.0)
            with timed(took, "change"):
                add_nodes(world, range(NODES + 1, NODES + 2))
                wait_for(lambda: serves(world, NODES + 1), "a new node's blocks", 60)
            wait_for(lambda: agents.is_quiet, "every agent has said what it had to say", 600, pause=1.0)
            pid = [operator.process.pid]
            asked, used = requests(world), processor_seconds(pid)
            # The measured span itself, not a wait for anything.
            time.sleep(REST_SECONDS)
            asked, used = requests(world) - asked, processor_seconds(pid) - used
            memory = mebibytes(pid, "Rss")
            operator.stop()
    size = f"{NODES} nodes, {NODES * BLOCKS_EACH} blocks"
    figures.add(
        Row("operator at scale", f"{size}: all blocks granted to nodes that had none", took["first"], "s"),
        Row("operator at scale", f"{size}: operator started → a new node has its blocks", took["start"], "s"),
        Row("operator at scale", f"{size}: one node more → it has its blocks", took["change"], "s"),
        Row("operator at scale", f"{size}: memory of the operator (RSS)", memory, "MiB"),
        Row("operator at scale", f"{size}: requests while nothing happens", asked / REST_SECONDS, "a second"),
        Row("operator at scale", f"{size}: idle CPU", 100 * used / REST_SECONDS, "% of a core"),
    )
