"""What must hold in the state machine of address safety: after every step, and when the faults have stopped."""

import ipaddress
from collections import defaultdict
from collections.abc import Iterable

from safety_agent import Agent
from safety_world import DELETED_GRACE, MOST_PODS, NODES, World

from controller.agent.ledger import Key
from controller.api import IPBlock, IPPool, NodeNetwork
from controller.api.kubernetes import Node
from controller.api.nodenetwork import BlockClaim, BlockGrant
from controller.api.objects import Address, Network, Resource


def check(world: World) -> None:
    _check_addresses(world)
    _check_announced(world)
    _check_blocks(world)


def _counted(world: World) -> list[Agent]:
    """Nodes that run and may: who deletes a Node says that its machine is off, and after the grace it counts as that."""
    return [agent for agent in world.agents.values() if not agent.is_given_up(world.now)]


def _check_addresses(world: World) -> None:
    holders: dict[Address, list[tuple[str, Key]]] = defaultdict(list)
    for agent in _counted(world):
        for key, addresses in (*agent.machine.pods.items(), *((k, a.addresses) for k, a in agent.flight.items())):
            for address in addresses:
                holders[address].append((agent.name, key))
    double = {str(address): who for address, who in holders.items() if len(who) > 1}
    assert not double, f"an address on two pods: {double}"
    for address, ((node, _key), *_others) in holders.items():
        was_on, at = world.freed.get(address, (node, 0.0))
        assert was_on == node or world.now - at >= 30.0, f"{address} did not rest between {was_on} and {node}"


def _check_announced(world: World) -> None:
    for agent in _counted(world):
        if agent.plan is None:
            continue
        holders = {address: key for key, of_pod in agent.machine.pods.items() for address in of_pod}
        outside = [address for address in holders if not _is_inside(address, agent.plan.blocks)]
        agent.machine.given_up.intersection_update(outside)
        for address in outside:
            # Its object may be back, and not list yet what its pods claim; pods that are gone claim nothing.
            is_waited_for = holders[address] in agent.machine.doomed or _is_inside(address, agent.plan.claims)
            is_right = address in agent.machine.given_up and is_waited_for
            assert is_right, f"{address} of {agent.name} is in no block that it announces"


def _is_inside(address: Address, blocks: Iterable[BlockGrant | BlockClaim]) -> bool:
    return any(address in ipaddress.ip_network(block.cidr) for block in blocks)


def _check_blocks(world: World) -> None:
    users: dict[str, list[tuple[str, Network]]] = defaultdict(list)
    for agent in world.agents.values():
        for block in agent.usable:
            users[agent.name].append((block.cidr, ipaddress.ip_network(block.cidr)))
    names = sorted(users)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            shared = [(a, b) for a, x in users[one] for b, y in users[other] if x.overlaps(y)]
            assert not shared, f"blocks on two nodes, {one} and {other}: {shared}"


def check_delete(world: World, body: Resource) -> None:
    """What an operator deletes."""
    if not isinstance(body, IPBlock) or (agent := world.agents.get(body.spec.node.name)) not in _counted(world):
        return
    network = ipaddress.ip_network(body.spec.cidr)
    used = [str(address) for address in agent.held if address in network]
    assert not used, f"{body.spec.cidr} was deleted while {agent.name} uses {used}"
    usable = [block.cidr for block in agent.usable if block.uid == body.metadata.uid]
    assert not usable, f"{body.spec.cidr} was deleted while {agent.name} may use it"


def finish(world: World) -> None:
    """Everything heals, everybody gets what there is, and at the end nothing is left."""
    world.land_all()
    world.unsure_since = None
    world.set_headroom(0)
    world.set_grace(DELETED_GRACE)
    for name in NODES:
        if world.server.get(Node, name) is None:
            world.agents.pop(name, None)
        elif name not in world.agents:
            # A restore brought back a Node whose machine is off.
            world.server.delete(Node, name)
    for _ in range(12):
        world.flow()
        world.wait(4.0)
        check(world)
    world.wait(31.0)
    for agent in world.agents.values():
        agent.unlink()
        agent.sweep(world.now)
    # Nodes that were deleted with their machines keep their blocks for the grace period and the margin.
    for _ in range(4):
        settle(world)
        world.wait(60.0)
    settle(world)
    _check_locks(world)
    _check_progress(world)
    _check_nothing_left(world)


def settle(world: World) -> None:
    """Goes on until nobody writes any more."""
    quiet = 0
    for _ in range(60):
        before = world.server.version
        world.flow()
        check(world)
        world.wait(5.0)
        leaders = [each for each in world.operators if each.may_write(world.now)]
        is_quiet = world.server.version == before and len(leaders) == 1 and leaders[0].memory.is_settled
        quiet = quiet + 1 if is_quiet else 0
        if quiet == 2:
            return
    raise AssertionError("still writing though nothing happens")


def _check_locks(world: World) -> None:
    """Every block in use has its lock again, and of two pools of one range one is accepted."""
    pools = {pool.metadata.name: pool for pool in world.server.all(IPPool)}
    accepted = [name for name, pool in pools.items() if pool.status.conditions[0].status == "True"]
    assert len(accepted) <= 1, f"overlapping pools are accepted: {accepted}"
    locked = {(block.spec.cidr, block.spec.node.name) for block in world.server.all(IPBlock)}
    for agent in world.agents.values():
        for block in agent.plan.blocks if agent.plan else ():
            is_locked = (block.cidr, agent.name) in locked
            assert is_locked or accepted != [block.pool], f"{block.cidr}, held by {agent.name}, has no IPBlock"


def _check_progress(world: World) -> None:
    """A node with pods that wait gets a block as long as one is free."""
    agents = list(world.agents.values())
    for agent in agents:
        world.delete_pods(agent)
        agent.unlink()
    world.wait(31.0)
    for agent in agents:
        agent.sweep(world.now)
    settle(world)
    pool = world.server.get(IPPool, "v")
    if not agents or pool is None or pool.metadata.deletion_timestamp or pool.status.conditions[0].status != "True":
        return
    wanting = agents[world.serial() % len(agents)]
    for _ in range(10):
        world.fill(wanting)
        world.flow()
        check(world)
    assert len(wanting.machine.pods) == MOST_PODS, f"{wanting.name} has {len(wanting.machine.pods)} pods only"


def _check_nothing_left(world: World) -> None:
    for agent in world.agents.values():
        world.delete_pods(agent)
        agent.unlink()
    for pool in world.server.all(IPPool):
        world.server.delete(IPPool, pool.metadata.name)
    world.wait(31.0)
    for agent in world.agents.values():
        agent.sweep(world.now)
    settle(world)
    left = [*world.server.all(IPBlock), *world.server.all(IPPool)]
    assert not left, f"left behind: {[each.metadata.name for each in left]}"
    for network in world.server.all(NodeNetwork):
        assert not (*network.spec.blocks, *network.status.claims), network.metadata.name
    assert not any(agent.plan and agent.plan.blocks for agent in world.agents.values())
