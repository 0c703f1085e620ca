"""Forged sources never arrive at the victim with podroute's table, and arrive without it: captured at the victim, in another rack.

The pod forges by putting the address on its own loopback and sending from it, as a container with NET_ADMIN could.
"""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from test_repair import veth_of
from workloads import Pod, eventually, pods_on

from controller.lab.cluster import Lab

pytestmark = [pytest.mark.lab, pytest.mark.root]

PORT = 7400
SEND = """
import socket, sys
source, target, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
s = socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET, socket.SOCK_DGRAM)
s.bind((source, 0))
for _ in range(3):
    s.sendto(source.encode(), (target, port))
"""
RECEIVE = """
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], int(sys.argv[2])))
print("listening", flush=True)
while True:
    print(s.recvfrom(100)[1][0], flush=True)
"""
UNUSED = {4: "10.244.200.200", 6: "fd00:10:244:0:200::200"}


@pytest.fixture(scope="module")
def pods(lab: Lab) -> Iterator[list[Pod]]:
    """The forger, a bystander on its node, the victim in the other rack."""
    first, *_, last = lab.topology.node_names
    with pods_on(lab, [first, first, last], "forge") as found:
        yield found


def forged_sources(lab: Lab, pods: list[Pod], family: int) -> dict[str, str]:
    def of(addresses: tuple[str, ...]) -> str:
        return next(a for a in addresses if (":" in a) == (family == 6))

    second_node = lab.topology.node_names[1]
    return {
        "another pod's": of(pods[1].addresses),
        "another node's": of(tuple(lab.topology.addresses(second_node))),
        "an unused one": UNUSED[family],
        "an outside one": of(tuple(lab.topology.addresses("outside"))),
        # One of IPv6 never leaves the node even without our table: Linux does not forward it (RFC 4291 section 2.5.6; ip6_forward).
        # That the table refuses it on the node itself, tests/kernel/test_rules_table shows.
        **({"a link-local one": "169.254.7.7"} if family == 4 else {}),
    }


def arrived(forger: Pod, victim: Pod, sources: list[str], family: int) -> set[str]:
    """Which of the sources arrive at the victim; the forger's own address is sent last and shows that the way is open."""
    target, own = (next(a for a in pod.addresses if (":" in a) == (family == 6)) for pod in (victim, forger))
    listen = [*victim.place.enter, sys.executable, "-u", "-c", RECEIVE, target, str(PORT)]
    seen: set[str] = set()
    with subprocess.Popen(listen, stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        try:
            assert listener.stdout.readline() == "listening\n"
            for source in (*sources, own):
                send(forger, source, target, foreign=source != own)
            while own not in seen:
                seen.add(listener.stdout.readline().strip())
        finally:
            listener.kill()
    return seen - {own}


def send(forger: Pod, source: str, target: str, *, foreign: bool) -> None:
    enter = list(forger.place.enter)
    length = 128 if ":" in source else 32
    address = [f"{source}/{length}", "dev", "lo", *(["nodad"] if length == 128 else [])]
    if foreign:
        subprocess.run([*enter, "ip", "address", "add", *address], check=True)
    try:
        subprocess.run([*enter, sys.executable, "-c", SEND, source, target, str(PORT)], check=True)
    finally:
        if foreign:
            subprocess.run([*enter, "ip", "address", "del", f"{source}/{length}", "dev", "lo"], check=True)


@contextmanager
def without_our_table(lab: Lab, forger: Pod) -> Iterator[None]:
    """The agent is frozen, its table gone, and the veth's own reverse-path filter off."""
    node, veth = forger.node, veth_of(lab, forger.node, forger)
    lab.kill(node, "agent", signal.SIGSTOP)
    try:
        lab.netns_exec(node, ["nft", "delete", "table", "inet", "podroute"])
        lab.netns_exec(node, ["sysctl", "-qw", f"net.ipv4.conf.{veth}.rp_filter=0"])
        yield
    finally:
        lab.kill(node, "agent", signal.SIGCONT)
        shown = ["sh", "-c", "nft list table inet podroute 2>/dev/null || true"]
        eventually(lambda: "anti-spoofing" in lab.netns_exec(node, shown), 20, "the agent makes its table again")
        lab.netns_exec(node, ["sysctl", "-qw", f"net.ipv4.conf.{veth}.rp_filter=1"])


@pytest.mark.parametrize("family", [4, 6])
def test_forged_sources_never_arrive_and_arrive_without_our_table(lab: Lab, pods: list[Pod], family: int) -> None:
    forger, _, victim = pods
    sources = forged_sources(lab, pods, family)
    assert arrived(forger, victim, list(sources.values()), family) == set()
    with without_our_table(lab, forger):
        assert arrived(forger, victim, list(sources.values()), family) == set(sources.values())
    assert arrived(forger, victim, list(sources.values()), family) == set()
