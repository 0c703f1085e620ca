"""What one node is to do, as a function of what it knows: routes, rules, announcements, and blocks to assign from.

`plan_node` is the agent's only decision about the kernel and the speaker; `controller.agent` applies its result and
`podroute check` compares with it. Learned routes come from the speaker, prefix by prefix: see `controller.plan.learned`.
"""

import ipaddress
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import msgspec

from bgp.values import Desired, Family
from controller.api.clusternetwork import ClusterNetwork, ClusterNetworkSpec
from controller.api.ippool import DEFAULT_BLOCK_SIZE
from controller.api.nodenetwork import BlockClaim, BlockGrant, NodeNetwork
from controller.api.objects import Address, Network, family_of
from controller.api.reasons import Reason
from controller.kernel.values import Guard, PodLink, Route, RouteKind, Rules, pod_routes
from controller.plan.addresses import occupancy
from controller.plan.cidrs import distinct_networks, network_of
from controller.plan.returned import (
    Return,
    Returns,
    after_holding,
    after_taking_back,
    asked_back,
    decided_at,
    still_returned,
)
from controller.plan.speaking import Holding, Surroundings, desired_for
from controller.plan.withdrawal import Told


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the API server last said, and the blocks that the node holds; kept in /run for when it is away.

    `held` are all blocks that were granted and not yet given back, whether or not `node` still lists them, `returns` those that
    were. `told` are the sessions that the speaker is to keep. `missing_since` is when the API server first said that there is no
    such NodeNetwork (CLOCK_MONOTONIC seconds); `node` is the last one then. `retired`: everything was withdrawn for an uninstall,
    and the speaker may be gone by now.
    """

    node: NodeNetwork | None = None
    cluster: ClusterNetwork | None = None
    passwords: dict[str, str] = {}
    held: tuple[BlockGrant, ...] = ()
    returns: Returns = Returns()
    told: Told = Told()
    missing_since: float | None = None
    retired: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether the node may act: both objects have been seen once."""
        return self.node is not None and self.cluster is not None


# TCP ports of the nodes on which operator and agent answer for metrics and health (their defaults, and the manifests').
METRICS_PORTS = (9478, 9479)


@dataclass(frozen=True, slots=True)
class Local:
    """What the node itself says: its pods, addresses that are in use or rest, its networks, and the time (CLOCK_MONOTONIC)."""

    pods: tuple[PodLink, ...]
    occupied: frozenset[Address]
    surroundings: Surroundings
    now: float = 0.0
    # The speaker follows the order to keep no session, and every router has heard the withdrawals, or forgotten the routes.
    is_withdrawn: bool = False


@dataclass(frozen=True, slots=True)
class NodePlan:
    """Everything that follows for kernel and speaker. `routes` lack the learned ones.

    `returned` are UIDs of `blocks` that were given back before and are not granted anew, `decided_at` is when that may change.
    `retirement` is RETIRING or RETIRED while podroute is being uninstalled, `uninstall` that one's name. `generation`, `epoch` and
    `object_uid` are those of the NodeNetwork that it follows from.
    """

    routes: tuple[Route, ...]
    rules: Rules
    desired: Desired
    blocks: tuple[BlockGrant, ...]
    withdrawn: frozenset[str] = field(default_factory=frozenset)
    returned: frozenset[str] = field(default_factory=frozenset)
    decided_at: float | None = None
    claims: tuple[BlockClaim, ...] = ()
    retirement: Reason | None = None
    uninstall: str = ""
    generation: int = 0
    epoch: str = ""
    object_uid: str = ""

    @property
    def table(self) -> Rules | None:
        """What the nftables table is to say; None: there is to be none."""
        return None if self.retirement is Reason.RETIRED else self.rules


def plan_node(snapshot: Snapshot, local: Local) -> NodePlan | None:
    """The plan, or None as long as the snapshot is not complete: then nothing is written."""
    node, cluster = snapshot.node, snapshot.cluster
    if node is None or cluster is None:
        return None
    returned = still_returned(snapshot.returns, node, local.now)
    granted = tuple(asked_back(block) if block.uid in returned else block for block in node.spec.blocks)
    blocks = () if is_given_up(snapshot, local.now) else held_blocks(snapshot.held, granted, local.occupied)
    leaving = leaving_blocks(blocks, local.occupied)
    # What was given back may be another node's: its pods are reached there.
    own = tuple(block for block in blocks if block.uid not in returned or block.cidr not in leaving)
    holding = Holding(own, leaving)
    desired = desired_for(node.spec, cluster.spec, snapshot.passwords, holding, local.surroundings)
    rules = _rules(cluster.spec, desired)
    retirement = _retirement(cluster.spec, is_withdrawn=snapshot.retired or local.is_withdrawn)
    if retirement:
        # Withdrawn first: until no router sends anything more, the node forwards, and lets in, as before.
        desired = msgspec.structs.replace(desired, neighbours=())
    return NodePlan(
        routes=(*_block_routes(() if retirement is Reason.RETIRED else own), *pod_routes(local.pods)),
        rules=rules,
        desired=desired,
        blocks=blocks,
        withdrawn=leaving,
        returned=returned,
        decided_at=decided_at(snapshot.returns) if returned else None,
        claims=_claims(blocks, node.spec.blocks, cluster.spec, local.pods),
        retirement=retirement,
        uninstall=cluster.spec.retiring,
        generation=node.metadata.generation,
        epoch=node.spec.epoch,
        object_uid=node.metadata.uid,
    )


def _retirement(cluster: ClusterNetworkSpec, *, is_withdrawn: bool) -> Reason | None:
    if not cluster.retiring:
        return None
    return Reason.RETIRED if is_withdrawn else Reason.RETIRING


