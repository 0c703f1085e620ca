"""How long it takes from `kubectl apply` of pools until the last router forwards to the last block."""

import json
import re
import statistics
import subprocess
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from figures import Figures, Row, percentile
from router_tables import is_pod_prefix, node_blocks
from workloads import eventually

from controller.lab.cluster import Lab
from controller.lab.podroute import ROOT, ROUTED_POOLS

GOAL_SECONDS = 1.0
PREFIX = re.compile(r"(?:unreachable |blackhole )?([0-9a-f:.]+/\d+) ")


class Arrivals:
    """Watches the kernels of routers by their own notifications, and keeps when each pod prefix came and had not gone again."""

    def __init__(self, lab: Lab, routers: Sequence[str]) -> None:
        self.came: dict[str, dict[str, float]] = {router: {} for router in routers}
        self._monitors = []
        for router in routers:
            for family in ("-4", "-6"):
                argv = ["nsenter", f"--net={lab.netns(router)}", "stdbuf", "-oL", "ip", family, "monitor", "route"]
                self._monitors.append((router, subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)))
        self._readers = [threading.Thread(target=self._read, args=each, daemon=True) for each in self._monitors]

    def __enter__(self) -> Self:
        for reader in self._readers:
            reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, monitor in self._monitors:
            monitor.terminate()
        for (_, monitor), reader in zip(self._monitors, self._readers, strict=True):
            reader.join(10)
            monitor.wait(10)
            monitor.stdout.close()

    def _read(self, router: str, monitor: "subprocess.Popen[str]") -> None:
        for line in monitor.stdout:
            now = time.perf_counter()
            is_gone = line.startswith("Deleted ")
            match = PREFIX.match(line.removeprefix("Deleted "))
            if not match or not is_pod_prefix(match[1]):
                continue
            if is_gone:
                self.came[router].pop(match[1], None)
            else:
                self.came[router].setdefault(match[1], now)

    def hold(self, prefixes: set[str]) -> bool:
        """Whether every router holds exactly these."""
        return all(set(came) == prefixes for came in self.came.values())


def sessions_are_up(lab: Lab) -> bool:
    """Every node has its session with its ToR in both families."""
    for rack, tor in enumerate(lab.topology.tor_names):
        states = lab.sessions(tor)
        if any(states.get(a) != "Established" for n in lab.topology.nodes_in(rack) for a in lab.topology.addresses(n)):
            return False
    return True


def settled_blocks(lab: Lab) -> set[str]:
    """The blocks, once every node has some of both families and knows of all of them; empty before."""
    blocks = node_blocks(lab)
    granted = {b["cidr"] for each in lab.get("nodenetworks")["items"] for b in each["spec"].get("blocks", [])}
    owners = {(node, ":" in cidr) for cidr, node in blocks.items()}
    return set(blocks) if granted == set(blocks) and len(owners) == 2 * lab.topology.nodes else set()


def all_routers_agree(lab: Lab, arrivals: Arrivals) -> set[str]:
    """The blocks, if each router's kernel holds exactly them; empty before."""
    blocks = settled_blocks(lab)
    return blocks if arrivals.hold(blocks) else set()


def test_a_pool_reaches_the_last_router_soon_after_apply(lab: Lab, figures: Figures, rounds: int) -> None:
    eventually(lambda: sessions_are_up(lab), 60, "all sessions with the ToRs are up")
    manifest = str(ROOT / ROUTED_POOLS)
    routers = lab.topology.router_names
    totals, returned, first = [], [], []
    for _ in range(max(2, rounds // 5)):
        with Arrivals(lab, routers) as arrivals:
            begun = time.perf_counter()
            lab.kubectl("apply", "-f", manifest)
            returned.append(time.perf_counter() - begun)
            blocks = eventually(lambda: all_routers_agree(lab, arrivals), 30, lambda: f"routers hold {arrivals.came}")
            assert all(blocks <= set(lab.bgp_routes(router)) for router in routers)
            times = [arrivals.came[router][block] - begun for router in routers for block in blocks]
            totals.append(max(times))
            first.append(min(times))
            lab.kubectl("delete", "-f", manifest, "--wait=true")
            eventually(lambda: arrivals.hold(set()), 30, lambda: f"routers still hold {arrivals.came}")
    figures.add(
        Row(
            "pool to routers",
            f"`kubectl apply` of two pools → last of {len(blocks)} prefixes in the last router's kernel, 4 nodes, p50",
            statistics.median(totals),
            "s",
            goal=GOAL_SECONDS,
            detail=f"p90 {percentile(totals, 90):.2f} s, {len(totals)} runs; kubectl itself {statistics.median(returned):.2f} s, "
            f"first prefix {statistics.median(first):.2f} s",
        )
    )
    spans = {
        name: [round(v, 3) for v in values]
        for name, values in (("kubectl returned", returned), ("first prefix", first), ("last prefix", totals))
    }
    figures.explain("pool to routers", "From apply to the routers", json.dumps(spans))
