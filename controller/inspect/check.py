"""`podroute check`: what disagrees between the API server, each node's kernel, its pods, and what its speaker sent. Pure.

Each finding has a kind, the object, what is wrong with which value, and what to do. An empty result means that all of this was
compared and nothing disagreed.
"""

import ipaddress
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from enum import StrEnum

import msgspec

from controller.api import IPBlock
from controller.api.objects import Network
from controller.inspect.world import PodOnNode, World
from controller.plan.node_report import NodeReport, ReportedPod


class Finding(StrEnum):
    """What `check` can find."""

    BLOCK_WITHOUT_NODE = "BlockWithoutNode"
    BLOCKS_OVERLAP = "BlocksOverlap"
    BLOCK_NOT_GRANTED = "BlockNotGranted"
    GRANT_WITHOUT_BLOCK = "GrantWithoutBlock"
    VETH_WITHOUT_POD = "VethWithoutPod"
    VETH_WITHOUT_ALIAS = "VethWithoutAlias"
    POD_WITHOUT_VETH = "PodWithoutVeth"
    ADDRESS_MISMATCH = "AddressMismatch"
    ADDRESS_TWICE = "AddressTwice"
    ADDRESS_OUTSIDE_BLOCKS = "AddressOutsideBlocks"
    ROUTE_MISSING = "RouteMissing"
    ROUTE_SURPLUS = "RouteSurplus"
    ROUTE_FOREIGN = "RouteForeign"
    POD_LINK_WRONG = "PodLinkWrong"
    RULES_WRONG = "RulesWrong"
    ANNOUNCEMENT_WITHOUT_BLOCK = "AnnouncementWithoutBlock"
    ANNOUNCEMENT_MISSING = "AnnouncementMissing"
    SESSION_DOWN = "SessionDown"
    SPEAKER_AWAY = "SpeakerAway"
    AGENT_AWAY = "AgentAway"
    NODE_SILENT = "NodeSilent"
    TROUBLE = "Trouble"
    HOSTILE = "HostileSurroundings"


class Found(msgspec.Struct, frozen=True, order=True):
    """One finding: `object` names it, `message` has the values, `remedy` what to do."""

    kind: Finding
    object: str
    message: str
    remedy: str


def findings(world: World) -> tuple[Found, ...]:
    """All that disagrees, in a stable order."""
    found: list[Found] = []
    for judge in (_blocks, _pods, _addresses, _kernel, _speakers, _nodes):
        found.extend(judge(world))
    return tuple(sorted(set(found)))


def standing(first: Iterable[Found], second: Iterable[Found]) -> tuple[Found, ...]:
    """Of a second look's findings those that the first had, too, whatever their values are by now.

    Lists and nodes are read one after the other: what comes or goes meanwhile disagrees once, and not in the same way twice.
    """
    known = {(found.kind, found.object) for found in first}
    return tuple(found for found in second if (found.kind, found.object) in known)


def _blocks(world: World) -> Iterator[Found]:
    nodes = {node.name for node in world.nodes}
    granted = {(n.metadata.name, grant.cidr) for n in world.networks for grant in n.spec.blocks}
    for block in world.blocks:
        name, cidr, owner = block.metadata.name, block.spec.cidr, block.spec.node.name
        if owner not in nodes:
            yield Found(
                Finding.BLOCK_WITHOUT_NODE,
                f"IPBlock {name}",
                f"spec.node.name={owner}: there is no such Node",
                "it is reclaimed after the grace period; delete the Node's machine or add the Node again",
            )
        elif (owner, cidr) not in granted:
            yield Found(
                Finding.BLOCK_NOT_GRANTED,
                f"IPBlock {name}",
                f"NodeNetwork {owner} does not list {cidr}",
                "see whether the operator runs",
            )
    known = {(block.spec.node.name, block.spec.cidr) for block in world.blocks}
    for node, cidr in sorted(granted - known):
        yield Found(
            Finding.GRANT_WITHOUT_BLOCK,
            f"NodeNetwork {node}",
            f"spec.blocks lists {cidr}, and there is no IPBlock of it for this node",
            "see the operator's log: the block is created again, or shown as BlockConflict",
        )
    yield from _overlaps(world.blocks)


