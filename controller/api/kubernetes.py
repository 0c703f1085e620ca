"""The parts of Kubernetes' own kinds that podroute reads: Node, Namespace, ServiceCIDR. It writes none of them.

Called by `controller.kube.store`, which decodes them, and by `controller.plan`, which decides with them.
"""

import ipaddress
from typing import ClassVar

from msgspec import Struct, field

from controller.api.objects import Resource, first_problem


class NodeAddress(Struct, frozen=True):
    """core/v1 NodeAddress."""

    type: str
    address: str


class NodeCondition(Struct, frozen=True):
    """core/v1 NodeCondition, as far as it says Ready or not."""

    type: str
    status: str


class NodeStatus(Struct, frozen=True):
    """core/v1 NodeStatus. `allocatable` holds quantities as text; `pods` is a plain number."""

    addresses: tuple[NodeAddress, ...] = ()
    conditions: tuple[NodeCondition, ...] = ()
    allocatable: dict[str, str] = {}


class Node(Resource, frozen=True, kw_only=True, rename="camel"):
    """core/v1 Node."""

    PLURAL: ClassVar[str] = "nodes"
    status: NodeStatus = NodeStatus()

    @property
    def is_ready(self) -> bool:
        """Whether the kubelet has said Ready lately (False and Unknown are both no)."""
        return any(c.type == "Ready" and c.status == "True" for c in self.status.conditions)

    @property
    def allocatable_pods(self) -> int:
        """How many pods the kubelet admits; 110 (its default) as long as it has not said."""
        said = self.status.allocatable.get("pods", "")
        return int(said) if said.isascii() and said.isdigit() and len(said) < 10 else 110


class Namespace(Resource, frozen=True, kw_only=True, rename="camel"):
    """core/v1 Namespace."""

    PLURAL: ClassVar[str] = "namespaces"


class ServiceCIDRSpec(Struct, frozen=True):
    """networking.k8s.io/v1 ServiceCIDRSpec."""

    cidrs: tuple[str, ...] = ()


class ServiceCIDR(Resource, frozen=True, kw_only=True, rename="camel"):
    """networking.k8s.io/v1 ServiceCIDR: where Services get their addresses."""

    PLURAL: ClassVar[str] = "servicecidrs"
    spec: ServiceCIDRSpec = field(default_factory=ServiceCIDRSpec)

    def problem(self) -> tuple[str, str] | None:
        """Every range must be a network."""
        return first_problem("spec.cidrs", self.spec.cidrs, ipaddress.ip_network)
