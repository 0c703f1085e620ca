"""Until when a router may still hold a route that this node withdrew. Pure; called by the agent's reconciler and reporter.

A session that is up has told what it withdrew, and its end-of-RIB has ended what the peer kept from the session before (RFC 4724
section 4.2). A session that is down has told nothing: its peer notices within the hold time, and then keeps the routes for the
restart time that this node had advertised. So a block is given back only after that, however long ago it was withdrawn here.
"""

from collections.abc import Iterable, Mapping

import msgspec

from bgp.values import Family, Neighbour, Observed, Session, SessionState

UNKNOWN = float("inf")


class Keeping(msgspec.Struct, frozen=True):
    """What a session's peer keeps when the session falls: routes of which families, and for how many seconds at most.

    The longest that was ever asked for: the peer goes by what it heard when the session came up. `speaker` is the run of the
    speaker (`Observed.started`) that the session was first told to, 0 if an earlier one may have had it: a later run knows nothing
    of what its predecessor announced.
    """

    families: tuple[Family, ...]
    seconds: float
    speaker: float = 0.0


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """The sessions that the speaker was last told to keep, by name, and what those that it was told to drop leave behind.

    `until` is, by family, when the last peer of a session that was dropped while it was down has forgotten (CLOCK_MONOTONIC).
    """

    sessions: dict[str, Keeping] = {}
    until: dict[Family, float] = {}


def after_telling(
    told: Told, neighbours: Iterable[Neighbour], observed: Observed, now: float, *, has_blocks: bool
) -> Told:
    """What is remembered when the speaker is told to keep sessions with `neighbours` and no others.

    `has_blocks` says whether the node has blocks: it may have announced them before it booted, and remembers nothing of that.
    """
    speaker = 0.0 if has_blocks else observed.started
    sessions = {each.name: _keeping(each, told.sessions.get(each.name), speaker) for each in neighbours}
    known = {session.name: session for session in observed.sessions}
    until = {family: at for family, at in told.until.items() if at > now}
    for name, keeping in told.sessions.items():
        session = known.get(name)
        # One that is up is withdrawn from before it ends: until then the speaker shows what it has sent.
        if name in sessions or _is_up(session):
            continue
        for family in keeping.families:
            if session is None:
                # A speaker that knows it not, and was the first to be told, never had it up.
                at = 0.0 if _is_new(keeping, observed.started) else now + keeping.seconds
            else:
                at = _forgotten_by(session, family, keeping, observed.started)
            until[family] = max(until.get(family, 0.0), at)
    return Told(sessions, {family: at for family, at in until.items() if at > now})


def forgotten_at(told: Told, observed: Observed) -> dict[Family, float]:
    """When what was withdrawn is forgotten everywhere, by family; UNKNOWN as long as a peer has not said that it is."""
    known = {session.name: session for session in observed.sessions}
    forgotten = dict(told.until)
    for name, keeping in told.sessions.items():
        for family in keeping.families:
            at = _forgotten_by(known.get(name), family, keeping, observed.started)
            forgotten[family] = max(forgotten.get(family, 0.0), at)
    if any(_fell_before_it_was_told(session) for session in observed.sessions):
        return dict.fromkeys(Family, UNKNOWN)
    return forgotten


def still_kept(forgotten: Mapping[Family, float], now: float) -> frozenset[Family]:
    """Families in which some router may hold what was withdrawn."""
    return frozenset(family for family, at in forgotten.items() if at > now)


def _forgotten_by(session: Session | None, family: Family, keeping: Keeping, started: float) -> float:
    if session is None:
        return UNKNOWN
    if _is_up(session):
        is_told = family not in session.families or family in session.end_of_rib_sent
        return 0.0 if is_told else UNKNOWN
    if session.restarts:
        return session.since + keeping.seconds
    # Never up in this run of the speaker: what the peer may keep was told by one that ended before this one began.
    return 0.0 if _is_new(keeping, started) else started + keeping.seconds


def _is_new(keeping: Keeping, started: float) -> bool:
    """Whether no other run of the speaker can have had the session up."""
    return 0.0 < keeping.speaker == started


def _fell_before_it_was_told(session: Session) -> bool:
    """Whether it was dropped while it was up, and fell then: the speaker shows it until its peer must have forgotten."""
    return session.state is SessionState.REMOVING and session.restarts > 0 and not session.families


def _keeping(neighbour: Neighbour, before: Keeping | None, speaker: float) -> Keeping:
    seconds = float(neighbour.hold_time + neighbour.graceful_restart)
    if before is None:
        return Keeping(neighbour.families, seconds, speaker)
    return Keeping(neighbour.families, max(seconds, before.seconds), before.speaker)


def _is_up(session: Session | None) -> bool:
    return session is not None and session.state is SessionState.ESTABLISHED
