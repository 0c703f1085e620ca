"""The steps of the state machine of address safety: what each process does next, and what goes wrong.

A step is a function of the world and a number from 0 to 11, which says at whom and how far. Steps that lead on come more often than
faults, and faults that end an hour's work less often than those that disturb it.
"""

from collections.abc import Callable

from safety_agent import Agent
from safety_operator import Fate, Operator
from safety_world import NODES, World

from controller.api import IPPool
from controller.api.kubernetes import Node
from controller.operator.inventory import WATCHED

Step = Callable[[World, int], None]
GRACES = (60, 90, 0, 60)
FATES = (Fate.ANSWERED, Fate.ANSWERED, Fate.LOST, Fate.UNHEARD, Fate.LATE, Fate.LATE)


def agent_of(world: World, number: int) -> Agent | None:
    return world.agents.get(NODES[number % 3])


def operator_of(world: World, number: int) -> Operator:
    """The one that writes, most of the time."""
    leader = next((each for each in world.operators if each.may_write(world.now)), world.operators[0])
    return leader if number < 9 else world.operators[number % 2]


def all_flows(world: World, number: int) -> None:
    for _ in range(1 + number % 3):
        world.flow()


def operator_works(world: World, number: int) -> None:
    world.operator_works(operator_of(world, number))


def agent_works(world: World, number: int) -> None:
    if agent := agent_of(world, number):
        world.agent_works(agent)
        if number >= 6:
            world.fill(agent)


def operator_hears(world: World, number: int) -> None:
    operator = operator_of(world, number)
    for kind in WATCHED[number % 2 :: 2]:
        operator.hear(kind, 1 + number % 4 * 8)


def operator_looks(world: World, number: int) -> None:
    operator_of(world, number).look(world.now)


def operator_hears_and_looks(world: World, number: int) -> None:
    operator = operator_of(world, number)
    for kind in WATCHED:
        operator.hear(kind)
    operator.renew(world.now)
    operator.look(world.now)


def operator_sends(world: World, number: int) -> None:
    world.send(operator_of(world, number), number % 6 + 1, Fate.ANSWERED)


def operator_sends_and_fails(world: World, number: int) -> None:
    """Some writes go well, then one does not."""
    operator = operator_of(world, number % 9)
    world.send(operator, number % 4, Fate.ANSWERED)
    world.send(operator, 1, FATES[number % 6])


def operator_renews(world: World, number: int) -> None:
    world.operators[number % 2].renew(world.now)


def operator_fails_over(world: World, number: int) -> None:
    """The writer ends or stops being scheduled; the other takes over once the Lease is over."""
    writer = operator_of(world, 0)
    if number % 2:
        world.restart_operator(world.operators.index(writer))
    writer.is_paused = True
    world.wait(16.0)
    for other in world.operators:
        if other is not writer:
            other.renew(world.now)
            other.look(world.now)
    writer.is_paused = False


def operator_restarts(world: World, number: int) -> None:
    world.restart_operator(number % 2)


def watch_breaks(world: World, number: int) -> None:
    operator = operator_of(world, number)
    for kind in WATCHED[number % 3 :: 3]:
        operator.miss(kind)


def watch_repeats(world: World, number: int) -> None:
    operator = operator_of(world, number)
    for kind in WATCHED:
        operator.hear_again(kind)
        operator.hear(kind)


def late_writes_arrive(world: World, number: int) -> None:
    world.land(number)


def agent_hears(world: World, number: int) -> None:
    if agent := agent_of(world, number):
        agent.hear(world.now)


def agent_acts(world: World, number: int) -> None:
    if agent := agent_of(world, number):
        agent.act(world.now)


def agent_hears_and_acts(world: World, number: int) -> None:
    agent_hears(world, number)
    agent_acts(world, number)


def agent_says(world: World, number: int) -> None:
    if (agent := agent_of(world, number)) and (write := agent.report()):
        world.flying.append(write)
        if number < 8:
            world.land(len(world.flying) - 1)


