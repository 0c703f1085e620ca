"""Routes of ours are written, read back and removed; nobody else's are touched. `ip` and pyroute2 are the oracles."""

from ipaddress import ip_address, ip_network

import pytest
from netns_world import GATEWAY_V4, GATEWAY_V6, World, in_netns, ip_json, message_kinds, run
from pyroute2 import IPRoute

from controller.kernel.netlink import Netlink, bound_socket
from controller.kernel.routes import apply_routes, read_foreign_routes, read_routes
from controller.kernel.values import (
    METRIC,
    PROTOCOL,
    ForeignRoute,
    NextHop,
    Route,
    RouteChanges,
    RouteKind,
    RouteReason,
    route_changes,
)

pytestmark = pytest.mark.root

SECOND_V4, SECOND_V6 = ip_address("192.0.2.2"), ip_address("2001:db8:1::2")


def via(prefix: str, *gateways: object) -> Route:
    return Route(
        ip_network(prefix), RouteKind.UNICAST, tuple(NextHop(ip_address(str(hop)), "uplink0") for hop in gateways)
    )


def unreachable(prefix: str) -> Route:
    return Route(ip_network(prefix), RouteKind.UNREACHABLE)


def bring_to(*desired: Route) -> None:
    """As the agent does, and then the kernel holds exactly that."""
    assert apply_routes(route_changes(desired, read_routes())) == []
    assert not route_changes(desired, read_routes())
    assert sorted(str(route.prefix) for route in read_routes()) == sorted(str(route.prefix) for route in desired)


@pytest.mark.parametrize(
    ("block", "gateways"),
    [("10.2.0.0/26", (GATEWAY_V4, SECOND_V4)), ("fd00:2::/122", (GATEWAY_V6, SECOND_V6))],
)
def test_a_route_changes_its_kind_and_next_hops_in_one_step_each(
    world: World, block: str, gateways: tuple[object, object]
) -> None:
    for route in (
        unreachable(block),
        via(block, gateways[0]),
        via(block, *gateways),
        via(block, gateways[1]),
        via(block, *gateways),
        unreachable(block),
        via(block, *gateways),
    ):
        with bound_socket(0, 1 << 6 | 1 << 10) as monitor:
            bring_to(route)
            # Never deleted in between: a packet always finds a route.
            with IPRoute() as oracle:
                [found] = oracle.get_routes(family=2 if "." in block else 10, proto=PROTOCOL)
            assert f"{found.get('dst')}/{found['dst_len']}" == block
            assert found.get("priority") == METRIC
            kinds = message_kinds(monitor)
        assert kinds
        assert 25 not in kinds, "a route was deleted"
    bring_to()


def test_ip_shows_what_was_written(world: World) -> None:
    bring_to(unreachable("10.2.0.0/26"), via("10.3.0.0/26", GATEWAY_V4, SECOND_V4), via("fd00:3::/122", GATEWAY_V6))

    by_prefix = {route["dst"]: route for route in ip_json("route", "show", "proto", "179")}
    assert by_prefix["10.2.0.0/26"]["type"] == "unreachable"
    assert {hop["gateway"] for hop in by_prefix["10.3.0.0/26"]["nexthops"]} == {str(GATEWAY_V4), str(SECOND_V4)}
    assert {hop["weight"] for hop in by_prefix["10.3.0.0/26"]["nexthops"]} == {1}
    [six] = ip_json("-6", "route", "show", "proto", "179")
    assert (six["dst"], six["gateway"], six["metric"]) == ("fd00:3::/122", str(GATEWAY_V6), 179)


def test_a_default_route_and_a_route_without_interface_are_like_any_other(world: World) -> None:
    hop = (NextHop(GATEWAY_V4),)
    bring_to(Route(ip_network("0.0.0.0/0"), RouteKind.UNICAST, hop), via("::/0", GATEWAY_V6))
    assert [route["dst"] for route in ip_json("route", "show", "proto", "179")] == ["default"]


def test_an_ipv4_prefix_may_have_an_ipv6_next_hop(world: World) -> None:
    link_local = ip_address("fe80::1")
    bring_to(Route(ip_network("10.9.0.0/26"), RouteKind.UNICAST, (NextHop(link_local, "uplink0"),)))

    [route] = ip_json("route", "show", "proto", "179")
    assert route["via"] == {"family": "inet6", "host": "fe80::1"}


def test_ten_thousand_routes_of_each_family_are_what_ip_lists(world: World) -> None:
    base, base6 = int(ip_address("10.64.0.0")), int(ip_address("fd00:64::"))
    four = [via(f"{ip_address(base + number * 64)}/26", GATEWAY_V4) for number in range(10_000)]
    six = [via(f"{ip_address(base6 + number * 64)}/122", GATEWAY_V6) for number in range(10_000)]

    assert apply_routes(route_changes(four + six, read_routes())) == []
    listed = ip_json("route", "show", "proto", "179") + ip_json("-6", "route", "show", "proto", "179")
    assert {route["dst"] for route in listed} == {str(route.prefix) for route in four + six}
    assert {route["gateway"] for route in listed} == {str(GATEWAY_V4), str(GATEWAY_V6)}
    assert not route_changes(four + six, read_routes())

    moved = [via(str(route.prefix), SECOND_V4) for route in four[:5_000]]
    changes = route_changes(moved, read_routes())
    assert (len(changes.create), len(changes.replace), len(changes.delete)) == (0, 5_000, 15_000)
    assert apply_routes(changes) == []
    assert {(route["dst"], route["gateway"]) for route in ip_json("route", "show", "proto", "179")} == {
        (str(route.prefix), str(SECOND_V4)) for route in moved
    }
    assert ip_json("-6", "route", "show", "proto", "179") == []


