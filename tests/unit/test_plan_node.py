"""What a node is to do (`controller.plan.node`, `speaking`, `learned`, `drift`)."""

import ipaddress
import itertools
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.values import Family
from bgp.values import Route as Learned
from controller.api.bgppeer import ExportPolicy, ImportPolicy
from controller.api.clusternetwork import ClusterNetwork, ClusterNetworkSpec, MeshMember, PoolFlags
from controller.api.ipblock import NodeReference
from controller.api.nodenetwork import BlockClaim, BlockGrant, NodeNetwork, NodeNetworkSpec, SessionSpec
from controller.api.objects import Address, Metadata
from controller.api.reasons import Reason
from controller.kernel.values import (
    Attachment,
    DriftKind,
    Guard,
    NextHop,
    PodLink,
    Route,
    RouteChanges,
    RouteKind,
    route_changes,
)
from controller.plan.drift import route_drift
from controller.plan.learned import Ground, after_step, kept_while_unsettled, learned_route, learned_step, route_table
from controller.plan.node import Local, NodePlan, Snapshot, plan_node, released_uids
from controller.plan.speaking import Surroundings, missing_secrets

V4 = BlockGrant(cidr="10.244.0.64/26", uid="b4", pool="p4")
V6 = BlockGrant(cidr="fd00:10:244::40/122", uid="b6", pool="p6")
OWN = ("10.10.0.12", "fd00:10:10::12")
CLUSTER = ClusterNetworkSpec(
    mesh=(
        MeshMember(node="n0", addresses=("10.10.0.11", "fd00:10:10::11")),
        MeshMember(node="n1", addresses=OWN),
        MeshMember(node="n2", addresses=("10.10.0.13",)),
    ),
    pools=(
        PoolFlags(name="p4", cidr="10.244.0.0/16", block_size=26, nat_outgoing=True),
        PoolFlags(name="p6", cidr="fd00:10:244::/56", block_size=122),
    ),
    node_addresses=("10.10.0.11", "10.10.0.12", "10.10.0.13", "fd00:10:10::11"),
    service_ranges=("10.96.0.0/16", "fd00:10:96::/112"),
)
TOR4 = SessionSpec(peer="tor", address="10.10.0.1", asn=65001, local_address=OWN[0], local_asn=64512)
TOR6 = SessionSpec(peer="tor", address="fd00:10:10::1", asn=65001, local_address=OWN[1], local_asn=64512)
LINKS = ((ipaddress.ip_network("10.10.0.0/24"), "uplink"), (ipaddress.ip_network("fd00:10:10::/64"), "uplink"))


def node(**changes: object) -> NodeNetwork:
    spec = {
        "node": NodeReference(name="n1", uid="u1"),
        "addresses": OWN,
        "router_id": OWN[0],
        "blocks": (V4, V6),
        "sessions": (),
        "mesh": False,
    }
    return NodeNetwork(metadata=Metadata(name="n1"), spec=NodeNetworkSpec(**{**spec, **changes}))


def pod(*addresses: str, name: str = "podr0000000000a") -> PodLink:
    texts = tuple(ipaddress.ip_address(a) for a in addresses)
    return PodLink(name, 7, True, 1500, Attachment(f"c-{name}", "eth0", "uid", texts))


def local(*pods: PodLink, occupied: tuple[str, ...] = ()) -> Local:
    used: set[Address] = {a for p in pods if p.attachment for a in p.attachment.addresses}
    used |= {ipaddress.ip_address(a) for a in occupied}
    return Local(pods, frozenset(used), Surroundings(OWN, ("10.10.0.0/24", "fd00:10:10::/64")))


def plan(network: NodeNetwork, here: Local | None = None, **snapshot: object) -> NodePlan:
    shot = Snapshot(node=network, cluster=ClusterNetwork(metadata=Metadata(name="default"), spec=CLUSTER), **snapshot)
    result = plan_node(shot, here or local())
    assert result is not None
    return result


def test_nothing_is_planned_before_both_objects_were_seen() -> None:
    assert plan_node(Snapshot(), local()) is None
    assert plan_node(Snapshot(node=node()), local()) is None


