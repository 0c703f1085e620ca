"""IPReservation: addresses that are never assigned to a pod."""

import ipaddress
from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from controller.api.fields import Cidr
from controller.api.objects import Conditions, Resource, first_problem


class IPReservationSpec(Struct, frozen=True, kw_only=True):
    """Which addresses are kept from pods."""

    cidrs: Annotated[
        tuple[Cidr, ...],
        Meta(
            description="Ranges that are never assigned to a pod; one address is written as /32 or /128. Pods that have "
            "such an address already keep it.",
            min_length=1,
            max_length=256,
        ),
    ]


class IPReservationStatus(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the operator made of the reservation."""

    conditions: Conditions = ()


class IPReservation(Resource, frozen=True, kw_only=True, rename="camel"):
    """Addresses inside pools that are never assigned to a pod, e.g. of a machine that already has one."""

    PLURAL: ClassVar[str] = "ipreservations"
    COLUMNS: ClassVar[tuple[tuple[str, str, str, int], ...]] = (
        ("CIDRs", "string", ".spec.cidrs", 0),
        ("Accepted", "string", '.status.conditions[?(@.type=="Accepted")].status', 0),
        ("Reason", "string", '.status.conditions[?(@.type=="Accepted")].reason', 0),
        ("Age", "date", ".metadata.creationTimestamp", 0),
    )

    spec: IPReservationSpec
    status: IPReservationStatus = IPReservationStatus()

    def problem(self) -> tuple[str, str] | None:
        """Every range must be a network."""
        return first_problem("spec.cidrs", self.spec.cidrs, ipaddress.ip_network)
