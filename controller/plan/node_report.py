"""What a node says of itself when it is asked: the detail that its status leaves out.

The agent fills it (`controller.agent.node_socket`), `podroute node` and `podroute check` read it. Values only.
"""

import msgspec

from bgp.values import Detail
from controller.api.nodenetwork import BlockGrant
from controller.kernel.values import Route
from controller.plan.node import NodePlan


class ReportedRoute(msgspec.Struct, frozen=True, omit_defaults=True):
    """A route of ours: `next_hops` are (gateway or "", device or "")."""

    prefix: str
    kind: str
    next_hops: tuple[tuple[str, str], ...] = ()


class ReportedPod(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A veth of ours. Without `container_id` its alias is missing or unreadable."""

    link: str
    is_up: bool
    container_id: str = ""
    interface: str = ""
    pod_uid: str = ""
    addresses: tuple[str, ...] = ()


class PodProblem(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not as podroute wired it, on a veth of ours or inside its pod."""

    link: str
    what: str


class Nuisance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A setting of the machine that works against pod traffic; podroute names it and changes nothing."""

    reason: str
    message: str
    remedy: str


class NodeReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything that a node knows. `wanted` and `actual` are routes of ours, learned ones included."""

    node: str
    agent_answers: bool = False
    is_ready: bool = False
    blocks: tuple[BlockGrant, ...] = ()
    withdrawn: tuple[str, ...] = ()
    wanted: tuple[ReportedRoute, ...] = ()
    actual: tuple[ReportedRoute, ...] = ()
    foreign: tuple[str, ...] = ()
    pods: tuple[ReportedPod, ...] = ()
    resting: dict[str, float] = {}
    # Session name → prefixes that it should hear.
    announcements: dict[str, tuple[str, ...]] = {}
    speaker: Detail | None = None
    pod_problems: tuple[PodProblem, ...] = ()
    rules_problem: str = ""
    nuisances: tuple[Nuisance, ...] = ()
    troubles: tuple[str, ...] = ()
    drift: dict[str, int] = {}


class AgentSelf(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What only the running agent knows; it answers this on its node socket."""

    node: str
    is_ready: bool = False
    waiting: int = 0
    troubles: tuple[str, ...] = ()
    drift: dict[str, int] = {}


def reported_route(route: Route) -> ReportedRoute:
    """The route as text, its legs sorted."""
    hops = sorted((str(hop.via or ""), hop.dev or "") for hop in route.next_hops)
    return ReportedRoute(str(route.prefix), route.kind, tuple(hops))


def announcements_of(plan: NodePlan) -> dict[str, tuple[str, ...]]:
    """What each session should hear, by its name."""
    return {n.name: tuple(sorted(a.prefix for a in n.announcements)) for n in plan.desired.neighbours}