def test_each_block_is_unreachable_as_a_whole_and_each_pod_address_goes_to_its_veth() -> None:
    routes = plan(node(), local(pod("10.244.0.70", "fd00:10:244::41"))).routes
    assert routes == (
        Route(ipaddress.ip_network(V4.cidr), RouteKind.UNREACHABLE),
        Route(ipaddress.ip_network(V6.cidr), RouteKind.UNREACHABLE),
        Route(ipaddress.ip_network("10.244.0.70/32"), RouteKind.UNICAST, (NextHop(None, "podr0000000000a"),)),
        Route(ipaddress.ip_network("fd00:10:244::41/128"), RouteKind.UNICAST, (NextHop(None, "podr0000000000a"),)),
    )


def test_masquerading_covers_the_pools_that_ask_for_it_and_spares_all_that_is_routed() -> None:
    rules = plan(node()).rules
    assert rules.nat_outgoing == (ipaddress.ip_network("10.244.0.0/16"),)
    assert ipaddress.ip_network("10.96.0.0/16") in rules.routed
    assert ipaddress.ip_network("fd00:10:244::/56") in rules.routed
    assert all(any(ipaddress.ip_address(a) in n for n in rules.routed) for a in CLUSTER.node_addresses)
    assert not any(a != b and a.version == b.version and a.overlaps(b) for a in rules.routed for b in rules.routed)


def test_pods_are_kept_from_the_speakers_port_but_for_one_that_is_a_neighbour() -> None:
    addresses = ("10.244.7.7", "fd00:10:244::7:7")
    servers = (
        SessionSpec(peer="server", address=address, asn=64512, local_address=own, local_asn=64512)
        for address, own in zip(addresses, OWN, strict=True)
    )
    rules = plan(node(sessions=(TOR4, TOR6, *servers), listen_port=1790)).rules
    assert set(rules.pods) == {ipaddress.ip_network(pool.cidr) for pool in CLUSTER.pools}
    assert rules.guards[0] == Guard("neighbours", (1790,), tuple(map(ipaddress.ip_network, addresses)))


def test_pods_are_kept_from_the_metrics_but_for_those_that_the_cluster_names() -> None:
    assert plan(node()).rules.guards[1] == Guard("metrics", (9478, 9479))
    clients = ("10.244.9.0/24", "10.244.9.7/32", "fd00:10:244::9/128")
    cluster = ClusterNetwork(
        metadata=Metadata(name="default"), spec=msgspec.structs.replace(CLUSTER, metrics_clients=clients)
    )
    named = plan_node(Snapshot(node=node(), cluster=cluster), local())
    assert named is not None
    assert named.rules.guards[1].allowed == (ipaddress.ip_network(clients[0]), ipaddress.ip_network(clients[2]))


def test_exactly_the_blocks_are_announced_each_on_sessions_of_its_family() -> None:
    neighbours = plan(node(sessions=(TOR4, TOR6)), local(pod("10.244.0.70"))).desired.neighbours
    assert [(n.name, [(a.prefix, a.next_hop) for a in n.announcements]) for n in neighbours] == [
        ("tor/10.10.0.1", [(V4.cidr, OWN[0])]),
        ("tor/fd00:10:10::1", [(V6.cidr, OWN[1])]),
    ]
    assert neighbours[0].accept == ("10.244.0.0/16", "fd00:10:244::/56")


def test_export_names_pools_and_attributes_and_local_preference_stays_inside_the_as() -> None:
    export = ExportPolicy(pools=("p4",), communities=("64512:1",), local_preference=50, med=7, prepend=2)
    outside = msgspec.structs.replace(TOR4, export=export)
    inside = msgspec.structs.replace(outside, asn=64512, address="10.10.0.2")
    other = msgspec.structs.replace(TOR6, export=export)
    neighbours = plan(node(sessions=(outside, inside, other))).desired.neighbours
    assert [n.announcements[0].local_preference for n in neighbours[:2]] == [None, 50]
    assert (neighbours[0].announcements[0].med, neighbours[0].announcements[0].prepend) == (7, 2)
    assert neighbours[2].announcements == ()


def test_import_accepts_the_pools_and_what_the_peer_adds() -> None:
    session = msgspec.structs.replace(TOR4, import_=ImportPolicy(accept=("192.0.2.0/24",), max_prefixes=5))
    (neighbour,) = plan(node(sessions=(session,))).desired.neighbours
    assert neighbour.accept == ("10.244.0.0/16", "fd00:10:244::/56", "192.0.2.0/24")
    assert neighbour.max_prefixes == 5


