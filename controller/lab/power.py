"""A node's power: off without a word to anybody, and on again as a fresh machine; or a reboot. For tests of what the others then
see.

Called through `Lab.power_off`, `Lab.power_on` and `Lab.reboot`. A node's disk is memory: it comes back as if installed
anew, with its old name, addresses and credentials.
"""

import contextlib
from pathlib import Path

from controller.lab import podroute
from controller.lab.errors import WaitExpired
from controller.lab.execute import run_checked, wait_until
from controller.lab.machine import Machine, ProcessSpec, kill_machine, read_spec, start_machine, wait_for_machine
from controller.lab.network import (
    NAMESPACES,
    Batch,
    apply_batches,
    batches_for_place,
    create_namespaces,
    delete_namespaces,
    routes_for_reference,
)
from controller.lab.node import kube_proxy, kubelet
from controller.lab.state import LabState, lab_folder


def processes_of_node(state: LabState, node: str) -> tuple[ProcessSpec, ...]:
    """What runs on a node beside containerd, once the API server knows the node."""
    programs = {name: Path(path) for name, path in state.programs.items()}
    folder = lab_folder(state.topology.name) / node
    kubernetes = (
        kubelet(node, state.topology, folder, programs["kubelet"]),
        kube_proxy(node, folder, programs["kube-proxy"]),
    )
    if state.cni != "podroute" or not state.processes:
        return kubernetes
    return (*kubernetes, *podroute.processes_on(node, folder, state.programs[podroute.PLUGIN]))


def power_off(state: LabState, node: str) -> None:
    """Cut the node's wire, then end everything on it: no connection is closed, no route withdrawn."""
    _cut_wire(state, node)
    kill_machine(_machine(state, node))
    delete_namespaces([state.topology.namespace(node)])


def reboot(state: LabState, node: str) -> None:
    """End everything on it and start it again: a kernel that goes down closes its connections while there is a wire."""
    kill_machine(_machine(state, node))
    _connections_end(state, node)
    # Its far end goes with it now, not some time after the namespace.
    _cut_wire(state, node)
    power_on(state, node)


def _connections_end(state: LabState, node: str) -> None:
    """Wait until its peers have heard that its connections are closed: a FIN still on its way would go with the wire."""
    netns = NAMESPACES / state.topology.namespace(node)
    unheard = ["nsenter", f"--net={netns}", "--", "ss", "-Htn", "state", "fin-wait-1"]
    # One that has ended itself says nothing, and is waited for no longer than this.
    with contextlib.suppress(WaitExpired):
        wait_until(lambda: not run_checked(unheard).strip(), 1.0, f"peers of {node} hear that it ends")


def _cut_wire(state: LabState, node: str) -> None:
    apply_batches(state.topology, [Batch(node, ("link del eth0",))])


def _machine(state: LabState, node: str) -> Machine:
    return Machine(state.topology.name, node, lab_folder(state.topology.name) / node)


def power_on(state: LabState, node: str) -> None:
    """Wire the node anew and start it; returns when its process 1 answers. A node that is on stays as it is."""
    topology = state.topology
    machine = _machine(state, node)
    if machine.holder() is not None:
        return
    delete_namespaces([topology.namespace(node)])
    create_namespaces(topology, [node])
    apply_batches(topology, batches_for_place(topology, node))
    if state.cni == "reference":
        apply_batches(topology, [batch for batch in routes_for_reference(topology) if batch.place == node])
    start_machine(machine, read_spec(machine), podroute.ROOT)
    wait_for_machine(machine)
    for process in processes_of_node(state, node):
        machine.start(process)
