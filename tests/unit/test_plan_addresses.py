"""Which address a pod gets (`controller.plan.addresses`) and what the ledger remembers (`controller.agent.ledger`)."""

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from controller.agent.ledger import Assigned, Ledger
from controller.api.clusternetwork import ClusterNetworkSpec, PoolFlags
from controller.api.nodenetwork import BlockGrant
from controller.api.objects import Address
from controller.kernel.values import Attachment, PodLink, host_interface_name
from controller.plan.addresses import (
    REST_SECONDS,
    Choice,
    NoAddress,
    Occupied,
    Refusal,
    choose,
    eligible_pools,
    occupancy,
    serving,
)

PAIRS = [("10.244.0.0/30", "fd00::/126"), ("10.244.0.4/30", "fd00::4/126")]


def grants(family: int, count: int = 2, **changes: object) -> list[BlockGrant]:
    return [
        BlockGrant(**{"cidr": pair[family], "uid": f"u{i}", "pool": f"p{family}", **changes})
        for i, pair in enumerate(PAIRS[:count])
    ]


def address(text: str) -> Address:
    return ipaddress.ip_address(text)


def nothing() -> Occupied:
    return Occupied(frozenset(), {})


@pytest.mark.parametrize("family", [0, 1])
def test_the_first_block_is_filled_before_the_second(family: int) -> None:
    blocks = grants(family)
    first = ipaddress.ip_network(blocks[0].cidr)
    used = set(first)
    choice = choose(blocks, Occupied(used - {first[2]}, {}), {})
    assert isinstance(choice, Choice)
    assert choice.address == first[2]
    choice = choose(blocks, Occupied(used, {}), {})
    assert isinstance(choice, Choice)
    assert choice.block == blocks[1].cidr


@pytest.mark.parametrize("family", [0, 1])
def test_the_search_goes_on_behind_the_last_address_so_that_reuse_is_late(family: int) -> None:
    (block,) = grants(family, 1)
    network = ipaddress.ip_network(block.cidr)
    given_out = []
    after: dict[str, Address] = {}
    for _ in range(5):
        choice = choose([block], nothing(), after)
        assert isinstance(choice, Choice)
        after[block.cidr] = choice.address
        given_out.append(choice.address)
    assert given_out == [network[0], network[1], network[2], network[3], network[0]]


@pytest.mark.parametrize("family", [0, 1])
def test_reserved_addresses_are_never_chosen(family: int) -> None:
    network = ipaddress.ip_network(PAIRS[0][family])
    (block,) = grants(
        family, 1, reserved=(str(ipaddress.ip_network(network[0])), str(ipaddress.ip_network(network[2])))
    )
    used: set[Address] = set()
    while isinstance(choice := choose([block], Occupied(used, {}), {}), Choice):
        used.add(choice.address)
    assert used == {network[1], network[3]}
    assert choice.reason is NoAddress.EXHAUSTED


@pytest.mark.parametrize("family", [0, 1])
def test_a_releasing_block_gives_no_address_and_an_active_one_does(family: int) -> None:
    refusal = choose(grants(family, 1, state="Releasing"), nothing(), {})
    assert isinstance(refusal, Refusal)
    assert refusal.reason is NoAddress.NO_BLOCK
    assert isinstance(choose(grants(family, 1), nothing(), {}), Choice)


@pytest.mark.parametrize("family", [0, 1])
def test_under_pressure_the_address_that_rested_longest_yields(family: int) -> None:
    (block,) = grants(family, 1)
    network = ipaddress.ip_network(block.cidr)
    resting = {network[0]: 30.0, network[1]: 20.0, network[2]: 40.0}
    choice = choose([block], Occupied({network[3]}, resting), {})
    assert choice == Choice(network[1], block.cidr, block.pool, yielded=True)


