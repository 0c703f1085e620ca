"""`podroute check` finds what is planted, each by its name, agrees with an oracle that uses other tools, and is quiet otherwise."""

import ipaddress
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import oracle
import pytest
from router_tables import node_blocks
from told import findings
from workloads import Pod, eventually, pods_on

from controller.lab.cluster import Lab
from controller.lab.execute import run_checked

pytestmark = [pytest.mark.lab, pytest.mark.root]

OPERATOR = "system:serviceaccount:podroute-system:podroute-operator"
# Tells the speaker to announce one prefix more, or less, on every session of its family.
ANNOUNCE = """
import asyncio, sys, msgspec
from bgp.speaker.client import SpeakerClient
from bgp.values import Announcement, Desired

what, prefix = sys.argv[1:]
desired = msgspec.json.decode(open("/run/podroute/speaker/desired.json", "rb").read(), type=Desired)
def changed(neighbour):
    if (":" in neighbour.address) != (":" in prefix):
        return neighbour
    kept = tuple(each for each in neighbour.announcements if each.prefix != prefix)
    extra = (Announcement(prefix=prefix, next_hop=neighbour.local_address),) if what == "more" else ()
    return msgspec.structs.replace(neighbour, announcements=(*kept, *extra))
neighbours = tuple(changed(n) for n in desired.neighbours)
asyncio.run(SpeakerClient().sync(msgspec.structs.replace(desired, neighbours=neighbours)))
"""
FAMILIES = pytest.mark.parametrize("family", [4, 6])


def kinds(lab: Lab) -> set[str]:
    return {found["kind"] for found in findings(lab)}


@pytest.fixture(scope="module")
def pod(lab: Lab) -> Iterator[Pod]:
    with pods_on(lab, [lab.topology.node_names[0]], "checked") as (pod,):
        yield pod


@pytest.fixture(autouse=True)
def quiet(lab: Lab, pod: Pod) -> Iterator[None]:
    """After every test nothing is wrong, says check, and so does the oracle."""
    yield
    nothing_is_wrong(lab)


def nothing_is_wrong(lab: Lab) -> None:
    eventually(lambda: not oracle.wrong(lab), 60, lambda: f"{oracle.wrong(lab)}")
    eventually(lambda: not findings(lab), 60, lambda: f"{findings(lab)}")


@contextmanager
def agent_stopped(lab: Lab, node: str) -> Iterator[None]:
    """The agent is frozen: it repairs nothing meanwhile."""
    lab.kill(node, "agent", signal.SIGSTOP)
    try:
        yield
    finally:
        lab.kill(node, "agent", signal.SIGCONT)


def veth(lab: Lab, node: str, name: str, alias: str) -> None:
    lab.netns_exec(node, ["ip", "link", "add", name, "type", "veth", "peer", "name", f"x{name[4:]}"])
    lab.netns_exec(node, ["ip", "link", "set", name, "alias", alias])


def found_by_both(lab: Lab, kind: str, what: str, *follows: str) -> dict[str, Any]:
    """The finding, once check has it; the oracle must have it, too, and neither anything else but what `follows` from it."""

    def by_check() -> list[dict[str, str]]:
        found = findings(lab)
        return found if kind in {each["kind"] for each in found} else []

    def by_oracle() -> set[oracle.Finding]:
        found = oracle.wrong(lab)
        return found if (kind, what) in found else set()

    found = eventually(by_check, 20, lambda: f"{kind}, found {findings(lab)}")
    seen = eventually(by_oracle, 10, lambda: f"oracle: {kind} {what} in {oracle.wrong(lab)}")
    assert {each for each, _ in seen} - {*follows} == {kind}
    assert {each["kind"] for each in found} - {"AgentAway", *follows} == {kind}
    finding = next(each for each in found if each["kind"] == kind)
    assert finding["remedy"]
    return dict(finding)


def block_of(lab: Lab, node: str, family: int) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    cidr = next(c for c, owner in node_blocks(lab).items() if owner == node and (":" in c) == (family == 6))
    return ipaddress.ip_network(cidr)


def test_a_lab_in_which_nothing_is_wrong_gives_no_finding(lab: Lab, pod: Pod) -> None:
    nothing_is_wrong(lab)


@FAMILIES
def test_a_veth_without_pod_is_found(lab: Lab, pod: Pod, family: int) -> None:
    address = block_of(lab, pod.node, family)[-2]
    with agent_stopped(lab, pod.node):
        veth(lab, pod.node, "podr0000000000a", f"podr1 planted eth0 00000000-dead {address}")
        # Its alias says that it has an address, so its route is missed as well.
        finding = found_by_both(lab, "VethWithoutPod", f"{pod.node}/podr0000000000a", "RouteMissing", "PodLinkWrong")
        assert "podr0000000000a" in finding["object"]
        assert str(address) in finding["message"]
    # The agent's own collection takes it away: no container of that name was ever added.
    eventually(
        lambda: "podr0000000000a" not in lab.netns_exec(pod.node, ["ip", "link"]), 30, "the stray veth is removed"
    )


