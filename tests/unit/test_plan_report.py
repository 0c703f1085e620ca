"""What a node reports (`controller.plan.report`)."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from bgp.reasons import ProblemReason, SessionReason
from bgp.values import Family, Observed, Problem, Session, SessionState
from controller.agent.files import RunFolder
from controller.agent.health import StateCollector
from controller.agent.state import State, Trouble
from controller.api.clusternetwork import ClusterNetwork
from controller.api.ipblock import NodeReference
from controller.api.nodenetwork import BlockGrant, NodeNetwork, NodeNetworkSpec, SessionSpec
from controller.api.objects import Metadata
from controller.api.reasons import Reason
from controller.plan.node import Local, NodePlan, Snapshot, plan_node
from controller.plan.report import Seen, node_status
from controller.plan.speaking import Surroundings

RELEASING = BlockGrant(cidr="10.244.0.0/26", uid="b4", pool="p4", state="Releasing")
NODE = NodeNetwork(
    metadata=Metadata(name="n0", generation=7),
    spec=NodeNetworkSpec(node=NodeReference(name="n0"), epoch="e7", blocks=(RELEASING,)),
)
UP = Session(name="tor/10.0.0.1", address="10.0.0.1", state=SessionState.ESTABLISHED, since=1.0)
NOW = "2026-01-01T00:00:00Z"


@pytest.fixture
def plan() -> NodePlan:
    snapshot = Snapshot(node=NODE, cluster=ClusterNetwork(metadata=Metadata(name="default")))
    planned = plan_node(snapshot, Local((), frozenset(), Surroundings()))
    assert planned is not None
    return planned


def seen(*sessions: Session) -> Seen:
    return Seen(pods=0, occupied=frozenset(), observed=Observed(sessions=sessions), speaker_follows=True)


def test_a_block_is_released_once_the_speaker_follows_and_no_session_has_sent_it(plan: NodePlan) -> None:
    assert node_status(NODE, plan, {}, seen(UP), NOW).released == ("b4",)


def test_a_block_is_not_released_while_a_session_has_sent_it(plan: NodePlan) -> None:
    still = msgspec.structs.replace(UP, sent=(RELEASING.cidr,))
    assert node_status(NODE, plan, {}, seen(still), NOW).released == ()


def test_a_block_is_not_released_while_a_router_may_hold_it_and_another_family_is_no_hindrance(plan: NodePlan) -> None:
    assert node_status(NODE, plan, {}, replace(seen(UP), kept=frozenset({Family.IPV4})), NOW).released == ()
    assert node_status(NODE, plan, {}, replace(seen(UP), kept=frozenset({Family.IPV6})), NOW).released == ("b4",)


def test_a_block_is_not_released_before_the_speaker_knows_of_it(plan: NodePlan) -> None:
    assert node_status(NODE, plan, {}, replace(seen(UP), speaker_follows=False), NOW).released == ()


def test_generation_and_epoch_are_those_of_the_plan_and_not_of_a_later_object(plan: NodePlan) -> None:
    later = msgspec.structs.replace(
        NODE,
        metadata=msgspec.structs.replace(NODE.metadata, generation=8),
        spec=msgspec.structs.replace(NODE.spec, epoch="e8"),
    )
    status = node_status(later, plan, {}, seen(UP), NOW)
    assert (status.observed_generation, status.epoch) == (7, "e7")


def test_no_session_counts_as_established_while_the_speaker_does_not_answer(plan: NodePlan) -> None:
    def status(reason: Reason) -> tuple[str, str, str]:
        found = node_status(NODE, plan, {}, replace(seen(UP), troubles=((reason, "x"),)), NOW)
        return found.sessions[0].state, found.sessions[0].reason, found.session_summary

    assert status(Reason.SPEAKER_AWAY) == ("unknown", "SpeakerAway", "0/1")
    assert status(Reason.APPLY_FAILED) == ("established", "", "1/1")


@pytest.mark.parametrize(("reason", "value"), [(Reason.SPEAKER_AWAY, 0.0), (Reason.APPLY_FAILED, 1.0)])
def test_nor_do_the_metrics_count_it(tmp_path: Path, reason: Reason, value: float) -> None:
    state = State("n0", RunFolder(tmp_path), lambda: 0.0)
    state.observed = Observed(sessions=(UP,))
    state.set_trouble("any", Trouble(reason, "x"))
    registry = CollectorRegistry()
    registry.register(StateCollector(state))
    assert registry.get_sample_value("podroute_session_established", {"session": UP.name}) == value


def test_a_session_that_is_down_says_why_and_others_are_counted(plan: NodePlan) -> None:
    down = Session(
        name="tor2/10.0.0.2",
        address="10.0.0.2",
        state=SessionState.CONNECTING,
        since=1.0,
        reason=SessionReason.WRONG_ASN,
        message="expects AS 65001, peer sent AS 65002",
    )
    status = node_status(NODE, plan, {}, seen(UP, down), NOW)
    assert status.session_summary == "1/2"
    assert (status.sessions[1].peer, status.sessions[1].reason) == ("tor2", "WrongASN")
    assert "peer sent AS 65002" in status.sessions[1].message
    condition = next(c for c in status.conditions if c.type == "SessionsEstablished")
    assert (condition.status, condition.reason) == ("False", Reason.SESSIONS_DOWN)
    assert "tor2/10.0.0.2 (WrongASN)" in condition.message


def test_a_missing_password_is_a_session_that_is_refused(plan: NodePlan) -> None:
    session = SessionSpec(
        peer="tor", address="10.0.0.1", asn=65001, local_address="10.0.0.9", local_asn=64512, password_secret="tor-md5"
    )
    node = msgspec.structs.replace(NODE, spec=msgspec.structs.replace(NODE.spec, sessions=(session,)))
    (shown,) = node_status(node, plan, {}, seen(), NOW).sessions
    assert (shown.state, shown.reason) == ("refused", Reason.SECRET_MISSING)
    assert "tor-md5" in shown.message
    assert node_status(node, plan, {"tor-md5": "x"}, seen(), NOW).sessions == ()


def test_troubles_make_synced_false_with_all_reasons(plan: NodePlan) -> None:
    troubled = replace(seen(UP), troubles=((Reason.APPLY_FAILED, "route x"), (Reason.SPEAKER_AWAY, "no answer")))
    condition = next(c for c in node_status(NODE, plan, {}, troubled, NOW).conditions if c.type == "Synced")
    assert (condition.status, condition.reason) == ("False", Reason.APPLY_FAILED)
    assert condition.message == "route x; SpeakerAway: no answer"


def test_what_the_speaker_does_not_honour_is_told_unless_a_session_says_so_itself(plan: NodePlan) -> None:
    refused = Session(name="tor2", address="10.0.0.2", state=SessionState.REFUSED, since=1.0)
    problem = Problem(
        object="neighbour tor2", field="asn", value="0", reason=ProblemReason.INVALID_VALUE, message="use 1"
    )
    own = Problem(
        object="desired", field="router_id", value="x", reason=ProblemReason.INVALID_VALUE, message="use dotted form"
    )
    observed = Observed(sessions=(UP, refused), problems=(problem, own))
    status = node_status(NODE, plan, {}, replace(seen(), observed=observed), NOW)
    condition = next(c for c in status.conditions if c.type == "Synced")
    assert (condition.status, condition.reason) == ("False", Reason.SPEAKER_REFUSES)
    assert condition.message == "desired, router_id x: InvalidValue: use dotted form"


def retired(plan: NodePlan, stage: Reason | None, now: Seen) -> tuple[str, str, str]:
    """The condition Retired's status and message, and the uninstall that the node answers."""
    status = node_status(NODE, replace(plan, retirement=stage, uninstall="one"), {}, now, NOW)
    found = next((c for c in status.conditions if c.type == "Retired"), None)
    return (found.status, found.message, status.retired) if found else ("", "", status.retired)


