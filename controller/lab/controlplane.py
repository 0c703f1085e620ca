"""The control plane of a lab: etcd, API server, controller manager, scheduler, as one machine. Pure; `bringup` starts
it.

There are no certificates to make: the API server signs its own, and its file holds the authority too. Users are tokens.
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from controller.lab.machine import MachineSpec, ProcessSpec
from controller.lab.topology import SERVICE_RANGES, Topology

API_PORT = 6443
COMPONENTS = {
    "admin": ("admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "proxy": ("system:kube-proxy", ""),
}
# A killed node is NotReady 16 to 18 s later, instead of 40: tests wait for it.
MONITOR_GRACE = "16s"
MONITOR_PERIOD = "2s"


class ControlPlaneFiles(msgspec.Struct, frozen=True):
    """Where the control plane's files are, the same paths on the host and inside."""

    folder: Path

    @property
    def authority(self) -> Path:
        """The API server's certificate, and the authority that signed it."""
        return self.folder / "certs" / "apiserver.crt"

    @property
    def account_key(self) -> Path:
        """Signs ServiceAccount tokens."""
        return self.folder / "accounts.key"

    @property
    def tokens(self) -> Path:
        """The token file of the API server."""
        return self.folder / "tokens.csv"

    def kubeconfig(self, user: str) -> Path:
        """A user's kubeconfig."""
        return self.folder / f"{user}.kubeconfig"


def tokens_csv(topology: Topology, tokens: Mapping[str, str]) -> str:
    """The token file: token, user, uid, groups. `tokens` is by component (see COMPONENTS) and by node."""
    lines = [f'{tokens[name]},{user},{name},"{group}"' for name, (user, group) in COMPONENTS.items()]
    lines += [f"{tokens[node]},system:node:{node},{node},system:nodes" for node in topology.node_names]
    return "\n".join(lines) + "\n"


def kubeconfig(server: str, authority: str, token: str) -> str:
    """A kubeconfig; `authority` is the base64 text of the authority's certificate."""
    cluster = {"server": server, "certificate-authority-data": authority}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": cluster}],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "user"}}],
        "current-context": "lab",
    }
    return msgspec.json.format(msgspec.json.encode(config), indent=1).decode() + "\n"


def api_server(topology: Topology) -> str:
    """The URL at which nodes reach the API server."""
    return f"https://{topology.addresses('cp').v4}:{API_PORT}"


def control_plane_machine(
    topology: Topology, files: ControlPlaneFiles, programs: Mapping[str, Path], sources: tuple[tuple[str, str], ...]
) -> MachineSpec:
    """The machine `cp`. Controller manager and scheduler wait for the kubeconfig that is written once the authority is
    known.
    """
    return MachineSpec(
        hostname="cp",
        fresh=("/var/lib/etcd",),
        read_only=sources,
        processes=(
            _etcd(programs["etcd"]),
            _api_server(topology, files, programs["kube-apiserver"]),
            _controller_manager(files, programs["kube-controller-manager"]),
            _scheduler(files, programs["kube-scheduler"]),
        ),
    )


def _etcd(program: Path) -> ProcessSpec:
    return ProcessSpec(
        name="etcd",
        argv=(
            str(program),
            "--data-dir=/var/lib/etcd",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ),
    )


def _api_server(topology: Topology, files: ControlPlaneFiles, program: Path) -> ProcessSpec:
    return ProcessSpec(
        name="kube-apiserver",
        argv=(
            str(program),
            "--etcd-servers=http://127.0.0.1:2379",
            f"--cert-dir={files.authority.parent}",
            f"--advertise-address={topology.addresses('cp').v4}",
            f"--secure-port={API_PORT}",
            f"--token-auth-file={files.tokens}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={files.account_key}",
            f"--service-account-signing-key-file={files.account_key}",
            f"--service-cluster-ip-range={','.join(SERVICE_RANGES)}",
            "--kubelet-preferred-address-types=InternalIP",
            "--allow-privileged=true",
            "--enable-priority-and-fairness=false",
            "--profiling=false",
        ),
    )


def _controller_manager(files: ControlPlaneFiles, program: Path) -> ProcessSpec:
    config = files.kubeconfig("controller-manager")
    return ProcessSpec(
        name="kube-controller-manager",
        wait_for=str(config),
        argv=(
            str(program),
            f"--kubeconfig={config}",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={files.account_key}",
            f"--root-ca-file={files.authority}",
            "--allocate-node-cidrs=false",
            f"--flex-volume-plugin-dir={files.folder}/flex",
            f"--node-monitor-period={MONITOR_PERIOD}",
            f"--node-monitor-grace-period={MONITOR_GRACE}",
        ),
    )


def _scheduler(files: ControlPlaneFiles, program: Path) -> ProcessSpec:
    config = files.kubeconfig("scheduler")
    return ProcessSpec(
        name="kube-scheduler",
        wait_for=str(config),
        argv=(str(program), f"--kubeconfig={config}", "--leader-elect=false"),
    )
