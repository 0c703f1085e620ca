"""The answers of FRR 8.4 and BIRD 2.0.12, as they came, read as sessions and routes."""

from controller.lab.answers import bird_routes, bird_sessions, frr_routes, frr_sessions

BIRD_PROTOCOLS = """BIRD 2.0.12 ready.
Name       Proto      Table      State  Since         Info
kernel1    Kernel     master4    up     11:31:16.158
tor0_v4    BGP        ---        start  11:12:47.256  Active        Socket: Connection refused
  BGP state:          Active
    Neighbor address: 10.10.100.2
    Neighbor AS:      65001
tor1_v6    BGP        ---        up     11:12:49.731  Established
  BGP state:          Established
    Neighbor address: fd00:10:10:101::2
    Neighbor AS:      65002
"""

BIRD_ROUTES = """BIRD 2.0.12 ready.
Table master4:
10.244.0.64/26       unicast [n0_v4 11:31:17.102] * (100) [AS64512i]
\tvia 10.10.0.11 on rack
10.10.0.0/24         unicast [direct1 11:31:16.158] * (240)
\tdev rack

Table master6:
fd00:10:244:1::40/122 unicast [spine_v6 11:31:17.102] * (100) [AS64512i]
\tvia fd00:10:10:101::1 on spine
"""


def test_bird_tells_the_state_of_each_neighbour() -> None:
    assert bird_sessions(BIRD_PROTOCOLS) == {"10.10.100.2": "Active", "fd00:10:10:101::2": "Established"}


def test_bird_tells_the_next_hops_of_each_prefix_in_both_tables() -> None:
    assert bird_routes(BIRD_ROUTES) == {
        "10.244.0.64/26": ("10.10.0.11",),
        "10.10.0.0/24": (),
        "fd00:10:244:1::40/122": ("fd00:10:10:101::1",),
    }


def test_frr_tells_the_state_of_each_neighbour_in_both_families() -> None:
    summary = {
        "ipv4Unicast": {"as": 65001, "peers": {"10.10.0.11": {"remoteAs": 64512, "state": "Established"}}},
        "ipv6Unicast": {"as": 65001, "peers": {"fd00:10:10::11": {"remoteAs": 64512, "state": "Active"}}},
    }
    assert frr_sessions(summary) == {"10.10.0.11": "Established", "fd00:10:10::11": "Active"}


def test_frr_tells_the_next_hops_of_selected_paths_only() -> None:
    table = {
        "routes": {
            "10.244.0.64/26": [
                {"valid": True, "bestpath": True, "nexthops": [{"ip": "10.10.0.11", "used": True}]},
                {"valid": True, "nexthops": [{"ip": "10.10.100.1", "used": True}]},
            ],
        }
    }
    assert frr_routes(table) == {"10.244.0.64/26": ("10.10.0.11",)}
