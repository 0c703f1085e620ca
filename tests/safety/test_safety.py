"""Address safety, whatever comes between any two effects.

No address is on two pods, no block on two nodes; what is given back has rested and is used by nobody; a pod's address is announced.
When the faults stop, everybody gets what there is, and at the end nothing is left. Without any one of the rules this is not so.
"""

import random

import pytest
from safety_machine import run_steps
from safety_mutations import MUTATIONS, Mutation


@pytest.mark.timeout(900)
@pytest.mark.parametrize("start", [1, 2])
def test_no_address_has_two_pods_and_no_block_two_nodes_in_fifty_thousand_steps(start: int) -> None:
    assert run_steps(50_000, start) >= 50_000


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_no_address_has_two_pods_and_no_block_two_nodes_in_a_million_steps() -> None:
    start = random.SystemRandom().randrange(1 << 32)
    print(f"run_steps(1_000_000, {start})")
    assert run_steps(1_000_000, start) >= 1_000_000


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_without_a_rule_it_is_noticed(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation(monkeypatch)
    with pytest.raises(AssertionError):
        run_steps(40_000, 3, is_shrunk=False)
