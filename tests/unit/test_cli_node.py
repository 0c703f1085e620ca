"""What `podroute node …` makes of a speaker's sessions."""

import pytest

from bgp.reasons import ImportReason
from bgp.values import Detail, Observed, Session, SessionState
from controller.cli.node import SessionRow, session_rows
from controller.plan.node_report import NodeReport


@pytest.mark.parametrize(("forgotten", "words"), [(0, "AboveMaxPrefixes 5"), (3, "AboveMaxPrefixes 5 (3 forgotten)")])
def test_refused_routes_are_counted_by_reason_and_those_that_are_forgotten_apart(forgotten: int, words: str) -> None:
    refused = {ImportReason.ABOVE_MAX_PREFIXES: 5}
    session = Session(
        name="tor", address="10.0.0.1", state=SessionState.ESTABLISHED, since=0.0, refused=refused, forgotten=forgotten
    )
    (row,) = session_rows(NodeReport(node="n0", speaker=Detail(observed=Observed(sessions=(session,)))))
    assert isinstance(row, SessionRow)
    assert row.refused == words


def test_without_a_speaker_there_are_nosession_rows() -> None:
    assert session_rows(NodeReport(node="n0")) == []
