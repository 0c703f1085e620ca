"""10,000 routes into the kernel and out again, as the agent does it and as `ip -batch` does, in a namespace of their own."""

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from figures import Figures, Row
from host_state import need_root

from controller.kernel.netlink import in_netns
from controller.kernel.routes import apply_routes
from controller.kernel.values import METRIC, PROTOCOL, NextHop, Route, RouteChanges, RouteKind

COUNT = 10_000
GATEWAYS = {"-4": "192.0.2.1", "-6": "2001:db8:1::1"}
OWN = ("192.0.2.10/24", "2001:db8:1::10/64")


@pytest.fixture
def namespace() -> Iterator[None]:
    """The test's thread is in an empty network namespace with an uplink, and what it starts is too."""
    need_root()
    name = f"bench-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        descriptor = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            with in_netns(descriptor):
                for arguments in ("link set lo up", "link add uplink0 type veth peer name peer0"):
                    ip(*arguments.split())
                for address in OWN:
                    ip("address", "add", address, "dev", "uplink0", *(["nodad"] if ":" in address else []))
                for link in ("uplink0", "peer0"):
                    ip("link", "set", link, "up")
                yield
        finally:
            os.close(descriptor)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True, timeout=120).stdout


def routes(family: str) -> tuple[Route, ...]:
    """Blocks as nodes of a large cluster have them, one next hop for each hundred."""
    hop = (NextHop(ip_address(GATEWAYS[family]), "uplink0"),)
    first, step, length = (10 << 24, 64, 26) if family == "-4" else (0xFD00 << 112, 64, 122)
    address = ip_address(first).__class__
    return tuple(
        Route(ip_network(f"{address(first + step * n)}/{length}"), RouteKind.UNICAST, hop) for n in range(COUNT)
    )


def present(family: str) -> int:
    return len(ip("-o", family, "route", "show", "proto", str(PROTOCOL)).splitlines())


def batch(path: Path, verb: str, family: str) -> Path:
    lines = (
        f"route {verb} {route.prefix} via {GATEWAYS[family]} dev uplink0 proto {PROTOCOL} metric {METRIC}\n"
        for route in routes(family)
    )
    path.write_text("".join(lines))
    return path


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_ten_thousand_routes_are_written_beside_ip_batch(
    namespace: None, figures: Figures, rounds: int, tmp_path: Path, family: str
) -> None:
    wanted = routes(family)
    add, delete = batch(tmp_path / "add", "add", family), batch(tmp_path / "del", "del", family)
    took: dict[str, list[float]] = {name: [] for name in ("add", "delete", "ip add", "ip delete")}
    for _ in range(max(2, rounds // 8)):
        took["add"].append(seconds(lambda: apply_routes(RouteChanges(create=wanted))))
        assert present(family) == COUNT
        took["delete"].append(seconds(lambda: apply_routes(RouteChanges(delete=wanted))))
        assert present(family) == 0
        took["ip add"].append(seconds(lambda: ip(family, "-batch", str(add))))
        assert present(family) == COUNT
        took["ip delete"].append(seconds(lambda: ip(family, "-batch", str(delete))))
        assert present(family) == 0
    for verb in ("add", "delete"):
        figures.add(
            Row(
                "routes",
                f"{verb} 10,000 IPv{family[1]} routes, beside `ip -batch`, p50",
                1000 * statistics.median(took[verb]),
                "ms",
                reference=1000 * statistics.median(took[f"ip {verb}"]),
                detail=f"{len(took[verb])} runs",
            )
        )
