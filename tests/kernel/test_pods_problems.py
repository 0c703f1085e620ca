"""What `podroute check` learns of pods' wiring on their node (`controller.kernel.pods.wiring_problems`)."""

import pytest
from netns_world import World, run

from controller.kernel import pods
from controller.kernel.values import GATEWAY_V4, GATEWAY_V6

pytestmark = pytest.mark.root


def found() -> set[tuple[str, str]]:
    return {(link, drift.what) for link, drift in pods.wiring_problems()}


def test_pods_that_are_wired_as_they_should_be_have_no_problem(world: World) -> None:
    world.pod()
    world.pod(mtu=1400)
    assert found() == set()


def test_what_is_wrong_inside_a_pod_is_found_by_the_peers_namespace_and_named_with_its_veth(world: World) -> None:
    good, bad = world.pod(), world.pod()
    bad.run("ip", "route", "delete", "default")
    bad.run("ip", "-6", "address", "delete", f"{bad.v6}/128", "dev", "eth0")
    assert good.host_end not in {link for link, _ in found()}
    assert found() == {
        (bad.host_end, f"eth0: default route via {GATEWAY_V4} is missing"),
        (bad.host_end, f"eth0: address {bad.v6} is missing"),
    }


def test_what_is_wrong_on_the_nodes_end_is_found_beside_it(world: World) -> None:
    pod = world.pod()
    run("ip", "-6", "address", "delete", f"{GATEWAY_V6}/64", "dev", pod.host_end)
    assert found() == {(pod.host_end, f"{pod.host_end}: gateway {GATEWAY_V6} is missing")}


def test_a_veth_without_alias_and_one_whose_peer_is_on_the_node_are_passed_over(world: World) -> None:
    pod = world.pod()
    run("ip", "link", "set", pod.host_end, "alias", "")
    run("ip", "link", "add", "podr0123456789a", "type", "veth", "peer", "name", "other")
    assert found() == set()
