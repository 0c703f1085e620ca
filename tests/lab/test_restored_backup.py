"""etcd is restored from a backup in which a block belongs to another node than now: nothing is doubled, and it heals."""

import ipaddress
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from cni_calls import POOLS_ANNOTATION, Container
from faults import start_again, undisturbed
from refused_inputs import body
from router_tables import kernel_routes, node_blocks
from told import findings
from workloads import Pod, apply, await_no_other_pools, eventually, pods_on

from controller.lab.cluster import Lab
from controller.lab.errors import LabError

# A short form, with agents that only answer, is in test_apiserver_recovery.
pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.soak, pytest.mark.timeout(500)]

POOL, CIDR = "restored-v4", "10.245.90.0/28"
LABEL = "podroute.test/restored"
BEFORE, NOW = "n0", "n1"
KEPT = "/var/lib/etcd/kept"


@pytest.fixture
def across(lab: Lab, afterwards: ExitStack) -> Iterator[list[Pod]]:
    """Two pods in different racks."""
    first, *_, last = lab.topology.node_names
    with pods_on(lab, [first, last], "restored") as found:
        yield found
    lab.kubectl("label", "node", BEFORE, NOW, f"{LABEL}-")
    lab.kubectl("delete", "ippool", POOL, "--wait=false")
    afterwards.callback(await_no_other_pools, lab)


@contextmanager
def stopped_etcd(lab: Lab) -> Iterator[None]:
    """While the block runs nobody reads or writes etcd's files; the API server answers again afterwards."""
    plane = lab.machine("cp")
    plane.stop("kube-apiserver", 90)
    plane.stop("etcd")
    try:
        yield
    finally:
        for process in ("etcd", "kube-apiserver"):
            start_again(lab, "cp", process)
        eventually(lambda: is_ready(lab), 60, "the API server is ready")


def is_ready(lab: Lab) -> bool:
    try:
        return lab.kubectl("get", "--raw", "/readyz") == "ok"
    except LabError:
        return False


def owner(lab: Lab) -> str:
    return node_blocks(lab).get(CIDR, "")


def holders(lab: Lab) -> set[str]:
    """The nodes whose kernels hold the block as their own."""
    asked = ("route", "show", "type", "unreachable")
    return {
        node
        for node in lab.topology.node_names
        if any(route["dst"] == CIDR for route in kernel_routes(lab, node, *asked))
    }


def reasons(lab: Lab) -> set[str]:
    """Of the two nodes' conditions and of the Events about them."""
    conditions = [c for node in (BEFORE, NOW) for c in lab.get("nodenetwork", node)["status"].get("conditions", [])]
    events = [
        each for each in lab.get("events", "-n", "default")["items"] if each["involvedObject"]["name"] in (BEFORE, NOW)
    ]
    return {each["reason"] for each in (*conditions, *events)}


def test_a_block_that_went_to_another_node_after_the_backup_stays_there(lab: Lab, across: list[Pod]) -> None:
    lab.kubectl("label", "node", BEFORE, f"{LABEL}=yes")
    # The pool is this one block.
    selector = {"matchLabels": {LABEL: "yes"}}
    apply(lab, body("IPPool", POOL, cidr=CIDR, blockSize=28, headroom=4, nodeSelector=selector))
    eventually(lambda: holders(lab) == {BEFORE}, 30, lambda: f"{owner(lab)} {holders(lab)}")
    # What is said of them later is of the restore: the backup has no older words.
    lab.kubectl("delete", "events", "-n", "default", "--all")
    with stopped_etcd(lab):
        lab.machine("cp").run(["cp", "-a", "/var/lib/etcd/member", KEPT])
    lab.kubectl("label", "node", BEFORE, f"{LABEL}-")
    lab.kubectl("label", "node", NOW, f"{LABEL}=yes")
    eventually(lambda: holders(lab) == {NOW}, 120, lambda: f"{owner(lab)} {holders(lab)}")
    with Container(lab, NOW, "restored", {POOLS_ANNOTATION: POOL}) as container:
        answer = container.call("ADD")
        assert answer.exit_code == 0, answer.said
        assert ipaddress.ip_address(answer.addresses[0]) in ipaddress.ip_network(CIDR)
        seen: list[set[str]] = []
        said: set[str] = set()
        with undisturbed(lab, across):
            with stopped_etcd(lab):
                lab.machine("cp").run(["sh", "-ec", f"rm -r /var/lib/etcd/member; mv {KEPT} /var/lib/etcd/member"])
            assert owner(lab) == BEFORE, "the backup says so"
            # Kubernetes: after a restore, restart what has newer state than the server.
            for node in lab.topology.node_names:
                lab.kill(node, "kubelet")

            def is_its_own_again() -> bool:
                seen.append(holders(lab))
                said.update(reasons(lab))
                return owner(lab) == NOW

            eventually(is_its_own_again, 150, lambda: lab.kubectl("get", "ipblocks,nodenetworks", "-o", "wide"))
        assert all(each == {NOW} for each in seen), f"nobody else uses it meanwhile: {seen}"
        assert said & {"BlockConflict", "BlockReturned"}, f"nobody was told of what happened: {said}"
        lab.netns_exec(NOW, ["ping", "-c1", "-W2", answer.addresses[0]])
    eventually(lambda: findings(lab) == [], 90, lambda: f"{findings(lab)}")
