"""Speakers among themselves: a node mesh, the lower address passive, also beside a router that connects by itself."""

import os
import signal

import msgspec
import pytest
from bgp_probe import RouteProbe
from bgp_routers import BIRD_AS, BOTH, NODE_AS, bird_at, neighbour
from bgp_world import Host, Speaker, wait_for

from bgp.reasons import ImportReason
from bgp.values import Announcement, Desired, Family, Neighbour, Refusals, Route

pytestmark = pytest.mark.root


def block_4(host: Host) -> str:
    return f"10.244.{host.ipv4.rpartition('.')[2]}.0/26"


def block_6(host: Host) -> str:
    return f"fd00:244::{host.ipv6.rpartition(':')[2]}:0/122"


def mesh_neighbour(own: Host, other: Host, *, password: str = "", over: str = "ipv4") -> Neighbour:
    return neighbour(
        own,
        other.namespace.rpartition("-")[2],
        getattr(other, over),
        NODE_AS,
        passive=own.ipv4 < other.ipv4,
        password=password,
        announcements=(
            Announcement(prefix=block_4(own), next_hop=own.ipv4),
            Announcement(prefix=block_6(own), next_hop=own.ipv6),
        ),
    )


def desired_in_mesh(own: Host, hosts: list[Host], *more: Neighbour, generation: int = 1, **how: str) -> Desired:
    return Desired(
        router_id=own.ipv4,
        generation=generation,
        neighbours=(*(mesh_neighbour(own, other, **how) for other in hosts if other is not own), *more),
        refuse=Refusals(
            own_blocks=(block_4(own), block_6(own)),
            max_length={Family.IPV4: 26, Family.IPV6: 122},
            own_addresses=(own.ipv4, own.ipv6),
        ),
        on_link=("10.99.0.0/24", "fd99::/64"),
    )


def expected_routes(own: Host, hosts: list[Host]) -> dict[str, Route]:
    others = [host for host in hosts if host is not own]
    names = {host: host.namespace.rpartition("-")[2] for host in others}
    routes = {block_4(host): Route((host.ipv4,), (names[host],)) for host in others}
    return routes | {block_6(host): Route((host.ipv6,), (names[host],)) for host in others}


@pytest.mark.parametrize("over", ["ipv4", "ipv6"])
@pytest.mark.parametrize("password", ["", "mesh secret"])
def test_a_mesh_of_three_learns_every_block_and_a_fourth_joins_without_disturbing_it(segment, password, over):
    hosts = [segment.host(f"n{number}", 20 + number) for number in range(3)]
    speakers = {host: Speaker(host) for host in hosts}
    for host, speaker in speakers.items():
        speaker.sync(desired_in_mesh(host, hosts, password=password, over=over))
    for host, speaker in speakers.items():
        wait_for(lambda h=host, s=speaker: s.observed().routes == expected_routes(h, hosts), "every block of the mesh")
        wait_for(lambda s=speaker: s.observed().settled == BOTH, "end-of-RIB from everyone")
    since = {host: {s.name: s.since for s in speaker.observed().sessions} for host, speaker in speakers.items()}
    newcomer = segment.host("n3", 23)
    everyone = [*hosts, newcomer]
    speakers[newcomer] = Speaker(newcomer)
    for host, speaker in speakers.items():
        speaker.sync(desired_in_mesh(host, everyone, password=password, over=over, generation=2))
    for host, speaker in speakers.items():
        wait_for(lambda h=host, s=speaker: s.observed().routes == expected_routes(h, everyone), "the newcomer's blocks")
    for host, before in since.items():
        now = {session.name: session.since for session in speakers[host].observed().sessions}
        assert {name: now[name] for name in before} == before


def test_a_node_that_leaves_the_mesh_withdraws_and_its_routes_go_everywhere(segment):
    hosts = [segment.host(f"n{number}", 20 + number) for number in range(3)]
    speakers = {host: Speaker(host) for host in hosts}
    for host, speaker in speakers.items():
        speaker.sync(desired_in_mesh(host, hosts))
    for host, speaker in speakers.items():
        wait_for(lambda h=host, s=speaker: s.observed().routes == expected_routes(h, hosts), "every block of the mesh")
    leaver = hosts.pop()
    speakers[leaver].sync(Desired(router_id=leaver.ipv4, generation=2))
    for host in hosts:
        wait_for(
            lambda h=host: speakers[h].observed().routes == expected_routes(h, hosts), "the leaver's blocks gone", 3
        )


def test_a_pool_that_one_node_knows_later_is_learned_once_it_does(segment):
    hosts = [segment.host(f"n{number}", 20 + number) for number in range(2)]
    early, late = (Speaker(host) for host in hosts)
    early.sync(desired_in_mesh(hosts[0], hosts))
    full = desired_in_mesh(hosts[1], hosts)
    narrow = [msgspec.structs.replace(one, accept=("10.250.0.0/16",)) for one in full.neighbours]
    late.sync(msgspec.structs.replace(full, neighbours=tuple(narrow)))
    wait_for(lambda: late.session("n0").refused == {ImportReason.NOT_ACCEPTED: 2}, "the routes of the unknown pool")
    late.sync(msgspec.structs.replace(full, generation=2))
    wait_for(lambda: late.observed().routes == expected_routes(hosts[1], hosts), "the routes of the pool")
    assert late.session("n0").restarts == 0


def test_a_router_that_connects_by_itself_and_a_mesh_share_one_address(segment):
    hosts = [segment.host(f"n{number}", 20 + number) for number in range(2)]
    tor = bird_at(segment.host("tor", 1), hosts[0].ipv4)
    speakers = [Speaker(host) for host in hosts]
    to_tor = neighbour(hosts[0], "tor", tor.host.ipv4, BIRD_AS)
    speakers[1].sync(desired_in_mesh(hosts[1], hosts))
    speakers[0].sync(desired_in_mesh(hosts[0], hosts, to_tor))
    speakers[0].wait_until_established("tor", "n1")
    for count in range(1, 4):
        tor.ask("restart", "node")
        wait_for(lambda count=count: speakers[0].session("tor").restarts >= count, "the session ending", 5)
        speakers[0].wait_until_established("tor", seconds=15)
        wait_for(lambda: "Established" in tor.ask("show", "protocols", "node"), "BIRD established", 15)
    assert speakers[0].session("n1").restarts == 0


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_exabgp_costs_the_other_node_no_route(segment, killed):
    hosts = [segment.host(f"n{number}", 20 + number) for number in range(2)]
    speakers = [Speaker(host) for host in hosts]
    for host, speaker in zip(hosts, speakers, strict=True):
        speaker.sync(desired_in_mesh(host, hosts))
    for host, speaker in zip(hosts, speakers, strict=True):
        wait_for(lambda h=host, s=speaker: s.observed().routes == expected_routes(h, hosts), "every block of the mesh")
    other = speakers[1 - killed]
    wanted = set(expected_routes(hosts[1 - killed], hosts))
    with RouteProbe(lambda: set(other.observed().routes), wanted) as probe:
        os.kill(speakers[killed].exabgp(), signal.SIGKILL)
        wait_for(lambda: any(route.stale for route in other.observed().routes.values()), "the routes kept as stale")
        full = expected_routes(hosts[1 - killed], hosts)
        wait_for(lambda: other.observed().routes == full, "the routes fresh again", 30)
        wait_for(lambda: other.observed().sessions[0].keep_until is None, "end-of-RIB")
    assert probe.looks > 10
    assert probe.missing == []
