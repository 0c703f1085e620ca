"""How podroute leaves: never by accident, from the routers first, whole; and it may come back to the pods that still run."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import all_established, undisturbed
from oracle import node_veths
from router_tables import kernel_routes, node_blocks, pod_table
from traffic import Traffic
from workloads import Pod, eventually, pods_on

from controller.lab.cluster import Lab
from controller.lab.errors import LabError
from controller.lab.podroute import MANIFESTS, NAMESPACE, ROOT

pytestmark = [pytest.mark.lab, pytest.mark.root]

QUICKSTART = ROOT / "examples" / "quickstart"
GUARDED = "deployments,daemonsets,serviceaccounts,roles,rolebindings"
GUARDED_EVERYWHERE = "namespaces,customresourcedefinitions,clusterroles,clusterrolebindings"


@pytest.fixture(scope="module")
def across(installed_lab: Lab) -> Iterator[list[Pod]]:
    """Two pods in different racks, which outlive the uninstall."""
    first, *_, last = installed_lab.topology.node_names
    with pods_on(installed_lab, [first, last], "stays") as found:
        yield found


@pytest.fixture(scope="module")
def beside(installed_lab: Lab, across: list[Pod]) -> Iterator[Pod]:
    """One more on the first one's node."""
    with pods_on(installed_lab, [across[0].node], "beside") as (found,):
        yield found


def guarded(lab: Lab) -> dict[str, str]:
    """What of the manifests must not be deleted under running pods: kind and name to UID."""
    ours = ("-l", "app.kubernetes.io/part-of=podroute")
    found = [*lab.get(GUARDED, "-A", *ours)["items"], *lab.get(GUARDED_EVERYWHERE, *ours)["items"]]
    return {f"{each['kind']}/{each['metadata']['name']}": each["metadata"]["uid"] for each in found}


def command(lab: Lab, *options: str) -> list[str]:
    return [str(Path(sys.executable).with_name("podroute")), "uninstall", "--lab", lab.name, *options]


def broken_off(lab: Lab, after: str) -> None:
    """An uninstall that is ended when it says that."""
    with subprocess.Popen(command(lab, "--yes"), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(after in line for line in process.stdout), f"it never said {after!r}"
        process.terminate()


def uninstall(lab: Lab, *options: str) -> str:
    argv = command(lab, *options)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=400, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def traces(lab: Lab, node: str) -> list[str]:
    """What of podroute is on the node, veths of pods and the routes through them aside."""
    places = "/opt/cni/bin/podroute /etc/cni/net.d/05-podroute.conflist /run/podroute/*"
    files = lab.machine(node).run(["sh", "-c", f"ls -d {places} 2>/dev/null; true"]).split()
    names = {name for name, _, _ in node_veths(lab, node)}
    routes = [
        f"{route['dst']} dev {route.get('dev')}"
        for family in ("-4", "-6")
        for route in kernel_routes(lab, node, family, "route", "show", "table", "all", "protocol", "179")
        if route.get("dev") not in names
    ]
    tables = [line for line in lab.netns_exec(node, ["nft", "list", "tables"]).splitlines() if "podroute" in line]
    return [*files, *routes, *tables]


def pod_prefixes(lab: Lab) -> set[str]:
    return {
        prefix for router in lab.topology.router_names for family in (4, 6) for prefix in pod_table(lab, router, family)
    }


def pings(lab: Lab, one: Pod, other: Pod) -> bool:
    asked = [[*one.place.enter, "ping", "-c1", "-W1", address] for address in other.addresses]
    return all(subprocess.run(argv, capture_output=True, check=False).returncode == 0 for argv in asked)


def test_deleting_the_manifests_is_refused_while_podroute_routes_pods(installed_lab: Lab, across: list[Pod]) -> None:
    lab, before = installed_lab, guarded(installed_lab)
    assert {
        f"Namespace/{NAMESPACE}",
        "DaemonSet/podroute-speaker",
        "CustomResourceDefinition/ippools.podroute.dev",
    } < set(before)
    with undisturbed(lab, across):
        # Whoever tries again does not get further.
        for _ in range(2):
            with pytest.raises(LabError, match="podroute uninstall"):
                lab.kubectl("delete", "-k", str(ROOT / MANIFESTS))
            assert guarded(lab) == before
        lab.kubectl("apply", "-k", str(ROOT / MANIFESTS))


def test_a_dry_run_names_the_pods_that_stay_and_changes_nothing(installed_lab: Lab, across: list[Pod]) -> None:
    lab, before = installed_lab, guarded(installed_lab)
    said = uninstall(lab, "--dry-run")
    for pod in across:
        (line,) = (line for line in said.splitlines() if line.startswith(f"node {pod.node}: "))
        assert f"default/{pod.name}" in line
    assert guarded(lab) == before
    assert not lab.get("clusternetwork", "default")["spec"].get("retiring")
    assert lab.get("deployment", "-n", NAMESPACE, "podroute-operator")["spec"]["replicas"] == 1


def test_an_uninstall_leaves_nothing_but_the_veths_of_running_pods(
    installed_lab: Lab, across: list[Pod], beside: Pod
) -> None:
    lab, nodes = installed_lab, installed_lab.topology.node_names
    assert set(node_blocks(lab)) == pod_prefixes(lab)
    # A plugin, a list, two folders, routes of both families, a table: each kind is seen while it is there.
    for node in nodes:
        found = " ".join(traces(lab, node))
        assert all(
            word in found for word in ("bin/podroute", "conflist", "run/podroute/speaker", "/26", "/122", "table")
        )
    veths = {node: node_veths(lab, node) for node in nodes}
    assert all(veths[pod.node] for pod in across)
    with Traffic([(across[0].place, beside.place)]) as traffic:
        broken_off(lab, "speakers removed")
        said = uninstall(lab, "--yes")
    traffic.assert_no_loss()
    # At once: had a session ended without a withdrawal, the routes would be kept for the restart time.
    assert pod_prefixes(lab) == set()
    assert said.rstrip().endswith("podroute is removed")
    assert {node: traces(lab, node) for node in nodes} == {node: [] for node in nodes}
    assert {node: node_veths(lab, node) for node in nodes} == veths
    assert guarded(lab) == {}
    assert NAMESPACE not in {each["metadata"]["name"] for each in lab.get("namespaces")["items"]}
    assert [k for k in lab.get("customresourcedefinitions")["items"] if k["spec"]["group"] == "podroute.dev"] == []
    policies = lab.get("validatingadmissionpolicies,validatingadmissionpolicybindings")["items"]
    assert [each["metadata"]["name"] for each in policies if "podroute" in each["metadata"]["name"]] == []
    assert "not installed" in uninstall(lab, "--yes")


def test_installed_again_it_takes_over_the_pods_that_still_run(installed_lab: Lab, across: list[Pod]) -> None:
    lab, (one, other) = installed_lab, across
    assert not pings(lab, one, other)
    lab.kubectl("apply", "-k", str(ROOT / MANIFESTS))
    lab.kubectl("wait", "--for=condition=Established", "crd/ippools.podroute.dev", "crd/bgppeers.podroute.dev")
    lab.kubectl("apply", "-f", str(QUICKSTART))
    eventually(
        lambda: pings(lab, one, other) and pings(lab, other, one), 90, lambda: lab.kubectl("get", "nodenetworks")
    )
    eventually(lambda: all_established(lab, lab.topology.tor_names), 30, "all sessions are established")
    with pods_on(lab, [one.node], "anew") as (new,):
        assert pings(lab, new, other)
        assert set(new.addresses).isdisjoint(one.addresses)
