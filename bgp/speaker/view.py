"""What the speaker answers: its state as values for the agent and for a person. Reads the state, changes nothing.

Called by `bgp.speaker.server`.
"""

from bgp.reasons import ProblemReason, SessionReason
from bgp.speaker.state import SpeakerState
from bgp.values import Detail, Family, Neighbour, Observed, Problem, Session, SessionState


def head_of(state: SpeakerState) -> Observed:
    """The observed state without its routes."""
    sessions: list[Session] = []
    problems = [*state.checked.problems, *state.notes.values()]
    for record in state.records.values():
        held_back = state.why_held_back(record)
        if held_back is None:
            sessions.append(record.view())
        else:
            sessions.append(_refused(record.neighbour, *held_back, record.since))
            problems.append(_problem(record.neighbour, *held_back))
    for refusal in state.checked.refusals:
        sessions.append(_refused(refusal.neighbour, refusal.reason, refusal.message, state.desired_since))
    return Observed(
        generation=state.desired.generation if state.desired is not None else 0,
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


def detail_of(state: SpeakerState) -> Detail:
    """Everything, for a person."""
    sent = [sent for record in state.records.values() for _, sent in sorted(record.sent.items())]
    return Detail(observed=observed_of(state), paths=tuple(state.rib.paths()), sent=tuple(sent))


def _refused(neighbour: Neighbour, reason: SessionReason, message: str, since: float) -> Session:
    return Session(
        name=neighbour.name,
        address=neighbour.address,
        state=SessionState.REFUSED,
        since=since,
        reason=reason,
        message=message,
    )


def _problem(neighbour: Neighbour, reason: SessionReason, message: str) -> Problem:
    missing = reason is SessionReason.LOCAL_ADDRESS_MISSING
    return Problem(
        object=f"neighbour {neighbour.name}",
        field="local_address" if missing else "",
        value=neighbour.local_address if missing else "",
        reason=ProblemReason.LOCAL_ADDRESS_MISSING if missing else ProblemReason.CONFIGURATION_REFUSED,
        message=message,
    )