def _overlaps(blocks: Iterable[IPBlock]) -> Iterator[Found]:
    for version in (4, 6):
        networks = sorted(
            (
                (ipaddress.ip_network(block.spec.cidr), block)
                for block in blocks
                if (":" in block.spec.cidr) == (version == 6)
            ),
            key=lambda pair: (int(pair[0].network_address), pair[0].prefixlen),
        )
        for (first, one), (second, other) in itertools.pairwise(networks):
            if int(second.network_address) <= int(first.broadcast_address):
                yield Found(
                    Finding.BLOCKS_OVERLAP,
                    f"IPBlock {other.metadata.name}",
                    f"{second} of node {other.spec.node.name} overlaps {first} of node {one.spec.node.name}",
                    "drain the younger block's node and delete that block",
                )


def _pods(world: World) -> Iterator[Found]:
    by_uid = {pod.uid: pod for pod in world.pods}
    for node, report in world.reports.items():
        for veth in report.pods:
            yield from _veth(node, veth, by_uid)
        wired = {veth.pod_uid for veth in report.pods}
        for pod in world.pods:
            is_ours = any(_in_pools(address, world) for address in pod.addresses)
            if pod.node == node and is_ours and _is_up(pod) and pod.uid not in wired:
                yield Found(
                    Finding.POD_WITHOUT_VETH,
                    f"Pod {pod.label}",
                    f"it has {', '.join(pod.addresses)}, and node {node} has no veth for it",
                    "delete the pod: it is made anew",
                )


def _veth(node: str, veth: ReportedPod, by_uid: dict[str, PodOnNode]) -> Iterator[Found]:
    where = f"node {node}, interface {veth.link}"
    if not veth.container_id:
        yield Found(
            Finding.VETH_WITHOUT_ALIAS, where, "its alias does not say whose it is", f"ip link delete {veth.link}"
        )
        return
    pod = by_uid.get(veth.pod_uid)
    addresses = ", ".join(veth.addresses)
    if pod is None or pod.node != node:
        yield Found(
            Finding.VETH_WITHOUT_POD,
            where,
            f"pod UID {veth.pod_uid or 'unknown'} with {addresses}: the API server knows no such Pod on this node",
            f"if the runtime has no container {veth.container_id[:13]} either: ip link delete {veth.link}",
        )
    elif pod.addresses and _is_up(pod) and set(pod.addresses) != set(veth.addresses):
        yield Found(
            Finding.ADDRESS_MISMATCH,
            f"Pod {pod.label}",
            f"status.podIPs={', '.join(pod.addresses)}, and its veth on node {node} has {addresses}",
            "delete the pod: it is made anew",
        )


def _addresses(world: World) -> Iterator[Found]:
    held = [
        (node, veth.link, address)
        for node, report in world.reports.items()
        for veth in report.pods
        for address in veth.addresses
    ]
    own: dict[str, list[Network]] = defaultdict(list)
    for block in world.blocks:
        own[block.spec.node.name].append(ipaddress.ip_network(block.spec.cidr))
    holders: dict[str, set[str]] = defaultdict(set)
    for node, link, address in held:
        holders[address].add(f"{node}/{link}")
        if not any(ipaddress.ip_address(address) in network for network in own[node]):
            yield Found(
                Finding.ADDRESS_OUTSIDE_BLOCKS,
                f"node {node}, interface {link}",
                f"{address} is in no IPBlock of this node",
                "see NodeNetwork status.claims: the operator creates the block again, or shows BlockConflict",
            )
    for address, links in sorted(holders.items()):
        if len(links) > 1:
            yield Found(
                Finding.ADDRESS_TWICE,
                f"address {address}",
                f"it is on {', '.join(sorted(links))}",
                "delete the younger pod; a veth of no pod is removed with ip link delete",
            )


