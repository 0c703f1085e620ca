"""What a machine of the lab is told to make and start, before anything is made."""

import json
from ipaddress import ip_address
from pathlib import Path

import msgspec
import pytest
import yaml

from controller.lab.bringup import check_host
from controller.lab.controlplane import ControlPlaneFiles, control_plane_machine, kubeconfig, tokens_csv
from controller.lab.errors import LabError, Refusal
from controller.lab.machine import MachineSpec
from controller.lab.node import kubelet, node_machine, node_object, reference_conflist
from controller.lab.podroute import ROOT, peers_for, processes_on
from controller.lab.programs import CLUSTER, CNI_PLUGINS, PAUSE
from controller.lab.routers import router_machine
from controller.lab.topology import SERVICE_RANGES, make_topology

TOPOLOGY = make_topology("demo", 4, 2, ("frr", "bird"))
PROGRAMS = {program.name: Path("/programs") / program.name for program in (*CLUSTER, *CNI_PLUGINS, PAUSE)}
SEED = Path("/images/containerd.tar")
PLUGIN = "/programs/podroute-cni"
SOURCES = (("/tree", "/opt/podroute"),)


def every_machine() -> list[MachineSpec]:
    files = ControlPlaneFiles(Path("/lab/cp"))
    return [
        control_plane_machine(TOPOLOGY, files, PROGRAMS, SOURCES),
        *(router_machine(TOPOLOGY, router) for router in TOPOLOGY.router_names),
        *(node_machine(node, "reference", PROGRAMS, SEED, SOURCES) for node in TOPOLOGY.node_names),
    ]


def test_a_specification_survives_its_way_through_a_file() -> None:
    for spec in every_machine():
        assert msgspec.json.decode(msgspec.json.encode(spec), type=MachineSpec) == spec


def test_services_have_both_families() -> None:
    spec = control_plane_machine(TOPOLOGY, ControlPlaneFiles(Path("/lab/cp")), PROGRAMS, SOURCES)
    api_server = next(process for process in spec.processes if process.name == "kube-apiserver")
    assert f"--service-cluster-ip-range={SERVICE_RANGES[0]},{SERVICE_RANGES[1]}" in api_server.argv


def test_a_kubelet_knows_both_addresses_of_its_node() -> None:
    process = kubelet("n2", TOPOLOGY, Path("/lab/n2"), Path("/programs/kubelet"))
    assert "--node-ip=10.10.1.11,fd00:10:10:1::11" in process.argv


@pytest.mark.parametrize("cni", ["podroute", "none"])
def test_without_the_reference_plugins_no_network_is_configured(cni: str) -> None:
    spec = node_machine("n0", cni, PROGRAMS, SEED, SOURCES)
    assert not [path for path in spec.files if "/etc/cni" in path]
    assert "/opt/cni/bin/loopback" in dict(map(reversed, spec.copies))  # type: ignore[arg-type]
    assert "/opt/cni/bin/ptp" not in dict(map(reversed, spec.copies))  # type: ignore[arg-type]
    assert "podCIDRs" not in node_object("n0", TOPOLOGY, cni)["spec"]  # type: ignore[operator]


def test_the_reference_network_has_both_families_of_its_node_alone() -> None:
    ipam = json.loads(reference_conflist("n3"))["plugins"][0]["ipam"]
    assert [each[0]["subnet"] for each in ipam["ranges"]] == ["10.244.3.0/24", "fd00:10:244:3::/64"]


def test_a_node_is_labelled_with_its_rack() -> None:
    labels = [node_object(node, TOPOLOGY, "podroute")["metadata"]["labels"] for node in TOPOLOGY.node_names]  # type: ignore[index]
    assert [each["topology.kubernetes.io/rack"] for each in labels] == ["r0", "r0", "r1", "r1"]


def test_every_user_has_a_token_of_his_own_and_only_the_administrator_is_master() -> None:
    names = ["admin", "controller-manager", "scheduler", "proxy", *TOPOLOGY.node_names]
    lines = tokens_csv(TOPOLOGY, {name: f"token-{name}" for name in names}).splitlines()
    assert len({line.split(",")[0] for line in lines}) == len(names)
    assert [line.split(",")[1] for line in lines if "system:masters" in line] == ["admin"]


def test_a_kubeconfig_names_server_authority_and_token() -> None:
    config = json.loads(kubeconfig("https://10.10.200.10:6443", "QUJD", "secret"))
    assert config["clusters"][0]["cluster"] == {
        "server": "https://10.10.200.10:6443",
        "certificate-authority-data": "QUJD",
    }
    assert config["users"][0]["user"] == {"token": "secret"}


def test_the_operator_runs_beside_the_control_plane_agent_and_speaker_on_the_nodes() -> None:
    assert [process.name for process in processes_on("cp", Path("/lab/cp"), "")] == ["operator"]
    assert [process.name for process in processes_on("n0", Path("/lab/n0"), PLUGIN)] == ["speaker", "agent"]
    assert all(process.restart and process.backoff == 1.0 for process in processes_on("n0", Path("/lab/n0"), PLUGIN))


def test_an_agent_waits_for_its_kubeconfig_and_the_speaker_gets_none() -> None:
    speaker, agent = processes_on("n0", Path("/lab/n0"), PLUGIN)
    assert agent.wait_for == "/lab/n0/podroute-agent.kubeconfig"
    assert agent.wait_for in agent.argv
    assert not any("kubeconfig" in word for word in speaker.argv)


def test_an_agent_installs_the_compiled_plugin() -> None:
    agent = processes_on("n0", Path("/lab/n0"), PLUGIN)[1]
    assert agent.argv[agent.argv.index("--shim") + 1] == PLUGIN


def test_a_lab_of_the_default_shape_peers_as_the_quickstart_says() -> None:
    documents = yaml.safe_load_all((ROOT / "examples/quickstart/peers.yaml").read_text())
    written = [
        {**each, "spec": {**each["spec"], "address": str(ip_address(each["spec"]["address"]))}} for each in documents
    ]
    assert peers_for(TOPOLOGY) == written


def test_every_rack_of_a_larger_lab_peers_with_its_own_tor() -> None:
    specs = [peer["spec"] for peer in peers_for(make_topology("demo", 3, 3, ("frr",)))]
    assert [(each["address"], each["asNumber"]) for each in specs[4:]] == [  # type: ignore[index]
        ("10.10.2.1", 65003),
        ("fd00:10:10:2::1", 65003),
    ]


def test_a_host_that_watches_too_few_files_is_refused_with_the_setting_to_change() -> None:
    with pytest.raises(LabError, match=r"sysctl -w fs\.inotify\.max_user_instances=72") as refused:
        check_host(TOPOLOGY, 35)
    assert refused.value.reason is Refusal.HOST_LIMIT
    check_host(TOPOLOGY, 36)
