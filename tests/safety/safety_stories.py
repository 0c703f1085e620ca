"""Steps of several acts, each the shortest way to a trouble that single steps seldom find; and how often every step comes.

Steps that lead on come more often than faults, and faults that end an hour's work less often than those that disturb it.
"""

from safety_operator import Fate
from safety_steps import (
    GRACES,
    Step,
    addition_begins,
    additions_end,
    agent_acts,
    agent_hears,
    agent_hears_and_acts,
    agent_of,
    agent_restarts,
    agent_says,
    agent_works,
    all_flows,
    all_pods_go,
    backup_is_made,
    backup_is_restored,
    block_is_lost,
    block_is_wanted,
    blocks_move,
    garbage_is_collected,
    grace_is_configured,
    late_writes_arrive,
    much_time_passes,
    node_comes_back,
    node_is_deleted,
    operator_fails_over,
    operator_hears,
    operator_hears_and_looks,
    operator_looks,
    operator_of,
    operator_renews,
    operator_restarts,
    operator_sends,
    operator_sends_and_fails,
    operator_works,
    pods_come,
    pods_go,
    pool_comes,
    pool_is_deleted,
    pool_is_replaced,
    rests_end,
    time_passes,
    veths_go,
    watch_breaks,
    watch_repeats,
)
from safety_world import NODES, World


def block_moves_before_a_restore(world: World, number: int) -> None:
    """A node gives its blocks back and the next one gets some, and then the server is of before that."""
    first, second = agent_of(world, number), agent_of(world, number + 1)
    if first is None or second is None:
        return
    block_is_wanted(world, number % 3 + 6)
    world.backups.append(world.server.backup())
    world.move(first, 6)
    block_is_wanted(world, (number + 1) % 3 + 9)
    if number < 8:
        world.restore(len(world.backups) - 1)
        world.operator_works(operator_of(world, 0))
        world.agent_works(first)


def block_is_wanted_after_a_restore(world: World, number: int) -> None:
    """A node was granted a block of which the server knows no more, and another one asks first."""
    second = agent_of(world, number + 1)
    world.backups.append(world.server.backup())
    block_is_wanted(world, number % 3 + 9)
    world.restore(len(world.backups) - 1)
    if second is None:
        return
    for _ in range(3):
        world.fill(second)
        world.agent_works(second)
        world.operator_works(operator_of(world, 0))


def answer_is_late(world: World, number: int) -> None:
    """A block is asked back, and wanted after all before the answer comes that it is given back."""
    agent = agent_of(world, number)
    if agent is None:
        return
    block_is_wanted(world, number % 3 + 6)
    world.move(agent, 3)
    agent.hear(world.now)
    agent.act(world.now)
    if (write := agent.report()) is not None:
        world.flying.append(write)
    world.set_headroom(2)
    world.operator_works(operator_of(world, 0))
    if number < 6:
        agent_hears_and_acts(world, number)
        world.land_all()
    world.operator_works(operator_of(world, 0))
    world.set_headroom(0)


