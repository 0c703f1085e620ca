"""Which node's speaker is replaced next, when podroute's speakers are of an older version than their DaemonSet.

A new version of a speaker is a BGP restart of its node, which graceful restart covers; so it is one node after the other, and the
next only once the last one's sessions are back. Should they not come back, nothing more is replaced: the others go on as they were.

Pure; called by `controller.operator.rollout`, which reads the pods and deletes the one that is named here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
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
    """A pod of one of the two DaemonSets. `is_current`: of the DaemonSet's latest template."""

    name: str
    uid: str
    node: str
    component: Component
    is_current: bool
    is_ready: bool
    is_ending: bool = False


@dataclass(frozen=True, slots=True)
class NodeView:
    """What the operator knows of a node: whether its kubelet is well, and which sessions its agent reports as established."""

    is_ready: bool
    established: frozenset[SessionName] = frozenset()


@dataclass(frozen=True, slots=True)
class Replaced:
    """A node whose speaker was replaced: the sessions that it had, and since when (monotonic seconds) the new one is Ready."""

    node: str
    sessions: frozenset[SessionName]
    ready_since: float | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """The pod to delete now, if any; why not, if not; and what to remember until the next look."""

    replace: Part | None = None
    reason: Reason | None = None
    node: str = ""
    detail: str = ""
    memory: Replaced | None = field(default=None)


def next_step(parts: Iterable[Part], nodes: Mapping[str, NodeView], memory: Replaced | None, now: float) -> Step:
    """Looks once. `now` is monotonic seconds; parts on nodes that are unknown or not Ready neither count nor are replaced."""
    present = [part for part in parts if part.node in nodes and nodes[part.node].is_ready and not part.is_ending]
    speakers = {part.node: part for part in present if part.component == "speaker"}
    agents = {part.node: part for part in present if part.component == "agent"}
    memory = _heard(memory, speakers, nodes, now)
    old = [speakers[node] for node in sorted(speakers) if not speakers[node].is_current]
    if not old and memory is None:
        return Step()
    # One that does not work has nothing to lose; so an earlier version comes back when a broken one is taken back.
    broken = [part for part in old if not part.is_ready and (memory is None or memory.node == part.node)]
    if memory is not None and not broken:
        return Step(None, Reason.SPEAKER_ROLLOUT_HELD, memory.node, _missing(memory, nodes, now), memory)
    if not broken:
        for node in sorted(agents):
            # Somebody deleted its pod, or it does not start: two nodes at once are one too many.
            if node not in speakers or not speakers[node].is_ready:
                return Step(None, Reason.SPEAKER_ROLLOUT_HELD, node, "its speaker is not ready")
    ready = [part for part in broken or old if _has_current_agent(part.node, agents)]
    if not ready:
        detail = "its agent is not ready, or of an older version; it brings the image"
        return Step(None, Reason.SPEAKER_ROLLOUT_HELD, old[0].node, detail, memory)
    node = ready[0].node
    sessions = memory.sessions if memory is not None else nodes[node].established
    return Step(ready[0], Reason.SPEAKER_REPLACED, node, f"{len(old) - 1} more follow", Replaced(node, sessions))


def _has_current_agent(node: str, agents: Mapping[str, Part]) -> bool:
    return node in agents and agents[node].is_current and agents[node].is_ready


def _heard(
    memory: Replaced | None, speakers: Mapping[str, Part], nodes: Mapping[str, NodeView], now: float
) -> Replaced | None:
    """The memory with what is seen now; None once there is nothing left to wait for, or its node is gone or dead."""
    if memory is None or memory.node not in nodes or not nodes[memory.node].is_ready:
        return None
    if memory.node not in speakers or not speakers[memory.node].is_ready:
        return replace(memory, ready_since=None)
    memory = replace(memory, ready_since=now if memory.ready_since is None else memory.ready_since)
    return memory if _missing(memory, nodes, now) else None


def _missing(memory: Replaced, nodes: Mapping[str, NodeView], now: float) -> str:
    """What the replaced speaker's node still lacks, in words; empty once it is whole."""
    if memory.ready_since is None:
        return "its new speaker is not ready"
    if lost := memory.sessions - nodes[memory.node].established:
        names = ", ".join(f"{peer} ({address})" for peer, address in sorted(lost)[:4])
        return f"{len(lost)} of its sessions are not back: {names}"
    return "" if now - memory.ready_since >= SETTLE_SECONDS else "its new speaker has only just started"
