"""From the reference plugins to podroute in the same range, by the steps of docs/moving.md, under traffic."""

import ipaddress
import itertools
import os
import re
import subprocess
from collections.abc import Iterator

import pytest
from host_state import need_root
from router_tables import kernel_routes, node_blocks, pod_table
from traffic import Traffic
from workloads import Pod, apply, deployment_manifest, eventually, pods, pods_on

from controller.lab.cluster import Lab
from controller.lab.podroute import KINDS, MANIFESTS, ROOT, ROUTED_POOLS, peers_for

pytestmark = [pytest.mark.lab, pytest.mark.root]

OLD_ROUTES = re.compile(r"10\.244\.\d+\.0/(16|24)$|fd00:10:244:.*/(56|64)$")
OLD_LIST = "/etc/cni/net.d/10-reference.conflist"
RESERVATION = ROOT / "examples" / "moving" / "reservation.yaml"


@pytest.fixture(scope="module")
def old_lab() -> Iterator[Lab]:
    """Two nodes in two racks with the reference plugins; podroute's image is on the nodes."""
    need_root()
    lab = Lab.up(f"m{os.getpid()}", nodes=2, racks=2, cni="reference", bare=True, report=print)
    yield lab
    lab.down()


def reach(one: Pod, other: Pod) -> bool:
    asked = [[*one.place.enter, "ping", "-c1", "-W1", address] for address in other.addresses]
    return all(subprocess.run(argv, capture_output=True, check=False).returncode == 0 for argv in asked)


def is_reserved(lab: Lab, address: str) -> bool:
    (listed,) = (each["spec"]["cidrs"] for each in lab.get("ipreservations")["items"])
    return any(ipaddress.ip_address(address) in ipaddress.ip_network(cidr) for cidr in listed)


def routers_have_blocks_of(lab: Lab, nodes: list[str]) -> bool:
    """Whether every node has blocks, and every ToR exactly all of these by BGP."""
    blocks = node_blocks(lab)
    heard = [{prefix for family in (4, 6) for prefix in pod_table(lab, tor, family)} for tor in lab.topology.tor_names]
    return set(blocks.values()) == set(nodes) and all(each == set(blocks) for each in heard)


def remove_routes_of_the_old_network(lab: Lab) -> None:
    """At every router, as whoever put them there would."""
    for router, family in itertools.product(lab.topology.router_names, ("-4", "-6")):
        listed = [route["dst"] for route in kernel_routes(lab, router, family, "route")]
        for prefix in filter(OLD_ROUTES.match, listed):
            lab.netns_exec(router, ["ip", family, "route", "del", prefix])


def test_both_networks_run_side_by_side_in_one_range_until_the_last_old_pod_is_gone(old_lab: Lab) -> None:
    lab, nodes = old_lab, list(old_lab.topology.node_names)
    apply(lab, deployment_manifest("web", 4))
    eventually(lambda: len(pods(lab, "app=web")) == 4, 60, "the workload runs on the old network")
    with pods_on(lab, nodes, "old") as old, Traffic([(old[0].place, old[1].place)]) as traffic:
        lab.kubectl("apply", "-k", str(ROOT / KINDS))
        lab.kubectl("wait", "--for=condition=Established", "crd", "--all")
        lab.kubectl("apply", "-f", str(RESERVATION))
        assert all(is_reserved(lab, address) for pod in old for address in pod.addresses)
        lab.kubectl("apply", "-f", str(ROOT / ROUTED_POOLS))
        apply(lab, *peers_for(lab.topology))
        lab.kubectl("apply", "-k", str(ROOT / MANIFESTS))
        eventually(
            lambda: routers_have_blocks_of(lab, nodes),
            90,
            lambda: lab.kubectl("get", "nodenetworks,ippools,pods", "-A", "-o", "wide"),
        )
        assert not any(is_reserved(lab, cidr.partition("/")[0]) for cidr in node_blocks(lab))
        with pods_on(lab, nodes, "new") as new:
            assert not any(is_reserved(lab, address) for pod in new for address in pod.addresses)
            everyone = [*old, *new]
            assert [(a.name, b.name) for a in everyone for b in everyone if a != b and not reach(a, b)] == []
        lab.kubectl("rollout", "restart", "deployment/web")
        lab.kubectl("rollout", "status", "deployment/web", "--timeout=90s", seconds=100)
        moved = eventually(lambda: len(pods(lab, "app=web")) == 4 and pods(lab, "app=web"), 30, "the workload moved")
        assert not any(is_reserved(lab, address) for pod in moved for address in pod.addresses)
    traffic.assert_no_loss()


def test_the_old_networks_addresses_are_the_pools_once_it_is_removed(old_lab: Lab) -> None:
    lab, nodes = old_lab, list(old_lab.topology.node_names)
    remaining = [pod for pod in pods(lab, namespace="kube-system") if any(is_reserved(lab, a) for a in pod.addresses)]
    lab.kubectl("rollout", "restart", "-n", "kube-system", "deployment/coredns")
    lab.kubectl("rollout", "status", "-n", "kube-system", "deployment/coredns", "--timeout=90s", seconds=100)
    assert remaining, "cluster DNS was the old network's"
    for node in nodes:
        lab.machine(node).run(["rm", OLD_LIST])
    remove_routes_of_the_old_network(lab)
    lab.kubectl("delete", "ipreservation", "old-network")
    first, *others = (pod for pod in pods(lab, "app=web"))
    assert others
    assert all(reach(first, other) for other in others)
    with pods_on(lab, nodes, "after") as (one, other):
        assert reach(one, other)
