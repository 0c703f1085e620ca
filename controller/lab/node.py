"""A node of a lab: containerd, kubelet, kube-proxy, as one machine. Pure; `bringup` starts it.

The machine starts with containerd, which knows the lab's images already (see `seed`); the other processes join once the
API server knows the node.
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from controller.lab.images import PAUSE_IMAGE
from controller.lab.machine import MachineSpec, ProcessSpec
from controller.lab.topology import DNS_SERVICE, POD_POOLS, Topology, reference_ranges

RACK_LABEL = "topology.kubernetes.io/rack"
MOST_PODS = 150
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
CNI_PLUGINS = "/opt/cni/bin"
CNI_CONFIGURATION = "/etc/cni/net.d"
# The kubelet sets these for the whole host; each node gets files of its own in their place.
MASKED = {
    "/proc/sys/vm/overcommit_memory": "1",
    "/proc/sys/vm/panic_on_oom": "0",
    "/proc/sys/kernel/panic": "10",
    "/proc/sys/kernel/panic_on_oops": "1",
    "/proc/sys/kernel/keys/root_maxkeys": "1000000",
    "/proc/sys/kernel/keys/root_maxbytes": "25000000",
}


def node_machine(
    node: str, cni: str, programs: Mapping[str, Path], seed: Path, sources: tuple[tuple[str, str], ...]
) -> MachineSpec:
    """The machine of one node. `cni` is `reference` (ptp and host-local are configured) or anything else (no
    configuration).
    """
    plugins = ["loopback", "portmap", "bandwidth", *(("ptp", "host-local") if cni == "reference" else ())]
    files = {
        "/etc/hostname": node + "\n",
        "/etc/resolv.conf": "",
        "/etc/containerd/config.toml": containerd_configuration(),
        "/etc/kubelet.yaml": kubelet_configuration(),
    }
    if cni == "reference":
        files[f"{CNI_CONFIGURATION}/10-reference.conflist"] = reference_conflist(node)
    return MachineSpec(
        hostname=node,
        overlays=("/etc", "/var", "/opt", "/usr/libexec"),
        fresh=(
            "/var/lib/containerd",
            "/var/lib/kubelet",
            "/var/lib/cni",
            "/var/log",
            CNI_CONFIGURATION,
            CNI_PLUGINS,
            "/opt/containerd",
        ),
        read_only=sources,
        archives=((str(seed), "/var/lib/containerd"),),
        copies=tuple((str(programs[name]), f"{CNI_PLUGINS}/{name}") for name in plugins),
        masked=MASKED,
        files=files,
        cgroups=True,
        processes=(_containerd(programs),),
    )


def kubelet(node: str, topology: Topology, folder: Path, program: Path) -> ProcessSpec:
    """The kubelet, for when its Node object exists and `folder` holds its kubeconfig."""
    addresses = topology.addresses(node)
    return ProcessSpec(
        name="kubelet",
        wait_for=CONTAINERD_SOCKET,
        argv=(
            str(program),
            "--config=/etc/kubelet.yaml",
            f"--kubeconfig={folder}/kubelet.kubeconfig",
            f"--hostname-override={node}",
            f"--node-ip={addresses.v4},{addresses.v6}",
        ),
    )


def kube_proxy(node: str, folder: Path, program: Path) -> ProcessSpec:
    """kube-proxy with nftables. The conntrack flags keep it from settings that belong to the whole host."""
    return ProcessSpec(
        name="kube-proxy",
        argv=(
            str(program),
            "--proxy-mode=nftables",
            f"--kubeconfig={folder}/proxy.kubeconfig",
            f"--hostname-override={node}",
            f"--cluster-cidr={','.join(POD_POOLS)}",
            "--nodeport-addresses=primary",
            "--conntrack-max-per-core=0",
            "--conntrack-min=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        ),
    )


def node_object(node: str, topology: Topology, cni: str) -> dict[str, object]:
    """The Node, created before its kubelet starts: a kubelet may not set the rack label itself."""
    labels = {"kubernetes.io/hostname": node, RACK_LABEL: f"r{topology.rack_of(node)}"}
    ranges = reference_ranges(node)
    spec = {"podCIDR": ranges.v4, "podCIDRs": list(ranges)} if cni == "reference" else {}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "labels": labels}, "spec": spec}


def reference_conflist(node: str) -> str:
    """The reference plugins, dual stack, without masquerading: pods are routed."""
    ranges = [[{"subnet": each}] for each in reference_ranges(node)]
    ipam = {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}
    plugins = [
        {"type": "ptp", "ipMasq": False, "mtu": 1500, "ipam": ipam},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    return msgspec.json.encode({"cniVersion": "1.0.0", "name": "reference", "plugins": plugins}).decode()


def containerd_configuration() -> str:
    """containerd 1.6 and 2 both read this; without `restrict_oom_score_adj` no pod starts where CAP_SYS_RESOURCE is
    missing.
    """
    return f"""version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  disable_apparmor = true
  disable_tcp_service = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_PLUGINS}"
    conf_dir = "{CNI_CONFIGURATION}"
"""


def kubelet_configuration() -> str:
    """No eviction and no image collection: the lab's disk is memory, and there is no registry to fetch an image from
    again.
    """
    watched = ("memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree")
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "failSwapOn": False,
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "clusterDNS": [DNS_SERVICE[0]],
        "clusterDomain": "cluster.local",
        "resolvConf": "/etc/resolv.conf",
        "evictionHard": dict.fromkeys(watched, "0%"),
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "maxPods": MOST_PODS,
        "oomScoreAdj": 0,
        "nodeStatusUpdateFrequency": "4s",
        "volumePluginDir": "/var/lib/kubelet/volumeplugins",
    }
    return msgspec.json.format(msgspec.json.encode(config), indent=1).decode() + "\n"


def _containerd(programs: Mapping[str, Path]) -> ProcessSpec:
    return ProcessSpec(
        name="containerd",
        argv=(runtime_program(programs, "containerd"), "-c", "/etc/containerd/config.toml"),
        env=runtime_path(programs),
    )


def runtime_program(programs: Mapping[str, Path], name: str) -> str:
    """containerd or ctr: the built one if the lab has it, else the distribution's."""
    return str(programs[name]) if name in programs else name


def runtime_path(programs: Mapping[str, Path]) -> dict[str, str]:
    """What containerd is given to find its shim and runc."""
    shim = programs.get("containerd-shim-runc-v2")
    return {
        "PATH": (f"{shim.parent}:" if shim else "") + "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    }
