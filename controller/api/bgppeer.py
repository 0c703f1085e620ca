"""BGPPeer: routers, or other nodes, that selected nodes keep BGP sessions with."""

import ipaddress
from typing import Annotated, ClassVar

from msgspec import Meta, Struct, field

from controller.api.fields import ASNumber, Cidr, HoldTime, IPAddress, Name, Port, cel, rule
from controller.api.objects import Conditions, LabelSelector, Resource, first_problem

Community = Annotated[
    str,
    Meta(
        max_length=11,
        extra_json_schema=cel(
            rule(
                "self.matches('^[0-9]{1,5}:[0-9]{1,5}$') && self.split(':').all(n, int(n) <= 65535)",
                "not a standard community (RFC 1997): two numbers up to 65535, e.g. 64512:100",
            )
        ),
    ),
]
LargeCommunity = Annotated[
    str,
    Meta(
        max_length=32,
        extra_json_schema=cel(
            rule(
                "self.matches('^[0-9]{1,10}:[0-9]{1,10}:[0-9]{1,10}$') && self.split(':').all(n, int(n) <= 4294967295)",
                "not a large community (RFC 8092): three numbers up to 4294967295, e.g. 64512:1:2",
            )
        ),
    ),
]


class SecretReference(Struct, frozen=True, kw_only=True):
    """A Secret in podroute's own namespace."""

    name: Annotated[Name, Meta(description="The Secret's name; its key `password` holds the TCP MD5 password.")]


