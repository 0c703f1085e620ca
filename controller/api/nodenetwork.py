"""NodeNetwork: what one node is to do (spec, by the operator) and what it does (status, by its agent)."""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct, field

from controller.api.bgppeer import ExportPolicy, ImportPolicy
from controller.api.fields import MOST_ADDRESSES, MOST_BLOCKS, MOST_POOLS, MOST_SESSIONS
from controller.api.ipblock import NodeReference
from controller.api.objects import Conditions, Resource

# The server checks formats without the cost of a rule. It takes host bits, which CEL could refuse: such an entry is passed over.
_CIDR = {"format": "cidr"}
# In the schema alone: an object of before these bounds still decodes.
_COUNT = {"minimum": 0, "maximum": 2**31 - 1}
_ADDRESSES = {"minimum": 0, "maximum": MOST_ADDRESSES}


class BlockGrant(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One block that the node owns."""

    cidr: Annotated[str, Meta(description="The block.", max_length=43, extra_json_schema=_CIDR)]
    uid: Annotated[str, Meta(description="The IPBlock's UID.", max_length=63)]
    pool: Annotated[str, Meta(description="The IPPool.", max_length=253)]
    state: Annotated[Literal["Active", "Releasing"], Meta(description="Releasing: give it back once it is empty.")] = (
        "Active"
    )
    reserved: Annotated[
        tuple[Annotated[str, Meta(max_length=43, extra_json_schema=_CIDR)], ...],
        Meta(description="Ranges in it that are never assigned.", max_length=256),
    ] = ()


class SessionSpec(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One BGP session, resolved from a BGPPeer. Sessions of the node mesh follow from ClusterNetwork instead."""

    peer: Annotated[str, Meta(description="The BGPPeer that asks for it.", max_length=253)]
    address: Annotated[str, Meta(description="The peer's address.", max_length=39)]
    asn: Annotated[int, Meta(description="The peer's AS number.", extra_json_schema={"format": "int64"})]
    local_address: Annotated[str, Meta(description="The node's address.", max_length=39)]
    local_asn: Annotated[
        int, Meta(description="The AS number shown to the peer.", extra_json_schema={"format": "int64"})
    ] = field(name="localASN")
    port: Annotated[int, Meta(description="The peer's TCP port.")] = 179
    passive: Annotated[bool, Meta(description="Wait for the peer to connect.")] = False
    node: Annotated[str, Meta(description="The peer's Node, if it is one.", max_length=253)] = ""
    hold_time: Annotated[int, Meta(description="Seconds.")] = 9
    graceful_restart_time: Annotated[int, Meta(description="Seconds.")] = 120
    password_secret: Annotated[str, Meta(description="The Secret with the TCP MD5 password.", max_length=253)] = ""
    ttl_security: Annotated[int, Meta(description="Hops (RFC 5082).")] | None = None
    multihop: Annotated[int, Meta(description="Outgoing TTL.")] | None = None
    allow_own_as: Annotated[bool, Meta(description="Accept the own AS in a path.")] = field(
        default=False, name="allowOwnAS"
    )
    import_: Annotated[ImportPolicy, Meta(description="What is learned.")] = field(
        default=ImportPolicy(), name="import"
    )
    export: Annotated[ExportPolicy, Meta(description="What is announced.")] = ExportPolicy()


class NodeNetworkSpec(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What the node is to do."""

    node: Annotated[NodeReference, Meta(description="The Node.")]
    epoch: Annotated[
        str, Meta(description="Changes when the operator wants every agent's word; echoed in status.", max_length=63)
    ] = ""
    addresses: Annotated[
        tuple[Annotated[str, Meta(max_length=39)], ...],
        Meta(description="The Node's InternalIPs that are its own, at most one a family.", max_length=2),
    ] = ()
    as_number: Annotated[int, Meta(description="The node's AS number.", extra_json_schema={"format": "int64"})] = 64512
    router_id: Annotated[str, Meta(description="BGP identifier, in dotted form (RFC 6286).", max_length=15)] = field(
        default="", name="routerID"
    )
    listen_port: Annotated[int, Meta(description="TCP port that the speaker listens on.")] = 179
    hold_time: Annotated[int, Meta(description="Seconds, for mesh sessions.")] = 9
    graceful_restart_time: Annotated[int, Meta(description="Seconds, for mesh sessions.")] = 120
    mesh: Annotated[bool, Meta(description="The node is in the node mesh.")] = False
    deleted_node_grace: Annotated[
        int,
        Meta(
            description="Seconds after which the node gives its blocks up if this object is gone: others get them then."
        ),
    ] = 900
    pools: (
        Annotated[
            tuple[Annotated[str, Meta(max_length=253)], ...],
            Meta(description="IPPools whose nodeSelector matches the node. Absent: not known.", max_length=MOST_POOLS),
        ]
        | None
    ) = None
    blocks: Annotated[tuple[BlockGrant, ...], Meta(description="The node's blocks.", max_length=MOST_BLOCKS)] = ()
    sessions: Annotated[
        tuple[SessionSpec, ...], Meta(description="Sessions that BGPPeers ask for.", max_length=MOST_SESSIONS)
    ] = ()


class SessionStatus(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One session as the speaker sees it."""

    peer: Annotated[str, Meta(description="The BGPPeer, or `mesh/` and the node.", max_length=263)]
    address: Annotated[str, Meta(description="The peer's address.", max_length=39)]
    state: Annotated[
        str,
        Meta(
            description="idle, connect, opensent, established, …; unknown: the speaker does not answer.", max_length=63
        ),
    ]
    reason: Annotated[str, Meta(description="Why it is not established.", max_length=63)] = ""
    message: Annotated[str, Meta(description="The detail of it.", max_length=512)] = ""
    accepted: Annotated[int, Meta(description="Routes accepted.", extra_json_schema=_COUNT)] = 0
    refused: Annotated[int, Meta(description="Routes refused.", extra_json_schema=_COUNT)] = 0
    announced: Annotated[int, Meta(description="Prefixes sent.", extra_json_schema=_COUNT)] = 0


class PoolDemand(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Addresses of one pool on this node."""

    pool: Annotated[str, Meta(description="The IPPool.", max_length=253)]
    in_use: Annotated[
        int, Meta(description="Addresses that pods have, or that rest after use.", extra_json_schema=_ADDRESSES)
    ] = 0
    waiting: Annotated[int, Meta(description="Pods that wait for a block.", extra_json_schema=_ADDRESSES)] = 0


class BlockUsage(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Addresses in use in one block."""

    cidr: Annotated[str, Meta(description="The block.", max_length=43, extra_json_schema=_CIDR)]
    in_use: Annotated[
        int, Meta(description="Addresses that pods have, or that rest after use.", extra_json_schema=_ADDRESSES)
    ] = 0


class BlockClaim(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A block that the node uses although its spec no longer holds it."""

    cidr: Annotated[str, Meta(description="The block.", max_length=43, extra_json_schema=_CIDR)]
    uid: Annotated[str, Meta(description="The IPBlock's UID when it was granted.", max_length=63)] = ""
    pool: Annotated[str, Meta(description="The IPPool.", max_length=253)] = ""


class NodeNetworkStatus(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What the node does: counts and states, never lists of routes or pods."""

    epoch: Annotated[str, Meta(description="The last epoch that the agent saw.", max_length=63)] = ""
    observed_generation: Annotated[int, Meta(description="The generation of the spec that was applied.")] = 0
    pods: Annotated[int, Meta(description="Pods wired by podroute.", extra_json_schema=_COUNT)] = 0
    sessions: Annotated[tuple[SessionStatus, ...], Meta(description="BGP sessions.", max_length=1100)] = ()
    session_summary: Annotated[str, Meta(description="Established of all.", max_length=64)] = ""
    learned_routes: Annotated[int, Meta(description="Learned routes in the kernel.", extra_json_schema=_COUNT)] = 0
    demand: Annotated[tuple[PoolDemand, ...], Meta(description="Addresses in use, a pool each.", max_length=1024)] = ()
    usage: Annotated[tuple[BlockUsage, ...], Meta(description="Addresses in use, a block each.", max_length=4096)] = ()
    released: Annotated[
        tuple[Annotated[str, Meta(max_length=63)], ...],
        Meta(description="UIDs of blocks that are empty, withdrawn and given back.", max_length=4096),
    ] = ()
    claims: Annotated[
        tuple[BlockClaim, ...],
        Meta(description="Blocks in use that the spec no longer holds.", max_length=4096),
    ] = ()
    retired: Annotated[
        str, Meta(description="The uninstall for which the node has withdrawn and removed everything.", max_length=63)
    ] = ""
    drift: Annotated[
        dict[str, int],
        Meta(description="Foreign changes repaired since the agent's start, by kind.", max_length=64),
    ] = {}
    conditions: Conditions = ()


class NodeNetwork(Resource, frozen=True, kw_only=True, rename="camel"):
    """One node's part: the operator writes what it is to do, its agent what it does. Written by podroute alone."""

    PLURAL: ClassVar[str] = "nodenetworks"
    BY_PODROUTE_ALONE: ClassVar[bool] = True
    COLUMNS: ClassVar[tuple[tuple[str, str, str, int], ...]] = (
        ("Addresses", "string", ".spec.addresses", 0),
        ("Pods", "integer", ".status.pods", 0),
        ("Sessions", "string", ".status.sessionSummary", 0),
        ("Synced", "string", '.status.conditions[?(@.type=="Synced")].status', 0),
        ("Reason", "string", '.status.conditions[?(@.type=="Synced")].reason', 0),
        ("Message", "string", '.status.conditions[?(@.type=="Synced")].message', 1),
        ("Retired", "string", '.status.conditions[?(@.type=="Retired")].status', 1),
        ("Age", "date", ".metadata.creationTimestamp", 0),
    )

    spec: NodeNetworkSpec
    status: NodeNetworkStatus = NodeNetworkStatus()

    @property
    def is_answered(self) -> bool:
        """Whether the status is about the present spec."""
        return self.status.observed_generation == self.metadata.generation
