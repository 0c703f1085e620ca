"""The lab's ToRs behave as a fabric's should, shown with a BIRD on each node in the speaker's place."""

import os
from collections.abc import Iterator

import pytest
from host_state import need_root

from controller.lab.cluster import Lab
from controller.lab.errors import LabError
from controller.lab.execute import wait_until
from controller.lab.machine import ProcessSpec
from controller.lab.topology import NODE_AS

pytestmark = [pytest.mark.lab, pytest.mark.root]

RESTART_S = 60
BLOCK = {"v4": "10.244.{}.64/26", "v6": "fd00:10:244:{}::40/122"}
POD = {"v4": "10.244.{}.65", "v6": "fd00:10:244:{}::41"}
FOREIGN = {"v4": "10.99.0.0/24", "v6": "fd00:99::/64"}


def speaker_configuration(lab: Lab, node: str) -> str:
    """A node's block, one address of it alone, and something that is no pod's, announced over a session of each family."""
    number, rack = int(node[1:]) + 1, lab.topology.rack_of(node)
    own, tor = lab.topology.addresses(node), lab.topology.gateway(rack)
    text = f"router id {own.v4};\nprotocol device {{ }}\n"
    for family, name in (("v4", "ipv4"), ("v6", "ipv6")):
        host = f"{POD[family].format(number)}/{32 if family == 'v4' else 128}"
        routes = "".join(
            f"route {each} unreachable; " for each in (BLOCK[family].format(number), host, FOREIGN[family])
        )
        text += f"protocol static s{family} {{ {name}; {routes} }}\n"
        text += f"""protocol bgp tor_{family} {{
  local as {NODE_AS}; neighbor {getattr(tor, family)} as {lab.topology.tor_as(rack)};
  hold time 9; connect delay time 1; connect retry time 1; graceful restart on; graceful restart time {RESTART_S};
  {name} {{ import none; export all; next hop self; }};
}}
"""
    return text


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """n0 below an FRR ToR, n1 below a BIRD one, both speaking."""
    need_root()
    lab = Lab.up(f"f{os.getpid()}", nodes=2, racks=2, cni="none")
    for node in lab.topology.node_names:
        start_speaker(lab, node)
    yield lab
    lab.down()


def start_speaker(lab: Lab, node: str) -> None:
    """Start the node's BIRD, and give the node an address of the block that answers pings."""
    machine = lab.machine(node)
    machine.run(["tee", "/etc/speaker.conf"], speaker_configuration(lab, node))
    for address in pods(node):
        machine.run(["ip", "addr", "replace", address, "dev", "lo"])
    # -R: it says that it restarts and that its forwarding went on; otherwise a router drops the stale routes at once.
    argv = ("/usr/sbin/bird", "-R", "-f", "-c", "/etc/speaker.conf", "-s", "/run/speaker.ctl")
    machine.start(ProcessSpec(name="bird", argv=argv, restart=False))


def pods(node: str) -> list[str]:
    return [text.format(int(node[1:]) + 1) for text in POD.values()]


def prefixes(lab: Lab, node: str) -> list[str]:
    return [text.format(int(node[1:]) + 1) for text in BLOCK.values()]


def tor_of(lab: Lab, node: str) -> str:
    return lab.topology.tor_names[lab.topology.rack_of(node)]


def destinations(lab: Lab, place: str) -> set[str]:
    """The prefixes that the kernel of a place has routes for; one address alone is written without its length."""
    routes = lab.netns_exec(place, ["ip", "-4", "route"]) + lab.netns_exec(place, ["ip", "-6", "route"])
    return {line.split()[0] for line in routes.splitlines() if line.strip()}


def has_blocks(lab: Lab, place: str, node: str) -> bool:
    return destinations(lab, place).issuperset(prefixes(lab, node))


def sessions_up(lab: Lab, node: str) -> int:
    """Sessions of a node that its ToR holds."""
    states = lab.sessions(tor_of(lab, node))
    return sum(states[address] == "Established" for address in lab.topology.addresses(node))


NODES = pytest.mark.parametrize("node", ["n0", "n1"])


@NODES
def test_a_block_is_accepted_installed_and_passed_to_the_other_rack(lab: Lab, node: str) -> None:
    wait_until(lambda: has_blocks(lab, tor_of(lab, node), node), 30, f"the ToR has the blocks of {node}")
    other = next(tor for tor in lab.topology.tor_names if tor != tor_of(lab, node))
    for place in ("spine", other):
        wait_until(lambda at=place: has_blocks(lab, at, node), 30, f"{place} has the blocks of {node}")


@NODES
def test_an_address_announced_alone_would_be_seen_at_the_router(lab: Lab, node: str) -> None:
    wait_until(
        lambda: destinations(lab, tor_of(lab, node)).issuperset(pods(node)), 30, "the /32 and the /128 are there"
    )


@NODES
def test_what_is_no_pod_of_ours_is_refused_beside_the_block_that_is_accepted(lab: Lab, node: str) -> None:
    wait_until(lambda: has_blocks(lab, tor_of(lab, node), node), 30, f"the ToR has the blocks of {node}")
    assert destinations(lab, tor_of(lab, node)).isdisjoint(FOREIGN.values())


@NODES
def test_the_outside_host_reaches_an_announced_address_and_no_other(lab: Lab, node: str) -> None:
    for address in pods(node):
        wait_until(lambda to=address: lab.netns_exec("outside", ["ping", "-c1", "-W1", to]), 30, f"{address} answers")
    with pytest.raises(LabError, match="100% packet loss"):
        lab.netns_exec("outside", ["ping", "-c1", "-W1", "10.244.200.1"])


@NODES
def test_a_speaker_that_dies_keeps_its_routes_at_the_router_until_it_is_back(lab: Lab, node: str) -> None:
    wait_until(lambda: sessions_up(lab, node) == 2, 30, f"both sessions of {node} are up")
    wait_until(lambda: has_blocks(lab, tor_of(lab, node), node), 30, f"the ToR has the blocks of {node}")
    lab.kill(node, "bird")
    wait_until(lambda: sessions_up(lab, node) == 0, 10, f"the ToR lost both sessions of {node}", every=0.02)
    assert has_blocks(lab, tor_of(lab, node), node)
    lab.netns_exec("outside", ["ping", "-c1", "-W1", pods(node)[0]])
    start_speaker(lab, node)
    wait_until(lambda: sessions_up(lab, node) == 2, 30, f"both sessions of {node} are back")
    assert has_blocks(lab, tor_of(lab, node), node)


@NODES
def test_a_node_that_loses_power_is_forgotten_within_the_hold_time(lab: Lab, node: str) -> None:
    wait_until(lambda: has_blocks(lab, tor_of(lab, node), node), 30, f"the ToR has the blocks of {node}")
    lab.power_off(node)
    assert has_blocks(lab, tor_of(lab, node), node)
    wait_until(lambda: destinations(lab, "spine").isdisjoint(prefixes(lab, node)), 15, "the blocks go")
    lab.power_on(node)
    start_speaker(lab, node)
    wait_until(lambda: has_blocks(lab, "spine", node), 30, f"the blocks of {node} are back")
