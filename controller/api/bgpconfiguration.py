"""BGPConfiguration: what holds for BGP on all nodes."""

import ipaddress
from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from controller.api.fields import MOST_CLIENTS, ASNumber, Cidr, HoldTime, Port, rule
from controller.api.objects import Conditions, Metadata, Resource, first_problem


class GracefulRestart(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Graceful restart (RFC 4724): peers keep a node's routes while its speaker restarts."""

    time: Annotated[
        int,
        Meta(
            description="Seconds that peers keep the node's routes while its speaker is away (RFC 4724). A node that "
            "dies silently is still noticed by the hold time.",
            ge=1,
            le=4095,
        ),
    ] = 120


class GracePeriods(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """How long things are kept that may come back. Seconds."""

    deleted_node: Annotated[
        int,
        Meta(
            description="Seconds that a deleted Node's blocks are kept, in case it is added again. Deleting a Node says "
            "that the machine is off.",
            ge=0,
            le=604800,
        ),
    ] = 900
    idle_block: Annotated[
        int,
        Meta(
            description="Seconds that a node keeps a block that it no longer needs before it is asked to give it back.",
            ge=0,
            le=604800,
        ),
    ] = 300


class BGPConfigurationSpec(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """BGP settings of all nodes."""

    as_number: Annotated[
        ASNumber, Meta(description="The nodes' autonomous system number (RFC 4271; private use: 64512 to 65534).")
    ] = 64512
    node_mesh: Annotated[
        Literal["Auto", "Enabled", "Disabled"],
        Meta(
            description="Whether nodes keep iBGP sessions with each other. "
            "Auto: in each family, the nodes that keep no session of a BGPPeer do."
        ),
    ] = "Auto"
    listen_port: Annotated[Port, Meta(description="TCP port that speakers listen on and connect to in the mesh.")] = 179
    hold_time: Annotated[
        HoldTime,
        Meta(description="Seconds without a message after which a session is given up; keepalives every third of it."),
    ] = 9
    graceful_restart: Annotated[
        GracefulRestart, Meta(description="How long peers keep routes while a speaker restarts.")
    ] = GracefulRestart()
    grace_periods: Annotated[
        GracePeriods, Meta(description="How long blocks are kept for nodes that may come back.")
    ] = GracePeriods()
    metrics_clients: Annotated[
        tuple[Cidr, ...],
        Meta(
            description="Ranges of pods that may ask operator and agents for metrics (TCP ports 9478 and 9479 of the nodes), for "
            "example the pool of Prometheus' namespace. Without it no pod may.",
            max_length=MOST_CLIENTS,
        ),
    ] = ()


class BGPConfigurationStatus(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What the operator made of the configuration."""

    mesh_members: Annotated[int, Meta(description="Nodes in the node mesh.")] = 0
    conditions: Conditions = ()


class BGPConfiguration(Resource, frozen=True, kw_only=True, rename="camel"):
    """BGP settings of all nodes. There is one, named `default`; without it the defaults hold."""

    PLURAL: ClassVar[str] = "bgpconfigurations"
    COLUMNS: ClassVar[tuple[tuple[str, str, str, int], ...]] = (
        ("AS", "integer", ".spec.asNumber", 0),
        ("Mesh", "string", ".spec.nodeMesh", 0),
        ("Members", "integer", ".status.meshMembers", 0),
        ("Hold", "integer", ".spec.holdTime", 1),
        ("Age", "date", ".metadata.creationTimestamp", 0),
    )
    RULES: ClassVar[tuple[dict[str, str], ...]] = (
        rule(
            "self.metadata.name == 'default'",
            "only one BGPConfiguration is read: name it default",
            "'metadata.name ' + self.metadata.name",
        ),
    )

    spec: BGPConfigurationSpec = BGPConfigurationSpec()
    status: BGPConfigurationStatus = BGPConfigurationStatus()

    def problem(self) -> tuple[str, str] | None:
        """Every range must be a network."""
        return first_problem("spec.metricsClients", self.spec.metrics_clients, ipaddress.ip_network)


DEFAULT = BGPConfiguration(metadata=Metadata(name="default"))
