"""The steps of the state machine of address safety: what each process does next, and what goes wrong.

A step is a function of the world and a number from 0 to 11, which says at whom and how far. Those of several acts, and how often
each comes, are in `safety_stories`.
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
        if number == 11:
            # The request is lost.
            return
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


def grace_is_configured(world: World, number: int) -> None:
    world.set_grace(GRACES[number % 4])
