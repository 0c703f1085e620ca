"""`podroute agent`: the node process. Puts the tasks together; the tasks are in the modules beside this one.

Every task has this module as its parent: if one ends unexpectedly, the agent ends, and a restart is harmless, since everything it
knows is in the kernel, in /run and at the API server.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bgp.speaker.client import SpeakerClient
from bgp.speaker.paths import DEFAULT_SOCKET, STORE_NAME
from controller.agent import health, installation, node_socket
from controller.agent.attach import Attachments
from controller.agent.files import RunFolder
from controller.agent.keeper import Keeper
from controller.agent.pods import PodEffects
from controller.agent.reconciler import Reconciler
from controller.agent.reporter import Reporter
from controller.agent.speaker import Speaking
from controller.agent.state import State
from controller.agent.watcher import watch_kernel
from controller.api.reasons import Reason
from controller.cni import server as cni_server
from controller.cni.install import uninstall
from controller.cni.protocol import RUN_DIRECTORY
from controller.kube.client import connect
from controller.kube.errors import KubeError

log = logging.getLogger(__name__)

# Python's own choice is 5 ms.
SWITCH_SECONDS = 0.0005


@dataclass(frozen=True, slots=True)
class Options:
    """What `podroute agent` was told."""

    node: str
    kubeconfig: str
    namespace: str
    run_dir: Path
    speaker_socket: str
    cni_bin_dir: Path
    cni_conf_dir: Path
    shim: Path | None
    resync: float | None
    health: str

    @property
    def places(self) -> installation.Places:
        """Where the plugin is installed."""
        return installation.Places(self.cni_bin_dir, self.cni_conf_dir, self.shim)


def parsed(arguments: Sequence[str]) -> Options:
    """The options; exits with 2 and a message that names the option if one is wrong."""
    parser = argparse.ArgumentParser(
        prog="podroute agent",
        description="Wires this node's pods, programs its routes and drives its speaker. Runs on every node as root, in "
        "the node's network namespace. It keeps nothing outside the kernel and its run folder: restarting it disturbs no traffic.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--node", default=os.environ.get("NODE_NAME", os.uname().nodename), help="this Node's name")
    add("--kubeconfig", default="", help="absent: KUBECONFIG, then the pod's service account")
    add("--namespace", default="podroute-system", help="podroute's own namespace: Secrets are read there")
    add("--run-dir", type=Path, default=Path(RUN_DIRECTORY), help="sockets and what outlives a restart")
    add("--speaker-socket", default=DEFAULT_SOCKET, help="where the speaker answers")
    add("--cni-bin-dir", type=Path, default=Path("/opt/cni/bin"), help="where the plugin is installed")
    add("--cni-conf-dir", type=Path, default=Path("/etc/cni/net.d"), help="where the runtime finds the network")
    add("--shim", type=Path, default=None, help="the static CNI plugin; absent: its Python twin is installed")
    add("--resync", type=float, default=60.0, help="seconds between full comparisons with the kernel; 0: never")
    add("--health", default="127.0.0.1:9479", help="address and port of /healthz, /readyz and /metrics; '' for none")
    given = parser.parse_args(list(arguments))
    if given.resync < 0:
        parser.error(f"--resync {given.resync}: give seconds, or 0 for never")
    if given.health and not given.health.rpartition(":")[2].isdigit():
        parser.error(f"--health {given.health}: give ADDRESS:PORT, or '' for none")
    return Options(**{**vars(given), "resync": given.resync or None})


def main(arguments: Sequence[str]) -> int:
    """Runs the agent until SIGTERM or SIGINT: 0. A task that failed: 1, with its error in the log."""
    options = parsed(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    # A line for every request says nothing that a condition or a metric does not.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    # So long does a thread that returns from the kernel wait for one that computes; every pod has several such turns.
    sys.setswitchinterval(SWITCH_SECONDS)
    failed = False
    try:
        asyncio.run(_run(options))
    except* KubeError as errors:
        failed = True
        for error in errors.exceptions:
            log.error("%s", error)
    return int(failed)


async def _run(options: Options) -> None:
    loop = asyncio.get_running_loop()
    main_task = asyncio.current_task()
    assert main_task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, main_task.cancel)
    store = Path(options.speaker_socket).with_name(STORE_NAME)
    state = State(options.node, RunFolder(options.run_dir), time.monotonic, speaker_store=store)
    effects = PodEffects(state)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await _tasks(options, state, effects)
    finally:
        effects.close()
    if is_leaving(state):
        uninstall(options.cni_bin_dir, options.cni_conf_dir)
        remove_traces(state.folder, Path(options.speaker_socket))


def is_leaving(state: State) -> bool:
    """Whether the agent was asked to end as the last step of an uninstall: all is withdrawn, or there never was anything to do."""
    if not state.is_retiring:
        return False
    if state.done is not None:
        return state.done.retirement is Reason.RETIRED
    # Ended before its first pass. What /run notes of withdrawals that are owed must stay.
    return state.snapshot.retired or state.snapshot.node is None


def remove_traces(folder: RunFolder, speaker_socket: Path) -> None:
    """The end of an uninstall: no file stays on the node, of the speaker neither once it is gone."""
    folder.remove()
    with socket.socket(socket.AF_UNIX) as connection:
        if connection.connect_ex(str(speaker_socket)) != 0:
            shutil.rmtree(speaker_socket.parent, ignore_errors=True)


async def _tasks(options: Options, state: State, effects: PodEffects) -> None:
    speaking = Speaking(state, SpeakerClient(options.speaker_socket))
    attachments = Attachments(state, effects)
    state.snapshot = state.folder.load_snapshot()
    await effects.adopt()
    async with connect(options.kubeconfig, namespace=options.namespace) as api, asyncio.TaskGroup() as tasks:
        keeper = Keeper(state, api)
        reconciler = Reconciler(state, speaking, options.resync)
        reporter = Reporter(state, keeper.write_status, (KubeError,))
        work = {
            "cni": cni_server.serve(state.folder.cni_socket, attachments.handle),
            "node": node_socket.serve(state),
            "reconcile": reconciler.run(),
            "watch": watch_kernel(state),
            "say": speaking.say(),
            "listen": speaking.listen(),
            "keep": keeper.run(),
            "report": reporter.run(),
            "sweep": effects.sweep(),
            "install": installation.keep_installed(state, options.places),
            "health": health.serve(state, options.health),
        }
        for name, coroutine in work.items():
            tasks.create_task(coroutine, name=name)
        state.reconcile.ring()
