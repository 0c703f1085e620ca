"""IPPool: a range of pod addresses that the operator carves into blocks."""

import ipaddress
from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from controller.api.fields import CIDR_LENGTH, CIDR_RULES, cel, rule
from controller.api.objects import Conditions, LabelSelector, Resource, family_of, first_problem

DEFAULT_BLOCK_SIZE = {"ipv4": 26, "ipv6": 122}
# The largest blocks that there are, by their prefix length.
SHORTEST_BLOCK = {"ipv4": 20, "ipv6": 116}

# Ranges of which no pod can have an address: unspecified ("this network"), loopback, link-local, multicast, broadcast.
SPECIAL_RANGES = (
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "255.255.255.255/32",
    "::/127",
    "fe80::/10",
    "ff00::/8",
)
_SPECIAL = "[" + ", ".join(f"'{each}'" for each in SPECIAL_RANGES) + "]"

_FAMILY4 = "cidr(self.cidr).ip().family() == 4"


class IPPoolSpec(
    Struct,
    frozen=True,
    kw_only=True,
    rename="camel",
    omit_defaults=True,
):
    """What addresses pods may get, and which nodes and namespaces get them."""

    RULES: ClassVar[tuple[dict[str, str], ...]] = (
        rule(
            "has(self.blockSize) == has(oldSelf.blockSize)",
            "blockSize can't be added or removed later: create another pool",
        ),
        rule(
            f"!has(self.blockSize) || !isCIDR(self.cidr) || ({_FAMILY4}"
            f" ? (self.blockSize >= {SHORTEST_BLOCK['ipv4']} && self.blockSize <= 32)"
            f" : (self.blockSize >= {SHORTEST_BLOCK['ipv6']} && self.blockSize <= 128))",
            "blockSize is a prefix length: 20 to 32 for IPv4, 116 to 128 for IPv6",
            "'blockSize beside cidr ' + self.cidr",
        ),
        rule(
            "!isCIDR(self.cidr) || cidr(self.cidr).prefixLength() <= (has(self.blockSize) ? self.blockSize : "
            f"({_FAMILY4} ? 26 : 122))",
            "the CIDR is smaller than one block: use a larger CIDR or a longer blockSize (default 26 and 122)",
            "'cidr ' + self.cidr + (has(self.blockSize) ? ' with this blockSize' : '')",
        ),
        rule(
            "!isCIDR(self.cidr) || cidr(self.cidr).prefixLength() >= 4",
            "the CIDR is too large: its prefix length must be at least 4",
            "'cidr ' + self.cidr",
        ),
    )

    cidr: Annotated[
        str,
        Meta(
            description="The range that pod addresses come from, IPv4 or IPv6, e.g. 10.244.0.0/16 or fd00:10:244::/56. "
            "It can't change: create another pool and disable this one. It must overlap no other pool, no node "
            "address and no service range.",
            max_length=CIDR_LENGTH,
            extra_json_schema=cel(
                *CIDR_RULES,
                rule(
                    f"!isCIDR(self) || !{_SPECIAL}.exists(r, cidr(r).containsCIDR(self) || cidr(self).containsCIDR(r))",
                    "overlaps a range of which no pod can have an address (unspecified, loopback, link-local, multicast): "
                    "use unicast addresses, e.g. of 10.0.0.0/8 or fd00::/8",
                ),
                rule("self == oldSelf", "cidr is immutable: create another pool and disable this one"),
            ),
        ),
    ]
    block_size: (
        Annotated[
            int,
            Meta(
                description="Prefix length of the blocks that nodes are granted and that are announced by BGP. Default 26 for "
                "IPv4 and 122 for IPv6: 64 addresses. It can't change.",
                ge=20,
                le=128,
                extra_json_schema=cel(rule("self == oldSelf", "blockSize is immutable: create another pool")),
            ),
        ]
        | None
    ) = None
    node_selector: (
        Annotated[LabelSelector, Meta(description="Which nodes are granted blocks. Absent: all nodes.")] | None
    ) = None
    namespace_selector: (
        Annotated[
            LabelSelector,
            Meta(
                description="Which namespaces' pods get addresses of this pool. Pods of a namespace that some pool selects get "
                "addresses of such pools alone. Absent: the namespaces that no pool selects."
            ),
        ]
        | None
    ) = None
    disabled: Annotated[
        bool,
        Meta(
            description="No new blocks are granted and no new pods get addresses from this pool; running pods keep theirs."
        ),
    ] = False
    headroom: (
        Annotated[
            int,
            Meta(
                description="Free addresses that a node is to have ahead of demand, so that pods start while the operator is "
                "away. Absent: as many as the node's allocatable pods may still need.",
                ge=0,
                le=65536,
            ),
        ]
        | None
    ) = None
    nat_outgoing: Annotated[
        bool,
        Meta(
            description="Masquerade pod traffic to destinations outside all pools, nodes and service ranges behind the "
            "node's address. Off by default: pod addresses are routed."
        ),
    ] = False

    @property
    def effective_block_size(self) -> int:
        """`blockSize`, or the default of the family."""
        return self.block_size if self.block_size is not None else DEFAULT_BLOCK_SIZE[family_of(self.cidr)]


class IPPoolStatus(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What the operator made of the pool."""

    blocks: Annotated[int, Meta(description="Blocks granted to nodes.")] = 0
    total_blocks: Annotated[
        int, Meta(description="Blocks that the CIDR holds.", extra_json_schema={"format": "int64"})
    ] = 0
    releasing: Annotated[int, Meta(description="Blocks that nodes have been asked to give back.")] = 0
    nodes: Annotated[int, Meta(description="Nodes that hold blocks.")] = 0
    in_use: Annotated[int, Meta(description="Addresses in use by pods, as the nodes last reported.")] = 0
    usage: Annotated[str, Meta(description="Blocks granted of blocks in all.", max_length=64)] = ""
    conditions: Conditions = ()


class IPPool(Resource, frozen=True, kw_only=True, rename="camel"):
    """A range of pod addresses. Nodes are granted blocks of it ahead of demand; exactly the blocks are announced by BGP."""

    PLURAL: ClassVar[str] = "ippools"
    COLUMNS: ClassVar[tuple[tuple[str, str, str, int], ...]] = (
        ("CIDR", "string", ".spec.cidr", 0),
        ("Blocks", "string", ".status.usage", 0),
        ("In use", "integer", ".status.inUse", 0),
        ("Accepted", "string", '.status.conditions[?(@.type=="Accepted")].status', 0),
        ("Reason", "string", '.status.conditions[?(@.type=="Accepted")].reason', 0),
        ("Message", "string", '.status.conditions[?(@.type=="Accepted")].message', 1),
        ("Age", "date", ".metadata.creationTimestamp", 0),
    )

    spec: IPPoolSpec
    status: IPPoolStatus = IPPoolStatus()

    def problem(self) -> tuple[str, str] | None:
        """The CIDR must be a network, not smaller than its blocks."""
        found = first_problem("spec.cidr", [self.spec.cidr], ipaddress.ip_network)
        if found is None and ipaddress.ip_network(self.spec.cidr).prefixlen > self.spec.effective_block_size:
            return "spec.blockSize", f"{self.spec.cidr} is smaller than a block of /{self.spec.effective_block_size}"
        return found
