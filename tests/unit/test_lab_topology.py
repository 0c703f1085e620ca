"""A lab's shape and addresses follow from its name and a few numbers."""

from ipaddress import ip_address, ip_interface, ip_network

import pytest

from controller.lab.errors import LabError, Refusal
from controller.lab.topology import POD_POOLS, SERVICE_RANGES, Topology, make_topology, reference_ranges


def four_nodes() -> Topology:
    return make_topology("demo", 4, 2, ("frr", "bird"))


def test_nodes_fill_the_racks_in_order_and_evenly() -> None:
    topology = make_topology("demo", 5, 2, ("frr",))
    assert [topology.nodes_in(rack) for rack in range(2)] == [("n0", "n1", "n2"), ("n3", "n4")]


def test_every_rack_has_a_node_in_every_shape() -> None:
    for nodes in range(1, 20):
        for racks in range(1, min(nodes, 16) + 1):
            topology = make_topology("demo", nodes, racks, ("bird",))
            sizes = [len(topology.nodes_in(rack)) for rack in range(racks)]
            assert min(sizes) >= 1
            assert max(sizes) - min(sizes) <= 1


def test_tor_kinds_are_given_to_the_racks_in_turn() -> None:
    assert make_topology("demo", 3, 3, ("frr", "bird")).tors == ("frr", "bird", "frr")


def test_tor_is_the_gateway_and_nodes_follow_from_eleven() -> None:
    topology = four_nodes()
    assert tuple(topology.addresses("tor1")) == ("10.10.1.1", "fd00:10:10:1::1") == tuple(topology.gateway(1))
    assert tuple(topology.addresses("n3")) == ("10.10.1.12", "fd00:10:10:1::12")


def test_no_two_machines_share_an_address() -> None:
    topology = make_topology("demo", 64, 16, ("frr",))
    for family in ("v4", "v6"):
        addresses = [getattr(topology.addresses(machine), family) for machine in topology.machine_names]
        assert len(set(addresses)) == len(addresses)


def test_addresses_are_written_in_canonical_form() -> None:
    topology = four_nodes()
    for machine in topology.machine_names:
        for address in topology.addresses(machine):
            assert str(ip_address(address)) == address


def test_hosts_stay_clear_of_pods_and_services() -> None:
    topology = make_topology("demo", 64, 16, ("frr",))
    reserved = [ip_network(each) for each in (*POD_POOLS, *SERVICE_RANGES)]
    for machine in topology.machine_names:
        for address in topology.addresses(machine):
            assert not any(ip_address(address) in network for network in reserved)


def test_reference_ranges_of_all_nodes_are_apart_and_inside_the_pools() -> None:
    topology = make_topology("demo", 64, 16, ("frr",))
    for family, pool in (("v4", POD_POOLS[0]), ("v6", POD_POOLS[1])):
        ranges = [ip_network(getattr(reference_ranges(node), family)) for node in topology.node_names]
        assert all(each.subnet_of(ip_network(pool)) for each in ranges)  # type: ignore[arg-type]
        assert len(set(ranges)) == len(ranges)


def test_one_segment_has_no_routers_and_the_outside_host_is_its_gateway() -> None:
    topology = make_topology("flat", 2, 1, ("none",))
    assert topology.router_names == ()
    assert topology.machine_names == ("cp", "outside", "n0", "n1")
    assert topology.addresses("outside") == topology.gateway(0)
    segment = ip_interface(f"{topology.addresses('n0').v4}/24").network
    assert ip_address(topology.addresses("cp").v4) in segment


@pytest.mark.parametrize(
    ("name", "nodes", "racks", "tors", "named"),
    [
        ("Demo", 4, 2, ("frr",), "name 'Demo'"),
        ("a-name-too-long", 4, 2, ("frr",), "name"),
        ("demo", 0, 1, ("frr",), "nodes 0"),
        ("demo", 65, 1, ("frr",), "nodes 65"),
        ("demo", 2, 3, ("frr",), "racks 3"),
        ("demo", 4, 2, ("cisco",), "'cisco'"),
        ("demo", 4, 2, (), "tor"),
        ("demo", 4, 2, ("none",), "--racks 1"),
    ],
)
def test_a_shape_that_cannot_be_is_refused_with_its_value(
    name: str, nodes: int, racks: int, tors: tuple[str, ...], named: str
) -> None:
    with pytest.raises(LabError, match=named) as refused:
        make_topology(name, nodes, racks, tors)
    assert refused.value.reason is Refusal.BAD_TOPOLOGY


@pytest.mark.parametrize(("nodes", "racks", "tors"), [(1, 1, ("none",)), (64, 16, ("frr", "bird")), (1, 1, ("bird",))])
def test_the_extreme_shapes_beside_them_are_accepted(nodes: int, racks: int, tors: tuple[str, ...]) -> None:
    assert make_topology("a-name-of-12", nodes, racks, tors).nodes == nodes