def test_own_blocks_nodes_and_services_are_never_learned_and_nothing_longer_than_a_block() -> None:
    refuse = plan(node()).desired.refuse
    assert refuse.own_blocks == (V4.cidr, V6.cidr)
    assert refuse.node_ranges[:1] == ("10.10.0.11/32",)
    assert refuse.service_ranges == CLUSTER.service_ranges
    assert refuse.max_length == {Family.IPV4: 26, Family.IPV6: 122}


def test_in_the_mesh_the_lower_address_waits_and_each_family_has_its_session() -> None:
    neighbours = plan(node(mesh=True)).desired.neighbours
    assert [(n.name, n.local_address, n.passive) for n in neighbours] == [
        ("mesh/n0/10.10.0.11", OWN[0], False),
        ("mesh/n0/fd00:10:10::11", OWN[1], False),
        ("mesh/n2/10.10.0.13", OWN[0], True),
    ]


def test_a_node_that_is_in_the_mesh_with_one_family_calls_nobody_over_the_other() -> None:
    members = (CLUSTER.mesh[0], MeshMember(node="n1", addresses=(OWN[1],)), CLUSTER.mesh[2])
    cluster = msgspec.structs.replace(CLUSTER, mesh=members)
    shot = Snapshot(node=node(mesh=True), cluster=ClusterNetwork(metadata=Metadata(name="default"), spec=cluster))
    planned = plan_node(shot, local())
    assert planned is not None
    assert [n.name for n in planned.desired.neighbours] == ["mesh/n0/fd00:10:10::11"]


def test_a_session_of_a_peer_object_comes_before_the_mesh_session_to_the_same_address() -> None:
    session = SessionSpec(peer="direct", address="10.10.0.11", asn=64512, local_address=OWN[0], local_asn=64512)
    names = [n.name for n in plan(node(mesh=True, sessions=(session,))).desired.neighbours]
    assert names == ["direct/10.10.0.11", "mesh/n0/fd00:10:10::11", "mesh/n2/10.10.0.13"]


def test_a_session_without_its_password_is_left_out_and_named_while_others_are_served() -> None:
    secret = msgspec.structs.replace(TOR4, password_secret="tor-password")
    network = node(sessions=(secret, TOR6))
    assert [n.name for n in plan(network).desired.neighbours] == ["tor/fd00:10:10::1"]
    assert missing_secrets(network.spec, {}) == (secret,)
    with_password = plan(network, passwords={"tor-password": "s3cret"}).desired.neighbours
    assert [n.password for n in with_password] == ["s3cret", ""]


@pytest.mark.parametrize(("block", "address"), [(V4, "10.244.0.70"), (V6, "fd00:10:244::41")])
def test_a_releasing_block_is_announced_until_it_is_empty_and_rested(block: BlockGrant, address: str) -> None:
    releasing = msgspec.structs.replace(block, state="Releasing")
    network = node(blocks=(releasing,), sessions=(TOR4, TOR6))
    in_use = plan(network, local(occupied=(address,)))
    assert in_use.withdrawn == frozenset()
    assert block.cidr in {a.prefix for n in in_use.desired.neighbours for a in n.announcements}
    empty = plan(network)
    assert empty.withdrawn == {block.cidr}
    assert not any(n.announcements for n in empty.desired.neighbours)
    assert released_uids(empty.blocks, empty.withdrawn, [block.cidr]) == ()
    assert released_uids(empty.blocks, empty.withdrawn, []) == (block.uid,)


def test_an_active_block_is_never_released_however_empty() -> None:
    assert released_uids(plan(node()).blocks, plan(node()).withdrawn, []) == ()


def test_a_block_that_vanished_with_pods_in_it_stays_announced_and_is_claimed_until_it_is_empty() -> None:
    network = node(blocks=(V6,), sessions=(TOR4,))
    lost = plan(network, local(pod("10.244.0.70")), held=(V4, V6))
    assert lost.claims == (BlockClaim(cidr=V4.cidr, uid="b4", pool="p4"),)
    assert [a.prefix for a in lost.desired.neighbours[0].announcements] == [V4.cidr]
    empty = plan(network, local(), held=(V4, V6))
    assert empty.claims == ()
    assert empty.blocks == (V6,)


