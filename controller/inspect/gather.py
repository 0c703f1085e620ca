"""Fills a `World`: lists the API server's objects and asks every node for its report. The effects of this room.

How a command is run on a node is the caller's business (`RunOnNode`): in a lab it enters the node's namespaces, elsewhere it goes
through the agent's pod.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from controller.api import BGPPeer, ClusterNetwork, IPBlock, IPPool, NodeNetwork
from controller.api.objects import Invalid, Resource, decode
from controller.inspect.check import Found, findings, standing
from controller.inspect.world import NodeFacts, PodOnNode, World
from controller.kube.client import Api
from controller.kube.resources import PODS, Collection, collection_of
from controller.plan.node_report import NodeReport

R = TypeVar("R", bound=Resource)

NODES = Collection("", "v1", "nodes", "Node")
# What a node is asked; it prints one NodeReport.
REPORT_COMMAND = ("podroute", "node", "report", "-o", "json")

# Longer than a pod takes to be wired or taken away, and than the agent takes to repair a route.
SECOND_LOOK_SECONDS = 2.0

RunOnNode = Callable[[str, Sequence[str]], bytes]


class NodeUnreachable(Exception):
    """A command could not be run on a node; the text says why."""


async def gather(api: Api, run_on_node: RunOnNode | None) -> World:
    """Everything, objects first. Without `run_on_node` the nodes are not asked. Raises KubeError."""
    pools, blocks, networks, clusters, peers = await asyncio.gather(
        _listed(api, IPPool),
        _listed(api, IPBlock),
        _listed(api, NodeNetwork),
        _listed(api, ClusterNetwork),
        _listed(api, BGPPeer),
    )
    nodes, pods = await asyncio.gather(api.list(NODES), api.list(PODS))
    facts = tuple(sorted(map(_node_facts, nodes.items), key=lambda node: node.name))
    reports: dict[str, NodeReport] = {}
    silent: dict[str, str] = {}
    if run_on_node is not None:
        answers = await asyncio.gather(*(asyncio.to_thread(_report_of, node.name, run_on_node) for node in facts))
        for node, answer in zip(facts, answers, strict=True):
            if isinstance(answer, NodeReport):
                reports[node.name] = answer
            else:
                silent[node.name] = answer
        # Again, after the nodes have answered: a pod that came or went meanwhile is no finding.
        pods = await api.list(PODS)
    return World(
        pools=pools,
        blocks=blocks,
        networks=networks,
        cluster=clusters[0] if clusters else None,
        peers=peers,
        nodes=facts,
        pods=tuple(pod for raw in pods.items if (pod := _pod_on_node(raw)) is not None),
        reports=reports,
        silent=silent,
    )


async def standing_findings(
    look: Callable[[], Awaitable[World]], seconds: float = SECOND_LOOK_SECONDS
) -> tuple[Found, ...]:
    """What disagrees, and still does `seconds` later: only then it is a finding. One look if nothing disagrees."""
    found = findings(await look())
    if not found:
        return ()
    await asyncio.sleep(seconds)
    return standing(found, findings(await look()))


async def _listed(api: Api, kind: type[R]) -> tuple[R, ...]:
    listing = await api.list(collection_of(kind))
    decoded = (decode(kind, raw) for raw in listing.items)
    objects = [each for each in decoded if not isinstance(each, Invalid)]
    return tuple(sorted(objects, key=lambda each: each.metadata.name))


def _report_of(node: str, run_on_node: RunOnNode) -> NodeReport | str:
    try:
        return msgspec.json.decode(run_on_node(node, REPORT_COMMAND), type=NodeReport)
    except NodeUnreachable as error:
        return str(error)
    except msgspec.DecodeError as error:
        return f"its report can't be read: {error}"


def _node_facts(raw: Mapping[str, Any]) -> NodeFacts:
    status = raw.get("status") or {}
    conditions = {c["type"]: c["status"] for c in status.get("conditions") or []}
    return NodeFacts(
        name=raw["metadata"]["name"],
        uid=raw["metadata"].get("uid", ""),
        addresses=tuple(a["address"] for a in status.get("addresses") or [] if a["type"] == "InternalIP"),
        is_ready=conditions.get("Ready") == "True",
    )


def _pod_on_node(raw: Mapping[str, Any]) -> PodOnNode | None:
    """The pod, if it has a network namespace of its own and a node."""
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    if spec.get("hostNetwork") or not spec.get("nodeName"):
        return None
    return PodOnNode(
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
        # A static pod's CNI call carries the UID of its configuration, not of its mirror (Kubernetes: Static Pods).
        uid=(metadata.get("annotations") or {}).get("kubernetes.io/config.mirror") or metadata["uid"],
        node=spec["nodeName"],
        addresses=tuple(entry["ip"] for entry in status.get("podIPs") or []),
        phase=status.get("phase", ""),
        is_leaving="deletionTimestamp" in metadata,
    )
