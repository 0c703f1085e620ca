"""`podroute lab up` and `down` as typed by hand: what they show, that a second `up` changes nothing, and what `down` leaves."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from host_state import differences, host_state, need_root
from workloads import eventually

from controller.lab.cluster import Lab
from controller.lab.execute import wait_until
from controller.lab.state import read_state
from controller.lab.teardown import leftovers, tear_down

pytestmark = [pytest.mark.lab, pytest.mark.root]

KINDS = (
    "ippools,ipblocks,bgppeers,bgpconfigurations,nodenetworks,clusternetworks,ipreservations,customresourcedefinitions,"
    "validatingadmissionpolicies,clusterroles,clusterrolebindings,namespaces,pods,daemonsets,deployments,services,"
    "configmaps,serviceaccounts,secrets"
)
# Kinds that nothing writes again by itself: a write that changed nothing to the eye would be seen by the resourceVersion.
STILL = {
    "CustomResourceDefinition",
    "ValidatingAdmissionPolicy",
    "ClusterRole",
    "ClusterRoleBinding",
    "Namespace",
    "Service",
    "ConfigMap",
    "ServiceAccount",
    "Secret",
}
OLD_ENOUGH_S = 5.0
TICKS = os.sysconf("SC_CLK_TCK")
PICTURE = ("outside ── spine (BIRD, AS 65000) ── cp", "├─ tor0 (FRR, AS 65001)", "└─ tor1 (BIRD, AS 65002)")


def podroute_lab(*words: str) -> list[str]:
    """A command line of the installed program."""
    return [str(Path(sys.executable).with_name("podroute")), "lab", *words]


def run_lab(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(podroute_lab(*words), capture_output=True, text=True, timeout=180, check=False)


@pytest.fixture
def name() -> Iterator[str]:
    """A name for a lab of one test, removed whatever the test did with it."""
    need_root()
    name = f"y{os.getpid()}"
    yield name
    tear_down(name)


def uptime() -> float:
    return float(Path("/proc/uptime").read_text().split()[0])


def processes(name: str) -> set[tuple[str, str]]:
    """(pid, start time) of every process in the lab's cgroups that has run for a while: probes come and go."""
    now = uptime()
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            member = f"/{name}/" in (folder / "cgroup").read_text()
            started = (folder / "stat").read_text().rpartition(")")[2].split()[19]
        except OSError:
            continue
        if member and now - int(started) / TICKS > OLD_ENOUGH_S:
            found.add((folder.name, started))
    return found


def objects(lab: Lab) -> dict[str, Any]:
    """Every object but those that are renewed all the time (Leases, Events, Nodes), as it was asked for.

    Its status is left out: agents, operator and kubelets keep that up to date by themselves, at moments that no command
    decides (the kubelet writes a pod's status again about a minute after its start). With it goes the resourceVersion, but for
    STILL kinds.
    """
    return {
        f"{each['kind']} {each['metadata'].get('namespace', '')}/{each['metadata']['name']}": {
            key: {k: v for k, v in value.items() if k not in _renewed(each["kind"])} if key == "metadata" else value
            for key, value in each.items()
            if key != "status"
        }
        for each in lab.get(KINDS, "-A")["items"]
    }


def _renewed(kind: str) -> set[str]:
    return set() if kind in STILL else {"resourceVersion", "managedFields"}


def routes(lab: Lab) -> dict[str, list[str]]:
    """Every route of every machine, without how long it still has."""
    return {
        machine: sorted(
            line
            for family in ("-4", "-6")
            for line in lab.netns_exec(machine, ["ip", family, "route", "show", "table", "all"]).splitlines()
            if "expires" not in line
        )
        for machine in lab.topology.machine_names
    }


def test_a_second_up_changes_nothing(installed_lab: Lab) -> None:
    lab = installed_lab

    eventually(lambda: len(processes(lab.name)) > 40, 90, "the lab runs for a while")
    before, ran = {**objects(lab), **routes(lab)}, processes(lab.name)
    assert len(before) > 100
    begun = uptime()
    done = run_lab("up", "--name", lab.name)
    assert done.returncode == 0, done.stderr
    after = {**objects(lab), **routes(lab)}
    assert {
        each: (before.get(each), after.get(each)) for each in before | after if before.get(each) != after.get(each)
    } == {}
    assert ran <= processes(lab.name), "no process ended"
    ended = uptime()
    eventually(lambda: uptime() > ended + OLD_ENOUGH_S, 10, "what was started has run for a while")
    assert {each for each in processes(lab.name) if int(each[1]) / TICKS > begun} == set(), "no process was added"