def question_is_asked_again(world: World, number: int) -> None:
    """After the node was told to go on; before it answers anew, somebody deletes a lock, and others want the block."""
    answer_is_late(world, number % 3)
    for _ in range(2):
        world.operator_works(operator_of(world, 0))
        world.wait(4.0)
    world.operator_works(operator_of(world, 0))
    for each in range(number // 3 + 1):
        world.lose_block(each)
    for other in (number + 1, number + 2):
        for _ in range(2):
            agent_works(world, other % 3 + 6)
            world.operator_works(operator_of(world, 0))
        agent_works(world, other % 3 + 6)


def demand_moves_while_a_write_is_late(world: World, number: int) -> None:
    """What an operator asked for before it was cut off is carried out when others have decided anew."""
    first, second = agent_of(world, number), agent_of(world, number + 1)
    if first is None or second is None:
        return
    operator = operator_of(world, 0)
    world.fill(first)
    world.agent_works(first)
    operator_hears_and_looks(world, 0)
    world.send(operator, 1, Fate.LATE)
    first.waiting.clear()
    world.delete_pods(first, number // 4)
    first.say()
    world.fill(second)
    second.say()
    for _ in range(2):
        world.operator_works(operator)
        world.agent_works(second)
    world.fill(second)
    if number % 2:
        world.land_all()
        world.operator_works(operator)
        world.agent_works(first)


def lock_is_late(world: World, number: int) -> None:
    """The late write is an IPBlock's creation, and somebody deletes the one that was created instead."""
    demand_moves_while_a_write_is_late(world, number - number % 2)
    world.lose_block(number // 3)
    world.land_all()
    for each in (number + 1, number, number + 1):
        world.operator_works(operator_of(world, 0))
        agent_works(world, each % 3 + 6)


def delete_is_late(world: World, number: int) -> None:
    """A block that was given back is deleted and granted anew before an earlier request for its deletion arrives."""
    agent, operator = agent_of(world, number), operator_of(world, 0)
    if agent is None:
        return
    block_is_wanted(world, number % 3 + 6)
    world.move(agent, 3)
    world.agent_works(agent)
    operator_hears_and_looks(world, 0)
    world.send(operator, 1, Fate.LATE)
    world.operator_works(operator)
    for other in (number + 1, number + 2):
        # As many as there are: it is the one that was used last.
        block_is_wanted(world, other % 3 + 9)
    if number % 2:
        world.land_all()


def node_is_deleted_and_deaf(world: World, number: int) -> None:
    """Its machine lives on and hears of it late; the others go on."""
    name = NODES[number % 3]
    agent_works(world, 6 + number % 3)
    world.delete_node(name, is_off=False)
    for _ in range(number):
        world.server.collect_garbage()
        world.operator_works(operator_of(world, 0))
        for agent in world.agents.values():
            if agent.name != name:
                world.agent_works(agent)
        world.wait(9.0)


def kubelet_is_silent(world: World, number: int) -> None:
    """The node controller calls its node Unknown for minutes, while its pods, and its agent, go on."""
    name = NODES[number % 3]
    agent_works(world, 6 + number % 3)
    world.set_ready(name, "Unknown")
    for _ in range(number):
        world.operator_works(operator_of(world, 0))
        for agent in world.agents.values():
            world.agent_works(agent)
            world.fill(agent)
        world.wait(19.0)
    if number % 2:
        world.set_ready(name, "True")


def grace_is_shortened_for_a_node_that_is_gone(world: World, number: int) -> None:
    """Its machine lives on by the grace that it heard; an operator that never saw that one decides, and others want its blocks."""
    name, grace = NODES[number % 3], GRACES[number % 4]
    world.set_grace(grace)
    world.flow()
    agent_works(world, 6 + number % 3)
    if number >= 6:
        # It is told, and does not hear of it any more.
        world.set_grace(0)
        world.operator_works(operator_of(world, 0))
    world.delete_node(name, is_off=False)
    world.server.collect_garbage()
    world.set_grace(0)
    operator_fails_over(world, 1)
    for _ in range(6):
        world.operator_works(operator_of(world, 0))
        world.wait(19.0)
        for agent in world.agents.values():
            if agent.name != name:
                world.agent_works(agent)
                world.fill(agent)


def node_goes_in_two_terms(world: World, number: int) -> None:
    """The operator that saw it go the first time writes again when it goes the second time; another one wrote meanwhile."""
    grace_is_shortened_for_a_node_that_is_gone(world, number % 6)
    operator_fails_over(world, 0)
    node_comes_back(world, number)
    grace_is_shortened_for_a_node_that_is_gone(world, number % 6)


OFTEN: tuple[Step, ...] = (
    all_flows,
    operator_works,
    agent_works,
    agent_works,
    operator_hears,
    operator_hears_and_looks,
    operator_sends,
    operator_sends_and_fails,
    agent_hears_and_acts,
    agent_says,
    pods_come,
    blocks_move,
    block_is_wanted,
)
SOMETIMES: tuple[Step, ...] = (
    operator_looks,
    operator_renews,
    late_writes_arrive,
    agent_hears,
    agent_acts,
    agent_restarts,
    addition_begins,
    additions_end,
    pods_go,
    all_pods_go,
    veths_go,
    rests_end,
    time_passes,
    backup_is_made,
    backup_is_restored,
    node_comes_back,
    block_is_lost,
    operator_fails_over,
    block_moves_before_a_restore,
    demand_moves_while_a_write_is_late,
    delete_is_late,
    lock_is_late,
    block_is_wanted_after_a_restore,
    answer_is_late,
    question_is_asked_again,
)
SELDOM: tuple[Step, ...] = (
    operator_restarts,
    watch_breaks,
    watch_repeats,
    much_time_passes,
    node_is_deleted,
    node_is_deleted_and_deaf,
    kubelet_is_silent,
    grace_is_configured,
    grace_is_shortened_for_a_node_that_is_gone,
    node_goes_in_two_terms,
    garbage_is_collected,
    pool_is_deleted,
    pool_comes,
    pool_is_replaced,
)
STEPS: tuple[Step, ...] = (*OFTEN * 4, *SOMETIMES * 2, *SELDOM)
