"""Every "no" that podroute gives, with what it means and what to do about it.

Conditions, events, metrics, and `podroute check` use the same words. A speaker's own reasons
(`bgp.values`) travel beside these as plain strings. Called by plan, operator, agent and inspect.
"""

from enum import StrEnum

from controller.api.fields import MOST_BLOCKS, MOST_SESSIONS


class Reason(StrEnum):
    """Why something is, or is not, honoured. The value is what stands in a condition's `reason`."""

    meaning: str
    remedy: str

    def __new__(cls, value: str, meaning: str, remedy: str = "") -> "Reason":
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        member.remedy = remedy
        return member

    ACCEPTED = "Accepted", "the object is honoured"
    INVALID = "Invalid", "the object does not decode", "correct the named field"
    DISABLED = "Disabled", "spec.disabled is true: no new blocks are granted", "set spec.disabled to false"

    POOL_OVERLAPS_POOL = (
        "OverlapsPool",
        "spec.cidr overlaps an older pool's",
        "delete this pool and create one with a CIDR that overlaps no other pool's",
    )
    POOL_SPECIAL_RANGE = (
        "SpecialRange",
        "spec.cidr overlaps a range of which no pod can have an address (unspecified, loopback, link-local, multicast)",
        "create a pool of unicast addresses, e.g. of 10.0.0.0/8 or fd00::/8",
    )
    POOL_OVERLAPS_NODE = (
        "OverlapsNodeAddress",
        "spec.cidr contains the address of a node",
        "create a pool whose CIDR contains no node address",
    )
    POOL_OVERLAPS_PEER = (
        "OverlapsPeerAddress",
        "spec.cidr contains the address of a BGPPeer that is older",
        "create a pool whose CIDR contains no router's address",
    )
    POOL_OVERLAPS_SERVICES = (
        "OverlapsServiceRange",
        "spec.cidr overlaps the cluster's service range",
        "create a pool outside the service range",
    )
    POOL_EXHAUSTED = (
        "PoolExhausted",
        "a node needs a block and the pool has none free",
        "add a pool, or free blocks by scaling down",
    )
    NODE_FULL = (
        "NodeFull",
        f"a node holds as many blocks as it may: {MOST_BLOCKS}, of all pools",
        "use larger blocks (a pool with a shorter blockSize), or less headroom",
    )
    AVAILABLE = "Available", "every node that needs a block has one"
    POOL_HAS_BLOCKS = (
        "BlocksInUse",
        "the pool is being deleted and its blocks still hold pods",
        "delete or move the pods that run on the named nodes",
    )
    NO_NODE_SELECTED = "NoNodeSelected", "spec.nodeSelector matches no node", "label a node, or change the selector"
    RESERVATION_OUTSIDE_POOLS = (
        "OutsidePools",
        "no pool contains the reserved range, so it reserves nothing",
        "correct spec.cidrs or create the pool",
    )

    NODE_WITHOUT_ADDRESS = (
        "NodeWithoutAddress",
        "the Node has no InternalIP of the family, so nothing of that family can be announced from it",
        "start the kubelet with --node-ip for both families",
    )
    NODE_ADDRESS_CONFLICT = (
        "NodeAddressConflict",
        "another Node has the same InternalIP; the older one keeps it",
        "give the nodes distinct --node-ip addresses",
    )
    BLOCK_CONFLICT = (
        "BlockConflict",
        "a node uses a block that belongs to another node",
        "drain the node that claims it and restart its agent",
    )
    REPORT_INVALID = (
        "ReportInvalid",
        "a part of the node's NodeNetwork is no block, or no possible count, and is passed over",
        "see that the agent is of the operator's version, then restart it",
    )
    CLAIM_IS_NO_BLOCK = (
        "ClaimIsNoBlock",
        "a node uses a range that nobody granted and that is no block of a pool: it lies outside, or its size is another",
        "drain the node and restart its agent",
    )
    BLOCK_CLAIMED = "BlockClaimed", "a node uses a block whose IPBlock is gone; it is created again"

    NO_MATCHING_NODE = "NoMatchingNode", "spec.nodeSelector matches no node", "label a node, or change the selector"
    ADDRESS_CONFLICT = (
        "AddressConflict",
        "an older BGPPeer has the same address for the same node; the older one is served",
        "delete one of the two, or give them distinct node selectors",
    )
    NO_SHARED_FAMILY = (
        "NoSharedFamily",
        "the two nodes have no addresses of one family, so there is no session between them",
        "start the kubelets with --node-ip for both families",
    )
    TOO_MANY_SESSIONS = (
        "TooManySessions",
        f"a node keeps at most {MOST_SESSIONS} sessions that BGPPeers ask for",
        "select fewer peers with nodeSelector and peerSelector",
    )
    PEER_IS_NODE_ITSELF = "PeerIsNode", "the peer's address is the node's own", "exclude the node with nodeSelector"
    SECRET_MISSING = (
        "SecretMissing",
        "the Secret that passwordSecretRef names does not exist or lacks the key `password`",
        "create it in podroute-system",
    )
    SESSIONS_DOWN = "SessionsDown", "some sessions are not established", "see the sessions' reasons in NodeNetwork"
    SHUTDOWN = "Shutdown", "spec.shutdown is true: no session is kept", "set spec.shutdown to false"
    ESTABLISHED = "Established", "all sessions are established"

    NAME_NOT_DEFAULT = "NameNotDefault", "only the object named `default` is read", "rename it to default"
    MESH_TOO_LARGE = (
        "MeshTooLarge",
        "a full mesh of more than 100 nodes is costly",
        "peer with the ToR routers, or with route reflectors through peerSelector",
    )
    NOT_SETTLED = "NotSettled", "nothing is granted until every Ready node's agent has reported", "wait up to 60 s"

    SPEAKER_REPLACED = (
        "SpeakerReplaced",
        "the node's speaker is of an older version and is replaced; routers keep its routes meanwhile",
    )
    SPEAKER_ROLLOUT_HELD = (
        "SpeakerRolloutHeld",
        "no other node's speaker is replaced until this node is as it was",
        "see the node's pods in podroute-system and its sessions, or take the change back with "
        "`kubectl rollout undo -n podroute-system daemonset/podroute-speaker`",
    )

    SYNCED = "Synced", "kernel and speaker are as planned"
    NO_BLOCK = "NoBlock", "the node has no block of a family that a pool offers it", "see the IPPools' conditions"
    SPEAKER_AWAY = "SpeakerAway", "the speaker does not answer", "see the speaker's log on the node"
    SPEAKER_REFUSES = (
        "SpeakerRefuses",
        "the speaker does not honour a part of what it is told",
        "correct the named field in the BGPPeer or BGPConfiguration that it follows from",
    )
    APPLY_FAILED = "ApplyFailed", "the kernel refused a change", "see the agent's log on the node"
    HEALTH_PORT = (
        "HealthPortTaken",
        "the agent can't listen for /healthz and /metrics",
        "give another address with --health",
    )
    STORE_FAILED = (
        "StoreFailed",
        "the agent can't write its run folder: after a restart it would know less",
        "free space or inodes on /run",
    )
    INSTALL_FAILED = (
        "InstallFailed",
        "the CNI plugin or its configuration can't be written",
        "see that the folder exists and is writable",
    )
    FOREIGN_ROUTE = (
        "ForeignRoute",
        "a route that is not ours has the prefix of one of ours and a better metric",
        "remove it, or give it a metric above 179",
    )
    BLOCK_RETURNED = (
        "BlockReturned",
        "the spec grants a block again that this node gave back; another node may have it by now, so it is not used",
        "see that the operator runs: after a restored backup its word counts 90 s after its new epoch",
    )
    RETIRING = (
        "Retiring",
        "podroute is being uninstalled: the node withdraws what it announced, then removes what podroute made",
        "wait; or take it back with `kubectl scale -n podroute-system deployment/podroute-operator --replicas=1`",
    )
    RETIRED = "Retired", "nothing of podroute is left in the node's kernel but the veths of pods that still run"
    SNAPSHOT_STALE = "SnapshotStale", "the API server is away; the last known state is used"
    HOSTILE = "HostileSurroundings", "a setting of the node works against pod traffic", "see `podroute check`"
