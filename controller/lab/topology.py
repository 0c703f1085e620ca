"""What a lab consists of: racks, nodes, routers, and every address, from a name and a few numbers.

Pure: `network` builds what is described here, `frr` and `bird` render it for the routers, `cluster` starts Kubernetes
on it. All addresses are private and live only in the lab's own network namespaces, so that any number of labs may use
the same ones at once.

    outside ── spine ── cp            spine AS 65000
              /     \\
           tor0     tor1              AS 65001, 65002 …; gateway .1 and ::1 of the rack's segment
            │         │
          rack0     rack1             one bridge each: an L2 segment
          n0 n1     n2 n3             .11, .12 …; AS 64512

With one rack and no ToR, nodes, control plane and the outside host share the rack's segment, and the outside host is
its gateway.
"""

import re
from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network

import msgspec

from controller.lab.errors import LabError, Refusal

SPINE_AS = 65000
FIRST_TOR_AS = 65001
NODE_AS = 64512
POD_POOLS = ("10.244.0.0/16", "fd00:10:244::/56")
SERVICE_RANGES = ("10.96.0.0/16", "fd00:10:96::/112")
DNS_SERVICE = ("10.96.0.10", "fd00:10:96::a")
TOR_KINDS = ("frr", "bird", "none")
MOST_NODES = 64
MOST_RACKS = 16
_NAME = re.compile(r"[a-z][a-z0-9-]{0,11}")


class Pair(msgspec.Struct, frozen=True):
    """An IPv4 and an IPv6 address (or prefix) that belong together."""

    v4: str
    v6: str

    def __iter__(self) -> Iterator[str]:
        return iter((self.v4, self.v6))


class Subnet(msgspec.Struct, frozen=True):
    """A dual-stack segment: `prefix4` such as `10.10.0`, `prefix6` such as `fd00:10:10:0`; a /24 and a /64."""

    prefix4: str
    prefix6: str

    def host(self, number: int) -> Pair:
        """The addresses of host `number` (1 to 254); the IPv6 one is written with the same digits."""
        return Pair(f"{self.prefix4}.{number}", str(IPv6Address(f"{self.prefix6}::{number}")))

    @property
    def networks(self) -> Pair:
        """The two prefixes."""
        return Pair(f"{self.prefix4}.0/24", str(IPv6Network(f"{self.prefix6}::/64")))


class Topology(msgspec.Struct, frozen=True):
    """A lab's shape. `tors` has one kind for each rack; make it with `make_topology`, which checks and fills it."""

    name: str
    nodes: int
    racks: int
    tors: tuple[str, ...]

    @property
    def routed(self) -> bool:
        """Whether there are ToRs and a spine; otherwise the lab is a single segment."""
        return self.tors != ("none",)

    @property
    def node_names(self) -> tuple[str, ...]:
        """n0, n1 …"""
        return tuple(f"n{number}" for number in range(self.nodes))

    @property
    def tor_names(self) -> tuple[str, ...]:
        """tor0, tor1 …; none in a single segment."""
        return tuple(f"tor{rack}" for rack in range(self.racks)) if self.routed else ()

    @property
    def rack_names(self) -> tuple[str, ...]:
        """The segments: rack0, rack1 …"""
        return tuple(f"rack{rack}" for rack in range(self.racks))

    @property
    def router_names(self) -> tuple[str, ...]:
        """The spine and the ToRs."""
        return ("spine", *self.tor_names) if self.routed else ()

    @property
    def machine_names(self) -> tuple[str, ...]:
        """Everything that runs processes."""
        return ("cp", *self.router_names, "outside", *self.node_names)

    @property
    def namespace_places(self) -> tuple[str, ...]:
        """Everything that has a network namespace: the machines and the segments."""
        return (*self.rack_names, *self.machine_names)

    def namespace(self, place: str) -> str:
        """The network namespace of `place`, as `ip netns` knows it."""
        return f"{self.name}-{place}"

    def rack_of(self, node: str) -> int:
        """The rack a node stands in: nodes fill the racks in order, as evenly as they go."""
        return int(node[1:]) * self.racks // self.nodes

    def nodes_in(self, rack: int) -> tuple[str, ...]:
        """The nodes of one rack, in order."""
        return tuple(node for node in self.node_names if self.rack_of(node) == rack)

    def rack_subnet(self, rack: int) -> Subnet:
        """The segment of a rack."""
        return Subnet(f"10.10.{rack}", f"fd00:10:10:{rack}")

    def fabric_subnet(self, rack: int) -> Subnet:
        """The link between the spine (.1) and a rack's ToR (.2)."""
        return Subnet(f"10.10.{100 + rack}", f"fd00:10:10:{100 + rack}")

    def addresses(self, place: str) -> Pair:
        """The addresses by which a node, `cp` or `outside` is known, or a router's on its own segment."""
        if place.startswith("tor"):
            return self.rack_subnet(int(place[3:])).host(1)
        if place in FIXED_SUBNETS:
            return FIXED_SUBNETS[place].host(10) if self.routed else self.rack_subnet(0).host(FLAT_HOSTS[place])
        if place == "spine":
            return FIXED_SUBNETS["cp"].host(1)
        rack = self.rack_of(place)
        return self.rack_subnet(rack).host(11 + self.nodes_in(rack).index(place))

    def gateway(self, rack: int) -> Pair:
        """A rack's default gateway: the ToR, or the outside host of a single segment. `.1` and `::1` either way."""
        return self.rack_subnet(rack).host(1)

    def tor_as(self, rack: int) -> int:
        """The AS number of a rack's ToR."""
        return FIRST_TOR_AS + rack

    def tor_kind(self, tor: str) -> str:
        """`frr` or `bird`."""
        return self.tors[int(tor[3:])]


FIXED_SUBNETS = {"cp": Subnet("10.10.200", "fd00:10:10:200"), "outside": Subnet("10.10.201", "fd00:10:10:201")}
FLAT_HOSTS = {"outside": 1, "cp": 2}


def make_topology(name: str, nodes: int, racks: int, tors: tuple[str, ...]) -> Topology:
    """Check the numbers and give each rack its ToR kind, cycling through `tors`. Raises LabError naming the value and
    the remedy.
    """

    def refuse(message: str) -> LabError:
        return LabError(Refusal.BAD_TOPOLOGY, message)

    if not _NAME.fullmatch(name):
        raise refuse(f"name {name!r}: use a lower-case letter, then up to 11 letters, digits or dashes")
    if not 1 <= nodes <= MOST_NODES:
        raise refuse(f"nodes {nodes}: use 1 to {MOST_NODES}")
    if not 1 <= racks <= min(MOST_RACKS, nodes):
        raise refuse(f"racks {racks}: use 1 to {min(MOST_RACKS, nodes)} (each of the {nodes} nodes stands in one rack)")
    unknown = [kind for kind in tors if kind not in TOR_KINDS]
    if unknown or not tors:
        raise refuse(f"tor {','.join(tors)!r}: name one or more of {', '.join(TOR_KINDS)}, separated by commas")
    if "none" in tors and (racks > 1 or len(tors) > 1):
        raise refuse("tor none: a lab without ToRs has one segment; add --racks 1, or name frr or bird")
    return Topology(name, nodes, racks, tuple(tors[rack % len(tors)] for rack in range(racks)))


def reference_ranges(node: str) -> Pair:
    """The pod ranges that the reference CNI gives to a node: a /24 and a /64 out of the pod pools."""
    number = int(node[1:])
    return Pair(f"10.244.{number}.0/24", str(IPv6Network(f"fd00:10:244:{number:x}::/64")))