def test_an_address_is_chosen_again_once_its_rest_is_over() -> None:
    ledger = Ledger()
    blocks = (BlockGrant(cidr="10.244.0.0/31", uid="u", pool="p"),)
    first = ledger.assign(("a", "eth0"), blocks)
    ledger.assign(("b", "eth0"), blocks)
    assert isinstance(first, Assigned)
    ledger.release(("a", "eth0"), 100)
    ledger.unlinked(host_interface_name("a", "eth0"))
    assert ledger.resting == {first.addresses[0]: 100 + REST_SECONDS}
    assert ledger.rested(100 + REST_SECONDS - 1) == ()
    ledger.end_rest(ledger.rested(100 + REST_SECONDS), 100 + REST_SECONDS)
    again = ledger.assign(("c", "eth0"), blocks)
    assert isinstance(again, Assigned)
    assert again.addresses == first.addresses
    assert ledger.yielded == 0


def test_an_address_that_was_used_and_released_while_its_rest_was_being_ended_rests_anew() -> None:
    ledger = Ledger()
    blocks = (BlockGrant(cidr="10.244.0.0/32", uid="u", pool="p"),)
    for pod, released in (("a", 100), ("b", 130)):
        assert isinstance(ledger.assign((pod, "eth0"), blocks), Assigned)
        ledger.release((pod, "eth0"), released)
        ledger.unlinked(host_interface_name(pod, "eth0"))
    address = ipaddress.ip_address("10.244.0.0")
    ledger.end_rest([address], 100 + REST_SECONDS)
    assert ledger.resting == {address: 130 + REST_SECONDS}
    ledger.end_rest([address], 130 + REST_SECONDS)
    assert ledger.resting == {}


def test_every_family_is_given_or_none_is_taken() -> None:
    ledger = Ledger()
    both = (
        BlockGrant(cidr="10.244.0.0/32", uid="u4", pool="p4"),
        BlockGrant(cidr="fd00::/127", uid="u6", pool="p6"),
    )
    assert isinstance(ledger.assign(("a", "eth0"), both), Assigned)
    refusal = ledger.assign(("b", "eth0"), both)
    assert isinstance(refusal, Refusal)
    assert refusal.message.startswith("ipv4: every address of 10.244.0.0/32 is in use")
    assert set(ledger.used.values()) == {("a", "eth0")}


def test_a_failed_addition_leaves_its_addresses_free_as_soon_as_its_veth_is_gone() -> None:
    ledger = Ledger()
    blocks = (BlockGrant(cidr="10.244.0.0/32", uid="u", pool="p"),)
    ledger.assign(("a", "eth0"), blocks)
    ledger.withdraw(("a", "eth0"))
    refusal = ledger.assign(("b", "eth0"), blocks)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is NoAddress.LEAVING
    ledger.unlinked(host_interface_name("a", "eth0"))
    assert ledger.occupied == frozenset()


def test_an_address_that_had_not_rested_goes_on_resting_if_its_addition_fails() -> None:
    ledger = Ledger()
    blocks = (BlockGrant(cidr="10.244.0.0/32", uid="u", pool="p"),)
    for key in (("a", "eth0"), ("b", "eth0")):
        assert isinstance(ledger.assign(key, blocks), Assigned)
        if key[0] == "a":
            ledger.release(key, 100)
            ledger.unlinked(host_interface_name(*key))
    ledger.withdraw(("b", "eth0"))
    ledger.unlinked(host_interface_name("b", "eth0"))
    again = ledger.assign(("c", "eth0"), blocks)
    assert isinstance(again, Assigned)
    # So that its connections are forgotten, whether or not the failed addition got as far as that.
    assert again.choices[0].yielded


def test_a_new_agent_takes_over_addresses_from_the_kernel_and_rests_from_its_file() -> None:
    ledger = Ledger()
    attachment = Attachment("c", "eth0", "uid", (address("10.244.0.1"),))
    pods = [PodLink("podr00000000001", 7, True, 1500, attachment), PodLink("podr00000000002", 8, True, 1500, None)]
    ledger.adopt(pods, {address("10.244.0.1"): 50.0, address("10.244.0.2"): 60.0})
    assert dict(ledger.used) == {address("10.244.0.1"): ("c", "eth0")}
    assert dict(ledger.resting) == {address("10.244.0.2"): 60.0}