def test_up_ends_with_a_table_the_picture_and_three_commands_that_work(installed_lab: Lab) -> None:
    lab = installed_lab
    said = run_lab("up", "--name", lab.name).stdout
    assert all(line in said for line in PICTURE)
    for machine in lab.topology.machine_names:
        assert machine in said
        assert lab.topology.addresses(machine).v4 in said
    assert said.count("Ready") == len(lab.topology.node_names)
    assert ("NotReady" in said, "6/6" in said) == (False, True)
    head, _, hints = said.partition("\nTry:\n")
    assert head
    commands = [shlex.split(line) for line in hints.splitlines() if line.strip()]
    assert len(commands) == 3
    pods, question, down = (subprocess_of(words) for words in commands)
    answer = subprocess.run(pods, capture_output=True, text=True, timeout=60, check=True).stdout
    assert answer.count("demo") == len(lab.topology.node_names)
    answer = subprocess.run(question, capture_output=True, text=True, timeout=60, check=True).stdout
    assert any(block in answer for block in ("10.244.0.0/26", "10.244.0.64/26"))
    assert down[-4:] == ["lab", "down", "--name", lab.name]


def subprocess_of(words: list[str]) -> list[str]:
    """The command as a shell would find it: by the path that is shown, or by PATH."""
    return [
        str(Path(words[0]).resolve()) if "/" in words[0] else str(Path(sys.executable).with_name(words[0])),
        *words[1:],
    ]


def test_down_removes_a_lab_with_podroute_and_pods_and_leaves_nothing(name: str) -> None:
    before = host_state(name)
    up = run_lab("up", "--name", name, "--nodes", "2")
    assert up.returncode == 0, up.stderr
    # Each step is told, with the seconds it took.
    for step in ("wiring namespaces", "waiting for the API server", "waiting for nodes", "starting a few pods"):
        assert any(line.split()[1:2] == ["s"] and step in line for line in up.stderr.splitlines()), step
    during = differences(before, host_state(name))
    assert {"namespaces", "mounts", "cgroups", "processes", "folders"} <= set(during)
    down = run_lab("down", "--name", name)
    assert (down.returncode, "removed in" in down.stderr) == (0, True)
    assert differences(before, host_state(name)) == {}
    assert leftovers(name) == []
    again = run_lab("down", "--name", name)
    assert (again.returncode, f"there is no lab {name}" in again.stderr) == (0, True)


def test_ctrl_c_while_podroute_starts_its_pods_leaves_nothing(name: str) -> None:
    before = host_state(name)
    command = ["env", "--default-signal=INT", *podroute_lab("up", "--name", name, "--nodes", "2")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
    ) as start:
        wait_until(lambda: has_blocks(name), 90, "podroute grants blocks", every=0.05)
        os.killpg(start.pid, signal.SIGINT)
        said, _nothing = start.communicate(timeout=60)
    assert start.returncode == 130, said
    assert differences(before, host_state(name)) == {}
    assert leftovers(name) == []


def test_a_start_that_fails_late_is_undone_and_leaves_nothing(name: str) -> None:
    before = host_state(name)
    command = podroute_lab("up", "--name", name, "--nodes", "2")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as start:
        wait_until(lambda: has_blocks(name), 90, "podroute grants blocks", every=0.05)
        # Nodes join meanwhile, and what asks for them ends without an answer.
        os.kill(wait_until(lambda: waiting_kubectl(start.pid), 60, "the start waits for nodes"), signal.SIGKILL)
        said, _nothing = start.communicate(timeout=60)
    assert start.returncode == 1, said
    assert "--for=condition=" in said.splitlines()[-1]
    assert differences(before, host_state(name)) == {}
    assert leftovers(name) == []


def waiting_kubectl(start: int) -> int:
    """The `kubectl wait` that a start has as its child; 0 if it has none."""
    for child in map(int, Path(f"/proc/{start}/task/{start}/children").read_text().split()):
        # A child may end while it is looked at.
        with contextlib.suppress(OSError):
            if b"wait" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
                return child
    return 0


def has_blocks(name: str) -> bool:
    state = read_state(name)
    return state is not None and bool(json.loads(Lab(state).kubectl("get", "ipblocks", "-o", "json"))["items"])
