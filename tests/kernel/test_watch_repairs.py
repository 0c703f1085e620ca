"""Every foreign change is heard of from its notification and mended within a second; our own writes are not taken for one."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from ipaddress import ip_network
from typing import Any

import pytest
from netns_world import GATEWAY_V4, GATEWAY_V6, World, run

from controller.kernel import pods
from controller.kernel.routes import apply_routes, read_routes
from controller.kernel.rules import RuleTable, rule_problems
from controller.kernel.values import DriftKind, NextHop, Route, RouteKind, Rules, pod_routes, route_changes
from controller.kernel.watch import Change, ChangeKind, KernelWatch

pytestmark = pytest.mark.root

BLOCKS = [Route(ip_network(prefix), RouteKind.UNREACHABLE) for prefix in ("10.1.0.0/26", "fd00:1::/122")]
LEARNED = [
    Route(ip_network("10.2.0.0/26"), RouteKind.UNICAST, (NextHop(GATEWAY_V4, "uplink0"),)),
    Route(ip_network("fd00:2::/122"), RouteKind.UNICAST, (NextHop(GATEWAY_V6, "uplink0"),)),
]


def everything_right(table: RuleTable) -> bool:
    wanted = [*BLOCKS, *LEARNED, *pod_routes(pods.read_pods())]
    return not route_changes(wanted, read_routes()) and rule_problems(Rules()) == []


def mend(table: RuleTable) -> set[DriftKind]:
    """What the agent does at a notification; returns the kinds of what was wrong."""
    changes = route_changes([*BLOCKS, *LEARNED, *pod_routes(pods.read_pods())], read_routes())
    pod_drift = pods.repair_pods()
    mended = {drift.kind for drift in pod_drift} | {drift.kind for drift in table.apply(Rules())}
    ours = tuple(route for route in (*changes.create, *changes.replace) if route in (*BLOCKS, *LEARNED))
    assert apply_routes(changes) == []
    return mended | ({DriftKind.ROUTE} if ours or changes.delete else set())


async def heard(watch: KernelWatch, is_it: Callable[[Change], bool], what: str) -> list[Change]:
    """All changes up to the one that is waited for."""
    changes: list[Change] = []
    try:
        async with asyncio.timeout(5):
            while not any(map(is_it, changes)):
                changes += await watch.changes()
    except TimeoutError:
        raise AssertionError(f"never heard of {what}, only of {changes}") from None
    return changes


@pytest.mark.parametrize(
    ("harm", "kind", "told"),
    [
        ("ip route del unreachable 10.1.0.0/26 metric 179", DriftKind.ROUTE, ChangeKind.ROUTE),
        ("ip -6 route del fd00:1::/122", DriftKind.ROUTE, ChangeKind.ROUTE),
        ("ip route replace 10.2.0.0/26 via 192.0.2.9 proto 179 metric 179", DriftKind.ROUTE, ChangeKind.ROUTE),
        ("ip -6 route del fd00:2::/122", DriftKind.ROUTE, ChangeKind.ROUTE),
        ("ip route add 10.9.0.0/26 via 192.0.2.1 proto 179 metric 179", DriftKind.ROUTE, ChangeKind.ROUTE),
        ("ip route del 10.1.0.1/32 proto 179", DriftKind.POD_ROUTE, ChangeKind.ROUTE),
        ("ip -6 route del fd00:1::1/128 proto 179", DriftKind.POD_ROUTE, ChangeKind.ROUTE),
        ("ip neigh del 10.1.0.1 dev {link}", DriftKind.NEIGHBOUR, ChangeKind.POD_LINK),
        ("ip neigh del fd00:1::1 dev {link}", DriftKind.NEIGHBOUR, ChangeKind.POD_LINK),
        ("ip addr flush dev {link}", DriftKind.VETH, ChangeKind.POD_LINK),
        ("ip link set {link} down", DriftKind.VETH, ChangeKind.POD_LINK),
        ("nft flush chain inet podroute anti-spoofing", DriftKind.RULE, ChangeKind.RULES),
        ("nft delete table inet podroute", DriftKind.RULE, ChangeKind.RULES),
    ],
)
def test_a_foreign_change_is_heard_of_and_mended_within_a_second(
    world: World, harm: str, kind: DriftKind, told: ChangeKind
) -> None:
    pod, other, table = world.pod(), world.pod(), RuleTable()

    async def scenario() -> None:
        mend(table)
        assert everything_right(table)
        with KernelWatch() as watch:
            begun = time.monotonic()
            run(*harm.format(link=pod.host_end).split())
            changes = await heard(watch, lambda change: change.kind is told, harm)
            assert kind in mend(table)
            assert time.monotonic() - begun < 1
            if told is ChangeKind.POD_LINK:
                assert Change(told, pod.host_end) in changes
        assert everything_right(table)
        assert mend(table) == set()

    asyncio.run(scenario())
    assert other.reaches(pod.v4)
    assert other.reaches(pod.v6)


def test_a_veth_flap_is_mended(world: World) -> None:
    pod, other = world.pod(), world.pod()

    async def scenario() -> None:
        with KernelWatch() as watch:
            run("ip", "link", "set", pod.host_end, "down")
            run("ip", "link", "set", pod.host_end, "up")
            assert not other.reaches(pod.v4)
            await heard(watch, lambda change: change == Change(ChangeKind.POD_LINK, pod.host_end), "the flap")
            assert {DriftKind.NEIGHBOUR, DriftKind.POD_ROUTE} <= {drift.kind for drift in pods.repair_pods()}

    asyncio.run(scenario())
    assert other.reaches(pod.v4)
    assert other.reaches(pod.v6)


def test_a_pod_that_goes_is_told_by_name(world: World) -> None:
    pod = world.pod()

    async def scenario() -> None:
        with KernelWatch() as watch:
            pod.run("ip", "link", "del", "eth0")
            gone = Change(ChangeKind.POD_LINK_REMOVED, pod.host_end)
            await heard(watch, lambda change: change == gone, "the removed veth")

    asyncio.run(scenario())
    assert pods.read_pods() == []


def test_an_uplink_that_goes_down_or_changes_its_addresses_is_told(world: World) -> None:
    async def scenario() -> None:
        with KernelWatch() as watch:
            for command in (
                "ip link set uplink0 down",
                "ip link set uplink0 up",
                "ip addr add 192.0.2.99/24 dev uplink0",
            ):
                run(*command.split())
                await heard(watch, lambda change: change == Change(ChangeKind.UPLINK, "uplink0"), command)

    asyncio.run(scenario())


def quiet_until_marked(world: World, work: Callable[[], Any]) -> Coroutine[Any, Any, set[ChangeKind]]:
    """What is heard of `work`, up to a foreign route that is added after it."""
    marker = Change(ChangeKind.ROUTE, prefix=ip_network("10.99.0.0/16"))

    async def scenario() -> set[ChangeKind]:
        with KernelWatch() as watch:
            work()
            run("ip", "route", "add", "10.99.0.0/16", "via", str(GATEWAY_V4))
            changes = await heard(watch, lambda change: change == marker, "the marker")
            run("ip", "route", "del", "10.99.0.0/16")
            return {change.kind for change in changes if change != marker}

    return scenario()


def test_our_own_writes_are_not_heard_of(world: World) -> None:
    def work() -> None:
        world.pod()
        apply_routes(route_changes([*BLOCKS, *LEARNED, *pod_routes(pods.read_pods())], read_routes()))
        apply_routes(route_changes(pod_routes(pods.read_pods()), read_routes()))

    assert asyncio.run(quiet_until_marked(world, work)) == set()


def test_other_tables_of_nftables_are_not_heard_of(world: World) -> None:
    def work() -> None:
        run("nft", "add table inet mine; add chain inet mine c; add rule inet mine c counter; delete table inet mine")

    assert asyncio.run(quiet_until_marked(world, work)) == set()
    assert asyncio.run(quiet_until_marked(world, lambda: RuleTable().apply(Rules()))) == {ChangeKind.RULES}


def test_lost_notifications_are_told_as_a_resync(world: World) -> None:
    async def scenario() -> None:
        with KernelWatch(receive_buffer=4096) as watch:
            lines = "".join(f"route add 10.200.{number}.0/24 via {GATEWAY_V4}\n" for number in range(250))
            # The event loop does not run meanwhile, so the small buffer overflows.
            batch = world_file(world, lines)
            run("ip", "-batch", batch)
            changes = await heard(watch, lambda change: change.kind is ChangeKind.RESYNC, "lost notifications")
            assert len(changes) < 250
            # It goes on listening.
            run("ip", "route", "del", "10.200.7.0/24")
            await heard(watch, lambda change: change.prefix == ip_network("10.200.7.0/24"), "the next change")

    asyncio.run(scenario())


def world_file(world: World, text: str) -> str:
    path = world.folder / "batch"
    path.write_text(text)
    return str(path)


def test_ten_thousand_foreign_routes_are_heard_of_without_loss(world: World) -> None:
    async def scenario() -> None:
        with KernelWatch() as watch:
            prefixes = [f"10.{100 + number // 250}.{number % 250}.0/24" for number in range(9_000)]
            batch = world_file(world, "".join(f"route add {prefix} via {GATEWAY_V4}\n" for prefix in prefixes))
            run("ip", "-batch", batch)
            last = Change(ChangeKind.ROUTE, prefix=ip_network(prefixes[-1]))
            changes = await heard(watch, lambda change: change == last, "the last of many routes")
            assert ChangeKind.RESYNC not in {change.kind for change in changes}
            told = {change.prefix for change in changes if change.kind is ChangeKind.ROUTE}
            assert told == set(map(ip_network, prefixes))

    asyncio.run(scenario())
