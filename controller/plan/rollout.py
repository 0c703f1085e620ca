"""Which node's speaker is replaced next, when podroute's speakers are of an older version than their DaemonSet.

A new version of a speaker is a BGP restart of its node, which graceful restart covers; so it is one node after the other, and the
next only once the last one's sessions are back. Should they not come back, nothing more is replaced: the others go on as they were.
A node that is not Ready is left out; only the one that was replaced last holds the others up even then.

Pure; called by `controller.operator.rollout`, which reads the pods and deletes the one that is named here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from controller.api.reasons import Reason

# Seconds that a replaced speaker's pod is Ready before its node's status is believed to be of it: the agent writes a session's fall
# about one second later (DESIGN.md, statuses).
SETTLE_SECONDS = 5.0

Component = Literal["agent", "speaker"]
# A session as NodeNetwork.status names it: the BGPPeer, or `mesh/` and the node, and the peer's address.
SessionName = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Part:
    """A pod of one of the two DaemonSets, `created` at (RFC 3339). `is_current`: of the DaemonSet's latest template."""

    name: str
    uid: str
    node: str
    component: Component
    is_current: bool
    is_ready: bool
    is_ending: bool = False
    created: str = ""


@dataclass(frozen=True, slots=True)
class NodeView:
    """What the operator knows of a node: whether its kubelet is well, and the sessions in its agent's status, all and established.

    `established` is None as long as there is no status: then nothing is known of its sessions.
    """

    is_ready: bool
    established: frozenset[SessionName] | None = frozenset()
    listed: frozenset[SessionName] = frozenset()


@dataclass(frozen=True, slots=True)
class Replaced:
    """A node whose speaker was replaced: the sessions that it had, and since when (monotonic seconds) the new one is Ready."""

    node: str
    sessions: frozenset[SessionName]
    ready_since: float | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """The pod to delete now, if any; or which node holds the others up, and by what. Without `reason` there is nothing to say.

    `memory` is what to know at the next look.
    """

    replace: Part | None = None
    reason: Reason | None = None
    node: str = ""
    detail: str = ""
    memory: Replaced | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """The parts on Ready nodes that are not ending, by node. `is_complete`: there are as many speakers as the DaemonSet wants."""

    speakers: Mapping[str, Part]
    agents: Mapping[str, Part]
    nodes: Mapping[str, NodeView]
    is_complete: bool


def seen(parts: Iterable[Part], nodes: Mapping[str, NodeView], wanted: int) -> Seen:
    """What counts of all that there is. Parts on nodes that are unknown or not Ready neither hold others up nor are replaced."""
    staying = [part for part in parts if not part.is_ending]
    present = [part for part in staying if part.node in nodes and nodes[part.node].is_ready]
    return Seen(
        {part.node: part for part in present if part.component == "speaker"},
        {part.node: part for part in present if part.component == "agent"},
        nodes,
        sum(part.component == "speaker" for part in staying) >= wanted,
    )


def last_replaced(here: Seen) -> Replaced | None:
    """What an operator that has just started takes for the last replaced one: the youngest speaker of the latest version.

    Which sessions it had before, nobody remembers: those that it has, or all that it should have if it has none.
    """
    current = [part for part in here.speakers.values() if part.is_current]
    if not current:
        return None
    node = max(current, key=lambda each: (each.created, each.node)).node
    view = here.nodes[node]
    return Replaced(node, view.established or view.listed)


def next_step(here: Seen, memory: Replaced | None, now: float) -> Step:
    """Looks once; `now` is monotonic seconds."""
    memory = _heard(here, memory, now)
    old = [here.speakers[node] for node in sorted(here.speakers) if not here.speakers[node].is_current]
    if memory is not None:
        # Of yet another version, or taken back: no need to wait for one that is to go. It is replaced before any other.
        again = [part for part in old if part.node == memory.node]
        if not again:
            detail = _missing(here, memory, now)
            return Step(None, Reason.SPEAKER_ROLLOUT_HELD, memory.node, detail, memory)
        return _replaced(here, again, len(old), memory)
    if not old:
        return Step()
    unready = _unready(here)
    # One that serves no session has nothing to lose; so an earlier version comes back when a broken one is taken back.
    broken = [part for part in old if part.node in unready and not here.nodes[part.node].established]
    if unready and not broken:
        return Step(None, Reason.SPEAKER_ROLLOUT_HELD, unready[0], "its speaker is not ready")
    return _replaced(here, broken or old, len(old), None)


def _unready(here: Seen) -> list[str]:
    """Nodes without a working speaker, in order: somebody deleted its pod, or it does not start. Two at once are one too many."""
    missing = set() if here.is_complete else here.agents.keys() - here.speakers.keys()
    return sorted(missing | {node for node, part in here.speakers.items() if not part.is_ready})


def _replaced(here: Seen, candidates: Iterable[Part], left: int, memory: Replaced | None) -> Step:
    """The first candidate whose agent has brought the image and told of its sessions; until then there is nothing to say."""
    for part in candidates:
        established, agent = here.nodes[part.node].established, here.agents.get(part.node)
        if established is not None and agent is not None and agent.is_current and agent.is_ready:
            after = Replaced(part.node, memory.sessions if memory is not None else established)
            return Step(part, Reason.SPEAKER_REPLACED, part.node, f"{left - 1} more follow", after)
    return Step(memory=memory)


def _heard(here: Seen, memory: Replaced | None, now: float) -> Replaced | None:
    """The memory with what is seen now; None once there is nothing left to wait for, or its node is gone."""
    if memory is None or memory.node not in here.nodes:
        return None
    part = here.speakers.get(memory.node)
    if part is None or not part.is_ready:
        return replace(memory, ready_since=None)
    memory = replace(memory, ready_since=now if memory.ready_since is None else memory.ready_since)
    return memory if _missing(here, memory, now) else None


def _missing(here: Seen, memory: Replaced, now: float) -> str:
    """What the replaced speaker's node still lacks, in words; empty once it is whole."""
    view, agent = here.nodes[memory.node], here.agents.get(memory.node)
    if not view.is_ready:
        return "the node is not Ready"
    if memory.ready_since is None:
        return "its new speaker is not ready"
    if agent is None or not agent.is_ready or view.established is None:
        return "its agent does not tell of its sessions"
    if lost := {name for name in memory.sessions & view.listed - view.established if _can_return(here, name)}:
        names = ", ".join(f"{peer} ({address})" for peer, address in sorted(lost)[:4])
        return f"{len(lost)} of its sessions are not back: {names}"
    return "" if now - memory.ready_since >= SETTLE_SECONDS else "its new speaker has only just started"


def _can_return(here: Seen, name: SessionName) -> bool:
    """Not one of the mesh with a node that is dead or gone."""
    prefix, _, other = name[0].partition("/")
    return prefix != "mesh" or (other in here.nodes and here.nodes[other].is_ready)
