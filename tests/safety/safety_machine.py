"""The state machine of address safety for hypothesis, and how it is run. See `safety_steps` for what it does."""

from functools import partial

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from safety_checks import check, check_delete, finish
from safety_steps import STEPS, Step
from safety_world import V4, V6, Pools, World

STEPS_EACH = 80


class Safety(RuleBasedStateMachine):
    """`taken` counts the steps of all runs of a class."""

    taken = 0
    world: World | None = None

    @initialize(pools=st.sampled_from((V4, V6)))
    def begin(self, pools: Pools) -> None:
        self.world = World(pools)
        self.world.server.on_delete = partial(check_delete, self.world)

    @rule(step=st.sampled_from(STEPS), number=st.integers(0, 11))
    def step(self, step: Step, number: int) -> None:
        assert self.world is not None
        type(self).taken += 1
        step(self.world, number)
        check(self.world)

    def teardown(self) -> None:
        if self.world is not None:
            finish(self.world)


def run_steps(count: int, start: int, *, is_shrunk: bool = True) -> int:
    """Runs at least `count` steps, the same ones for the same `start`; gives how many. AssertionError: what must not be."""

    class Machine(Safety):
        pass

    every = (Phase.generate, Phase.shrink) if is_shrunk else (Phase.generate,)
    run_state_machine_as_test(
        seed(start)(Machine),
        settings=settings(
            # Some runs are shorter.
            max_examples=count * 21 // (20 * STEPS_EACH) + 1,
            stateful_step_count=STEPS_EACH,
            database=None,
            deadline=None,
            phases=every,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
    return Machine.taken
