"""What a node reports in its NodeNetwork's status: counts and states, never lists of routes or pods.

Pure; called by `controller.agent.reporter`, which decides when to write.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from bgp.values import Family, Observed, Session, SessionState
from controller.api.nodenetwork import (
    BlockUsage,
    NodeNetwork,
    NodeNetworkStatus,
    PoolDemand,
    SessionStatus,
)
from controller.api.objects import Address, Condition, with_condition
from controller.api.reasons import Reason
from controller.plan.addresses import occupancy
from controller.plan.node import NodePlan, released_uids
from controller.plan.speaking import missing_secrets


@dataclass(frozen=True, slots=True)
class Seen:
    """What the agent saw on its node. `waiting` are the pools that could serve each waiting pod.

    `speaker_follows`: the speaker has stored the desired state of the plan, and what is observed came after that. `kept` are
    families in which a router may still hold what was withdrawn: see `controller.plan.withdrawal`.
    """

    pods: int
    occupied: frozenset[Address]
    observed: Observed
    speaker_follows: bool = False
    kept: frozenset[Family] = frozenset()
    learned_installed: int = 0
    is_installed: bool = True
    waiting: tuple[frozenset[str], ...] = ()
    drift: Mapping[str, int] = field(default_factory=dict)
    troubles: tuple[tuple[Reason, str], ...] = ()


def node_status(
    node: NodeNetwork, plan: NodePlan, passwords: Mapping[str, str], seen: Seen, now: str
) -> NodeNetworkStatus:
    """The status to write; `now` (RFC 3339) is used for conditions that change."""
    is_away = any(reason is Reason.SPEAKER_AWAY for reason, _ in seen.troubles)
    sessions = tuple(_session_status(session, is_away) for session in seen.observed.sessions)
    sessions += tuple(
        SessionStatus(
            peer=s.peer,
            address=s.address,
            state="refused",
            reason=Reason.SECRET_MISSING,
            message=f"Secret {s.password_secret} in podroute's namespace: {Reason.SECRET_MISSING.meaning}; "
            f"{Reason.SECRET_MISSING.remedy}",
        )
        for s in missing_secrets(node.spec, passwords)
    )
    usage = occupancy(plan.blocks, seen.occupied)
    up = sum(session.state == SessionState.ESTABLISHED for session in sessions)
    return NodeNetworkStatus(
        # Of the plan, not of the latest object: what is reported is what was applied.
        epoch=plan.epoch,
        observed_generation=plan.generation,
        pods=seen.pods,
        sessions=sessions,
        session_summary=f"{up}/{len(sessions)}",
        learned_routes=seen.learned_installed,
        demand=_demand(plan, usage, seen.waiting),
        usage=tuple(BlockUsage(cidr=cidr, in_use=count) for cidr, count in usage.items()),
        released=_released(plan, seen),
        claims=plan.claims,
        retired=plan.uninstall if is_retired(plan, seen) else "",
        drift=dict(seen.drift),
        conditions=_conditions(node, seen, _retired(plan, seen), now),
    )


def _released(plan: NodePlan, seen: Seen) -> tuple[str, ...]:
    # A session that comes up would announce again what an older desired state says.
    if not seen.speaker_follows:
        return ()
    return released_uids(plan.blocks, plan.withdrawn, still_sent(seen.observed), seen.kept)


def still_sent(observed: Observed) -> frozenset[str]:
    """Prefixes that some session has sent and not withdrawn."""
    return frozenset(prefix for session in observed.sessions for prefix in session.sent)


def urgent_part(status: NodeNetworkStatus) -> tuple[object, ...]:
    """What the operator, or an uninstall, waits for: written at once when it changes."""
    waiting = tuple((d.pool, d.waiting) for d in status.demand)
    return status.retired, status.epoch, status.released, status.claims, status.observed_generation, waiting


def notable_part(status: NodeNetworkStatus) -> tuple[object, ...]:
    """What people wait for: sessions and conditions, without counters; written within a second or so.

    Whether a session refuses routes is no mere count: it comes just after the session is up, and must not wait for the next minute.
    """
    sessions = tuple((s.peer, s.address, s.state, s.reason, s.refused > 0) for s in status.sessions)
    conditions = tuple((c.type, c.status, c.reason, c.message) for c in status.conditions)
    return sessions, conditions, status.demand, tuple(status.drift.items())


def _session_status(session: Session, is_away: bool) -> SessionStatus:
    """`is_away`: the speaker does not answer, and what it said last need not be so any more."""
    said = session.reason or (session.last_reason if session.state != SessionState.ESTABLISHED else None)
    reason = Reason.SPEAKER_AWAY if is_away else said
    return SessionStatus(
        # The speaker knows sessions by "PEER/ADDRESS"; the address stands beside.
        peer=session.name.removesuffix(f"/{session.address}"),
        address=session.address,
        state="unknown" if is_away else session.state,
        reason=reason or "",
        message=session.message[:512],
        accepted=session.accepted,
        refused=sum(session.refused.values()),
        announced=len(session.sent),
    )


def _demand(plan: NodePlan, usage: Mapping[str, int], waiting: Iterable[frozenset[str]]) -> tuple[PoolDemand, ...]:
    in_use: Counter[str] = Counter()
    for block in plan.blocks:
        in_use[block.pool] += usage[block.cidr]
    waits: Counter[str] = Counter(pool for pools in waiting for pool in pools)
    names = sorted({*in_use, *waits})
    return tuple(PoolDemand(pool=name, in_use=in_use[name], waiting=waits[name]) for name in names)


def speaker_problems(observed: Observed) -> tuple[str, ...]:
    """What the speaker does not honour of its order, beside whole sessions: those say so themselves."""
    refused = {f"neighbour {s.name}" for s in observed.sessions if s.state == SessionState.REFUSED}
    return tuple(
        f"{each.object}, {each.field} {each.value}: {each.reason}: {each.message}"
        for each in observed.problems
        if each.object not in refused
    )


def is_retired(plan: NodePlan, seen: Seen) -> bool:
    """Whether, in an uninstall, nothing of podroute is left on the node but its daemons, and veths of running pods.

    Other troubles, of Secrets that are missing or a speaker that is removed already, are none of that.
    """
    is_clean = not any(reason in (Reason.APPLY_FAILED, Reason.INSTALL_FAILED) for reason, _ in seen.troubles)
    return plan.retirement is Reason.RETIRED and not seen.is_installed and is_clean


def _retired(plan: NodePlan, seen: Seen) -> Condition | None:
    """How far an uninstall has come on the node; None without one."""
    if plan.retirement is None:
        return None
    if is_retired(plan, seen):
        return _condition("Retired", "True", Reason.RETIRED, f"{seen.pods} pods have their veths until they end")
    waits = [f"{s.name} ({s.state})" for s in seen.observed.sessions]
    text = f"not withdrawn yet: {', '.join(waits)}" if waits else "the node is being cleaned"
    return _condition("Retired", "False", Reason.RETIRING, text)


def _conditions(node: NodeNetwork, seen: Seen, retired: Condition | None, now: str) -> tuple[Condition, ...]:
    troubles = seen.troubles + tuple((Reason.SPEAKER_REFUSES, text) for text in speaker_problems(seen.observed))
    if troubles:
        reason = troubles[0][0]
        message = "; ".join(f"{r}: {m}" if r != reason else m for r, m in troubles)[:2048]
        synced = _condition("Synced", "False", reason, message)
    else:
        synced = _condition("Synced", "True", Reason.SYNCED, "")
    down = [s for s in seen.observed.sessions if s.state != SessionState.ESTABLISHED]
    if not seen.observed.sessions:
        established = None
    elif down:
        names = ", ".join(f"{s.name} ({s.reason or s.last_reason or s.state})" for s in down[:5])
        established = _condition("SessionsEstablished", "False", Reason.SESSIONS_DOWN, names)
    else:
        established = _condition("SessionsEstablished", "True", Reason.ESTABLISHED, "")
    ours = ("Synced", "SessionsEstablished", "Retired")
    conditions = tuple(c for c in node.status.conditions if c.type not in ours)
    for new in filter(None, (synced, established, retired)):
        old = tuple(c for c in node.status.conditions if c.type == new.type)
        stamped = msgspec.structs.replace(new, last_transition_time=now, observed_generation=node.metadata.generation)
        conditions += with_condition(old, stamped)
    return conditions


def _condition(kind: str, status: Literal["True", "False"], reason: Reason, message: str) -> Condition:
    return Condition(type=kind, status=status, reason=reason, message=message)
