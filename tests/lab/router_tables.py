"""What the lab's routers hold, asked of the routers themselves (vtysh, birdc), and a watch on what they drop."""

import ipaddress
import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from controller.lab.cluster import Lab
from controller.lab.execute import wait_until
from controller.lab.topology import POD_POOLS

POOLS = [ipaddress.ip_network(pool) for pool in POD_POOLS]


@dataclass(frozen=True)
class Entry:
    """A path: next hop and AS path, the origin last."""

    next_hop: str
    as_path: tuple[int, ...]


def is_pod_prefix(prefix: str) -> bool:
    """Whether the prefix lies in a pod pool."""
    network = ipaddress.ip_network(prefix)  # without a length it is that of one address
    return any(network.version == pool.version and network.subnet_of(pool) for pool in POOLS)


def pod_table(lab: Lab, router: str, family: int) -> dict[str, list[Entry]]:
    """All paths that the router has to pod prefixes, the best and the others: one announced twice, or by two, is seen."""
    table = _bird_table(lab, router, family) if lab.is_bird(router) else _frr_table(lab, router, family)
    return {prefix: entries for prefix, entries in table.items() if is_pod_prefix(prefix)}


def _frr_table(lab: Lab, router: str, family: int) -> dict[str, list[Entry]]:
    routes = lab.vtysh(router, f"show bgp ipv{family} unicast json")["routes"]
    return {
        prefix: [Entry(_global_next_hop(path), tuple(int(asn) for asn in path["path"].split())) for path in paths]
        for prefix, paths in routes.items()
    }


def _global_next_hop(path: dict[str, Any]) -> str:
    hops = [hop["ip"] for hop in path["nexthops"] if not hop["ip"].startswith("fe80")]
    return hops[0] if hops else path["nexthops"][0]["ip"]


def _bird_table(lab: Lab, router: str, family: int) -> dict[str, list[Entry]]:
    text = lab.birdc(router, f"show route all table master{family}")
    table: dict[str, list[Entry]] = {}
    prefix, next_hop = "", ""
    for line in text.splitlines():
        if match := re.match(r"([0-9a-f:.]+/\d+)\s", line):
            prefix = match[1]
        elif match := re.match(r"\s+via ([0-9a-f:.]+) on", line):
            next_hop = match[1]
        elif match := re.match(r"\s+BGP\.as_path:\s*(.*)", line):
            table.setdefault(prefix, []).append(Entry(next_hop, tuple(map(int, match[1].split()))))
    return table


def session_marks(lab: Lab, router: str) -> dict[str, str]:
    """A mark for each session with a node that changes when the session restarts."""
    if lab.is_bird(router):
        lines = lab.birdc(router, "show protocols").splitlines()
        rows = [line.split() for line in lines if " BGP " in line and line.startswith("n")]
        return {row[0]: f"{row[-1]} {_connection(lab, router, row[0])}" for row in rows}
    neighbours = lab.vtysh(router, "show bgp neighbors json")
    return {
        name: f"{each['bgpState']} {each['connectionsEstablished']} {each['connectionsDropped']}"
        for name, each in neighbours.items()
        if each["remoteAs"] == 64512
    }


def _connection(lab: Lab, router: str, session: str) -> str:
    """The node's TCP port: BIRD's `since` wavers by as much as its loop is late, since two clocks are read one after the other."""
    node, _, family = session.partition("_")
    address = getattr(lab.topology.addresses(node), family)
    peer = f"[{address}]:" if ":" in address else f"{address}:"
    lines = lab.netns_exec(router, ["ss", "-Htn", "state", "established", "sport", "=", ":179"]).splitlines()
    return " ".join(sorted(line.split()[3] for line in lines if line.split()[3].startswith(peer)))


def silences(lab: Lab, places: Sequence[str]) -> list[float]:
    """Seconds since routers or nodes last received something on each of their BGP connections: the kernel's own count."""
    shown = ("ss", "-HtniO", "state", "established", "( sport = :179 or dport = :179 )")
    lines = [line for place in places for line in lab.netns_exec(place, list(shown)).splitlines()]
    found = [re.search(r" lastrcv:(\d+)", line) for line in lines]
    # Not shown: none.
    return [int(match[1]) / 1000 if match else 0.0 for match in found]


class RouteWatch:
    """Watches the kernels of routers for pod routes that come and go, however briefly: `added` and `dropped` are prefixes."""

    def __init__(self, lab: Lab, routers: Sequence[str]) -> None:
        self.lab, self.routers = lab, routers
        self._monitors: list[subprocess.Popen[str]] = []
        self.added: list[str] = []
        self.dropped: list[str] = []

    def __enter__(self) -> Self:
        for router in self.routers:
            for family in ("-4", "-6"):
                argv = ["nsenter", f"--net={self.lab.netns(router)}", "ip", family, "monitor", "route"]
                self._monitors.append(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))
        for monitor in self._monitors:
            wait_until(lambda pid=monitor.pid: _is_subscribed(pid), 5.0, "ip monitor listens")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for monitor in self._monitors:
            monitor.terminate()
            for line in monitor.communicate(timeout=10)[0].splitlines():
                match = re.search(r"([0-9a-f]*[.:][0-9a-f.:]+(?:/\d+)?)", line)
                if match and is_pod_prefix(match[1]):
                    changes = self.dropped if line.startswith("Deleted") else self.added
                    changes.append(str(ipaddress.ip_network(match[1])))


def _is_subscribed(pid: int) -> bool:
    """Whether the process has a socket of routing netlink that is in some group (/proc/net/netlink: family, port, groups)."""
    rows = [line.split() for line in Path(f"/proc/{pid}/net/netlink").read_text().splitlines()[1:]]
    return any(row[1] == "0" and row[2] == str(pid) and int(row[3], 16) for row in rows)


def node_blocks(lab: Lab) -> dict[str, str]:
    """The set of IPBlocks: CIDR to node."""
    return {block["spec"]["cidr"]: block["spec"]["node"]["name"] for block in lab.get("ipblocks")["items"]}


def kernel_routes(lab: Lab, place: str, *arguments: str) -> list[dict[str, Any]]:
    """`ip -j route show` in a place's network namespace."""
    found: list[dict[str, Any]] = json.loads(lab.netns_exec(place, ["ip", "-j", *arguments]))
    return found
