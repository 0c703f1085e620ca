"""podroute in the lab, as supervised processes: operator beside the control plane, agent and speaker on every node.

`processes_on` and `network_objects` only say what is to be; `install` applies the manifests of the tree and makes a
kubeconfig for each process that needs one. Called by `bringup` when the lab's
CNI is podroute. The processes run from the tree itself, mounted read-only at SOURCES: after a change of code it is
enough to kill one.
"""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from controller.lab import rootfs
from controller.lab.machine import Machine, ProcessSpec
from controller.lab.node import RACK_LABEL
from controller.lab.programs import cache_folder
from controller.lab.topology import Topology

ROOT = rootfs.ROOT
SOURCES = "/opt/podroute"
NAMESPACE = "podroute-system"
MANIFESTS = "manifests/overlays/lab"
KINDS = "manifests/crds"
# Accounts with their rights, and policies.
RIGHTS = ("manifests/base/rbac.yaml", "manifests/base/admission.yaml")
ROUTED_POOLS = "examples/quickstart/pools.yaml"
FLAT_NETWORK = "examples/node-mesh"
ACCOUNTS = {"operator": "podroute-operator", "agent": "podroute-agent"}
CREDENTIAL_LIFE = "24h"
AT_ONCE = 4
PLUGIN = "podroute-cni"
Kubectl = Callable[..., str]


def processes_on(machine: str, folder: Path, plugin: str) -> tuple[ProcessSpec, ...]:
    """What of podroute runs on `cp` or a node.

    `folder` is the machine's, and they wait for their kubeconfig in it; `plugin` is the compiled CNI plugin.
    """
    name = "operator" if machine == "cp" else "agent"
    config = str(kubeconfig_path(folder, name))
    if machine == "cp":
        return (_process(name, config, "--kubeconfig", config),)
    agent = _process(name, config, "--node", machine, "--kubeconfig", config, "--shim", plugin)
    return (_process("speaker"), agent)


def ensure_plugin() -> Path:
    """The compiled CNI plugin, in the cache. Raises LabError."""
    return rootfs.compiled_plugin(cache_folder() / "programs")


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


def new_token(kubectl: Kubectl, machine: str) -> str:
    """A credential for the machine's operator or agent. An agent's is bound to its Node and ends with it, as a pod's does."""
    process = "operator" if machine == "cp" else "agent"
    bound = () if machine == "cp" else ("--bound-object-kind", "Node", "--bound-object-name", machine)
    return kubectl("create", "token", ACCOUNTS[process], "-n", NAMESPACE, "--duration", CREDENTIAL_LIFE, *bound).strip()


def install(
    kubectl: Kubectl, topology: Topology, machine: Callable[[str], Machine], write: Callable[[Path, str], None]
) -> None:
    """Apply kinds, rights and policies, hand out credentials, start the operator; the agents start with their nodes.

    `write` makes a kubeconfig from a token.
    """
    kubectl("apply", "-k", str(ROOT / KINDS))
    kubectl("apply", *(f"--filename={ROOT / part}" for part in RIGHTS))

    def hand_out(name: str) -> None:
        process = "operator" if name == "cp" else "agent"
        write(kubeconfig_path(machine(name).folder, process), new_token(kubectl, name))

    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(hand_out, ("cp", *topology.node_names)))
    for spec in processes_on("cp", machine("cp").folder, ""):
        machine("cp").start(spec)


def network_objects(topology: Topology) -> list[dict[str, object]]:
    """Pools, and peering with the ToRs this lab has; in a single segment the node mesh."""
    if topology.routed:
        return [*_objects(ROOT / ROUTED_POOLS), *peers_for(topology)]
    return [each for path in sorted((ROOT / FLAT_NETWORK).glob("*.yaml")) for each in _objects(path)]


def peers_for(topology: Topology) -> list[dict[str, object]]:
    """A BGPPeer for each rack and family, as examples/quickstart has them for two racks."""
    return [
        {
            "apiVersion": "podroute.dev/v1alpha1",
            "kind": "BGPPeer",
            "metadata": {"name": f"rack{rack}-tor-{family}"},
            "spec": {
                "nodeSelector": {"matchLabels": {RACK_LABEL: f"r{rack}"}},
                "address": address,
                "asNumber": topology.tor_as(rack),
                "allowOwnAS": True,
            },
        }
        for rack in range(topology.racks)
        for family, address in zip(("v4", "v6"), topology.gateway(rack), strict=True)
    ]


def _objects(path: Path) -> list[dict[str, object]]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]
