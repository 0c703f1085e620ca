"""Configurations of the real routers in the speaker's tests, and what the speaker is asked to do with them."""

from bgp_world import Bird, Frr, Host

from bgp.values import Announcement, Desired, Family, Neighbour, Refusals

NODE_AS, BIRD_AS, FRR_AS = 64512, 65001, 65002
BOTH = (Family.IPV4, Family.IPV6)
OWN_4, OWN_6 = "10.244.1.0/26", "fd00:244::40/122"
OWN = {OWN_4, OWN_6}
SHARED_4, SHARED_6 = "10.244.9.0/26", "fd00:244::240/122"

BIRD_STATICS = f"""
protocol static far4 {{ ipv4; route {SHARED_4} blackhole; route 192.0.2.0/24 blackhole; }}
protocol static far6 {{ ipv6; route {SHARED_6} blackhole; }}
"""


def bird_session(host: Host, peer: str, name: str = "node", *, extra: str = "", local: str = "") -> str:
    """One BGP protocol of BIRD that carries both families and announces BIRD's static routes."""
    channels = "".join(
        f"{family} {{ import all; export where source = RTS_STATIC; next hop self; }}; " for family in ("ipv4", "ipv6")
    )
    return (
        f"protocol bgp {name} {{ local {local or host.ipv4} as {BIRD_AS}; neighbor {peer} as {NODE_AS}; hold time 9;"
        f" graceful restart on; connect retry time 1; connect delay time 1; error wait time 1,2; {extra} {channels}}}\n"
    )


def bird_at(host: Host, peer: str, statics: str = BIRD_STATICS) -> Bird:
    """BIRD with one session to the node."""
    return Bird(host, BIRD_AS, bird_session(host, peer), statics)


def frr_at(host: Host, peer: str, *, extra: str = "") -> Frr:
    """FRR with one session to the node, announcing the shared prefixes; `extra` goes into the router section."""
    return Frr(
        host,
        f"""
router bgp {FRR_AS}
 bgp router-id {host.ipv4}
 no bgp ebgp-requires-policy
 no bgp network import-check
 bgp graceful-restart
 neighbor {peer} remote-as {NODE_AS}
 neighbor {peer} timers 3 9
 neighbor {peer} timers connect 1
 neighbor {peer} advertisement-interval 0
 {extra}
 address-family ipv4 unicast
  network {SHARED_4}
 exit-address-family
 address-family ipv6 unicast
  neighbor {peer} activate
  network {SHARED_6}
 exit-address-family
""",
    )


def neighbour(node: Host, name: str, address: str, asn: int, **changes: object) -> Neighbour:
    """A session of the node that announces its two blocks and accepts the pools."""
    values = {
        "name": name,
        "address": address,
        "local_address": node.ipv6 if ":" in address else node.ipv4,
        "asn": asn,
        "local_asn": NODE_AS,
        "families": BOTH,
        "accept": ("10.244.0.0/16", "fd00:244::/64"),
        "announcements": (
            Announcement(prefix=OWN_4, next_hop=node.ipv4),
            Announcement(prefix=OWN_6, next_hop=node.ipv6),
        ),
    }
    return Neighbour(**{**values, **changes})


def desired(node: Host, *neighbours: Neighbour, generation: int = 1, **changes: object) -> Desired:
    """A desired state of the node with these neighbours and the usual refusals."""
    values = {
        "router_id": node.ipv4,
        "generation": generation,
        "neighbours": neighbours,
        "refuse": Refusals(
            own_blocks=(OWN_4, OWN_6),
            max_length={Family.IPV4: 26, Family.IPV6: 122},
            own_addresses=(node.ipv4, node.ipv6),
        ),
        "on_link": ("10.99.0.0/24", "fd99::/64"),
    }
    return Desired(**{**values, **changes})
