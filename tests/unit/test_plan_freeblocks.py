"""Which blocks of a pool are free."""

import ipaddress

import msgspec
import pytest
from cluster_simulation import Simulation
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.api import IPPool
from controller.api.objects import Metadata
from controller.plan.freeblocks import FreeBlocks


@settings(deadline=None)
@given(
    st.integers(16, 24),
    st.integers(0, 4),
    st.lists(st.integers(0, 255), max_size=30),
    st.lists(st.integers(0, 255), max_size=10),
)
def test_free_blocks_are_all_that_is_neither_taken_nor_reserved(
    length: int, more: int, taken: list[int], reserved: list[int]
) -> None:
    size = length + more
    pool = IPPool(metadata=Metadata(name="p"), spec=Simulation().add_pool("p", "10.0.0.0/16").spec)
    pool = msgspec.structs.replace(
        pool, spec=msgspec.structs.replace(pool.spec, cidr=f"10.0.0.0/{length}", block_size=size)
    )
    blocked = [ipaddress.ip_network(f"10.0.{n}.0/24") for n in taken]
    kept = [ipaddress.ip_network(f"10.0.{n}.0/24") for n in reserved]
    free = FreeBlocks(pool, blocked, kept, {})
    found = []
    while (cidr := free.take()) is not None:
        found.append(cidr)
    every = ipaddress.ip_network(f"10.0.0.0/{length}").subnets(new_prefix=size)
    expected = [
        str(block)
        for block in every
        if not any(block.overlaps(t) for t in blocked) and not any(block.subnet_of(r) for r in kept)  # type: ignore[arg-type]
    ]
    assert found == expected


@pytest.mark.parametrize("cidr", ["10.0.0.0/4", "fd00::/8"])
def test_a_huge_pool_costs_no_more_than_what_is_taken(cidr: str) -> None:
    network = ipaddress.ip_network(cidr, strict=False)
    pool = IPPool(metadata=Metadata(name="p"), spec=Simulation().add_pool("p", str(network)).spec)
    free = FreeBlocks(pool, (), (), {})
    assert free.take() is not None
