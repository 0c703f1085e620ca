"""What an inspection looks at: the API server's objects beside every node's own report. Values only.

`controller.inspect.gather` fills it; `check`, `status` and `pools` are pure functions of it.
"""

from dataclasses import dataclass, field

from controller.api import BGPPeer, ClusterNetwork, IPBlock, IPPool, NodeNetwork
from controller.plan.node_report import NodeReport


@dataclass(frozen=True, slots=True)
class PodOnNode:
    """A Pod that has an address of its own, as the API server knows it. `phase` is Pending, Running, Succeeded, …"""

    namespace: str
    name: str
    uid: str
    node: str
    addresses: tuple[str, ...]
    phase: str
    is_leaving: bool = False

    @property
    def label(self) -> str:
        """How a person calls it."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A Node object: its UID, its InternalIPs, and whether it is Ready."""

    name: str
    uid: str
    addresses: tuple[str, ...] = ()
    is_ready: bool = False


@dataclass(frozen=True, slots=True)
class World:
    """Everything at one moment, more or less: nodes answer one after the other. `silent`: nodes that gave no report, and why."""

    pools: tuple[IPPool, ...] = ()
    blocks: tuple[IPBlock, ...] = ()
    networks: tuple[NodeNetwork, ...] = ()
    cluster: ClusterNetwork | None = None
    peers: tuple[BGPPeer, ...] = ()
    nodes: tuple[NodeFacts, ...] = ()
    pods: tuple[PodOnNode, ...] = ()
    reports: dict[str, NodeReport] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)
