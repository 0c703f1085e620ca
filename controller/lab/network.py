"""The lab's wires: namespaces, bridges, veth pairs, addresses and static routes.

`batches_for` is pure: it turns a topology into lines for `ip -batch`, for each place those that make it and its wire,
and those for the other end. `cluster` runs them at start, and again for one place when a test gives a node its power
back. Nothing is ever made in the machine's own network namespace.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from controller.lab.execute import run_checked
from controller.lab.topology import FIXED_SUBNETS, POD_POOLS, Pair, Subnet, Topology, reference_ranges

NAMESPACES = Path("/run/netns")
BRIDGE = "br0"
# Before any interface is made, since an interface copies `default` when it appears.
SYSCTLS = {
    "net.ipv4.ip_forward": "1",
    "net.ipv6.conf.all.forwarding": "1",
    "net.ipv6.conf.default.forwarding": "1",
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
    # A ToR routes between nodes of its own rack; a redirect would teach them to go round it.
    "net.ipv4.conf.all.send_redirects": "0",
    "net.ipv4.conf.default.send_redirects": "0",
    "net.ipv6.conf.default.accept_dad": "0",
    "net.ipv6.conf.all.accept_dad": "0",
    "net.ipv6.conf.default.accept_ra": "0",
    "net.ipv4.fib_multipath_hash_policy": "1",
    "net.ipv6.fib_multipath_hash_policy": "1",
}


@dataclass(frozen=True)
class Batch:
    """Lines for `ip -batch` in the namespace of one place."""

    place: str
    lines: tuple[str, ...]


def batches_for(topology: Topology) -> list[Batch]:
    """Everything, in an order in which each line finds what it needs. The namespaces must exist."""
    return [batch for place in topology.namespace_places for batch in batches_for_place(topology, place)]


def batches_for_place(topology: Topology, place: str) -> list[Batch]:
    """What makes one place and its wire to the rest. Run again after its namespace was deleted, it joins the place
    anew.
    """
    if place in topology.rack_names:
        bridge = f"link add {BRIDGE} type bridge stp_state 0 mcast_snooping 0"
        return [Batch(place, ("link set lo up", bridge, f"link set {BRIDGE} up"))]
    if place == "spine":
        return [Batch(place, ("link set lo up",))]
    if place in topology.tor_names:
        return _tor(topology, place)
    if topology.routed and place in FIXED_SUBNETS:
        return _behind_spine(topology, place)
    return _in_rack(topology, place)


def routes_for_reference(topology: Topology) -> list[Batch]:
    """Static routes to the reference CNI's pod ranges, at every router; in a single segment, at every place."""
    if not topology.routed:
        return [
            Batch(place, _pod_routes(topology, (node for node in topology.node_names if node != place)))
            for place in ("cp", "outside", *topology.node_names)
        ]
    batches = []
    for rack, tor in enumerate(topology.tor_names):
        fabric, nodes = topology.fabric_subnet(rack), topology.nodes_in(rack)
        elsewhere = tuple(_route(pool, via) for pool, via in zip(POD_POOLS, fabric.host(1), strict=True))
        batches.append(Batch(tor, (*elsewhere, *_pod_routes(topology, nodes))))
        here = [zip(reference_ranges(node), fabric.host(2), strict=True) for node in nodes]
        batches.append(Batch("spine", tuple(_route(prefix, via) for pairs in here for prefix, via in pairs)))
    return batches


def _pod_routes(topology: Topology, nodes: Iterable[str]) -> tuple[str, ...]:
    return tuple(
        _route(prefix, via)
        for node in nodes
        for prefix, via in zip(reference_ranges(node), topology.addresses(node), strict=True)
    )


def _route(prefix: str, via: str) -> str:
    return f"route replace {prefix} via {via}"


