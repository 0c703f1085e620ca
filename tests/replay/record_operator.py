"""Records what the operator hears of a real API server, for `test_operator_replay.py`: run as root, by hand, after a change of what
the operator writes: `PYTHONPATH=tests/lab:tests python tests/replay/record_operator.py`. Writes tests/replay/operator-events.jsonl.
"""

import json
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from apiserver_world import World, wait_for
from echo_agents import EchoAgents
from refused_inputs import body
from test_apiserver_operator import POOL4, POOL6, OperatorProcess, add_nodes, blocks_of, condition, node, settled

from controller.kube.resources import collection_of
from controller.operator.inventory import WATCHED

RECORDING = Path(__file__).with_name("operator-events.jsonl")
NODES = ("n0", "n1", "n2", "n3")
QUIET_SECONDS = 3.0


class Recorder:
    """Watches every kind that the operator does; `lines` are the events in the order in which they came."""

    def __init__(self, world: World) -> None:
        self.lines: list[str] = []
        self.heard_at = time.monotonic()
        self._lock = threading.Lock()
        for kind in WATCHED:
            collection = collection_of(kind)
            root = f"/apis/{collection.group}" if collection.group else "/api"
            path = f"{root}/{collection.version}/{collection.plural}?watch=1"
            command = [str(world.program("kubectl")), f"--kubeconfig={world.kubeconfig}", "get", "--raw", path]
            watch = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], stdout=subprocess.PIPE, text=True)
            threading.Thread(target=self._read, args=(kind.__name__, watch), daemon=True).start()

    def _read(self, kind: str, watch: "subprocess.Popen[str]") -> None:
        assert watch.stdout is not None
        for line in watch.stdout:
            event = json.loads(line)
            event["object"]["metadata"].pop("managedFields", None)
            self._note({"kind": kind, "type": event["type"], "object": _without_echo(event["object"])})

    def _note(self, event: dict[str, Any]) -> None:
        with self._lock:
            self.heard_at = time.monotonic()
            self.lines.append(json.dumps(event, separators=(",", ":")))

    def is_quiet(self) -> bool:
        return time.monotonic() - self.heard_at > QUIET_SECONDS


def _without_echo(raw: dict[str, Any]) -> dict[str, Any]:
    """Without what kubectl notes of its own input."""
    raw.pop("kind", None)
    raw.pop("apiVersion", None)
    raw["metadata"].pop("annotations", None)
    return raw


def scenario(world: World, agents: EchoAgents) -> None:
    """Nodes come, go and move; pools come, overlap and go, one of them held by a block."""
    racks = {"n0": "r0", "n1": "r0", "n2": "r1", "n3": "r1"}
    add_nodes(world, *(node(name, 11 + i, rack=racks[name]) for i, name in enumerate(NODES)))
    in_rack = {"matchLabels": {"rack": "r0"}}
    peers = {"tor0-v4": "10.10.0.1", "tor0-v6": "fd00:10:10::1"}
    world.apply(POOL4, POOL6)
    world.apply(*(body("BGPPeer", n, nodeSelector=in_rack, address=a, asNumber=65001) for n, a in peers.items()))
    wait_for(lambda: settled(world, NODES, 4), "two blocks of each family on each node")
    world.apply(body("IPPool", "younger", cidr="10.244.9.0/24"))
    wait_for(lambda: condition(world, "ippools", "younger", "Accepted").get("status") == "False", "the younger loses")
    world.kubectl("delete", "node", "n3")
    wait_for(lambda: len(world.get("clusternetwork", "default")["spec"].get("mesh", ())) == 1, "n3 left the mesh")
    add_nodes(world, node("n3", 14, rack="r1"))
    wait_for(lambda: settled(world, NODES, 4), "n3 has its blocks again")
    world.kubectl("label", "node", "n2", "rack=r0", "--overwrite")
    wait_for(lambda: len(world.get("nodenetwork", "n2")["spec"].get("sessions", ())) == 2, "n2 has moved")
    held = next(cidr for cidr in blocks_of(world, "n1", "v4"))
    agents.in_use[held] = 1
    wait_for(lambda: usage_of(world, "n1", held) == 1, "the block is in use")
    world.kubectl("delete", "ippool", "v4", "--wait=false")
    wait_for(lambda: set(blocks_of(world, pool="v4")) == {held}, "one block holds the pool", 40)
    agents.in_use.clear()
    wait_for(lambda: len(blocks_of(world, pool="younger")) == 4, "the younger pool takes over", 40)


def usage_of(world: World, name: str, cidr: str) -> int:
    usage = world.get("nodenetwork", name).get("status", {}).get("usage", ())
    return next((each["inUse"] for each in usage if each["cidr"] == cidr), 0)


def main() -> None:
    with World() as world:
        world.install_crds()
        recorder = Recorder(world)
        operator = OperatorProcess(world, "recorded")
        try:
            with EchoAgents(str(world.kubeconfig)) as agents:
                scenario(world, agents)
                wait_for(recorder.is_quiet, "nothing is written any more", 60)
        finally:
            operator.kill()
        RECORDING.write_text("\n".join(recorder.lines) + "\n")
        print(f"{len(recorder.lines)} events")


if __name__ == "__main__":
    main()
