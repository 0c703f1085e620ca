"""The configuration of a ToR that runs FRR, as text. Pure; `routers` writes it and starts bgpd and zebra with it.

What FRR takes is kept under tests/golden and was accepted by `vtysh -C`. Sessions with nodes: each node is a neighbour
of its own (a dynamic range forgets the neighbour with its session, and graceful restart with it), the ToR waits for the
node to connect, IPv4 routes travel over the IPv4 session and IPv6 routes over the IPv6 one. FRR helps a restarting
neighbour without being told to.
"""

from controller.lab.topology import NODE_AS, POD_POOLS, SPINE_AS, Topology

HOLD_S = 9
MOST_PREFIXES = 1000


def zebra_configuration(tor: str) -> str:
    """zebra only installs what bgpd selects."""
    return f"hostname {tor}\nlog stdout informational\n"


def bgpd_configuration(topology: Topology, tor: str) -> str:
    """Everything bgpd is told on one ToR."""
    rack = int(tor[3:])
    spine, nodes = topology.fabric_subnet(rack).host(1), topology.nodes_in(rack)
    own = topology.rack_subnet(rack)
    neighbours = [line for node in nodes for line in _node(topology, node)]
    neighbours += [*_spine(spine.v4), *_spine(spine.v6)]
    lines = [
        f"hostname {tor}",
        "log stdout informational",
        *_filters(),
        f"router bgp {topology.tor_as(rack)}",
        f" bgp router-id {own.host(1).v4}",
        " no bgp default ipv4-unicast",
        " no bgp ebgp-requires-policy",
        " no bgp network import-check",
        " bgp log-neighbor-changes",
        " bgp bestpath as-path multipath-relax",
        *neighbours,
        *_family("ipv4", own.networks.v4, spine.v4, [topology.addresses(node).v4 for node in nodes]),
        *_family("ipv6", own.networks.v6, spine.v6, [topology.addresses(node).v6 for node in nodes]),
        "end",
    ]
    return "\n".join(lines) + "\n"


def _filters() -> list[str]:
    """What a node may announce: anything inside the pod pools, down to single hosts, so that a wrong host route is
    seen.
    """
    return [
        f"ip prefix-list PODS seq 5 permit {POD_POOLS[0]} le 32",
        f"ipv6 prefix-list PODS seq 5 permit {POD_POOLS[1]} le 128",
    ]


def _node(topology: Topology, node: str) -> list[str]:
    lines = []
    for address in topology.addresses(node):
        lines += [
            f" neighbor {address} remote-as {NODE_AS}",
            f" neighbor {address} description {node}",
            f" neighbor {address} passive",
            f" neighbor {address} timers {HOLD_S // 3} {HOLD_S}",
        ]
    return lines


def _spine(address: str) -> list[str]:
    return [
        f" neighbor {address} remote-as {SPINE_AS}",
        f" neighbor {address} description spine",
        f" neighbor {address} timers {HOLD_S // 3} {HOLD_S}",
        f" neighbor {address} timers connect 1",
    ]


def _family(family: str, own: str, spine: str, nodes: list[str]) -> list[str]:
    lines = [
        f" address-family {family} unicast",
        f"  network {own}",
        "  maximum-paths 16",
        f"  neighbor {spine} activate",
    ]
    for address in nodes:
        lines += [
            f"  neighbor {address} activate",
            f"  neighbor {address} prefix-list PODS in",
            f"  neighbor {address} maximum-prefix {MOST_PREFIXES}",
            f"  neighbor {address} soft-reconfiguration inbound",
        ]
    return [*lines, " exit-address-family"]
