"""How the command line reaches a cluster and its nodes: by kubeconfig, or as a lab of this machine.

A lab's API server answers only inside the lab's network: the command then starts itself anew in the control plane's network
namespace, with the lab's kubeconfig. On nodes, commands run inside the node's namespaces (lab) or in the agent's pod (kubectl).
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from controller.cli.output import said
from controller.inspect.gather import NodeUnreachable, RunOnNode
from controller.kube.client import Api, connect
from controller.kube.errors import KubeError
from controller.lab.cluster import Lab
from controller.lab.errors import LabError
from controller.lab.podroute import SOURCES, python
from controller.lab.state import lab_names

T = TypeVar("T")

# Tells the command, started anew, which lab's network it stands in.
_INSIDE = "PODROUTE_INSIDE_LAB"
_NAMESPACE = "podroute-system"
_NODE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that can be asked."""

    kubeconfig: str
    run_on_node: RunOnNode


def cluster(kubeconfig: str, lab: str) -> Cluster:
    """The cluster that is meant; does not return if the command has to start anew inside a lab's network."""
    inside = os.environ.get(_INSIDE, "")
    if inside:
        return Cluster(kubeconfig, lambda node, words: _run_in_lab(_lab(inside), node, words))
    name = lab or _only_lab(kubeconfig)
    if name:
        _restart_inside(_lab(name))
    return Cluster(kubeconfig, _run_in_pod)


def _lab(name: str) -> Lab:
    try:
        return Lab.find(name)
    except LabError as error:
        fail(str(error))


def run(where: Cluster, work: Callable[[Api], Awaitable[T]]) -> T:
    """Does the work with a connection; an error of the API server ends the command with its text and exit code 1."""

    async def connected() -> T:
        async with connect(where.kubeconfig) as api:
            return await work(api)

    try:
        return asyncio.run(connected())
    except KubeError as error:
        fail(str(error))


def fail(text: str, code: int = 1) -> NoReturn:
    """Ends the command with a line on standard error."""
    sys.stderr.write(f"podroute: {text}\n")
    raise SystemExit(code)


def _only_lab(kubeconfig: str) -> str:
    names = lab_names()
    if kubeconfig or os.environ.get("KUBECONFIG") or os.path.exists(os.path.expanduser("~/.kube/config")):
        return ""
    if len(names) > 1:
        said(f"labs {', '.join(names)} run here: choose one with --lab")
    return names[0] if len(names) == 1 else ""


def _restart_inside(lab: Lab) -> NoReturn:
    environment = {**os.environ, _INSIDE: lab.name, "KUBECONFIG": lab.state.kubeconfig}
    words = _without_lab_option(sys.argv[1:])
    argv = ["nsenter", f"--net={lab.netns('cp')}", "--", sys.executable, "-m", "controller.cli.main", *words]
    os.execvpe(argv[0], argv, environment)


def _without_lab_option(words: Sequence[str]) -> list[str]:
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word == "--lab":
            skip = True
        elif not word.startswith("--lab="):
            kept.append(word)
    return kept


def _run_in_lab(lab: Lab, node: str, words: Sequence[str]) -> bytes:
    own = ["env", f"PYTHONPATH={SOURCES}", python(), "-m", "controller.cli.main"]
    argv = [*own, *words[1:]] if words[0] == "podroute" else list(words)
    try:
        return lab.machine(node).run(argv, seconds=_NODE_SECONDS).encode()
    except LabError as error:
        raise NodeUnreachable(str(error)) from error


def _run_in_pod(node: str, words: Sequence[str]) -> bytes:
    """Runs the words in the agent's pod on that node, by kubectl: it knows every way of logging in."""
    selector = [
        "-n",
        _NAMESPACE,
        "--field-selector",
        f"spec.nodeName={node}",
        "-l",
        "app.kubernetes.io/component=agent",
    ]
    pod = _output(["kubectl", "get", "pod", *selector, "-o", "name"], node).decode().strip()
    if not pod:
        raise NodeUnreachable(f"no agent's pod on node {node} in namespace {_NAMESPACE}")
    return _output(["kubectl", "exec", "-n", _NAMESPACE, pod.splitlines()[0], "--", *words], node)


def _output(argv: Sequence[str], node: str) -> bytes:
    try:
        done = subprocess.run(argv, capture_output=True, timeout=_NODE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NodeUnreachable(f"node {node}: {error}") from error
    if done.returncode:
        raise NodeUnreachable(f"node {node}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
