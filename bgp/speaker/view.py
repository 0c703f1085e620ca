"""What the speaker answers: its state as values for the agent and for a person. Reads the state, changes nothing.

Called by `bgp.speaker.server`.
"""

from collections.abc import Iterator

import msgspec

from bgp.reasons import ProblemReason, SessionReason
from bgp.speaker.state import SpeakerState
from bgp.values import Detail, Family, Neighbour, Observed, Path, Problem, Sent, Session, SessionState


def head_of(state: SpeakerState) -> Observed:
    """The observed state without its routes."""
    desired = state.wanted.desired
    sessions: list[Session] = []
    problems = [*state.wanted.checked.problems, *state.notes.values()]
    for record in state.records.values():
        held_back = state.why_held_back(record)
        if record.established and record.rib.lacks_surplus:
            problems.append(_forgotten(record.neighbour))
        if held_back is not None:
            problems.append(_problem(record.neighbour, held_back[1]))
        if held_back is None or record.established:
            sessions.append(record.view())
        else:
            # It may have been up before: what it remembers of that stays.
            reason, message = held_back
            view = record.view()
            sessions.append(msgspec.structs.replace(view, state=SessionState.REFUSED, reason=reason, message=message))
    for refusal in state.wanted.checked.refusals:
        if not refusal.kept:
            sessions.append(_refused(refusal.neighbour, refusal.reason, refusal.message, state.wanted.since))
    return Observed(
        generation=desired.generation if desired is not None else 0,
        applied=state.applied,
        started=state.started,
        # A name that moved to another address is there twice for a moment: who makes a dictionary keeps the new one.
        sessions=tuple(sorted(sessions, key=lambda one: (one.name, one.state is not SessionState.REMOVING))),
        settled=tuple(family for family in Family if state.is_settled(family)),
        problems=tuple(problems),
    )


def observed_of(state: SpeakerState) -> Observed:
    """The whole observed state. The routes are a copy."""
    head = head_of(state)
    return Observed(
        generation=head.generation,
        applied=head.applied,
        started=head.started,
        sessions=head.sessions,
        routes=dict(state.rib.routes),
        settled=head.settled,
        problems=head.problems,
    )


def shown_of(state: SpeakerState) -> tuple[Observed, Iterator[Path], list[Sent]]:
    """Everything, for a person. The paths are made as they are asked for; routes may come and go meanwhile."""
    sent = [sent for record in state.records.values() for _, sent in sorted(record.sent.items())]
    return observed_of(state), state.rib.paths(), sent


def detail_of(state: SpeakerState) -> Detail:
    """Everything at once."""
    observed, paths, sent = shown_of(state)
    return Detail(observed=observed, paths=tuple(paths), sent=tuple(sent))


def _refused(neighbour: Neighbour, reason: SessionReason, message: str, since: float) -> Session:
    return Session(
        name=neighbour.name,
        address=neighbour.address,
        state=SessionState.REFUSED,
        since=since,
        reason=reason,
        message=message,
    )


def _problem(neighbour: Neighbour, message: str) -> Problem:
    return Problem(
        object=f"neighbour {neighbour.name}",
        field="local_address",
        value=neighbour.local_address,
        reason=ProblemReason.LOCAL_ADDRESS_MISSING,
        message=message,
    )


def _forgotten(neighbour: Neighbour) -> Problem:
    return Problem(
        object=f"neighbour {neighbour.name}",
        field="max_prefixes",
        value=str(neighbour.max_prefixes),
        reason=ProblemReason.ROUTES_FORGOTTEN,
        message=(
            "some of the routes that came above this limit are no longer known, though there is room again: "
            "raise the limit, which restarts the session, or restart the session at the neighbour"
        ),
    )