@FAMILIES
def test_a_route_without_veth_is_found(lab: Lab, pod: Pod, family: int) -> None:
    prefix = "fd00:10:244:0:250::2/128" if family == 6 else "10.244.250.2/32"
    with agent_stopped(lab, pod.node):
        add = ["ip", f"-{family}", "route", "add", prefix, "dev", "lo", "proto", "179", "metric", "179"]
        lab.netns_exec(pod.node, add)
        finding = found_by_both(lab, "RouteSurplus", f"{pod.node}/{prefix}")
        assert prefix in finding["object"]


@FAMILIES
def test_a_veth_without_route_is_found(lab: Lab, pod: Pod, family: int) -> None:
    address = pod.place.address(family)
    with agent_stopped(lab, pod.node):
        lab.netns_exec(pod.node, ["ip", f"-{family}", "route", "del", address, "proto", "179", "metric", "179"])
        finding = found_by_both(lab, "RouteMissing", f"{pod.node}/{ipaddress.ip_network(address)}")
        assert address in finding["object"]


@FAMILIES
def test_one_address_on_two_veths_is_found(lab: Lab, pod: Pod, family: int) -> None:
    other = lab.topology.node_names[1]
    address = pod.place.address(family)
    # On another node, under the UID of a real pod there: nothing but the address gives it away.
    with pods_on(lab, [other], "second") as (second,), agent_stopped(lab, other):
        veth(lab, other, "podr0000000000b", f"podr1 planted eth1 {second.uid} {address}")
        follows = ("AddressOutsideBlocks", "AddressMismatch", "RouteMissing", "PodLinkWrong")
        finding = found_by_both(lab, "AddressTwice", address, *follows)
        assert address in finding["object"]
        assert pod.node in finding["message"]
        assert other in finding["message"]
        lab.netns_exec(other, ["ip", "link", "del", "podr0000000000b"])


def test_a_pod_whose_wiring_was_changed_inside_is_found(lab: Lab, pod: Pod) -> None:
    inside = [*pod.place.enter, "ip", "route"]
    run_checked([*inside, "delete", "default"])
    try:
        found = eventually(
            lambda: [f for f in findings(lab) if f["kind"] == "PodLinkWrong"], 20, "PodLinkWrong is found"
        )
        assert pod.node in found[0]["object"]
        assert "default route via 169.254.1.1 is missing" in found[0]["message"]
    finally:
        run_checked([*inside, "add", "default", "via", "169.254.1.1", "dev", "eth0", "onlink"])


@FAMILIES
def test_a_block_without_node_is_found(lab: Lab, pod: Pod, family: int) -> None:
    name, cidr = {
        4: ("10-244-240-0-26", "10.244.240.0/26"),
        6: ("fd00-10-244-f0-0-0-0-0-122", "fd00:10:244:f0::/122"),
    }[family]
    block = {
        "apiVersion": "podroute.dev/v1alpha1",
        "kind": "IPBlock",
        "metadata": {"name": name},
        "spec": {"cidr": cidr, "pool": f"pods-v{family}", "node": {"name": "ghost", "uid": "gone"}},
    }
    lab.kubectl("create", "--as", OPERATOR, "-f", "-", text=json.dumps(block))
    try:
        finding = found_by_both(lab, "BlockWithoutNode", cidr)
        assert "ghost" in finding["message"]
    finally:
        lab.kubectl("delete", "--as", OPERATOR, "--ignore-not-found", "ipblock", name)


def announce(lab: Lab, node: str, what: str, prefix: str) -> None:
    """Make the speaker announce a prefix more, or less, behind its agent's back."""
    python = ["env", "PYTHONPATH=/opt/podroute", "/opt/podroute/.venv/bin/python", "-c", ANNOUNCE, what, prefix]
    lab.node(node).run(python)


@FAMILIES
def test_an_announcement_without_block_is_found(lab: Lab, pod: Pod, family: int) -> None:
    prefix = "fd00:10:244:f1::/122" if family == 6 else "10.244.241.0/26"
    try:
        with agent_stopped(lab, pod.node):
            announce(lab, pod.node, "more", prefix)
            finding = found_by_both(lab, "AnnouncementWithoutBlock", prefix)
            assert prefix in finding["message"]
    finally:
        # A new agent says again all there is to announce.
        lab.kill(pod.node, "agent")


@FAMILIES
def test_a_block_that_is_not_announced_is_found(lab: Lab, pod: Pod, family: int) -> None:
    block = str(block_of(lab, pod.node, family))
    try:
        with agent_stopped(lab, pod.node):
            announce(lab, pod.node, "less", block)
            finding = found_by_both(lab, "AnnouncementMissing", block)
            assert block in finding["message"]
    finally:
        lab.kill(pod.node, "agent")


def test_an_agent_that_is_away_is_named(lab: Lab, pod: Pod) -> None:
    with agent_stopped(lab, pod.node):
        assert kinds(lab) == {"AgentAway"}


def test_hostile_surroundings_are_named_and_not_changed(lab: Lab, pod: Pod) -> None:
    lab.netns_exec(pod.node, ["sysctl", "-qw", "net.ipv6.conf.all.forwarding=0"])
    try:
        (finding,) = (f for f in findings(lab) if f["kind"] == "HostileSurroundings")
        assert "net.ipv6.conf.all.forwarding" in finding["message"]
        assert "sysctl -w" in finding["remedy"]
        assert lab.netns_exec(pod.node, ["sysctl", "-n", "net.ipv6.conf.all.forwarding"]).strip() == "0"
    finally:
        lab.netns_exec(pod.node, ["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"])
