"""What nodes report is input that may be wrong: it is passed over, said, and stops nobody's service."""

import ipaddress
from dataclasses import replace

import msgspec
import pytest
from cluster_simulation import Simulation
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.api import IPBlock, IPPool, NodeNetwork
from controller.api.nodenetwork import BlockClaim, BlockUsage, NodeNetworkStatus, PoolDemand

WRONG = ("10.244.9.0/33", "10.244.9.1/26", "", "pods", "10.244.9.0/26 ", "0.0.0.0/0", "10.244.0.0/19", "fd00::/115")


def settled_cluster() -> Simulation:
    sim = Simulation()
    sim.add_node("n0", 11)
    sim.add_pool("v4", "10.244.0.0/16")
    sim.settle()
    return sim


def report(sim: Simulation, name: str, **status: object) -> None:
    network = sim.get(NodeNetwork, name)
    sim.put(msgspec.structs.replace(network, status=msgspec.structs.replace(network.status, **status)))


@pytest.mark.parametrize("cidr", WRONG)
@pytest.mark.parametrize("field", ["claims", "usage"])
def test_a_wrong_entry_is_passed_over_and_said_and_other_nodes_are_served(field: str, cidr: str) -> None:
    sim = settled_cluster()
    kept = sim.get(NodeNetwork, "n0").status.usage
    wrong = {
        "claims": (BlockClaim(cidr=cidr, pool="v4"), BlockClaim(cidr="10.244.200.0/26", pool="v4")),
        "usage": (*kept, BlockUsage(cidr=cidr, in_use=1)),
    }
    report(sim, "n0", **{field: wrong[field]})
    sim.add_node("n1", 12)
    plans = [sim.look() for _ in range(3)]
    assert len(sim.blocks("n1")) == 2
    assert ("10.244.200.0/26" in sim.blocks("n0")) == (field == "claims"), "the good entry beside it counts"
    (said,) = {note.message for note in plans[0].notes if note.reason == "ReportInvalid"}
    assert f"NodeNetwork n0: status.{field} {cidr!r}" in said


def test_a_wrong_grant_in_a_nodes_spec_is_written_anew() -> None:
    sim = settled_cluster()
    network = sim.get(NodeNetwork, "n0")
    broken = msgspec.structs.replace(network.spec.blocks[0], cidr="10.244.0.0/99")
    sim.put(msgspec.structs.replace(network, spec=msgspec.structs.replace(network.spec, blocks=(broken,))))
    sim.look()
    assert {grant.cidr for grant in sim.get(NodeNetwork, "n0").spec.blocks} == set(sim.blocks("n0"))


CIDR = st.builds(
    lambda number, length: str(ipaddress.ip_network((number, length), strict=False)),
    st.integers(int(ipaddress.IPv4Address("10.243.255.0")), int(ipaddress.IPv4Address("10.245.0.255"))),
    st.integers(0, 32),
)


@settings(deadline=None)
@given(st.lists(st.one_of(st.text(max_size=43), st.sampled_from(WRONG), CIDR), max_size=8))
def test_whatever_an_agent_claims_the_operator_goes_on(cidrs: list[str]) -> None:
    sim = settled_cluster()
    status = NodeNetworkStatus(
        epoch="e1",
        claims=tuple(BlockClaim(cidr=cidr, pool="v4") for cidr in cidrs),
        usage=tuple(BlockUsage(cidr=cidr, in_use=1) for cidr in cidrs),
    )
    sim.put(msgspec.structs.replace(sim.get(NodeNetwork, "n0"), status=status))
    sim.add_node("n1", 12)
    for _ in range(3):
        sim.look()
    assert len(sim.blocks("n1")) == 2
    networks = [ipaddress.IPv4Network(block.spec.cidr) for block in sim.all(IPBlock)]
    assert all(each.prefixlen == 26 and each.subnet_of(ipaddress.IPv4Network("10.244.0.0/16")) for each in networks)
    assert len(set(networks)) == len(networks)


@pytest.mark.parametrize(
    ("cidr", "named"),
    [
        ("10.244.2.0/25", "IPPool v4"),
        ("10.244.2.0/27", "IPPool v4"),
        ("10.99.0.0/26", "no pool"),
        ("fd00:99::/122", "no pool"),
    ],
)
def test_a_claim_that_is_no_block_of_a_pool_is_not_honoured_but_told_and_nobody_gets_its_addresses(
    cidr: str, named: str
) -> None:
    sim = settled_cluster()
    report(sim, "n0", claims=(BlockClaim(cidr=cidr, pool="v4"),))
    plan = sim.look()
    assert cidr not in sim.blocks()
    (said,) = {note.message for note in plan.notes if note.reason == "ClaimIsNoBlock"}
    assert f"Node n0 uses {cidr}, of {named}" in said
    if named != "no pool":
        status, reason, message = sim.condition(IPPool, "v4", "NodesServed")
        assert (status, reason) == ("False", "ClaimIsNoBlock")
        assert cidr in message
    claimed = ipaddress.ip_network(cidr)
    for number in range(20):
        sim.add_node(f"more{number}", 20 + number)
    sim.look()
    sim.now += 60
    sim.memory = replace(sim.memory, unsettled_since=None)
    sim.look()
    assert len(sim.blocks()) > 20
    assert not any(ipaddress.ip_network(block).overlaps(claimed) for block in sim.blocks())


def test_a_node_is_granted_no_more_for_pods_that_wait_than_it_may_run() -> None:
    sim = settled_cluster()
    report(sim, "n0", demand=(PoolDemand(pool="v4", in_use=2**40, waiting=2**40),))
    plan = sim.look()
    for _ in range(20):
        sim.look()
    assert len(sim.blocks("n0")) <= 14, "eight addresses for each of its 110 pods"
    said = {note.message for note in plan.notes if note.reason == "ReportInvalid"}
    assert any(str(2**40) in message for message in said)


@pytest.mark.parametrize("count", [-1, -(2**60), 2**60])
def test_an_impossible_count_changes_no_total_beyond_what_can_be(count: int) -> None:
    sim = settled_cluster()
    report(sim, "n0", demand=(PoolDemand(pool="v4", in_use=count, waiting=count),), usage=())
    sim.look()
    sim.look()
    assert 0 <= sim.get(IPPool, "v4").status.in_use <= 2**24
    assert 2 <= len(sim.blocks("n0")) <= 14
