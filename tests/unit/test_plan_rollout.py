"""Speakers of an older version are replaced one node after the other, and no further once one does not come back as it was."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api.reasons import Reason
from controller.operator.rollout import is_current, latest_revision, part_of
from controller.plan import rollout
from controller.plan.rollout import SETTLE_SECONDS, Component, NodeView, Part, Replaced, Step, seen

TOR = ("rack0-tor-v4", "10.10.0.1")


def part(node: str, component: Component, current: bool = True, ready: bool = True) -> Part:
    return Part(f"{component}-{node}", f"uid-{component}-{node}", node, component, current, ready)


def cluster(old: str = "", nodes: str = "abc") -> list[Part]:
    """An agent and a speaker on each node; the speakers of `old` are of an older version."""
    return [part(n, "agent") for n in nodes] + [part(n, "speaker", current=n not in old) for n in nodes]


def swap(parts: list[Part], node: str, component: Component, **change: object) -> list[Part]:
    return [
        replace(each, **change) if (each.node, each.component) == (node, component) else each  # type: ignore[arg-type]
        for each in parts
    ]


def next_step(parts: list[Part], nodes: Mapping[str, NodeView], memory: Replaced | None, now: float) -> Step:
    return rollout.next_step(seen(parts, nodes, len({each.node for each in parts})), memory, now)


UP = {node: NodeView(True, frozenset({TOR}), frozenset({TOR})) for node in "abc"}
DOWN = {**UP, "a": NodeView(True, frozenset(), frozenset({TOR}))}


def test_nothing_is_replaced_while_every_speaker_is_of_the_latest_version() -> None:
    assert next_step(cluster(), UP, None, 0).replace is None
    assert next_step(cluster("c"), UP, None, 0).replace == part("c", "speaker", current=False)


def test_a_speaker_is_replaced_once_its_nodes_agent_has_brought_the_image() -> None:
    for change in ({"is_current": False}, {"is_ready": False}):
        step = next_step(swap(cluster("a"), "a", "agent", **change), UP, None, 0)
        # An image takes its time to come: nothing to tell of.
        assert (step.replace, step.reason) == (None, None)
    # Another node's speaker can go first.
    first = next_step(swap(cluster("ab"), "a", "agent", is_current=False), UP, None, 0).replace
    assert first is not None
    assert first.node == "b"


def test_the_next_one_waits_until_the_last_ones_sessions_are_back_and_its_agent_had_time_to_tell() -> None:
    memory = next_step(cluster("ab"), UP, None, 0).memory
    assert memory == Replaced("a", frozenset({TOR}))
    gone = [each for each in cluster("ab") if each.uid != "uid-speaker-a"]
    assert "not ready" in next_step(gone, UP, memory, 1).detail
    there = next_step(cluster("b"), DOWN, memory, 2)
    assert "10.10.0.1" in there.detail
    # The status of before the restart still says established.
    early = next_step(cluster("b"), UP, there.memory, 2 + SETTLE_SECONDS - 0.1)
    assert (early.replace, early.reason) == (None, Reason.SPEAKER_ROLLOUT_HELD)
    late = next_step(cluster("b"), UP, early.memory, 2 + SETTLE_SECONDS)
    assert late.replace == part("b", "speaker", current=False)


def test_a_session_that_was_down_before_is_not_waited_for() -> None:
    memory = next_step(cluster("ab"), DOWN, None, 0).memory
    ready = next_step(cluster("b"), DOWN, memory, 0)
    assert next_step(cluster("b"), DOWN, ready.memory, SETTLE_SECONDS).replace is not None


def test_a_new_version_that_does_not_start_stops_at_one_node() -> None:
    memory = next_step(cluster("abc"), UP, None, 0).memory
    broken = swap(cluster("bc"), "a", "speaker", is_ready=False)
    for seconds in (1, 60, 3600):
        step = next_step(broken, UP, memory, seconds)
        assert (step.replace, step.node) == (None, "a")
        memory = step.memory
    # An operator that knows nothing of before, too.
    assert next_step(broken, UP, None, 3600).replace is None


@pytest.mark.parametrize("is_ready", [True, False], ids=["runs without sessions", "does not start"])
def test_a_broken_version_that_is_taken_back_goes_first_and_alone(is_ready: bool) -> None:
    # The template is the old one again: only the broken pod is of another.
    taken_back = swap(cluster("a"), "a", "speaker", is_ready=is_ready)
    step = next_step(taken_back, DOWN, Replaced("a", frozenset({TOR}), ready_since=0.0), 1)
    assert step.replace is not None
    assert step.replace.node == "a"
    # What it had before the broken one is still waited for.
    assert step.memory == Replaced("a", frozenset({TOR}))


def test_a_speaker_that_does_not_start_has_nothing_to_lose_but_one_with_sessions_has() -> None:
    taken_back = swap(cluster("a"), "a", "speaker", is_ready=False)
    step = next_step(taken_back, DOWN, None, 1)
    assert step.replace is not None
    assert step.replace.node == "a"
    # A kubelet that was cut off says so of pods that run.
    assert next_step(taken_back, UP, None, 1).reason == Reason.SPEAKER_ROLLOUT_HELD


def test_another_version_may_come_in_the_middle_of_a_rollout() -> None:
    memory = Replaced("a", frozenset({TOR}), ready_since=0.0)
    for now in (1, SETTLE_SECONDS):
        step = next_step(cluster("abc"), UP, memory, now)
        assert step.replace is not None
        assert step.replace.node == "a"


def test_a_node_that_is_dead_holds_the_others_up_only_if_it_was_replaced_last() -> None:
    dead = {**UP, "a": NodeView(False)}
    parts = swap(cluster("b"), "a", "speaker", is_ready=False)
    memory = Replaced("a", frozenset({TOR}))
    assert "not Ready" in next_step(parts, dead, memory, 1).detail
    for nodes, known in ((dead, None), ({"b": UP["b"], "c": UP["c"]}, memory)):
        step = next_step(parts, nodes, known, 1)
        assert step.replace is not None
        assert step.replace.node == "b"
        # Nor is it replaced there: nobody could start the new one.
        assert next_step(cluster("a"), nodes, None, 1).replace is None


def test_an_operator_that_starts_in_the_middle_waits_for_the_speaker_that_was_replaced_last() -> None:
    parts = swap(cluster("c"), "a", "speaker", created="2026-01-01T00:00:02Z")
    parts = swap(parts, "b", "speaker", created="2026-01-01T00:00:01Z")

    def first_step(nodes: Mapping[str, NodeView]) -> Step:
        here = seen(parts, nodes, 3)
        memory = rollout.next_step(here, rollout.last_replaced(here), 0).memory
        return rollout.next_step(here, memory, SETTLE_SECONDS)

    held = first_step(DOWN)
    assert (held.replace, held.reason, held.node) == (None, Reason.SPEAKER_ROLLOUT_HELD, "a")
    assert "1 of its sessions are not back" in held.detail
    # One that is well holds nobody up, and neither does another node that has no session.
    assert first_step(UP).replace == part("c", "speaker", current=False)
    assert first_step({**UP, "b": DOWN["a"]}).replace == part("c", "speaker", current=False)
    assert rollout.last_replaced(seen(cluster("abc"), UP, 3)) is None


def test_what_can_not_come_back_is_not_waited_for() -> None:
    dead, gone = ("mesh/z", "10.10.0.9"), ("old-tor", "10.10.0.8")
    memory = Replaced("a", frozenset({TOR, dead, gone}), ready_since=0.0)
    nodes = {**UP, "a": NodeView(True, frozenset({TOR}), frozenset({TOR, dead})), "z": NodeView(False)}
    assert next_step(cluster("b"), nodes, memory, SETTLE_SECONDS).replace is not None
    alive = {**nodes, "z": NodeView(True)}
    assert "mesh/z" in next_step(cluster("b"), alive, memory, SETTLE_SECONDS).detail


def test_a_node_whose_agent_says_nothing_is_not_taken_at_its_last_word() -> None:
    memory = Replaced("a", frozenset({TOR}), ready_since=0.0)
    silent = swap(cluster("b"), "a", "agent", is_ready=False)
    assert "agent" in next_step(silent, UP, memory, SETTLE_SECONDS).detail
    unknown = {**UP, "a": NodeView(True, None)}
    assert "agent" in next_step(cluster("b"), unknown, memory, SETTLE_SECONDS).detail
    assert next_step(cluster("a"), unknown, None, 1).replace is None


def test_a_speaker_that_is_missing_holds_the_others_up_but_not_where_none_is_wanted() -> None:
    parts = [each for each in cluster("ab") if each.uid != "uid-speaker-c"]
    assert rollout.next_step(seen(parts, UP, 3), None, 1).node == "c"
    assert rollout.next_step(seen(parts, UP, 2), None, 1).replace is not None


@given(st.sets(st.sampled_from("abcdef"), min_size=1), st.integers(0, 3), st.integers(0, 9))
def test_a_rollout_comes_to_its_end_with_one_node_at_a_time(old: set[str], starting: int, waiting: int) -> None:
    nodes = "abcdef"
    current = set(nodes) - old
    memory, busy, replaced, now = None, {}, [], 0.0
    for _ in range(1000):
        # A replaced speaker is away, then ready, and its session comes back later.
        left = dict(busy)
        parts = [part(n, "agent") for n in nodes]
        parts += [part(n, "speaker", n in current, left.get(n, 0) <= waiting) for n in nodes]
        both = frozenset({TOR})
        views = {n: NodeView(True, frozenset() if left.get(n, 0) > 0 else both, both) for n in nodes}
        step = next_step(parts, views, memory, now)
        memory, now = step.memory, now + 1
        busy = {n: count - 1 for n, count in busy.items() if count > 1}
        if step.replace is not None:
            assert not busy
            replaced.append(step.replace.node)
            current.add(step.replace.node)
            busy[step.replace.node] = starting + waiting + 1
        elif step.reason is None:
            break
    assert sorted(replaced) == sorted(old)


def test_pods_are_told_by_their_template_as_the_daemon_sets_controller_marks_it() -> None:
    def revision(number: int, label: str, owner: str) -> dict[str, object]:
        labels = {"controller-revision-hash": label}
        return {"metadata": {"labels": labels, "ownerReferences": [{"uid": owner}]}, "revision": number}

    known = [revision(2, "new", "ours"), revision(10, "newest", "ours"), revision(11, "theirs", "another")]
    assert latest_revision(known, "ours") == "newest"
    assert latest_revision(known, "nobody") == ""
    metadata = {"name": "s", "uid": "u", "labels": {"controller-revision-hash": "newest"}}
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    pod = {"metadata": metadata, "spec": {"nodeName": "a"}, "status": ready}
    assert part_of(pod, "speaker", "newest") == Part("s", "u", "a", "speaker", is_current=True, is_ready=True)
    assert not part_of(pod, "speaker", "new").is_current
    assert not part_of({**pod, "status": {}}, "speaker", "newest").is_ready
    assert part_of({**pod, "metadata": {**metadata, "deletionTimestamp": "now"}}, "speaker", "newest").is_ending


@pytest.mark.parametrize(
    ("generation", "status", "current"),
    [
        (2, {"observedGeneration": 2, "updatedNumberScheduled": 4, "currentNumberScheduled": 4}, True),
        (2, {"observedGeneration": 2, "updatedNumberScheduled": 3, "currentNumberScheduled": 4}, False),
        (3, {"observedGeneration": 2, "updatedNumberScheduled": 4, "currentNumberScheduled": 4}, False),
        (2, {"observedGeneration": 2, "currentNumberScheduled": 4}, False),
        (2, {}, False),
    ],
)
def test_a_daemon_set_is_current_once_its_controller_has_seen_its_latest_version_and_counts_all(
    generation: int, status: dict[str, int], current: bool
) -> None:
    assert is_current({"metadata": {"generation": generation}, "status": status}) is current
