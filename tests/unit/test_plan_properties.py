"""What holds for the blocks of a cluster whatever happens to it."""

import ipaddress

from cluster_simulation import Simulation, with_metadata
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.api import IPBlock, IPPool, IPReservation, NodeNetwork
from controller.api.kubernetes import Node
from controller.api.nodenetwork import BlockGrant
from controller.plan.freeblocks import FreeBlocks

POOLS = (
    ("v4", "10.244.0.0/22", {}),
    ("v4-small", "10.250.0.0/27", {"block_size": 28}),
    ("v6", "fd00:10:244::/118", {"block_size": 124}),
    ("v6-one", "fd00:10:255::/127", {"block_size": 128}),
)
STEP = st.sampled_from(
    ["add node", "remove node", "add pool", "delete pool", "reserve", "use", "free", "wait", "label", "lose block"]
)


def check(sim: Simulation) -> None:
    """What must hold at every moment."""
    blocks = sim.all(IPBlock)
    networks = [ipaddress.ip_network(b.spec.cidr) for b in blocks]
    for index, one in enumerate(networks):
        assert not any(one.overlaps(other) for other in networks[index + 1 :]), "two blocks overlap"
    cidrs = {name: ipaddress.ip_network(cidr) for name, cidr, _ in POOLS}
    for block, network in zip(blocks, networks, strict=True):
        assert network.subnet_of(cidrs[block.spec.pool]), "a block outside its pool"  # type: ignore[arg-type]
    owner = {b.spec.cidr: b.spec.node.name for b in blocks}
    for network_object in sim.all(NodeNetwork):
        for grant in network_object.spec.blocks:
            assert owner.get(grant.cidr, network_object.metadata.name) == network_object.metadata.name
    for block in sim.deleted_blocks:
        is_known = any(n.metadata.name == block.spec.node.name for n in sim.all(Node))
        assert not is_known or not sim.in_use.get(block.spec.cidr), "a block in use was deleted"
    sim.deleted_blocks.clear()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(STEP, st.integers(0, 5)), max_size=14))
def test_whatever_happens_no_block_has_two_nodes_and_the_work_comes_to_an_end(steps: list[tuple[str, int]]) -> None:
    sim = Simulation()
    sim.add_node("n0", 11, pods=20)
    for step, number in steps:
        act(sim, step, number)
        sim.look()
        check(sim)
        sim.answer()
    sim.settle()
    check(sim)
    assert sim.look().is_empty, "a second look writes nothing"
    check_progress(sim)


def check_progress(sim: Simulation) -> None:
    """Every node has what it should have of every accepted pool, or the pool says that it is exhausted."""
    for pool in sim.all(IPPool):
        name, family = pool.metadata.name, 6 if ":" in pool.spec.cidr else 4
        if pool.metadata.deletion_timestamp or sim.condition(IPPool, name, "Accepted")[0] == "False":
            continue
        if sim.condition(IPPool, name, "Available")[0] == "False":
            taken = [ipaddress.ip_network(b) for b in sim.blocks(pool=name)]
            free = FreeBlocks(pool, taken, [ipaddress.ip_network(c) for c in reserved_of(sim, family)], {})
            assert free.take() is None, "a pool that is not exhausted says so"
            continue
        for node in sim.all(Node):
            size = sum(ipaddress.ip_network(b).num_addresses for b in sim.blocks(node.metadata.name, name, "Active"))
            assert size >= 20, f"{node.metadata.name} lacks blocks of {name}"


def reserved_of(sim: Simulation, family: int) -> list[str]:
    return [c for r in sim.all(IPReservation) for c in r.spec.cidrs if (":" in c) == (family == 6)]


def is_assigned_from(network: NodeNetwork, grant: BlockGrant) -> bool:
    """Whether the node's agent gives addresses of the block to new pods."""
    return grant.state == "Active" and grant.uid not in network.status.released


def act(sim: Simulation, step: str, number: int) -> None:
    name, pool = f"n{number}", POOLS[number % len(POOLS)]
    blocks = sim.blocks()
    usable = sorted(g.cidr for n in sim.all(NodeNetwork) for g in n.spec.blocks if is_assigned_from(n, g))
    match step:
        case "add node" if (Node, name) not in sim.objects:
            sim.add_node(name, 11 + number, pods=20, rack=f"r{number % 2}")
        case "remove node" if (Node, name) in sim.objects:
            for cidr in sim.blocks(name):
                sim.in_use.pop(cidr, None)
            sim.remove_node(name)
        case "add pool" if (IPPool, pool[0]) not in sim.objects:
            sim.add_pool(pool[0], pool[1], **pool[2])
        case "delete pool" if (IPPool, pool[0]) in sim.objects:
            sim.delete_pool(pool[0])
        case "reserve":
            sim.reserve(f"r{number}", f"10.244.{number % 4}.{number * 16}/28")
        case "use" if usable:
            sim.in_use[usable[number % len(usable)]] = number
        case "free" if blocks:
            sim.in_use.pop(blocks[number % len(blocks)], None)
        case "wait":
            sim.now += number * 200
        case "label" if (Node, name) in sim.objects:
            sim.put(with_metadata(sim.get(Node, name), labels={"rack": f"r{number % 3}"}))
        case "lose block" if blocks:
            block = next(b for b in sim.all(IPBlock) if b.spec.cidr == blocks[number % len(blocks)])
            sim.remove(IPBlock, block.metadata.name)