def test_a_pod_in_a_block_that_nobody_remembers_claims_it() -> None:
    claimed = plan(node(blocks=(V6,)), local(pod("10.244.9.70")))
    assert claimed.claims == (BlockClaim(cidr="10.244.9.64/26", uid="", pool="p4"),)
    assert claimed.blocks == (V6,)


def test_a_node_whose_object_is_gone_keeps_its_blocks_for_the_grace_period_and_then_gives_them_up() -> None:
    network = node(sessions=(TOR4, TOR6))
    here = local(pod("10.244.0.70"))
    within = plan(network, replace(here, now=1899.0), missing_since=1000.0, held=(V4, V6))
    assert within.blocks == (V4, V6)
    after = plan(network, replace(here, now=1900.0), missing_since=1000.0, held=(V4, V6))
    assert after.blocks == ()
    assert not any(neighbour.announcements for neighbour in after.desired.neighbours)
    assert [str(route.prefix) for route in after.routes] == ["10.244.0.70/32"]


def test_a_learned_route_goes_by_the_links_its_next_hops_are_on() -> None:
    route = learned_route("10.244.1.0/26", Learned(("10.10.0.13", "10.10.0.11", "10.99.0.1"), ("a",)), LINKS)
    assert route is not None
    assert {(str(h.via), h.dev) for h in route.next_hops} == {("10.10.0.11", "uplink"), ("10.10.0.13", "uplink")}
    assert learned_route("10.244.1.0/26", Learned(("10.99.0.1",), ("a",)), LINKS) is None


def test_own_routes_come_before_learned_ones_of_the_same_prefix() -> None:
    own = Route(ipaddress.ip_network(V4.cidr), RouteKind.UNREACHABLE)
    table = route_table([own], {V4.cidr: Learned(("10.10.0.11",), ("a",))}, LINKS)
    assert list(table.values()) == [own]


PREFIXES = ("10.244.1.0/26", "10.244.2.0/26", "10.244.0.64/26", "fd00:10:244::80/122", "fd00:10:244::40/122")
WAYS = (
    Learned(("10.10.0.13",), ("a",)),
    Learned(("10.10.0.11", "10.10.0.13"), ("a", "b")),
    Learned(("10.99.0.1",), ("a",)),
    Learned(("fd00:10:10::1",), ("a",)),
    Learned(("fd00:10:10::1", "fd00:10:10::3"), ("a", "b"), stale=True),
)
TABLES = st.dictionaries(st.sampled_from(PREFIXES), st.sampled_from(WAYS))


def whole(learned: dict[str, Learned], kernel: list[Route], settled: frozenset[str]) -> tuple[RouteChanges, dict]:
    """What a whole pass does to a kernel that holds these routes, and what that holds then."""
    own = [Route(ipaddress.ip_network(block.cidr), RouteKind.UNREACHABLE) for block in (V4, V6)]
    table = route_table(own, learned, LINKS)
    changes = route_changes(table.values(), kernel)
    kept = kept_while_unsettled(changes.delete, settled)
    deleted = tuple(route for route in changes.delete if route not in kept)
    return replace(changes, delete=deleted), {**table, **{route.prefix: route for route in kept}}


@given(st.lists(TABLES, min_size=2, max_size=6), st.frozensets(st.sampled_from(["ipv4", "ipv6"])), st.data())
def test_following_the_changed_prefixes_alone_does_what_the_whole_computation_does(
    pictures: list[dict[str, Learned]], settled: frozenset[str], data: st.DataObject
) -> None:
    own = {n: Route(n, RouteKind.UNREACHABLE) for n in (ipaddress.ip_network(block.cidr) for block in (V4, V6))}
    _, applied = whole(pictures[0], [], settled)
    for before, after in itertools.pairwise(pictures):
        changed = {prefix for prefix in PREFIXES if before.get(prefix) != after.get(prefix)}
        # The speaker may name more than has changed in the end.
        named = changed | data.draw(st.sets(st.sampled_from(PREFIXES)))
        expected, then = whole(after, list(applied.values()), settled)
        step = learned_step(sorted(named), after, applied, Ground(own, LINKS, settled))
        for part in ("create", "replace", "delete"):
            assert set(getattr(step, part)) == set(getattr(expected, part))
        after_step(applied, step)
        assert applied == then


