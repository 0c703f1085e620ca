"""What the operator knows, as one frozen value: every object, and what it remembers between two looks at them.

Made by `controller.operator` from its Store; read by every decision of the operator in this room.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import msgspec

from controller.api import bgpconfiguration
from controller.api.bgpconfiguration import BGPConfiguration, BGPConfigurationSpec, GracefulRestart, GracePeriods
from controller.api.bgppeer import BGPPeer
from controller.api.clusternetwork import ClusterNetwork
from controller.api.ipblock import IPBlock
from controller.api.ippool import IPPool
from controller.api.ipreservation import IPReservation
from controller.api.kubernetes import Namespace, Node, ServiceCIDR
from controller.api.nodenetwork import NodeNetwork
from controller.api.objects import Resource

# Seconds beyond the grace period after which a node's blocks go to others: see `controller.plan.reclaim`.
RECLAIM_MARGIN = 90.0

Key = tuple[type[Resource], str]


@dataclass(frozen=True, slots=True)
class Moment:
    """Now: monotonic seconds for durations, and RFC 3339 text for what people read."""

    monotonic: float
    stamp: str


@dataclass(frozen=True, slots=True)
class Memory:
    """What is not written in any object. Starting empty is safe: it makes the operator wait longer, never act sooner.

    `gone` holds since when (monotonic seconds) both Node and NodeNetwork of a name are missing, `orphans` since when the Node alone
    is. `idle` holds since when a block (by UID) is unused, `freed` when a CIDR was given back. `verified` are UIDs of pools that a
    list made after their acceptance still showed without overlap.
    `unsettled_since` is None once every Ready node's agent has echoed `epoch`, or `settle_seconds` have passed.
    """

    epoch: str
    unsettled_since: float | None
    settle_seconds: float = 60.0
    reclaim_margin: float = RECLAIM_MARGIN
    gone: Mapping[str, float] = field(default_factory=dict)
    orphans: Mapping[str, float] = field(default_factory=dict)
    idle: Mapping[str, float] = field(default_factory=dict)
    freed: Mapping[str, float] = field(default_factory=dict)
    verified: frozenset[str] = frozenset()

    @property
    def is_settled(self) -> bool:
        """Whether blocks may be granted, asked back and deleted."""
        return self.unsettled_since is None

    def next_term(self, epoch: str, now: float) -> "Memory":
        """What a process that writes again may go by: not that something has been so without a gap, since it did not look.

        A node that was gone, came back and went again, while another process wrote, has been gone since then only.
        """
        return replace(self, epoch=epoch, unsettled_since=now, gone={}, orphans={}, idle={}, verified=frozenset())


@dataclass(frozen=True, slots=True)
class Inventory:
    """Every object that the operator watches.

    `invalid` are kinds and names of objects whose latest version does not decode; `unknown` those of them of which no good version
    is known. They exist all the same: what follows from them stays as it is (`controller.plan.keeping`).
    """

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
    invalid: frozenset[Key] = frozenset()
    unknown: frozenset[Key] = frozenset()

    def unknown_of(self, kind: type[Resource]) -> frozenset[str]:
        """Names of the objects of a kind that can't be read and never could."""
        return frozenset(name for each, name in self.unknown if each is kind) if self.unknown else frozenset()

    @property
    def configuration(self) -> BGPConfiguration:
        """The one named `default`; what the nodes were told of it if it can't be read; or the defaults."""
        named = next((each for each in self.configurations if each.metadata.name == "default"), None)
        if named is None and "default" in self.unknown_of(BGPConfiguration) and self.networks:
            return _told(self.networks, self.clusters)
        return named or bgpconfiguration.DEFAULT

    @property
    def service_ranges(self) -> tuple[str, ...]:
        """All ranges that Services get addresses from."""
        return tuple(sorted({cidr for each in self.services for cidr in each.spec.cidrs}))


def _told(networks: tuple[NodeNetwork, ...], clusters: tuple[ClusterNetwork, ...]) -> BGPConfiguration:
    """The configuration that follows from what the nodes were told, as far as it shows."""
    specs = [each.spec for each in networks]
    mesh: Literal["Auto", "Enabled", "Disabled"] = "Auto"
    if all(spec.mesh for spec in specs):
        mesh = "Enabled"
    elif not any(spec.mesh for spec in specs):
        mesh = "Disabled"
    oldest = min(networks, key=lambda each: each.metadata.age_key).spec
    spec = BGPConfigurationSpec(
        as_number=oldest.as_number,
        node_mesh=mesh,
        listen_port=oldest.listen_port,
        hold_time=oldest.hold_time,
        graceful_restart=GracefulRestart(time=oldest.graceful_restart_time),
        grace_periods=GracePeriods(deleted_node=max(spec.deleted_node_grace for spec in specs)),
        metrics_clients=tuple(client for each in clusters for client in each.spec.metrics_clients),
    )
    return msgspec.structs.replace(bgpconfiguration.DEFAULT, spec=spec)