def test_a_node_is_retired_once_it_has_withdrawn_and_cleaned_up_and_the_runtime_finds_no_plugin(plan: NodePlan) -> None:
    clean = replace(seen(), is_installed=False, pods=3)
    assert retired(plan, None, clean) == ("", "", "")
    assert retired(plan, Reason.RETIRED, clean) == ("True", "3 pods have their veths until they end", "one")
    assert retired(plan, Reason.RETIRING, replace(seen(UP), is_installed=False)) == (
        "False",
        "not withdrawn yet: tor/10.0.0.1 (established)",
        "",
    )
    assert retired(plan, Reason.RETIRED, replace(clean, is_installed=True))[0] == "False"


@pytest.mark.parametrize(
    ("reason", "hinders"),
    [
        (Reason.APPLY_FAILED, True),
        (Reason.INSTALL_FAILED, True),
        # What the speaker, which may be removed already, and the operator, which is stopped, would have to mend.
        (Reason.SPEAKER_AWAY, False),
        (Reason.SECRET_MISSING, False),
        (Reason.BLOCK_RETURNED, False),
    ],
)
def test_only_what_is_left_on_the_node_keeps_it_from_being_retired(
    plan: NodePlan, reason: Reason, hinders: bool
) -> None:
    now = replace(seen(), is_installed=False, troubles=((reason, "x"),))
    assert retired(plan, Reason.RETIRED, now)[2] == ("" if hinders else "one")
