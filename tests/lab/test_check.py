"""`podroute check` finds what is planted, each by its name, agrees with an oracle that uses other tools, and is quiet otherwise."""

import ipaddress
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import oracle
import pytest
from parts import OPERATOR, part_stopped
from router_tables import node_blocks
from told import findings
from workloads import Pod, eventually, pods_on

from controller.lab.cluster import Lab
from controller.lab.execute import run_checked

pytestmark = [pytest.mark.lab, pytest.mark.root]

# Tells the speaker to announce these prefixes more, or less, on every session of their family.
ANNOUNCE = """
import asyncio, sys, msgspec
from bgp.speaker.client import SpeakerClient
from bgp.values import Announcement, Desired

what, *prefixes = sys.argv[1:]
desired = msgspec.json.decode(open("/run/podroute/speaker/desired.json", "rb").read(), type=Desired)
def changed(neighbour):
    mine = [prefix for prefix in prefixes if (":" in neighbour.address) == (":" in prefix)]
    kept = tuple(each for each in neighbour.announcements if each.prefix not in mine)
    extra = tuple(Announcement(prefix=prefix, next_hop=neighbour.local_address) for prefix in mine if what == "more")
    return msgspec.structs.replace(neighbour, announcements=(*kept, *extra))
neighbours = tuple(changed(n) for n in desired.neighbours)
asyncio.run(SpeakerClient().sync(msgspec.structs.replace(desired, neighbours=neighbours)))
"""
FAMILIES = (4, 6)


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


def veth(lab: Lab, node: str, name: str, alias: str) -> None:
    lab.netns_exec(node, ["ip", "link", "add", name, "type", "veth", "peer", "name", f"x{name[4:]}"])
    lab.netns_exec(node, ["ip", "link", "set", name, "alias", alias])


def found_by_both(lab: Lab, kind: str, whats: Iterable[str], *follows: str) -> list[dict[str, str]]:
    """Each of the findings, once check has it; the oracle must have it, too, and neither anything else but what `follows`."""
    wanted = {(kind, what) for what in whats}

    def by_check() -> list[dict[str, str]]:
        found = findings(lab)
        return found if sum(each["kind"] == kind for each in found) >= len(wanted) else []

    def by_oracle() -> set[oracle.Finding]:
        found = oracle.wrong(lab)
        return found if wanted <= found else set()

    found = eventually(by_check, 20, lambda: f"{kind}, found {findings(lab)}")
    seen = eventually(by_oracle, 10, lambda: f"oracle: {wanted} in {oracle.wrong(lab)}")
    assert {each for each in seen if each[0] not in follows} == wanted
    assert {each["kind"] for each in found} - {"AgentAway", *follows} == {kind}
    named = [each for each in found if each["kind"] == kind]
    assert len(named) == len(wanted)
    assert all(each["remedy"] for each in named)
    return named


def the(found: list[dict[str, str]], field: str, text: str) -> dict[str, str]:
    """The one finding that has this text in this field."""
    (finding,) = (each for each in found if text in each[field])
    return finding


def block_of(lab: Lab, node: str, family: int) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    cidr = next(c for c, owner in node_blocks(lab).items() if owner == node and (":" in c) == (family == 6))
    return ipaddress.ip_network(cidr)


def test_a_lab_in_which_nothing_is_wrong_gives_no_finding(lab: Lab, pod: Pod) -> None:
    nothing_is_wrong(lab)


def test_a_veth_without_pod_is_found(lab: Lab, pod: Pod) -> None:
    # One has an address of one family, the other of the other.
    planted = {f"podr000000000{n}a": block_of(lab, pod.node, n)[-2] for n in FAMILIES}
    with part_stopped(lab, pod.node, "agent"):
        for name, address in planted.items():
            veth(lab, pod.node, name, f"podr1 planted eth0 00000000-dead {address}")
        # Its alias says that it has an address, so its route is missed as well.
        whats = [f"{pod.node}/{name}" for name in planted]
        found = found_by_both(lab, "VethWithoutPod", whats, "RouteMissing", "PodLinkWrong")
        for name, address in planted.items():
            assert str(address) in the(found, "object", name)["message"]
    # The agent's own collection takes them away: no container of that name was ever added.
    for name in planted:
        gone = partial(is_gone, lab, pod.node, name)
        eventually(gone, 30, f"the stray veth {name} is removed")


def is_gone(lab: Lab, node: str, name: str) -> bool:
    return name not in lab.netns_exec(node, ["ip", "link"])


