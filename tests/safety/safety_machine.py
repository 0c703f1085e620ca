"""The state machine of address safety for hypothesis, and how it is run. See `safety_steps` and `safety_stories` for what it does.

    PYTHONHASHSEED=0 python tests/safety/safety_machine.py STEPS START [MUTATION]

A process of its own, since the order of Python's sets has a part in what is decided: so the same numbers give the same run.
"""

import sys
from functools import partial

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from safety_checks import check, check_delete, finish
from safety_mutations import MUTATIONS, Mutation
from safety_steps import Step
from safety_stories import STEPS
from safety_world import V4, V6, Pools, World

STEPS_EACH = 80


class Safety(RuleBasedStateMachine):
    """`taken` counts the steps of all runs."""

    taken = 0
    world: World | None = None
    # Whether no step has failed.
    is_whole = True

    @initialize(pools=st.sampled_from((V4, V6)))
    def begin(self, pools: Pools) -> None:
        self.world = World(pools)
        self.world.server.on_delete = partial(check_delete, self.world)

    @rule(step=st.sampled_from(STEPS), number=st.integers(0, 11))
    def step(self, step: Step, number: int) -> None:
        assert self.world is not None
        Safety.taken += 1
        self.is_whole = False
        step(self.world, number)
        check(self.world)
        self.is_whole = True

    def teardown(self) -> None:
        if self.world is not None and self.is_whole:
            finish(self.world)


def run_steps(runs: int, start: int, *phases: Phase) -> int:
    """Gives how many steps were taken. AssertionError: what must not be."""
    wanted = settings(
        max_examples=runs,
        stateful_step_count=STEPS_EACH,
        database=None,
        deadline=None,
        phases=phases,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(seed(start)(Safety), settings=wanted)
    return Safety.taken


def is_noticed(count: int, start: int, mutation: Mutation) -> bool:
    """Whether something that must not be comes about in `count` steps without a rule."""
    with pytest.MonkeyPatch.context() as patch:
        mutation(patch)
        try:
            run_steps(count // STEPS_EACH, start, Phase.generate)
        except AssertionError as error:
            print(error)
            return True
    return False


def main(count: int, start: int, *names: str) -> int:
    """Exit code 0: as many steps as were asked for, or the mutation was noticed."""
    if names:
        (mutation,) = [each for each in MUTATIONS if each.__name__ == names[0]]
        return int(not is_noticed(count, start, mutation))
    # Some runs are shorter than STEPS_EACH.
    taken = run_steps(count * 21 // (20 * STEPS_EACH) + 1, start, Phase.generate, Phase.shrink)
    print(f"{taken} steps")
    return int(taken < count)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))
