"""podroute in the lab, as supervised processes: operator beside the control plane, agent and speaker on every node.

`processes_on` is pure; `install` applies the manifests of the tree and makes a kubeconfig for each process that needs
one. Called by `bringup` when the lab's CNI is podroute. The processes run from the tree itself, mounted
read-only at SOURCES: after a change of code it is enough to kill one.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import controller
from controller.lab.execute import wait_until
from controller.lab.machine import Machine, ProcessSpec
from controller.lab.topology import Topology

ROOT = Path(controller.__file__).resolve().parents[1]
SOURCES = "/opt/podroute"
NAMESPACE = "podroute-system"
# Applied before the processes start; the examples after, when somebody answers for them.
BEFORE = ("manifests/crds", "manifests/rbac")
QUICKSTART = ("examples/quickstart",)
TOR_PEERING = ("examples/tor-peering",)
ACCOUNTS = {"operator": "podroute-operator", "agent": "podroute-agent"}
CREDENTIAL_LIFE = "24h"
KNOWN_LIMIT_S = 20.0
Kubectl = Callable[..., str]


def processes_on(machine: str, folder: Path) -> tuple[ProcessSpec, ...]:
    """What of podroute runs on `cp` or a node; `folder` is the machine's, and they wait for their kubeconfig in it."""
    name = "operator" if machine == "cp" else "agent"
    config = kubeconfig_path(folder, name)
    if machine == "cp":
        return (_process(name, str(config), "--kubeconfig", str(config)),)
    return (_process("speaker"), _process(name, str(config), "--node", machine, "--kubeconfig", str(config)))


def kubeconfig_path(folder: Path, process: str) -> Path:
    """Where a process's kubeconfig is, on the host and inside."""
    return folder / f"podroute-{process}.kubeconfig"


def python() -> str:
    """The interpreter that has podroute's dependencies, as a machine of the lab sees it."""
    return f"{SOURCES}/.venv/bin/python" if (ROOT / ".venv" / "bin" / "python").exists() else sys.executable


def _process(name: str, wait_for: str = "", *arguments: str) -> ProcessSpec:
    environment = {"PYTHONPATH": SOURCES, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    argv = (python(), "-m", "controller.cli.main", name, *arguments)
    return ProcessSpec(name=name, argv=argv, env=environment, folder=SOURCES, wait_for=wait_for)


def missing_manifests(root: Path = ROOT) -> list[str]:
    """The manifest folders without which podroute cannot start."""
    return [name for name in BEFORE if not any((root / name).glob("*.yaml"))]


def apply_manifests(kubectl: Kubectl, names: Sequence[str], root: Path = ROOT) -> None:
    """Apply folders of the tree, in order; tried again for a while, since a new kind is not served at once."""
    for name in names:
        folder = root / name
        how = "-k" if (folder / "kustomization.yaml").exists() else "-f"
        apply = partial(kubectl, "apply", how, str(folder))
        wait_until(apply, KNOWN_LIMIT_S, f"{name} is applied", every=0.3)


def install(
    kubectl: Kubectl, topology: Topology, machine: Callable[[str], Machine], write: Callable[[Path, str], None]
) -> None:
    """Apply definitions and roles, hand out credentials, start the processes. `write` makes a kubeconfig from a token."""
    if not kubectl("get", "namespace", NAMESPACE, "--ignore-not-found", "-o", "name"):
        kubectl("create", "namespace", NAMESPACE)
    apply_manifests(kubectl, BEFORE)
    for name in ("cp", *topology.node_names):
        folder = machine(name).folder
        process = "operator" if name == "cp" else "agent"
        bound = () if name == "cp" else ("--bound-object-kind", "Node", "--bound-object-name", name)
        token = kubectl("create", "token", ACCOUNTS[process], "-n", NAMESPACE, "--duration", CREDENTIAL_LIFE, *bound)
        write(kubeconfig_path(folder, process), token.strip())
    for spec in processes_on("cp", machine("cp").folder):
        machine("cp").start(spec)


def examples_for(topology: Topology) -> tuple[str, ...]:
    """The examples that make this lab's pods reachable: the pool, and with ToRs the peering."""
    return (*QUICKSTART, *TOR_PEERING) if topology.routed else QUICKSTART