@given(st.sampled_from(["ipv4", "ipv6"]))
def test_a_learned_route_is_kept_while_its_family_is_unsettled_and_a_pod_route_never(family: str) -> None:
    v4 = Route(
        ipaddress.ip_network("10.244.1.0/26"), RouteKind.UNICAST, (NextHop(ipaddress.ip_address("10.10.0.11"), "u"),)
    )
    v6 = Route(
        ipaddress.ip_network("fd00::/122"), RouteKind.UNICAST, (NextHop(ipaddress.ip_address("fd00:10:10::1"), "u"),)
    )
    gone_pod = Route(ipaddress.ip_network("10.244.0.70/32"), RouteKind.UNICAST, (NextHop(None, "podr0000000000a"),))
    kept = kept_while_unsettled([v4, v6, gone_pod], {family})
    assert kept == ((v6,) if family == "ipv4" else (v4,))


def test_only_what_had_been_applied_or_was_never_ours_counts_as_drift() -> None:
    block = Route(ipaddress.ip_network(V4.cidr), RouteKind.UNREACHABLE)
    of_pod = Route(ipaddress.ip_network("10.244.0.70/32"), RouteKind.UNICAST, (NextHop(None, "podr0000000000a"),))
    new = Route(ipaddress.ip_network("10.244.0.71/32"), RouteKind.UNICAST, (NextHop(None, "podr0000000000b"),))
    planted = Route(ipaddress.ip_network("192.0.2.0/24"), RouteKind.UNREACHABLE)
    applied = {block.prefix: block, of_pod.prefix: of_pod}
    drifts = route_drift(RouteChanges(create=(block, new), replace=(of_pod,), delete=(planted,)), applied)
    assert [d.kind for d in drifts] == [DriftKind.ROUTE, DriftKind.POD_ROUTE, DriftKind.ROUTE]
    assert route_drift(RouteChanges(create=(new,)), applied) == []


SERVER = SessionSpec(peer="server", address="10.244.7.7", asn=64512, local_address=OWN[0], local_asn=64512)


def retiring(*, is_withdrawn: bool = False, retired: bool = False) -> NodePlan:
    cluster = ClusterNetwork(metadata=Metadata(name="default"), spec=msgspec.structs.replace(CLUSTER, retiring="one"))
    here = replace(local(pod("10.244.0.70", "fd00:10:244::41")), is_withdrawn=is_withdrawn)
    result = plan_node(Snapshot(node=node(sessions=(TOR4, SERVER)), cluster=cluster, retired=retired), here)
    assert result is not None
    return result


def test_in_an_uninstall_a_node_withdraws_first_and_forwards_meanwhile() -> None:
    before, now = plan(node(sessions=(TOR4, SERVER)), local(pod("10.244.0.70", "fd00:10:244::41"))), retiring()
    assert len(before.desired.neighbours) == 2
    assert now.desired.neighbours == ()
    assert (now.routes, now.table, now.retirement) == (before.routes, before.rules, Reason.RETIRING)


@pytest.mark.parametrize("known_by", ["is_withdrawn", "retired"])
def test_once_it_has_withdrawn_only_what_running_pods_need_stays_also_when_the_speaker_is_gone(known_by: str) -> None:
    now = retiring(**{known_by: True})
    assert {str(route.prefix) for route in now.routes} == {"10.244.0.70/32", "fd00:10:244::41/128"}
    assert (now.table, now.retirement) == (None, Reason.RETIRED)


def test_what_was_withdrawn_for_an_uninstall_is_announced_again_when_that_is_taken_back() -> None:
    sessions = (TOR4, TOR6)
    assert plan(node(sessions=sessions), retired=True) == plan(node(sessions=sessions))


def test_addresses_of_no_pool_are_claimed_in_blocks_of_the_default_size_so_that_nobody_else_gets_them() -> None:
    nowhere = ClusterNetwork(metadata=Metadata(name="default"), spec=ClusterNetworkSpec())
    here = local(pod("10.9.0.70", "fd00:9::41"))
    found = plan_node(Snapshot(node=node(blocks=()), cluster=nowhere), here)
    assert found is not None
    assert set(found.claims) == {BlockClaim(cidr="10.9.0.64/26"), BlockClaim(cidr="fd00:9::40/122")}
    assert found.blocks == ()