def _addressed(interface: str, subnet: Subnet, number: int) -> tuple[str, ...]:
    """Address and raise an interface. `nodad`: it must not be tentative when a daemon binds it a moment later."""
    own = subnet.host(number)
    return (
        f"addr add {own.v4}/24 dev {interface}",
        f"addr add {own.v6}/64 dev {interface} nodad",
        f"link set {interface} up",
    )


def _wire(topology: Topology, interface: str, peer: str, peer_interface: str) -> tuple[str, str]:
    namespace = topology.namespace(peer)
    return "link set lo up", f"link add {interface} type veth peer name {peer_interface} netns {namespace}"


def _default(gateway: Pair) -> tuple[str, str]:
    return f"route add default via {gateway.v4}", f"route add ::/0 via {gateway.v6}"


def _port(place: str, port: str) -> Batch:
    return Batch(place, (f"link set {port} master {BRIDGE}", f"link set {port} up"))


def _tor(topology: Topology, tor: str) -> list[Batch]:
    rack = int(tor[3:])
    segment, fabric = topology.rack_names[rack], topology.fabric_subnet(rack)
    here = (
        *_wire(topology, "rack", segment, tor),
        *_addressed("rack", topology.rack_subnet(rack), 1),
        _wire(topology, "spine", "spine", tor)[1],
        *_addressed("spine", fabric, 2),
    )
    return [Batch(tor, here), _port(segment, tor), Batch("spine", _addressed(tor, fabric, 1))]


def _behind_spine(topology: Topology, place: str) -> list[Batch]:
    subnet = FIXED_SUBNETS[place]
    here = (
        *_wire(topology, "eth0", "spine", place),
        *_addressed("eth0", subnet, 10),
    )
    return [Batch(place, here), Batch("spine", _addressed(place, subnet, 1)), Batch(place, _default(subnet.host(1)))]


def _in_rack(topology: Topology, place: str) -> list[Batch]:
    rack = topology.rack_of(place) if place in topology.node_names else 0
    segment = topology.rack_names[rack]
    number = int(topology.addresses(place).v4.rpartition(".")[2])
    here = (*_wire(topology, "eth0", segment, place), *_addressed("eth0", topology.rack_subnet(rack), number))
    gateway = topology.gateway(rack)
    default = () if topology.addresses(place) == gateway else _default(gateway)
    return [Batch(place, here), _port(segment, place), Batch(place, default)]


def create_namespaces(topology: Topology, places: Iterable[str]) -> None:
    """Make network namespaces with the sysctls of a router or a Kubernetes node. One that exists is an error."""
    names = [topology.namespace(place) for place in places]
    _ip(["-batch", "-"], "".join(f"netns add {name}\n" for name in names))
    settings = "\n".join(f"{key}={value}" for key, value in SYSCTLS.items())
    for name in names:
        run_checked(["nsenter", f"--net={NAMESPACES / name}", "sysctl", "-q", "-p", "-"], settings)


def apply_batches(topology: Topology, batches: Iterable[Batch]) -> None:
    """Run the batches in order; the first line that fails ends it with a LabError that quotes it."""
    for batch in batches:
        if batch.lines:
            _ip(["-n", topology.namespace(batch.place), "-batch", "-"], "\n".join(batch.lines) + "\n")


def namespaces_of(lab: str) -> list[str]:
    """A lab's network namespaces that exist, by their names alone: its state may be lost or of another version."""
    if not NAMESPACES.is_dir():
        return []
    own = re.compile(re.escape(lab) + r"-(?:cp|outside|spine|n\d+|tor\d+|rack\d+)")
    return sorted(path.name for path in NAMESPACES.iterdir() if own.fullmatch(path.name))


def delete_namespaces(names: Iterable[str]) -> None:
    """Remove namespaces, and with them every interface, route and rule inside."""
    for name in names:
        if (NAMESPACES / name).exists():
            _ip(["netns", "del", name], "")


def _ip(arguments: list[str], text: str) -> None:
    run_checked(["ip", *arguments], text)