def test_applying_no_changes_opens_no_connection(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    original = Netlink.__init__
    monkeypatch.setattr(Netlink, "__init__", lambda self, *args: (opened.append(self), original(self, *args))[1])

    bring_to(unreachable("10.2.0.0/26"))
    assert opened, "the probe sees a connection"
    changes = route_changes([unreachable("10.2.0.0/26")], read_routes())
    opened.clear()
    assert apply_routes(changes) == []
    assert opened == []


def test_foreign_routes_stay_byte_for_byte_while_ours_come_and_go(world: World) -> None:
    for command in (
        "ip route add 10.2.0.0/26 via 192.0.2.1 proto static",
        "ip route add 10.2.0.64/26 via 192.0.2.1 proto bird metric 179",
        "ip route add 10.7.0.0/16 via 192.0.2.1 proto 179",
        "ip -6 route add fd00:2::/122 via 2001:db8:1::1 proto static",
        "ip -6 route add fd00:7::/64 via 2001:db8:1::1 proto 179 metric 1024",
        "ip route add blackhole 10.8.0.0/16 metric 179 proto static",
        "ip route add 10.2.0.0/26 via 192.0.2.1 proto 179 metric 179 table 100",
    ):
        run(*command.split())
    lists = [["route"], ["-6", "route"], ["route", "show", "table", "100"]]
    before = [ip_json(*arguments) for arguments in lists]

    ours = [unreachable("10.2.0.0/26"), via("10.3.0.0/26", GATEWAY_V4), unreachable("fd00:2::/122")]
    bring_to(*ours)
    assert len(ip_json("route")) == len(before[0]) + 2
    bring_to(*(via(str(route.prefix), GATEWAY_V4 if route.prefix.version == 4 else GATEWAY_V6) for route in ours))
    bring_to()
    assert [ip_json(*arguments) for arguments in lists] == before


def test_a_foreign_route_of_our_prefix_and_metric_is_reported_and_not_touched(world: World) -> None:
    run("ip", "route", "add", "10.2.0.64/26", "via", str(GATEWAY_V4), "proto", "bird", "metric", "179")
    run("ip", "-6", "route", "add", "fd00:2::/122", "via", str(GATEWAY_V6), "proto", "bird", "metric", "179")
    before = ip_json("route"), ip_json("-6", "route")

    wanted = [unreachable("10.2.0.64/26"), unreachable("fd00:2::/122"), unreachable("10.2.0.0/26")]
    failures = apply_routes(route_changes(wanted, read_routes()))
    assert [(failure.route, failure.reason) for failure in failures] == [
        (route, RouteReason.FOREIGN_ROUTE) for route in wanted[:2]
    ]
    assert read_routes() == wanted[2:]
    assert read_foreign_routes(route.prefix for route in wanted) == [
        ForeignRoute(route.prefix, 12, METRIC) for route in wanted[:2]
    ]
    apply_routes(RouteChanges(delete=(wanted[2],)))
    assert (ip_json("route"), ip_json("-6", "route")) == before


def test_a_route_written_by_us_meanwhile_is_no_failure_and_ends_as_wanted(world: World) -> None:
    block = ip_network("10.2.0.0/26")
    apply_routes(RouteChanges(create=(unreachable(str(block)),)))

    assert apply_routes(RouteChanges(create=(unreachable(str(block)),))) == []
    assert apply_routes(RouteChanges(create=(via(str(block), GATEWAY_V4),))) == []
    assert read_routes() == [via(str(block), GATEWAY_V4)]


def test_a_route_that_is_gone_already_counts_as_deleted(world: World) -> None:
    assert apply_routes(RouteChanges(delete=(unreachable("10.2.0.0/26"), unreachable("fd00:2::/122")))) == []


def test_what_the_kernel_refuses_has_its_reason_and_does_not_stop_the_rest(world: World) -> None:
    with in_netns(world.uplink_fd):
        run("ip", "link", "set", "node0", "down")
    run("ip", "link", "add", "idle0", "type", "veth", "peer", "name", "idle1")
    on_nothing = Route(ip_network("10.4.0.0/26"), RouteKind.UNICAST, (NextHop(None, "nowhere0"),))
    off_link = via("10.5.0.0/26", "203.0.113.1")
    on_down = Route(ip_network("10.6.0.0/26"), RouteKind.UNICAST, (NextHop(None, "idle0"),))
    good = via("10.7.0.0/26", GATEWAY_V4)

    failures = apply_routes(RouteChanges(create=(on_nothing, off_link, on_down, good)))
    assert {failure.route: failure.reason for failure in failures} == {
        on_nothing: RouteReason.LINK_MISSING,
        off_link: RouteReason.NEXT_HOP_NOT_ON_LINK,
        on_down: RouteReason.LINK_DOWN,
    }
    assert all(failure.detail for failure in failures)
    assert read_routes() == [good]


def test_every_refusal_of_a_whole_batch_is_told(world: World) -> None:
    wrong = tuple(via(f"10.{number // 250}.{number % 250}.0/24", "203.0.113.1") for number in range(2_000))
    failures = apply_routes(RouteChanges(create=wrong))
    assert [failure.route for failure in failures] == list(wrong)


def test_pyroute2_writes_a_route_that_we_read_as_ours(world: World) -> None:
    with IPRoute() as oracle:
        [index] = oracle.link_lookup(ifname="uplink0")
        oracle.route(
            "add",
            dst="10.3.0.0/26",
            proto=PROTOCOL,
            priority=METRIC,
            multipath=[{"gateway": str(GATEWAY_V4), "oif": index}, {"gateway": str(SECOND_V4), "oif": index}],
        )
    assert read_routes() == [via("10.3.0.0/26", GATEWAY_V4, SECOND_V4)]