CLUSTER = ClusterNetworkSpec(
    pools=(
        PoolFlags(name="own", cidr="10.1.0.0/16", block_size=26, selected=True),
        PoolFlags(name="all", cidr="10.0.0.0/16", block_size=26),
        PoolFlags(name="second", cidr="10.3.0.0/16", block_size=26),
        PoolFlags(name="off", cidr="10.2.0.0/16", block_size=26, disabled=True),
    ),
    namespaces={"team": ("own",)},
)


def test_a_namespace_that_a_pool_selects_is_served_by_it_alone_and_others_by_the_pools_without_selector() -> None:
    assert eligible_pools(CLUSTER, "team") == {"own"}
    assert eligible_pools(CLUSTER, "default") == {"all", "second"}


def test_an_annotation_chooses_among_the_pools_that_serve_the_namespace() -> None:
    assert eligible_pools(CLUSTER, "default", "second") == {"second"}
    refusal = eligible_pools(CLUSTER, "default", "second,own")
    assert isinstance(refusal, Refusal)
    assert refusal.reason is NoAddress.NO_POOL
    assert "podroute.dev/pools='second,own': IPPool own does not serve namespace 'default'" in refusal.message
    assert "all, second" in refusal.message


def test_only_blocks_of_eligible_pools_serve() -> None:
    blocks = [BlockGrant(cidr=f"10.{i}.0.0/26", uid=pool, pool=pool) for i, pool in enumerate(["all", "own", "second"])]
    assert [b.pool for b in serving(blocks, {"second", "all"})] == ["all", "second"]


@given(st.lists(st.integers(0, 7), max_size=12))
def test_occupancy_counts_each_address_in_its_block_only(offsets: list[int]) -> None:
    for family in (0, 1):
        blocks = grants(family)
        everything = ipaddress.ip_network(blocks[0].cidr).network_address
        addresses = [everything + offset for offset in offsets]
        counts = occupancy(blocks, addresses)
        assert counts == {block.cidr: sum(a in ipaddress.ip_network(block.cidr) for a in addresses) for block in blocks}


class LedgerMachine(RuleBasedStateMachine):
    """Additions, removals, failures and time in any order: no address is on two veths, and none is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.now = 0.0
        self.pods: dict[tuple[str, str], tuple[Address, ...]] = {}
        self.leaving: dict[str, tuple[Address, ...]] = {}
        self.count = 0
        self.blocks = tuple(grants(0) + grants(1))

    @rule()
    def add(self) -> None:
        self.count += 1
        key = (f"c{self.count}", "eth0")
        assigned = self.ledger.assign(key, self.blocks)
        if isinstance(assigned, Assigned):
            assert len(assigned.addresses) == 2
            self.pods[key] = assigned.addresses
        else:
            assert len(self.pods) + len(self.leaving) == 8
            assert assigned.reason is (NoAddress.LEAVING if self.leaving else NoAddress.EXHAUSTED)

    @rule(data=st.data(), failed=st.booleans())
    def remove(self, data: st.DataObject, failed: bool) -> None:
        if not self.pods:
            return
        key = data.draw(st.sampled_from(sorted(self.pods)))
        self.leaving[host_interface_name(*key)] = self.pods.pop(key)
        if failed:
            self.ledger.withdraw(key)
        else:
            self.ledger.release(key, self.now)

    @rule(data=st.data())
    def unlink(self, data: st.DataObject) -> None:
        if self.leaving:
            link = data.draw(st.sampled_from(sorted(self.leaving)))
            del self.leaving[link]
            assert self.ledger.unlinked(link)
            assert not self.ledger.unlinked(link)

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.ledger.end_rest(self.ledger.rested(self.now), self.now)

    @invariant()
    def no_address_is_on_two_veths_and_each_is_used_or_rests_or_is_free(self) -> None:
        given_out = [a for addresses in self.pods.values() for a in addresses]
        on_veths = given_out + [a for addresses in self.leaving.values() for a in addresses]
        assert len(on_veths) == len(set(on_veths))
        assert set(self.ledger.used) == set(given_out)
        assert set(on_veths) <= self.ledger.occupied
        assert self.ledger.linked == self.leaving.keys()
        assert not set(self.ledger.used) & set(self.ledger.resting)


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
