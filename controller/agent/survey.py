"""`podroute node`: everything that a node knows, gathered in a process of its own beside the agent.

It reads the kernel and the agent's files itself and computes the plan once more, so that it also tells what is wrong while the
agent is away, or wrong. Called by the command line on the node.
"""

import socket
import time
from pathlib import Path

import msgspec

from bgp.speaker.client import SpeakerError, observe
from bgp.values import Detail, Observed
from controller.agent.files import RunFolder
from controller.api.objects import Address, Network
from controller.kernel import pods, routes, rules, surroundings
from controller.kernel.values import PodLink, Route, is_satisfied
from controller.plan.learned import kept_while_unsettled, route_table
from controller.plan.node import Local, Snapshot, plan_node
from controller.plan.node_report import (
    AgentSelf,
    NodeReport,
    Nuisance,
    PodProblem,
    ReportedPod,
    ReportedRoute,
    announcements_of,
    reported_route,
)
from controller.plan.speaking import Surroundings

ANSWER_SECONDS = 2.0


def survey(run_dir: Path, speaker_socket: str) -> NodeReport:
    """The report of this node. Raises KernelError if the kernel can't be read."""
    folder = RunFolder(run_dir)
    agent, speaker = ask_agent(folder.node_socket), _speaker_detail(speaker_socket)
    snapshot, now = folder.load_snapshot(), time.monotonic()
    resting = {address: until for address, until in folder.load_resting().items() if until > now}
    actual, links, uplinks = routes.read_routes(), pods.read_pods(), surroundings.uplinks()
    on_link = tuple((network, uplink.name) for uplink in uplinks for network in uplink.networks)
    is_withdrawn = snapshot.retired
    local = Local(tuple(links), _occupied(links) | frozenset(resting), _surroundings(uplinks), now, is_withdrawn)
    plan = plan_node(snapshot, local)
    observed = speaker.observed if speaker else Observed()
    table = route_table(plan.routes, observed.routes, on_link) if plan else {}
    # Learned routes that a session may still bring back are kept on purpose.
    kept = kept_while_unsettled((r for r in actual if r.prefix not in table), frozenset(observed.settled))
    actual = [route for route in actual if route not in kept]
    return NodeReport(
        node=_name(agent, snapshot),
        agent_answers=agent is not None,
        is_ready=agent.is_ready if agent else False,
        blocks=plan.blocks if plan else (),
        withdrawn=tuple(sorted(plan.withdrawn)) if plan else (),
        wanted=tuple(map(reported_route, table.values())),
        actual=_as_wanted(actual, table),
        foreign=tuple(
            f"{route.prefix} protocol {route.protocol} metric {route.metric}"
            for route in routes.read_foreign_routes(table)
        ),
        pods=tuple(map(_reported_pod, links)),
        resting={str(address): round(until - now, 1) for address, until in resting.items()},
        announcements=announcements_of(plan) if plan else {},
        speaker=speaker,
        pod_problems=tuple(PodProblem(link=name, what=drift.what) for name, drift in pods.wiring_problems()),
        rules_problem="; ".join(drift.what for drift in rules.rule_problems(plan.table)) if plan else "",
        nuisances=tuple(
            Nuisance(reason=found.reason, message=found.message, remedy=found.remedy)
            for found in surroundings.hostile_settings()
        ),
        troubles=agent.troubles if agent else (),
        drift=agent.drift if agent else {},
    )


def ask_agent(path: Path) -> AgentSelf | None:
    """What the running agent says of itself; None if it does not answer within two seconds."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_SECONDS)
            connection.connect(str(path))
            with connection.makefile("rb") as answer:
                return msgspec.json.decode(answer.readline(), type=AgentSelf)
    except (OSError, msgspec.DecodeError):
        return None


def _speaker_detail(path: str) -> Detail | None:
    try:
        return observe(path)
    except SpeakerError:
        return None


def _name(agent: AgentSelf | None, snapshot: Snapshot) -> str:
    if agent:
        return agent.node
    return snapshot.node.metadata.name if snapshot.node else ""


def _occupied(links: list[PodLink]) -> frozenset[Address]:
    return frozenset(address for link in links if link.attachment for address in link.attachment.addresses)


def _surroundings(uplinks: tuple[surroundings.Uplink, ...]) -> Surroundings:
    addresses = tuple(str(address) for uplink in uplinks for address in uplink.addresses)
    return Surroundings(addresses, tuple(dict.fromkeys(str(n) for uplink in uplinks for n in uplink.networks)))


def _as_wanted(actual: list[Route], table: dict[Network, Route]) -> tuple[ReportedRoute, ...]:
    """The kernel's routes; one that satisfies the wanted one is written as that is, so that the two compare as text."""
    return tuple(
        reported_route(
            table[route.prefix] if route.prefix in table and is_satisfied(table[route.prefix], route) else route
        )
        for route in actual
    )


def _reported_pod(link: PodLink) -> ReportedPod:
    attachment = link.attachment
    if attachment is None:
        return ReportedPod(link=link.name, is_up=link.is_up)
    return ReportedPod(
        link=link.name,
        is_up=link.is_up,
        container_id=attachment.container_id,
        interface=attachment.interface,
        pod_uid=attachment.pod_uid,
        addresses=tuple(map(str, attachment.addresses)),
    )
