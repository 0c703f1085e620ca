"""What `podroute uninstall` tells before and while it works (`controller.cli.uninstall`, `removal`)."""

import pytest

from controller.cli.removal import retirement
from controller.cli.uninstall import what_stays


def test_the_pods_that_stay_are_named_by_node_with_what_becomes_of_them() -> None:
    head, *lines = what_stays({"n1": ["b/two", "a/one"], "n0": ["c/three"]})
    assert "no router will know the way" in head
    assert lines == ["node n0: c/three", "node n1: a/one, b/two"]
    assert what_stays({}) == ["no pod has an address of podroute"]


def condition(kind: str, status: str, reason: str, message: str) -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        ([condition("Retired", "True", "Retired", "3 pods have their veths until they end")], ""),
        ([condition("Retired", "False", "Retiring", "not withdrawn yet: tor (idle)")], "not withdrawn yet: tor (idle)"),
        (
            [
                condition("Synced", "False", "SpeakerAway", "its socket does not answer"),
                condition("Retired", "False", "Retiring", "the node is being cleaned"),
            ],
            "the node is being cleaned; SpeakerAway: its socket does not answer",
        ),
        ([condition("Synced", "True", "Synced", "")], "its agent has not answered"),
        ([], "its agent has not answered"),
    ],
)
def test_a_node_is_waited_for_until_it_says_that_it_is_clean_and_what_it_waits_for_is_told(
    conditions: list[dict[str, str]], said: str
) -> None:
    assert retirement({"status": {"conditions": conditions}}) == said
