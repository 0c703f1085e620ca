"""Forged sources never arrive at the victim with podroute's table, and arrive without it: captured at the victim, in another rack.

The pod forges by putting the address on its own loopback and sending from it, as a container with NET_ADMIN could.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from parts import part_stopped
from test_repair import veth_of
from workloads import Pod, eventually, pods_on

from controller.lab.cluster import Lab

pytestmark = [pytest.mark.lab, pytest.mark.root]

PORT = 7400
SEND = """
import socket, sys
source, target, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
s = socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET, socket.SOCK_DGRAM)
s.bind((source, 0, 0, socket.if_nametoindex("eth0")) if source.startswith("fe80") else (source, 0))
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
        **({"a link-local one": "169.254.7.7"} if family == 4 else {}),
    }


# One of IPv6 never leaves the node even without our table: Linux does not forward it (RFC 4291 section 2.5.6; ip6_forward).
# That the table refuses it on the node itself, tests/kernel/test_rules_table shows.
NEVER = {4: [], 6: ["fe80::7:7"]}


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
    # A link-local address is one of an interface, so the forger has it on the one by which it sends.
    address = [f"{source}/{length}", "dev", "eth0" if source.startswith("fe80") else "lo"]
    if foreign:
        nodad = ["nodad"] if length == 128 else []
        subprocess.run([*enter, "ip", "address", "add", *address, *nodad], check=True)
    try:
        subprocess.run([*enter, sys.executable, "-c", SEND, source, target, str(PORT)], check=True)
    finally:
        if foreign:
            subprocess.run([*enter, "ip", "address", "del", *address], check=True)


@contextmanager
def only_our_table_guards(lab: Lab, forger: Pod) -> Iterator[None]:
    """The agent is frozen, and the veth's own reverse-path filter off: our table alone stands between forger and victim."""
    node, veth = forger.node, veth_of(lab, forger.node, forger)
    setting = f"net.ipv4.conf.{veth}.rp_filter"
    try:
        with part_stopped(lab, node, "agent"):
            lab.netns_exec(node, ["sysctl", "-qw", f"{setting}=0"])
            yield
    finally:
        shown = ["sh", "-c", f"nft list table inet podroute 2>/dev/null; sysctl -n {setting}"]
        found = lambda: lab.netns_exec(node, shown)  # noqa: E731
        eventually(lambda: "anti-spoofing" in found() and found().endswith("\n1\n"), 40, lambda: f"repaired: {found()}")


@pytest.mark.parametrize("family", [4, 6])
def test_forged_sources_never_arrive_and_arrive_without_our_table(lab: Lab, pods: list[Pod], family: int) -> None:
    forger, _, victim = pods
    forged = list(forged_sources(lab, pods, family).values())
    sources = [*forged, *NEVER[family]]
    assert arrived(forger, victim, sources, family) == set()
    with only_our_table_guards(lab, forger):
        assert arrived(forger, victim, sources, family) == set()
        lab.netns_exec(forger.node, ["nft", "delete", "table", "inet", "podroute"])
        assert arrived(forger, victim, sources, family) == set(forged)
    assert arrived(forger, victim, sources, family) == set()
