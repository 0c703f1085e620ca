"""What the operator knows, as one frozen value: every object, and what it remembers between two looks at them.

Made by `controller.operator` from its Store; read by every decision of the operator in this room.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from controller.api import bgpconfiguration
from controller.api.bgpconfiguration import BGPConfiguration
from controller.api.bgppeer import BGPPeer
from controller.api.clusternetwork import ClusterNetwork
from controller.api.ipblock import IPBlock
from controller.api.ippool import IPPool
from controller.api.ipreservation import IPReservation
from controller.api.kubernetes import Namespace, Node, ServiceCIDR
from controller.api.nodenetwork import NodeNetwork


@dataclass(frozen=True, slots=True)
class Moment:
    """Now: monotonic seconds for durations, and RFC 3339 text for what people read."""

    monotonic: float
    stamp: str


@dataclass(frozen=True, slots=True)
class Memory:
    """What is not written in any object. Starting empty is safe: it makes the operator wait longer, never act sooner.

    `gone` and `idle` hold since when (monotonic seconds) a Node's name is missing and a block (by UID) is unused; `freed` when a
    CIDR was given back. `verified` are UIDs of pools that a list made after their acceptance still showed without overlap.
    `unsettled_since` is None once every Ready node's agent has echoed `epoch`, or `settle_seconds` have passed.
    """

    epoch: str
    unsettled_since: float | None
    settle_seconds: float = 60.0
    gone: Mapping[str, float] = field(default_factory=dict)
    idle: Mapping[str, float] = field(default_factory=dict)
    freed: Mapping[str, float] = field(default_factory=dict)
    verified: frozenset[str] = frozenset()

    @property
    def is_settled(self) -> bool:
        """Whether blocks may be granted, asked back and deleted."""
        return self.unsettled_since is None


@dataclass(frozen=True, slots=True)
class Inventory:
    """Every object that the operator watches."""

    nodes: tuple[Node, ...] = ()
    pools: tuple[IPPool, ...] = ()
    blocks: tuple[IPBlock, ...] = ()
    peers: tuple[BGPPeer, ...] = ()
    configurations: tuple[BGPConfiguration, ...] = ()
    networks: tuple[NodeNetwork, ...] = ()
    clusters: tuple[ClusterNetwork, ...] = ()
    reservations: tuple[IPReservation, ...] = ()
    namespaces: tuple[Namespace, ...] = ()
    services: tuple[ServiceCIDR, ...] = ()

    @property
    def configuration(self) -> BGPConfiguration:
        """The one named `default`, or the defaults."""
        named = (each for each in self.configurations if each.metadata.name == "default")
        return next(named, bgpconfiguration.DEFAULT)

    @property
    def service_ranges(self) -> tuple[str, ...]:
        """All ranges that Services get addresses from."""
        return tuple(sorted({cidr for each in self.services for cidr in each.spec.cidrs}))
