"""Bringing a lab up: packages, programs, images, wires, control plane, nodes. Called by `Lab.up`.

A second run of a lab that runs changes nothing. A start that fails, or is interrupted, is undone, unless it is asked to
be kept.
"""

import base64
import json
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
import yaml

from controller.lab import podroute
from controller.lab import programs as lab_programs
from controller.lab.controlplane import ControlPlaneFiles, api_server, control_plane_machine, kubeconfig, tokens_csv
from controller.lab.errors import LabError, Refusal
from controller.lab.execute import run_checked, wait_until
from controller.lab.images import ensure_images
from controller.lab.machine import Machine, MachineSpec, start_machine, wait_for_machine
from controller.lab.network import NAMESPACES, apply_batches, batches_for, create_namespaces, routes_for_reference
from controller.lab.node import node_machine, node_object
from controller.lab.packages import ensure_packages
from controller.lab.power import processes_of_node
from controller.lab.routers import router_machine
from controller.lab.seed import ensure_seed
from controller.lab.state import Cni, LabState, exclusive, lab_folder, read_state, write_state
from controller.lab.teardown import require_root, undo
from controller.lab.topology import Topology, make_topology

READY_LIMIT_S = 90.0
KINDS_LIMIT_S = 20.0
INOTIFY_LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")
# Measured: five for a kubelet, one for containerd; two for a control plane, and some for others on the host.
INOTIFY_PER_NODE = 6
INOTIFY_BESIDE = 12
COREDNS = Path(__file__).with_name("coredns.yaml")
Report = Callable[[str], None]


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What `up` was asked for. `containerd` is "1" (the distribution's) or "2" (built); `keep` leaves a failed start
    for inspection. `processes`: operator, agents and speakers as supervised processes that run from the tree, instead of by the
    manifests on the nodes' kubelets. `bare`: the image is on the nodes, and nothing of podroute applied (with `processes`: no pool
    and no peer).
    """

    name: str = "lab"
    nodes: int = 4
    racks: int = 2
    tors: tuple[str, ...] = ("frr", "bird")
    cni: Cni = "podroute"
    containerd: str = "1"
    bare: bool = False
    processes: bool = False
    keep: bool = False


def bring_up(wanted: Wanted, report: Report) -> LabState:
    """Give the running lab that was wanted, starting it if need be."""
    topology = make_topology(wanted.name, wanted.nodes, wanted.racks, wanted.tors)
    require_root()
    with exclusive(wanted.name):
        known = read_state(wanted.name)
        if known and _is_as_wanted(known, wanted, topology):
            return known
        check_host(topology, int(INOTIFY_LIMIT.read_text()))
        ensure_packages(report)
        programs = lab_programs.ensure_programs(programs_for(wanted), report)
        has_image = wanted.bare or (wanted.cni == "podroute" and not wanted.processes)
        seed = ensure_seed(programs, ensure_images(programs, report, own=has_image), report)
        if wanted.cni == "podroute" and wanted.processes:
            programs |= {podroute.PLUGIN: podroute.ensure_plugin()}
        return _started(_Start(wanted, topology, programs, seed, report))


def _started(start: "_Start") -> LabState:
    """Run a start; undo it if it fails or is interrupted, unless it is to be kept."""
    try:
        return start.run()
    except BaseException:
        if not start.wanted.keep:
            start.report(f"the start did not succeed: removing lab {start.wanted.name}")
            with _uninterrupted():
                undo(start.wanted.name)
        raise


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A second Ctrl-C must not leave half of what the first one is removing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_host(topology: Topology, inotify_limit: int) -> None:
    """Raise LabError if this host lets too few files be watched: kubelets would fail one after the other, each in its
    own way.
    """
    needed = INOTIFY_PER_NODE * topology.nodes + INOTIFY_BESIDE
    if needed > inotify_limit:
        remedy = f"sysctl -w fs.inotify.max_user_instances={2 * needed}"
        message = f"nodes {topology.nodes}: they need {needed} inotify instances, and this host allows {inotify_limit}; {remedy}"
        raise LabError(Refusal.HOST_LIMIT, message)


def programs_for(wanted: Wanted) -> list[lab_programs.Program]:
    """The programs that a lab needs."""
    runtime = lab_programs.CONTAINERD_2 if wanted.containerd == "2" else ()
    return [*lab_programs.CLUSTER, lab_programs.PAUSE, *lab_programs.CNI_PLUGINS, *runtime]


def kubectl_command(state: LabState) -> list[str]:
    """kubectl as administrator, in the control plane's network; its cache stays in the lab's folder."""
    folder = lab_folder(state.topology.name)
    namespace = NAMESPACES / state.topology.namespace("cp")
    return [
        *("nsenter", f"--net={namespace}", "--", state.programs["kubectl"]),
        *(f"--kubeconfig={state.kubeconfig}", f"--cache-dir={folder}/cp/kubectl-cache"),
    ]


def _is_as_wanted(known: LabState, wanted: Wanted, topology: Topology) -> bool:
    """True if the lab runs as wanted; LabError if a lab of that name runs otherwise, or never came up."""
    name = wanted.name
    remedy = f"remove it first with: podroute lab down --name {name}"
    if known.phase != "running":
        raise LabError(Refusal.NAME_TAKEN, f"lab {name} was started but did not come up; {remedy}")
    runs = known.topology, known.cni, known.containerd, known.processes
    if runs != (topology, wanted.cni, wanted.containerd, wanted.processes):
        raise LabError(Refusal.NAME_TAKEN, f"lab {name} runs with another shape; choose another --name, or {remedy}")
    dead = [each for each in topology.machine_names if Machine(name, each, lab_folder(name) / each).holder() is None]
    if dead:
        raise LabError(Refusal.PROCESS_ENDED, f"lab {name}: {', '.join(dead)} no longer run; {remedy}")
    return True


class _Start:
    """One start, step by step; holds what the steps share."""

    def __init__(
        self, wanted: Wanted, topology: Topology, programs: Mapping[str, Path], seed: Path, report: Report
    ) -> None:
        self.wanted, self.topology, self.programs, self.seed, self.report = wanted, topology, programs, seed, report
        self.folder = lab_folder(wanted.name)
        self.files = ControlPlaneFiles(self.folder / "cp")
        self.sources = ((str(podroute.ROOT), podroute.SOURCES),)
        self.state = LabState(
            topology=topology,
            cni=wanted.cni,
            containerd=wanted.containerd,
            phase="starting",
            created=time.time(),
            programs={name: str(path) for name, path in programs.items()},
            namespaces={place: topology.namespace(place) for place in topology.namespace_places},
            folders={name: str(self.folder / name) for name in topology.machine_names},
            kubeconfig=str(self.files.kubeconfig("admin")),
            processes=wanted.processes,
        )

    def run(self) -> LabState:
        """Start everything that can start at once, then what must wait for the API server."""
        write_state(self.state)
        self.report("wiring namespaces, racks and routers")
        create_namespaces(self.topology, self.topology.namespace_places)
        apply_batches(self.topology, batches_for(self.topology))
        if self.wanted.cni == "reference":
            apply_batches(self.topology, routes_for_reference(self.topology))
        tokens = self._write_credentials()
        self.report("starting control plane, routers and nodes")
        self._start_machines()
        self._write_kubeconfigs(tokens)
        self._wait_for_api()
        self._fill_cluster()
        self._join_nodes()
        self._wait_for_routers()
        if self.wanted.cni != "none" and not self.wanted.bare:
            self._wait_for_nodes()
        self.state = msgspec.structs.replace(self.state, phase="running")
        write_state(self.state)
        return self.state

    def machine(self, name: str) -> Machine:
        return Machine(self.topology.name, name, self.folder / name)

    def kubectl(self, *arguments: str, text: str = "") -> str:
        return run_checked([*kubectl_command(self.state), *arguments], text, READY_LIMIT_S + 5)

    def _write_credentials(self) -> dict[str, str]:
        """Tokens of every component and node, and the key that signs ServiceAccount tokens."""
        self.files.folder.mkdir(mode=0o700)
        tokens = {name: secrets.token_hex(16) for name in ("admin", "controller-manager", "scheduler", "proxy")}
        tokens |= {node: secrets.token_hex(16) for node in self.topology.node_names}
        _write_secret(self.files.tokens, tokens_csv(self.topology, tokens))
        run_checked(["openssl", "genrsa", "-out", str(self.files.account_key), "2048"])
        return tokens

    def _start_machines(self) -> None:
        specs = {"cp": control_plane_machine(self.topology, self.files, self.programs, self.sources)}
        specs |= {router: router_machine(self.topology, router) for router in self.topology.router_names}
        specs["outside"] = MachineSpec(hostname="outside", memory="256m")
        specs |= {
            node: node_machine(node, self.wanted.cni, self.programs, self.seed, self.sources)
            for node in self.topology.node_names
        }
        for name, spec in specs.items():
            start_machine(self.machine(name), spec, podroute.ROOT)
        for name in specs:
            wait_for_machine(self.machine(name))

    def _write_kubeconfigs(self, tokens: Mapping[str, str]) -> None:
        """Once the API server has made its authority."""
        authority = self.files.authority
        wait_until(
            lambda: authority.exists() and authority.stat().st_size,
            READY_LIMIT_S,
            "the API server writes its certificate",
        )
        text = base64.b64encode(authority.read_bytes()).decode()
        server = api_server(self.topology)
        for name in ("admin", "controller-manager", "scheduler", "proxy"):
            _write_secret(self.files.kubeconfig(name), kubeconfig(server, text, tokens[name]))
        for node in self.topology.node_names:
            _write_secret(self.folder / node / "kubelet.kubeconfig", kubeconfig(server, text, tokens[node]))
            _write_secret(self.folder / node / "proxy.kubeconfig", kubeconfig(server, text, tokens["proxy"]))

    def _wait_for_api(self) -> None:
        self.report("waiting for the API server")
        wait_until(lambda: self.kubectl("get", "--raw", "/readyz"), READY_LIMIT_S, "the API server is ready", 0.2)
        wait_until(
            lambda: self.kubectl("get", "clusterrolebinding", "system:node-proxier"),
            READY_LIMIT_S,
            "the default roles exist",
            0.2,
        )

    def _fill_cluster(self) -> None:
        """Everything the API server is told, before the nodes start and all of them ask it at once."""
        topology = self.topology
        self.report("filling the cluster")
        items = [node_object(node, topology, self.wanted.cni) for node in topology.node_names]
        self.kubectl("create", "-f", "-", text=_listed(items))
        objects = list(yaml.safe_load_all(COREDNS.read_text()))
        if self.wanted.cni == "podroute":
            if self.wanted.processes or not self.wanted.bare:
                self._install_podroute()
            objects += [] if self.wanted.bare else podroute.network_objects(topology)
        # Again for a while: a kind that is new is not served at once.
        apply = partial(self.kubectl, "apply", "-f", "-", text=_listed(objects))
        wait_until(apply, KINDS_LIMIT_S, "cluster DNS, pools and peers are applied", every=0.3)

    def _install_podroute(self) -> None:
        if not self.wanted.processes:
            self.kubectl("apply", "-k", str(podroute.ROOT / podroute.MANIFESTS))
        else:
            text = base64.b64encode(self.files.authority.read_bytes()).decode()
            as_kubeconfig = partial(kubeconfig, api_server(self.topology), text)
            podroute.install(
                self.kubectl,
                self.topology,
                self.machine,
                lambda path, token: _write_secret(path, as_kubeconfig(token)),
            )

    def _join_nodes(self) -> None:
        self.report("nodes join")
        for node in self.topology.node_names:
            for process in processes_of_node(self.state, node):
                self.machine(node).start(process)

    def _wait_for_routers(self) -> None:
        """Until outside and control plane reach every node: the ToRs and the spine have met."""
        for node in self.topology.node_names:
            for place, address in zip(("cp", "outside"), self.topology.addresses(node), strict=True):
                namespace = NAMESPACES / self.topology.namespace(place)
                ping = ["nsenter", f"--net={namespace}", "ping", "-c1", "-W1", "-q", address]
                wait_until(partial(run_checked, ping), READY_LIMIT_S, f"{place} reaches {node} at {address}")

    def _wait_for_nodes(self) -> None:
        self.report("waiting for nodes and cluster DNS")
        self.kubectl("wait", "--for=condition=Ready", "nodes", "--all", f"--timeout={READY_LIMIT_S:.0f}s")
        self.kubectl(
            "wait",
            "-n",
            "kube-system",
            "--for=condition=Available",
            "deployment/coredns",
            f"--timeout={READY_LIMIT_S:.0f}s",
        )


def _listed(items: Sequence[Mapping[str, object]]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def _write_secret(path: Path, text: str) -> None:
    path.touch(0o600)
    path.write_text(text)