def test_a_route_without_veth_is_found(lab: Lab, pod: Pod) -> None:
    prefixes = {4: "10.244.250.2/32", 6: "fd00:10:244:0:250::2/128"}
    with part_stopped(lab, pod.node, "agent"):
        for family, prefix in prefixes.items():
            add = ["ip", f"-{family}", "route", "add", prefix, "dev", "lo", "proto", "179", "metric", "179"]
            lab.netns_exec(pod.node, add)
        found = found_by_both(lab, "RouteSurplus", [f"{pod.node}/{prefix}" for prefix in prefixes.values()])
        for prefix in prefixes.values():
            assert the(found, "object", prefix)


def test_a_veth_without_route_is_found(lab: Lab, pod: Pod) -> None:
    addresses = {family: pod.place.address(family) for family in FAMILIES}
    with part_stopped(lab, pod.node, "agent"):
        for family, address in addresses.items():
            lab.netns_exec(pod.node, ["ip", f"-{family}", "route", "del", address, "proto", "179", "metric", "179"])
        whats = [f"{pod.node}/{ipaddress.ip_network(address)}" for address in addresses.values()]
        found = found_by_both(lab, "RouteMissing", whats)
        for address in addresses.values():
            assert the(found, "object", address)


def test_one_address_on_two_veths_is_found(lab: Lab, pod: Pod) -> None:
    other = lab.topology.node_names[1]
    addresses = {family: pod.place.address(family) for family in FAMILIES}
    # On another node, under the UID of a real pod there: nothing but the address gives it away.
    with pods_on(lab, [other], "second") as (second,), part_stopped(lab, other, "agent"):
        for family, address in addresses.items():
            veth(lab, other, f"podr000000000{family}b", f"podr1 planted eth{family} {second.uid} {address}")
        follows = ("AddressOutsideBlocks", "AddressMismatch", "RouteMissing", "PodLinkWrong")
        found = found_by_both(lab, "AddressTwice", addresses.values(), *follows)
        for family, address in addresses.items():
            message = the(found, "object", address)["message"]
            assert pod.node in message
            assert other in message
            lab.netns_exec(other, ["ip", "link", "del", f"podr000000000{family}b"])


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


def test_a_block_without_node_is_found(lab: Lab, pod: Pod) -> None:
    planted = {
        "10-244-240-0-26": ("10.244.240.0/26", "pods-v4"),
        "fd00-10-244-f0-0-0-0-0-122": ("fd00:10:244:f0::/122", "pods-v6"),
    }
    try:
        for name, (cidr, pool) in planted.items():
            block = {
                "apiVersion": "podroute.dev/v1alpha1",
                "kind": "IPBlock",
                "metadata": {"name": name},
                "spec": {"cidr": cidr, "pool": pool, "node": {"name": "ghost", "uid": "gone"}},
            }
            lab.kubectl("create", "--as", OPERATOR, "-f", "-", text=json.dumps(block))
        found = found_by_both(lab, "BlockWithoutNode", [cidr for cidr, _ in planted.values()])
        assert all("ghost" in finding["message"] for finding in found)
    finally:
        lab.kubectl("delete", "--as", OPERATOR, "--ignore-not-found", "ipblock", *planted)


@contextmanager
def announced(lab: Lab, node: str, what: str, prefixes: Iterable[str]) -> Iterator[None]:
    """The speaker announces these more, or less, behind its agent's back; a new agent says again all there is to announce."""
    python = ["env", "PYTHONPATH=/opt/podroute", "/opt/podroute/.venv/bin/python", "-c", ANNOUNCE, what, *prefixes]
    try:
        with part_stopped(lab, node, "agent"):
            lab.node(node).run(python)
            yield
    finally:
        lab.kill(node, "agent")


def test_an_announcement_without_block_is_found(lab: Lab, pod: Pod) -> None:
    prefixes = ("10.244.241.0/26", "fd00:10:244:f1::/122")
    with announced(lab, pod.node, "more", prefixes):
        found = found_by_both(lab, "AnnouncementWithoutBlock", prefixes)
        for prefix in prefixes:
            assert the(found, "message", prefix)


def test_a_block_that_is_not_announced_is_found(lab: Lab, pod: Pod) -> None:
    blocks = [str(block_of(lab, pod.node, family)) for family in FAMILIES]
    with announced(lab, pod.node, "less", blocks):
        found = found_by_both(lab, "AnnouncementMissing", blocks)
        for block in blocks:
            assert the(found, "message", block)


def test_an_agent_that_is_away_is_named(lab: Lab, pod: Pod) -> None:
    with part_stopped(lab, pod.node, "agent"):
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
