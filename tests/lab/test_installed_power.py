"""Nodes that reboot, or lose their power, where podroute was installed by its manifests: kubelets bring its parts back.

Over a reboot routers keep a node's routes (RFC 4724), which leaves its speaker's pod two minutes to start in.
"""

import pytest
from faults import all_established
from oracle import wrong
from refused_inputs import body
from router_tables import RouteWatch, node_blocks
from test_installed import on_nodes, parts
from test_power import held, is_ready
from traffic import Traffic
from workloads import apply, eventually, pods, pods_on

from controller.lab.cluster import Lab

pytestmark = [pytest.mark.lab, pytest.mark.root]


def restarts(lab: Lab, pod: str) -> int:
    statuses = lab.get("pod", pod)["status"].get("containerStatuses", [])
    return sum(each["restartCount"] for each in statuses)


def test_a_node_that_reboots_costs_no_router_a_route_and_starts_its_pods_anew(installed_lab: Lab) -> None:
    lab = installed_lab
    *others, victim = lab.topology.node_names
    blocks = node_blocks(lab)
    with pods_on(lab, [others[0], others[-1], victim], "reboot") as (one, other, booted):
        eventually(lambda: held(lab) == set(blocks), 20, lambda: f"at the routers: {held(lab)}")
        with RouteWatch(lab, lab.topology.router_names) as watch, Traffic([(one.place, other.place)]) as traffic:
            lab.reboot(victim)
            eventually(lambda: restarts(lab, booted.name) > 0, 90, lambda: lab.kubectl("describe", "pod", booted.name))
            (again,) = eventually(lambda: pods(lab, f"app={booted.name}"), 60, f"{booted.name} is ready again")
            eventually(lambda: all_established(lab, lab.topology.tor_names), 30, "all sessions are established")
            eventually(lambda: held(lab) == set(blocks), 30, lambda: f"back at the routers: {held(lab)}")
        traffic.assert_no_loss()
        assert watch.dropped == [], "routers keep them for the restart time, and hear them again within it"
        assert again.uid == booted.uid
        assert node_blocks(lab) == blocks
        with Traffic([(again.place, one.place)]) as after:
            pass
        assert not after.errors
        assert all(direction.received for direction in after.directions)
    whole_again(lab)


def whole_again(lab: Lab) -> None:
    """Everything runs once, and the oracle finds nothing wrong: the API server calls a pod Running that is being made anew."""
    nodes = list(lab.topology.node_names)
    eventually(
        lambda: on_nodes(lab, "agent") == on_nodes(lab, "speaker") == nodes and len(parts(lab, "operator")) == 1,
        60,
        lambda: lab.kubectl("get", "pods", "-A", "-o", "wide"),
    )
    eventually(lambda: wrong(lab) == set(), 60, lambda: f"{wrong(lab)}")


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_an_operator_whose_node_has_no_power_is_followed_by_one_elsewhere_that_grants(installed_lab: Lab) -> None:
    lab = installed_lab
    blocks = node_blocks(lab)
    (old,) = parts(lab, "operator")
    victim = old["spec"]["nodeName"]
    others = [node for node in lab.topology.node_names if node != victim]
    try:
        lab.power_off(victim)
        apply(lab, body("IPPool", "unpowered", cidr="10.252.0.0/22", headroom=8))
        # The node is found dead after 50 s, and its operator's pod is given up 30 s later.
        eventually(
            lambda: {owner for cidr, owner in node_blocks(lab).items() if cidr.startswith("10.252.")} >= {*others},
            200,
            lambda: lab.kubectl("get", "pods,leases,ippools", "-A", "-o", "wide"),
        )
        (new,) = (pod for pod in parts(lab, "operator") if pod["metadata"]["uid"] != old["metadata"]["uid"])
        assert new["spec"]["nodeName"] in others
    finally:
        lab.power_on(victim)
        lab.kubectl("delete", "ippool", "unpowered", "--ignore-not-found", "--wait=false")
    eventually(lambda: is_ready(lab, victim), 120, f"{victim} is ready again")
    eventually(lambda: all_established(lab, lab.topology.tor_names), 60, "all sessions are established")
    eventually(lambda: node_blocks(lab) == blocks, 120, lambda: lab.kubectl("get", "ippools,ipblocks", "-o", "wide"))
    whole_again(lab)
