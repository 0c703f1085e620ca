"""The lab does what it says: pods run and reach each other, nothing stays behind, several labs live side by side."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from host_state import differences, host_state, need_root

from controller.lab.cluster import Lab
from controller.lab.errors import LabError, Refusal
from controller.lab.execute import run_checked, wait_until
from controller.lab.images import TOOLS_IMAGE
from controller.lab.state import lab_folder
from controller.lab.teardown import leftovers, tear_down

pytestmark = [pytest.mark.lab, pytest.mark.root]

WEB = f"""
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: web}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - name: web
          image: {TOOLS_IMAGE}
          imagePullPolicy: Never
          command: [sh, -c, "echo started; mkdir /www; hostname >/www/index.html; exec httpd -f -p '[::]:80' -h /www"]
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {{app: web}}
  ports: [{{port: 80}}]
"""


def up_command(name: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "controller.lab", "up", "--name", name, *options]


@pytest.fixture
def name() -> Iterator[str]:
    """A name for a lab of one test, removed whatever the test did with it."""
    need_root()
    name = f"x{os.getpid()}"
    yield name
    tear_down(name)


@pytest.fixture(scope="module")
def web(reference_lab: Lab) -> dict[str, dict[str, object]]:
    """A web server pod on each node, by node."""
    reference_lab.apply(WEB)
    reference_lab.kubectl("rollout", "status", "daemonset/web", "--timeout=60s", seconds=70)
    return {pod["spec"]["nodeName"]: pod for pod in reference_lab.get("pods", "-l", "app=web")["items"]}


def in_pod(lab: Lab, pod: dict, *argv: str) -> str:
    return lab.kubectl("exec", pod["metadata"]["name"], "--", *argv)


def addresses(pod: dict) -> list[str]:
    return [each["ip"] for each in pod["status"]["podIPs"]]


def test_pods_have_both_families_and_reach_each_other_across_racks(reference_lab: Lab, web: dict) -> None:
    assert reference_lab.topology.rack_of("n0") != reference_lab.topology.rack_of("n1")
    assert len(addresses(web["n1"])) == 2
    for address in addresses(web["n1"]):
        assert " 0% packet loss" in in_pod(reference_lab, web["n0"], "ping", "-c2", "-i0.2", "-W2", address)


def test_the_outside_host_reaches_pods_and_the_probe_notices_an_address_without_a_pod(
    reference_lab: Lab, web: dict
) -> None:
    for address in addresses(web["n1"]):
        reference_lab.netns_exec("outside", ["ping", "-c1", "-W2", address])
    with pytest.raises(LabError, match="100% packet loss"):
        reference_lab.netns_exec("outside", ["ping", "-c1", "-W1", "10.244.1.250"])


def test_a_service_is_found_by_name_and_answers_over_both_families(reference_lab: Lab, web: dict) -> None:
    names = {pod["metadata"]["name"] for pod in web.values()}
    for family in ("-4", "-6"):
        url = "http://web.default.svc.cluster.local/"
        answer = in_pod(reference_lab, web["n0"], "curl", family, "-s", "-m", "5", url)
        assert answer.strip() in names


def test_logs_and_exec_reach_the_pod(reference_lab: Lab, web: dict) -> None:
    pod = web["n1"]["metadata"]["name"]
    assert "started" in reference_lab.kubectl("logs", pod)
    assert in_pod(reference_lab, web["n1"], "hostname").strip() == pod


def test_routers_meet_the_spine_in_both_families(reference_lab: Lab) -> None:
    summary = reference_lab.vtysh("tor0", "show bgp summary json")
    spine = reference_lab.topology.fabric_subnet(0).host(1)
    for family, address in (("ipv4Unicast", spine.v4), ("ipv6Unicast", spine.v6)):
        assert summary[family]["peers"][address]["state"] == "Established"
    assert "10.10.0.0/24" in reference_lab.birdc("tor1", "show route for 10.10.0.0/24")


def test_up_again_changes_nothing(reference_lab: Lab) -> None:
    def running() -> dict[str, object]:
        return {each: reference_lab.machine(each).first_process() for each in reference_lab.topology.machine_names}

    before, state = running(), (reference_lab.folder / "state.json").stat().st_mtime_ns
    again = Lab.up(reference_lab.name, nodes=2, racks=2, cni="reference")
    assert again.state == reference_lab.state
    assert running() == before
    assert (reference_lab.folder / "state.json").stat().st_mtime_ns == state


def test_up_in_another_shape_is_refused_and_names_the_remedy(reference_lab: Lab) -> None:
    with pytest.raises(LabError, match=f"podroute lab down --name {reference_lab.name}") as refused:
        Lab.up(reference_lab.name, nodes=3, racks=2, cni="reference")
    assert refused.value.reason is Refusal.NAME_TAKEN


def test_a_killed_process_comes_back_under_another_pid(reference_lab: Lab) -> None:
    before = reference_lab.pid("n1", "kube-proxy")
    assert before is not None
    assert "kube-proxy" in Path(f"/proc/{before}/cmdline").read_text()
    reference_lab.kill("n1", "kube-proxy")
    wait_until(lambda: reference_lab.pid("n1", "kube-proxy") not in (None, before), 10, "kube-proxy on n1 is back")


def test_a_stopped_process_stays_down_until_it_is_started(reference_lab: Lab) -> None:
    machine = reference_lab.machine("tor1")
    machine.stop("bird")
    assert machine.pid("bird") is None
    assert machine.ask({"do": "list"})["bird"]["wanted"] is False
    spec = next(each for each in reference_lab.machine_spec("tor1").processes if each.name == "bird")
    machine.start(spec)
    wait_until(lambda: reference_lab.pid("tor1", "bird"), 10, "bird on tor1 is back")


def test_a_node_without_power_is_noticed_and_comes_back_ready(reference_lab: Lab) -> None:
    def ready() -> str:
        conditions = reference_lab.get("node", "n1")["status"]["conditions"]
        return next(each["status"] for each in conditions if each["type"] == "Ready")

    assert ready() == "True"
    reference_lab.power_off("n1")
    wait_until(lambda: ready() == "Unknown", 40, "n1 is reported as unknown", every=0.5)
    reference_lab.power_on("n1")
    wait_until(lambda: ready() == "True", 40, "n1 is ready again", every=0.5)


def test_status_tells_every_machine_and_node_as_data(reference_lab: Lab) -> None:
    argv = [sys.executable, "-m", "controller.lab", "status", "--name", reference_lab.name, "-o", "json"]
    status = json.loads(run_checked(argv))
    assert [each["name"] for each in status["machines"]] == list(reference_lab.topology.machine_names)
    assert {each["name"]: each["ready"] for each in status["machines"] if each["role"] == "node"} == {
        "n0": True,
        "n1": True,
    }


def test_shell_runs_a_command_in_a_machine(reference_lab: Lab) -> None:
    argv = [sys.executable, "-m", "controller.lab", "shell", "--name", reference_lab.name, "cp", "--"]
    assert set(run_checked([*argv, "kubectl", "get", "nodes", "-o", "name"]).split()) == {"node/n0", "node/n1"}


def test_a_machine_that_is_not_there_is_refused_with_those_that_are(reference_lab: Lab) -> None:
    with pytest.raises(LabError, match=r"no machine 'n9'.* n0, n1"):
        reference_lab.machine("n9")


def test_down_leaves_nothing_behind(name: str) -> None:
    before = host_state(name)
    lab = Lab.up(name, nodes=2, racks=2, cni="none")
    during = differences(before, host_state(name))
    assert {"namespaces", "cgroups", "processes", "folders"} <= set(during)
    assert leftovers(name)
    lab.down()
    assert differences(before, host_state(name)) == {}
    assert leftovers(name) == []


def test_down_without_a_lab_does_nothing_and_says_so(name: str) -> None:
    assert tear_down(name) is False


# When to interrupt: as soon as this is there.
MOMENTS = {
    "when the first namespaces are made": lambda name: Path(f"/run/netns/{name}-cp").exists(),
    "when machines are starting": lambda name: (lab_folder(name) / "cp" / "pid").exists(),
    "when the API server starts": lambda name: (lab_folder(name) / "cp" / "admin.kubeconfig").exists(),
    "when nodes join": lambda name: (lab_folder(name) / "n0" / "log" / "kubelet.log").exists(),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_during_the_start_leaves_nothing_behind(name: str, moment: str) -> None:
    before = host_state(name)
    # A shell's background job ignores SIGINT, and so would everything that is started from it.
    listening = ["env", "--default-signal=INT"]
    command = [*listening, *up_command(name, "--nodes", "2", "--racks", "2", "--cni", "reference")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
    ) as start:
        wait_until(lambda: MOMENTS[moment](name), 60, moment, every=0.005)
        # A terminal signals the whole foreground group, the programs that the start is running included.
        os.killpg(start.pid, signal.SIGINT)
        said, _nothing = start.communicate(timeout=60)
    assert start.returncode == 130, said
    assert differences(before, host_state(name)) == {}


def test_a_start_that_fails_is_undone_and_says_why(name: str) -> None:
    run_checked(["ip", "netns", "add", f"{name}-n0"])
    assert leftovers(name) == [f"namespace {name}-n0"]
    done = subprocess.run(up_command(name, "--cni", "none"), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert f"{name}-n0" in done.stderr
    assert leftovers(name) == []


def test_two_labs_run_at_once_and_one_outlives_the_other() -> None:
    need_root()
    names = (f"a{os.getpid()}", f"b{os.getpid()}")
    shapes = (("--racks", "1", "--tor", "none"), ("--racks", "1", "--tor", "bird"))
    starts = [
        subprocess.Popen(
            up_command(each, "--nodes", "1", "--cni", "reference", *shape), stderr=subprocess.PIPE, text=True
        )
        for each, shape in zip(names, shapes, strict=True)
    ]
    try:
        for start in starts:
            _out, said = start.communicate(timeout=120)
            assert start.returncode == 0, said
        first, second = (Lab.find(each) for each in names)
        assert first.get("node", "n0")["metadata"]["uid"] != second.get("node", "n0")["metadata"]["uid"]
        first.down()
        assert leftovers(first.name) == []
        assert second.kubectl("get", "node", "n0", "-o", "name").strip() == "node/n0"
    finally:
        for each in names:
            tear_down(each)


def test_in_one_segment_pods_of_different_nodes_reach_each_other_over_the_node_mesh() -> None:
    need_root()
    name = f"m{os.getpid()}"
    try:
        lab = Lab.up(name, nodes=2, racks=1, tors=("none",), processes=True)
        lab.apply(WEB)
        lab.kubectl("rollout", "status", "daemonset/web", "--timeout=60s", seconds=70)
        pods = {pod["spec"]["nodeName"]: pod for pod in lab.get("pods", "-l", "app=web")["items"]}
        for address in addresses(pods["n1"]):
            wait_until(lambda to=address: in_pod(lab, pods["n0"], "ping", "-c1", "-W1", to), 30, f"{address} answers")
    finally:
        tear_down(name)
