"""How a lab is: its machines, nodes, sessions, as data (`lab_status`) and as a picture of its wires (`picture`).

Called by `podroute lab status` and at the end of `podroute lab up`. What cannot be asked is shown as such, never left
out.
"""

import json

import msgspec

from controller.lab.cluster import Lab
from controller.lab.errors import LabError
from controller.lab.topology import NODE_AS, SPINE_AS, Topology


class MachineStatus(msgspec.Struct, frozen=True):
    """One machine: whether it runs, which of its processes are down, and for nodes what Kubernetes says."""

    name: str
    role: str
    addresses: tuple[str, str]
    running: bool
    down: tuple[str, ...] = ()
    ready: bool | None = None
    pods: int | None = None
    sessions: str = ""


class Status(msgspec.Struct, frozen=True):
    """A lab as a whole."""

    name: str
    cni: str
    phase: str
    folder: str
    kubeconfig: str
    machines: tuple[MachineStatus, ...]

    @property
    def good(self) -> bool:
        """Whether every machine and every process that is to run does, and every node is ready."""
        return self.phase == "running" and all(
            each.running and not each.down and each.ready is not False for each in self.machines
        )


def lab_status(lab: Lab) -> Status:
    """Ask everything once."""
    ready, pods = _from_kubernetes(lab)
    machines = tuple(_machine_status(lab, name, ready.get(name), pods.get(name)) for name in lab.topology.machine_names)
    return Status(lab.name, lab.state.cni, lab.state.phase, str(lab.folder), lab.state.kubeconfig, machines)


def _machine_status(lab: Lab, name: str, ready: bool | None, pods: int | None) -> MachineStatus:
    machine = lab.machine(name)
    addresses = lab.topology.addresses(name)
    running, down = machine.holder() is not None, []
    if running:
        try:
            processes = machine.ask({"do": "list"})
            down = [each for each, is_so in processes.items() if is_so["wanted"] and not is_so["pid"]]
        except LabError:
            down = ["process 1 does not answer"]
    is_node = name in lab.topology.node_names
    sessions = _sessions(lab, name) if running and name in lab.topology.router_names else ""
    return MachineStatus(
        name=name,
        role="node" if is_node else _role(lab, name),
        addresses=(addresses.v4, addresses.v6),
        running=running,
        down=tuple(down),
        ready=bool(ready) if is_node else None,
        pods=(pods or 0) if is_node else None,
        sessions=sessions,
    )


def _role(lab: Lab, name: str) -> str:
    if name in lab.topology.router_names:
        return "BIRD" if lab.is_bird(name) else "FRR"
    return {"cp": "control plane", "outside": "outside host"}[name]


def _from_kubernetes(lab: Lab) -> tuple[dict[str, bool], dict[str, int]]:
    """Readiness and running pods by node; empty if the API server does not answer."""
    try:
        nodes, pods = lab.get("nodes")["items"], lab.get("pods", "-A")["items"]
    except (LabError, json.JSONDecodeError):
        return {}, {}
    ready = {
        node["metadata"]["name"]: any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in node.get("status", {}).get("conditions", [])
        )
        for node in nodes
    }
    counts: dict[str, int] = {}
    for pod in pods:
        if pod.get("status", {}).get("phase") == "Running":
            counts[pod["spec"]["nodeName"]] = counts.get(pod["spec"]["nodeName"], 0) + 1
    return ready, counts


def _sessions(lab: Lab, router: str) -> str:
    """`established/configured` BGP sessions of a router."""
    try:
        states = lab.sessions(router).values()
    except (LabError, json.JSONDecodeError) as error:
        return f"unknown: {str(error)[:60]}"
    return f"{sum(state == 'Established' for state in states)}/{len(states)}"


def picture(topology: Topology) -> str:
    """The lab's wires, drawn with lines."""
    if not topology.routed:
        hosts = "  ".join(("outside (gateway .1)", "cp", *topology.node_names))
        return f"rack0  one segment, {topology.rack_subnet(0).networks.v4}\n  └─ {hosts}"
    lines = [f"outside ── spine (BIRD, AS {SPINE_AS}) ── cp"]
    for rack, tor in enumerate(topology.tor_names):
        last = rack == topology.racks - 1
        kind = topology.tor_kind(tor).upper()
        nodes = "  ".join(topology.nodes_in(rack))
        lines.append(f"             {'└' if last else '├'}─ {tor} ({kind}, AS {topology.tor_as(rack)})")
        lines.append(f"             {' ' if last else '│'}   └─ {topology.rack_subnet(rack).networks.v4}: {nodes}")
    return "\n".join((*lines, f"nodes: AS {NODE_AS}"))