def agent_restarts(world: World, number: int) -> None:
    if agent := agent_of(world, number):
        world.agents[agent.name] = agent.restarted(world.now)


def pods_come(world: World, number: int) -> None:
    if agent := agent_of(world, number):
        world.fill(agent, len(agent.machine.pods) + 1 + number % 4)


def addition_begins(world: World, number: int) -> None:
    if agent := agent_of(world, number):
        agent.add(world.new_key())


def additions_end(world: World, number: int) -> None:
    if agent := agent_of(world, number):
        for key in list(agent.flight):
            agent.wire(key)


def pods_go(world: World, number: int) -> None:
    if agent := agent_of(world, number):
        world.delete_pods(agent, 1 + number % 4)


def all_pods_go(world: World, number: int) -> None:
    if agent := agent_of(world, number):
        world.delete_pods(agent)


def veths_go(world: World, number: int) -> None:
    if agent := agent_of(world, number):
        agent.unlink()


def rests_end(world: World, number: int) -> None:
    if agent := agent_of(world, number):
        agent.sweep(world.now)


def blocks_move(world: World, number: int) -> None:
    if agent := agent_of(world, number):
        world.move(agent, number // 2, 5.0 if number % 4 == 3 else 31.0)


def block_is_wanted(world: World, number: int) -> None:
    """Pods come until none is left to be had, and the operator hears of it."""
    if agent := agent_of(world, number):
        world.fill(agent)
        for _ in range(number // 3):
            world.flow()
        world.fill(agent)


def time_passes(world: World, number: int) -> None:
    world.wait((0.5, 1.0, 4.0, 9.0, 31.0, 31.0)[number % 6])


def much_time_passes(world: World, number: int) -> None:
    for _ in range(number):
        world.wait(20.0)


def node_is_deleted(world: World, number: int) -> None:
    """By an autoscaler: the machine may live on."""
    world.delete_node(NODES[number % 3], is_off=number < 6)


def node_comes_back(world: World, number: int) -> None:
    name = NODES[number % 3]
    if world.server.get(Node, name) is None:
        world.add_node(name)


def garbage_is_collected(world: World, number: int) -> None:
    world.server.collect_garbage()


def block_is_lost(world: World, number: int) -> None:
    world.lose_block(number)


def pool_is_deleted(world: World, number: int) -> None:
    for pool in world.server.all(IPPool)[: number % 2]:
        world.server.delete(IPPool, pool.metadata.name)


def pool_comes(world: World, number: int) -> None:
    """The same one anew, or one of the same range with larger blocks."""
    name = "vw"[number % 2]
    if world.server.get(IPPool, name) is None:
        world.add_pool(name, world.pools.block_size - number % 2)


def pool_is_replaced(world: World, number: int) -> None:
    """All that uses it goes, then it goes, and another one of that range comes, which is wanted at once."""
    for agent in world.agents.values():
        world.move(agent, number // 3 + 3)
    for pool in world.server.all(IPPool):
        world.server.delete(IPPool, pool.metadata.name)
    for _ in range(3):
        world.flow()
        world.wait(4.0)
    if world.server.get(IPPool, "v") is None:
        world.add_pool("v", world.pools.block_size, headroom=1)
        world.operator_works(operator_of(world, 0))


def backup_is_made(world: World, number: int) -> None:
    world.backups.append(world.server.backup())


def backup_is_restored(world: World, number: int) -> None:
    world.restore(number)


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


def grace_is_configured(world: World, number: int) -> None:
    world.set_grace(GRACES[number % 4])


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
    grace_is_configured,
    grace_is_shortened_for_a_node_that_is_gone,
    garbage_is_collected,
    pool_is_deleted,
    pool_comes,
    pool_is_replaced,
)
STEPS: tuple[Step, ...] = (*OFTEN * 4, *SOMETIMES * 2, *SELDOM)