class ImportPolicy(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What may be learned from the peer."""

    accept: Annotated[
        tuple[Cidr, ...],
        Meta(
            description="Ranges whose routes, and more specific ones, are accepted besides the pools. 0.0.0.0/0 accepts "
            "everything of IPv4. The node's own blocks, node addresses and service ranges are never accepted.",
            max_length=64,
        ),
    ] = ()
    max_prefixes: Annotated[
        int,
        Meta(
            description="Routes that are accepted at most; what comes beyond is refused and the session stays.",
            ge=1,
            le=1000000,
        ),
    ] = 10000


class ExportPolicy(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What is announced to the peer, and with which attributes."""

    pools: Annotated[
        tuple[Name, ...], Meta(description="Announce blocks of these pools only. Absent: of all.", max_length=64)
    ] = ()
    communities: Annotated[
        tuple[Community, ...], Meta(description="Standard communities (RFC 1997), e.g. 64512:100.", max_length=32)
    ] = ()
    large_communities: Annotated[
        tuple[LargeCommunity, ...], Meta(description="Large communities (RFC 8092), e.g. 64512:1:2.", max_length=32)
    ] = ()
    local_preference: (
        Annotated[
            int,
            Meta(
                description="LOCAL_PREF (RFC 4271 section 5.1.5); only sent within one AS.",
                ge=0,
                le=4294967295,
                extra_json_schema={"format": "int64"},
            ),
        ]
        | None
    ) = None
    med: (
        Annotated[
            int,
            Meta(
                description="MULTI_EXIT_DISC (RFC 4271 section 5.1.4).",
                ge=0,
                le=4294967295,
                extra_json_schema={"format": "int64"},
            ),
        ]
        | None
    ) = None
    prepend: Annotated[
        int, Meta(description="How often the own AS number is put before the AS path once more.", ge=0, le=16)
    ] = 0


class BGPPeerSpec(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """With whom the selected nodes peer, and how."""

    RULES: ClassVar[tuple[dict[str, str], ...]] = (
        rule(
            "has(self.address) != has(self.peerSelector)",
            "name the peer in exactly one way: address for a router, or peerSelector for nodes",
            "(has(self.address) ? 'address ' + self.address + ' and peerSelector' : 'neither address nor peerSelector')",
        ),
        rule(
            "!has(self.address) || has(self.asNumber)",
            "asNumber is required with address: the router's AS number",
            "'address ' + self.address",
        ),
        rule(
            "!has(self.sourceAddress) || !has(self.address) || !isIP(self.address) || !isIP(self.sourceAddress) || "
            "ip(self.sourceAddress).family() == ip(self.address).family()",
            "sourceAddress must be of the same family as address",
            "'sourceAddress ' + self.sourceAddress + ' and address ' + self.address",
        ),
        rule(
            "!(has(self.ttlSecurity) && has(self.multihop))",
            "ttlSecurity and multihop exclude each other: leave one out",
        ),
        rule(
            "!has(self.peerSelector) || self.port == 179",
            "port goes with address: among each other nodes use BGPConfiguration's listenPort",
        ),
        rule(
            "!has(self.sourceAddress) || has(self.address)",
            "sourceAddress goes with address: nodes use their own InternalIP among each other",
            "'sourceAddress ' + self.sourceAddress",
        ),
    )

    node_selector: (
        Annotated[LabelSelector, Meta(description="Which nodes keep the session. Absent: all nodes.")] | None
    ) = None
    address: (
        Annotated[
            IPAddress,
            Meta(description="The router's address, e.g. the ToR's 10.10.0.1. Its family is announced over it."),
        ]
        | None
    ) = None
    peer_selector: (
        Annotated[
            LabelSelector,
            Meta(
                description="Nodes to peer with instead of an address, e.g. those that serve as meeting points. Both sides get "
                "the session."
            ),
        ]
        | None
    ) = None
    port: Annotated[Port, Meta(description="The peer's TCP port.")] = 179
    as_number: (
        Annotated[
            ASNumber, Meta(description="The peer's AS number. With peerSelector: the nodes' own, and not needed.")
        ]
        | None
    ) = None
    local_asn: (
        Annotated[ASNumber, Meta(description="The AS number to show this peer instead of BGPConfiguration's.")] | None
    ) = field(default=None, name="localASN")
    source_address: (
        Annotated[IPAddress, Meta(description="The node's address for the session. Absent: the Node's InternalIP.")]
        | None
    ) = None
    password_secret_ref: (
        Annotated[
            SecretReference,
            Meta(description="A Secret in podroute's own namespace with the TCP MD5 password (RFC 2385)."),
        ]
        | None
    ) = None
    ttl_security: (
        Annotated[
            int,
            Meta(
                description="Accept packets only from at most this many hops away (RFC 5082); 1: directly connected.",
                ge=1,
                le=254,
            ),
        ]
        | None
    ) = None
    multihop: (
        Annotated[
            int, Meta(description="Hops to a router that is not on the node's network: the outgoing TTL.", ge=2, le=255)
        ]
        | None
    ) = None
    hold_time: Annotated[HoldTime, Meta(description="Overrides BGPConfiguration's holdTime. Seconds.")] | None = None
    allow_own_as: Annotated[
        bool, Meta(description="Accept routes whose AS path holds the own AS, e.g. of nodes in other racks.")
    ] = field(default=False, name="allowOwnAS")
    shutdown: Annotated[bool, Meta(description="Keep no session; routes are withdrawn first. The object stays.")] = (
        False
    )
    import_: Annotated[ImportPolicy, Meta(description="What is learned. Default: the pools only.")] = field(
        default=ImportPolicy(), name="import"
    )
    export: Annotated[ExportPolicy, Meta(description="What is announced. Default: the node's own blocks.")] = (
        ExportPolicy()
    )


class BGPPeerStatus(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What the operator made of the peer."""

    nodes: Annotated[int, Meta(description="Nodes that nodeSelector matches.")] = 0
    sessions: Annotated[int, Meta(description="Sessions that these nodes keep.")] = 0
    established: Annotated[int, Meta(description="Sessions that are established.")] = 0
    summary: Annotated[str, Meta(description="Established of all.", max_length=64)] = ""
    conditions: Conditions = ()


class BGPPeer(Resource, frozen=True, kw_only=True, rename="camel"):
    """A BGP session that selected nodes keep: with a router by its address, or with other nodes."""

    PLURAL: ClassVar[str] = "bgppeers"
    COLUMNS: ClassVar[tuple[tuple[str, str, str, int], ...]] = (
        ("Address", "string", ".spec.address", 0),
        ("AS", "integer", ".spec.asNumber", 0),
        ("Established", "string", ".status.summary", 0),
        ("Accepted", "string", '.status.conditions[?(@.type=="Accepted")].status', 0),
        ("Reason", "string", '.status.conditions[?(@.type=="Accepted")].reason', 0),
        ("Message", "string", '.status.conditions[?(@.type=="Established")].message', 1),
        ("Age", "date", ".metadata.creationTimestamp", 0),
    )

    spec: BGPPeerSpec
    status: BGPPeerStatus = BGPPeerStatus()

    def problem(self) -> tuple[str, str] | None:
        """Addresses must be addresses, ranges networks, and the peer be named in exactly one way."""
        spec = self.spec
        if (spec.address is None) == (spec.peer_selector is None):
            return "spec", "name the peer in exactly one way: address for a router, or peerSelector for nodes"
        return (
            first_problem("spec.address", filter(None, [spec.address]), ipaddress.ip_address)
            or first_problem("spec.sourceAddress", filter(None, [spec.source_address]), ipaddress.ip_address)
            or first_problem("spec.import.accept", spec.import_.accept, ipaddress.ip_network)
        )
