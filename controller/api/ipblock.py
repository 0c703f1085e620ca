"""IPBlock: a block of a pool that one node owns. Its creation by the operator is the lock on the addresses."""

import ipaddress
from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from controller.api.fields import Cidr, Name, cel, rule
from controller.api.objects import Network, Resource, first_problem


class NodeReference(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A Node by name and UID: a node that was re-created is another one."""

    name: Annotated[str, Meta(description="The Node's name.", max_length=253)]
    uid: Annotated[str, Meta(description="The Node's UID.", max_length=63)] = ""


class IPBlockSpec(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Which addresses, of which pool, on which node."""

    RULES: ClassVar[tuple[dict[str, str], ...]] = (
        rule("self.cidr == oldSelf.cidr && self.pool == oldSelf.pool", "cidr and pool are immutable"),
        rule("self.node.name == oldSelf.node.name", "a block never changes its node: it is released and granted anew"),
    )

    cidr: Annotated[Cidr, Meta(description="The block, as it is announced by BGP.")]
    pool: Annotated[Name, Meta(description="The IPPool that it was carved from.")]
    node: Annotated[NodeReference, Meta(description="The node that owns it.")]
    state: Annotated[
        Literal["Active", "Releasing"],
        Meta(
            description="Active, or Releasing: the node has been asked to give it back, assigns no more addresses from it "
            "and reports when it is empty."
        ),
    ] = "Active"
    deleted_node_grace: Annotated[
        int,
        Meta(
            description="Seconds for which the node may go on using the block once its Node is gone: the longest grace that its "
            "agent may have been told. Nobody else gets the block before.",
            ge=0,
            le=604800,
        ),
    ] = 900


class IPBlock(Resource, frozen=True, kw_only=True, rename="camel"):
    """A block of an IPPool, owned by one node. Only the operator creates and deletes them."""

    PLURAL: ClassVar[str] = "ipblocks"
    COLUMNS: ClassVar[tuple[tuple[str, str, str, int], ...]] = (
        ("CIDR", "string", ".spec.cidr", 0),
        ("Node", "string", ".spec.node.name", 0),
        ("Pool", "string", ".spec.pool", 0),
        ("State", "string", ".spec.state", 0),
        ("Age", "date", ".metadata.creationTimestamp", 0),
    )

    spec: Annotated[IPBlockSpec, Meta(extra_json_schema=cel())]

    def problem(self) -> tuple[str, str] | None:
        """The CIDR must be a network."""
        return first_problem("spec.cidr", [self.spec.cidr], ipaddress.ip_network)


def block_name(cidr: str) -> str:
    """The IPBlock's name for a CIDR, e.g. `10-244-0-64-26`; IPv6 with all eight hextets, so that no name ends in `-`."""
    network = ipaddress.ip_network(cidr)
    address = network.network_address
    if isinstance(address, ipaddress.IPv6Address):
        words = [f"{int(hextet, 16):x}" for hextet in address.exploded.split(":")]
    else:
        words = str(address).split(".")
    return "-".join([*words, str(network.prefixlen)])


def network_of_name(name: str) -> Network | None:
    """The CIDR whose IPBlock has this name; None if it is no such name."""
    *words, length = name.split("-")
    address = (":" if len(words) == 8 else ".").join(words)
    try:
        return ipaddress.ip_network(f"{address}/{length}")
    except ValueError:
        return None