def _kernel(world: World) -> Iterator[Found]:
    for node, report in world.reports.items():
        wanted = {route.prefix: route for route in report.wanted}
        actual = {route.prefix: route for route in report.actual}
        for prefix, route in sorted(wanted.items()):
            if actual.get(prefix) != route:
                there = actual.get(prefix)
                yield Found(
                    Finding.ROUTE_MISSING,
                    f"node {node}, route {prefix}",
                    f"wanted {route.kind} {_hops(route.next_hops)}, found {_hops(there.next_hops) if there else 'none'}",
                    "the agent repairs it: see whether it runs",
                )
        for prefix, route in sorted(actual.items()):
            if prefix not in wanted:
                yield Found(
                    Finding.ROUTE_SURPLUS,
                    f"node {node}, route {prefix}",
                    f"{route.kind} {_hops(route.next_hops)} of protocol 179 follows from no pod, block or session",
                    "the agent removes it: see whether it runs",
                )
        for text in report.foreign:
            yield Found(
                Finding.ROUTE_FOREIGN,
                f"node {node}, route {text.split()[0]}",
                f"somebody else's route has the same prefix: {text}",
                "remove it: podroute never touches it, and it may win",
            )
        for problem in report.pod_problems:
            yield Found(
                Finding.POD_LINK_WRONG,
                f"node {node}, interface {problem.link}",
                problem.what,
                "on the node's end the agent repairs it; if it stays, delete the pod: it is made anew",
            )
        if report.rules_problem:
            yield Found(
                Finding.RULES_WRONG, f"node {node}", report.rules_problem, "the agent repairs it: see whether it runs"
            )


def _hops(hops: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(f"via {via} dev {dev}" if via else f"dev {dev}" for via, dev in hops) or "without next hop"


def _speakers(world: World) -> Iterator[Found]:
    for node, report in world.reports.items():
        if report.speaker is None:
            yield Found(Finding.SPEAKER_AWAY, f"node {node}", "its speaker does not answer", "see the speaker's log")
            continue
        own = {block.spec.cidr for block in world.blocks if block.spec.node.name == node}
        sent: dict[str, set[str]] = defaultdict(set)
        for each in report.speaker.sent:
            sent[each.session].add(each.prefix)
            if each.prefix not in own:
                yield Found(
                    Finding.ANNOUNCEMENT_WITHOUT_BLOCK,
                    f"node {node}, session {each.session}",
                    f"{each.prefix} was announced, and no IPBlock of this node is {each.prefix}",
                    "restart the agent: it tells the speaker all there is to announce",
                )
        yield from _sessions(node, report, sent)


def _sessions(node: str, report: NodeReport, sent: dict[str, set[str]]) -> Iterator[Found]:
    if report.speaker is None:
        return
    for name in sorted(set(report.announcements) - {session.name for session in report.speaker.observed.sessions}):
        yield Found(
            Finding.SESSION_DOWN,
            f"node {node}, session {name}",
            "the speaker does not know of it",
            "the agent tells it: see whether it runs",
        )
    for session in report.speaker.observed.sessions:
        where = f"node {node}, session {session.name}"
        if session.state != "established":
            reason = session.reason or session.last_reason or session.state
            yield Found(
                Finding.SESSION_DOWN, where, f"{reason}: {session.message or 'not established'}", "see the peer's side"
            )
            continue
        for prefix in sorted(set(report.announcements.get(session.name, ())) - sent[session.name]):
            yield Found(
                Finding.ANNOUNCEMENT_MISSING,
                where,
                f"{prefix} was not announced",
                "see the speaker's and the agent's log",
            )


def _nodes(world: World) -> Iterator[Found]:
    for node, why in world.silent.items():
        yield Found(Finding.NODE_SILENT, f"node {node}", why, "see whether the node runs and podroute is on it")
    for node, report in world.reports.items():
        if not report.agent_answers:
            yield Found(
                Finding.AGENT_AWAY, f"node {node}", "its agent does not answer", "see the agent's log on the node"
            )
        for text in report.troubles:
            yield Found(Finding.TROUBLE, f"node {node}", text, "see the NodeNetwork's conditions")
        for nuisance in report.nuisances:
            yield Found(Finding.HOSTILE, f"node {node}", f"{nuisance.reason}: {nuisance.message}", nuisance.remedy)


def _in_pools(address: str, world: World) -> bool:
    where = ipaddress.ip_address(address)
    return any(where in ipaddress.ip_network(pool.spec.cidr) for pool in world.pools)


def _is_up(pod: PodOnNode) -> bool:
    return pod.phase == "Running" and not pod.is_leaving