def returns_after(snapshot: Snapshot, plan: NodePlan, now: float) -> Returns:
    """What is remembered of blocks given back once the plan is followed. Giving up all of them is no answer to anybody."""
    used = frozenset(block.uid for block in plan.blocks if block.state == "Active")
    returns = after_taking_back(snapshot.returns, used)
    if is_given_up(snapshot, now):
        return returns
    answer = Return(plan.object_uid, plan.generation, plan.epoch)
    return after_holding(returns, snapshot.held, plan.blocks, answer)


def is_given_up(snapshot: Snapshot, now: float) -> bool:
    """Whether the NodeNetwork has been gone for so long that the operator gives its blocks to others."""
    if snapshot.missing_since is None or snapshot.node is None:
        return False
    return now - snapshot.missing_since >= snapshot.node.spec.deleted_node_grace


def held_blocks(
    held: Iterable[BlockGrant], granted: Iterable[BlockGrant], occupied: Iterable[Address]
) -> tuple[BlockGrant, ...]:
    """What the node holds now: the grants, and what it held before and is not empty.

    A block that disappears while pods have addresses of it stays, is announced, and is claimed.
    """
    now = {network_of(block.cidr): block for block in granted}
    lost = [block for block in held if network_of(block.cidr) not in now]
    counts = occupancy(lost, occupied)
    kept = [block for block in lost if counts[block.cidr]]
    return tuple(sorted((*kept, *now.values()), key=lambda block: _key(network_of(block.cidr))))


def _unknown_blocks(
    blocks: Iterable[BlockGrant], cluster: ClusterNetworkSpec, pods: Iterable[PodLink]
) -> list[BlockGrant]:
    """Blocks that pods have addresses of and nobody granted, as far as the node knows.

    They are claimed and not announced: they may be another node's by now. Addresses of no pool are claimed, too, by blocks of the
    default size: where podroute is installed anew, agents speak before there is a pool.
    """
    known = [network_of(block.cidr) for block in blocks]
    pools = [(network_of(pool.cidr), pool) for pool in cluster.pools]
    found: dict[Network, BlockGrant] = {}
    for address in (a for pod in pods if pod.attachment for a in pod.attachment.addresses):
        pool = next((pool for network, pool in pools if address in network), None)
        if any(address in network for network in known):
            continue
        size = pool.block_size if pool else DEFAULT_BLOCK_SIZE[family_of(str(address))]
        network = ipaddress.ip_network(f"{address}/{size}", strict=False)
        found[network] = BlockGrant(cidr=str(network), uid="", pool=pool.name if pool else "")
    return list(found.values())


def leaving_blocks(blocks: Iterable[BlockGrant], occupied: Iterable[Address]) -> frozenset[str]:
    """CIDRs of the blocks that are asked back and empty, addresses at rest included: they are announced no more."""
    releasing = [block for block in blocks if block.state == "Releasing"]
    counts = occupancy(releasing, occupied)
    return frozenset(cidr for cidr, count in counts.items() if count == 0)


def released_uids(
    blocks: Iterable[BlockGrant], withdrawn: Iterable[str], still_sent: Iterable[str], kept: Collection[Family] = ()
) -> tuple[str, ...]:
    """UIDs of blocks that may be deleted: withdrawn, in no session's sent prefixes any more, and kept by no router.

    `kept` are families in which a router may still hold what a session that fell had told it.
    """
    gone = set(withdrawn) - set(still_sent)
    return tuple(block.uid for block in blocks if block.cidr in gone and Family(family_of(block.cidr)) not in kept)


def _block_routes(blocks: Iterable[BlockGrant]) -> list[Route]:
    # A packet for an address that no pod has must not follow the default route back to the router that sent it.
    return [Route(network_of(block.cidr), RouteKind.UNREACHABLE) for block in blocks]


def _rules(cluster: ClusterNetworkSpec, desired: Desired) -> Rules:
    pods = distinct_networks(tuple(pool.cidr for pool in cluster.pools))
    # Few have an address of a pool: a route server in a pod.
    addresses = (each.address for each in desired.neighbours)
    neighbours = tuple(each for each in addresses if any(_holds(pool, network_of(each)) for pool in pods))
    nat = tuple(pool.cidr for pool in cluster.pools if pool.nat_outgoing)
    routed = (*(pool.cidr for pool in cluster.pools), *cluster.node_addresses, *cluster.service_ranges)
    return Rules(
        # An nft set takes no overlaps.
        nat_outgoing=distinct_networks(nat),
        routed=distinct_networks(routed),
        guards=(
            Guard("neighbours", (desired.listen_port,), distinct_networks(neighbours)),
            Guard("metrics", METRICS_PORTS, distinct_networks(cluster.metrics_clients)),
        ),
        pods=pods,
    )


def _holds(pool: Network, single: Network) -> bool:
    return pool.version == single.version and single.network_address in pool


def _claims(
    blocks: tuple[BlockGrant, ...],
    granted: Iterable[BlockGrant],
    cluster: ClusterNetworkSpec,
    pods: tuple[PodLink, ...],
) -> tuple[BlockClaim, ...]:
    known = {block.cidr for block in granted}
    lost = [*(block for block in blocks if block.cidr not in known), *_unknown_blocks(blocks, cluster, pods)]
    used = occupancy(lost, (a for pod in pods if pod.attachment for a in pod.attachment.addresses))
    return tuple(BlockClaim(cidr=block.cidr, uid=block.uid, pool=block.pool) for block in lost if used[block.cidr])


def _key(network: Network) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen
