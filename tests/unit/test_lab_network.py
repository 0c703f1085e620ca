"""The lines for `ip -batch` make every wire once, and nothing outside the lab's namespaces."""

import re

import pytest

from controller.lab.network import batches_for, batches_for_place, routes_for_reference
from controller.lab.topology import make_topology

ROUTED = make_topology("demo", 4, 2, ("frr", "bird"))
FLAT = make_topology("flat", 3, 1, ("none",))


@pytest.mark.parametrize("topology", [ROUTED, FLAT])
def test_every_wire_is_made_once_and_ends_in_a_namespace_of_the_lab(topology) -> None:
    wires = []
    for batch in batches_for(topology):
        for line in batch.lines:
            if match := re.fullmatch(r"link add (\S+) type veth peer name (\S+) netns (\S+)", line):
                wires.append((batch.place, match[1], match[3], match[2]))
    assert len(wires) == len(set(wires))
    assert {peer for _place, _name, peer, _end in wires} <= {topology.namespace(p) for p in topology.namespace_places}
    # A tree: one wire fewer than there are places.
    assert len(wires) == len(topology.namespace_places) - 1


@pytest.mark.parametrize("topology", [ROUTED, FLAT])
def test_every_node_has_both_addresses_and_both_default_routes(topology) -> None:
    for node in topology.node_names:
        lines = [line for batch in batches_for_place(topology, node) if batch.place == node for line in batch.lines]
        gateway = topology.gateway(topology.rack_of(node))
        assert f"addr add {topology.addresses(node).v4}/24 dev eth0" in lines
        assert f"addr add {topology.addresses(node).v6}/64 dev eth0 nodad" in lines
        assert f"route add default via {gateway.v4}" in lines
        assert f"route add ::/0 via {gateway.v6}" in lines


def test_the_gateway_of_a_single_segment_has_no_route_to_itself() -> None:
    lines = [line for batch in batches_for_place(FLAT, "outside") for line in batch.lines]
    assert not any("default" in line for line in lines)


def test_reference_routes_lead_from_every_router_to_every_node() -> None:
    routes = {}
    for batch in routes_for_reference(ROUTED):
        routes.setdefault(batch.place, []).extend(batch.lines)
    assert "route replace 10.244.3.0/24 via 10.10.1.12" in routes["tor1"]
    assert "route replace 10.244.3.0/24 via 10.10.101.2" in routes["spine"]
    assert "route replace 10.244.0.0/16 via 10.10.100.1" in routes["tor0"]


def test_in_a_single_segment_every_node_routes_to_all_others_but_not_to_itself() -> None:
    lines = next(batch.lines for batch in routes_for_reference(FLAT) if batch.place == "n1")
    assert [line for line in lines if ":" not in line] == [
        "route replace 10.244.0.0/24 via 10.10.0.11",
        "route replace 10.244.2.0/24 via 10.10.0.13",
    ]
