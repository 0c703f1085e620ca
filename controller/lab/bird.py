"""The configuration of BIRD, as a ToR and as the spine, as text. Pure; `routers` writes it and starts BIRD with it.

What BIRD takes is kept under tests/golden and was accepted by `bird -p`. The rules for sessions with nodes are those of
`frr`. After an error, an expired hold timer included, BIRD by itself refuses a neighbour for one to five minutes: here
for seconds.
"""

from controller.lab.frr import HOLD_S, MOST_PREFIXES
from controller.lab.topology import NODE_AS, POD_POOLS, SPINE_AS, Topology

FAMILIES = ("ipv4", "ipv6")


def tor_configuration(topology: Topology, tor: str) -> str:
    """Everything BIRD is told on one ToR."""
    rack = int(tor[3:])
    local = topology.tor_as(rack)
    own = topology.rack_subnet(rack).host(1)
    sessions = [_spine_session(family, local, topology.fabric_subnet(rack).host(1)) for family in FAMILIES]
    sessions += [
        _node_session(family, local, node, topology) for node in topology.nodes_in(rack) for family in FAMILIES
    ]
    return _frame(own.v4, ("rack",)) + _pod_filters() + "".join(sessions)


def spine_configuration(topology: Topology) -> str:
    """The spine passes on what the ToRs say, and says where control plane and outside host are."""
    sessions = []
    for rack, tor in enumerate(topology.tor_names):
        for family in FAMILIES:
            address = getattr(topology.fabric_subnet(rack).host(2), _attribute(family))
            sessions.append(
                f"""protocol bgp {tor}_{_attribute(family)} {{
  local as {SPINE_AS};
  neighbor {address} as {topology.tor_as(rack)};
  hold time {HOLD_S};
  connect retry time 1;
  connect delay time 1;
  error wait time 1, 5;
  {family} {{ import all; export where source ~ [ RTS_BGP, RTS_DEVICE ]; }};
}}
"""
            )
    return _frame(topology.addresses("spine").v4, ("cp", "outside")) + "".join(sessions)


def _attribute(family: str) -> str:
    return "v4" if family == "ipv4" else "v6"


def _frame(router_id: str, connected: tuple[str, ...]) -> str:
    """What every BIRD has: `connected` names the interfaces whose subnets are announced; the kernel gets equal-cost
    paths together.
    """
    interfaces = ", ".join(f'"{name}"' for name in connected)
    kernels = "".join(
        f"protocol kernel {{ merge paths on; {family} {{ import none; export where source = RTS_BGP; }}; }}\n"
        for family in FAMILIES
    )
    return (
        f"router id {router_id};\n"
        "log stderr all;\n"
        "protocol device { scan time 5; }\n"
        f"protocol direct {{ ipv4; ipv6; interface {interfaces}; }}\n" + kernels
    )


def _pod_filters() -> str:
    """Anything inside the pod pools, down to single hosts, so that a wrong host route is seen."""
    return "".join(
        f"filter pods_{_attribute(family)} {{ if net ~ [ {pool}+ ] then accept; reject; }}\n"
        for family, pool in zip(FAMILIES, POD_POOLS, strict=True)
    )


def _spine_session(family: str, local: int, spine: object) -> str:
    return f"""protocol bgp spine_{_attribute(family)} {{
  local as {local};
  neighbor {getattr(spine, _attribute(family))} as {SPINE_AS};
  hold time {HOLD_S};
  connect retry time 1;
  connect delay time 1;
  error wait time 1, 5;
  {family} {{ import all; export where source ~ [ RTS_BGP, RTS_DEVICE ]; }};
}}
"""


def _node_session(family: str, local: int, node: str, topology: Topology) -> str:
    address = getattr(topology.addresses(node), _attribute(family))
    return f"""protocol bgp {node}_{_attribute(family)} {{
  local as {local};
  neighbor {address} as {NODE_AS};
  passive;
  error wait time 1, 5;
  hold time {HOLD_S};
  graceful restart aware;
  long lived graceful restart off;
  {family} {{
    import filter pods_{_attribute(family)};
    import limit {MOST_PREFIXES} action disable;
    import table on;
    export where source ~ [ RTS_BGP, RTS_DEVICE ];
  }};
}}
"""
