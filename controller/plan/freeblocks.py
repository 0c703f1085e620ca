"""Which blocks of a pool are free: the only place that finds one. Pure.

A block is free if no IPBlock overlaps it, no NodeNetwork names it (spec, claims, or addresses in use), and it is not reserved as a
whole. Never-used blocks come before those that were given back, the longest unused of these first.
"""

import ipaddress
from collections.abc import Iterable, Iterator, Mapping

from controller.api.ippool import IPPool
from controller.api.objects import Network
from controller.plan.cidrs import network_of
from controller.plan.inventory import Inventory
from controller.plan.keeping import unread_blocks
from controller.plan.reported import block_network


def taken_networks(inventory: Inventory) -> tuple[Network, ...]:
    """Every network that somebody holds, uses or claims."""
    held = [network_of(block.spec.cidr) for block in inventory.blocks]
    names: set[str] = set()
    for each in inventory.networks:
        names |= {grant.cidr for grant in each.spec.blocks}
        names |= {claim.cidr for claim in each.status.claims}
        names |= {usage.cidr for usage in each.status.usage if usage.in_use}
    named = (block_network(name) for name in names)
    return (*held, *unread_blocks(inventory), *(network for network in named if network is not None))


class FreeBlocks:
    """The free blocks of one pool, taken one after the other; none is given twice."""

    def __init__(
        self, pool: IPPool, taken: Iterable[Network], reserved: Iterable[Network], freed: Mapping[str, float]
    ) -> None:
        self._pool = network_of(pool.spec.cidr)
        self._length = pool.spec.effective_block_size
        self._shift = self._pool.max_prefixlen - self._length
        self._first = int(self._pool.network_address) >> self._shift
        self._count = 1 << (self._length - self._pool.prefixlen)
        self._single: set[int] = set()
        self._ranges: list[tuple[int, int]] = []
        for network in taken:
            self._occupy(network)
        for network in reserved:
            # A reservation inside a block leaves the rest of it usable.
            if network.prefixlen <= self._length:
                self._occupy(network)
        self._ranges.sort()
        self._rested = self._indices(freed)
        self._blocks = self._in_order()

    def take(self) -> str | None:
        """The next free block, in canonical form; None if there is none left."""
        index = next(self._blocks, None)
        if index is None:
            return None
        return str(ipaddress.ip_network((index << self._shift, self._length)))

    def _occupy(self, network: Network) -> None:
        if network.version != self._pool.version or not network.overlaps(self._pool):
            return
        first = int(network.network_address) >> self._shift
        if network.prefixlen >= self._length:
            self._single.add(first)
        else:
            self._ranges.append((first, int(network.broadcast_address) >> self._shift))

    def _indices(self, freed: Mapping[str, float]) -> list[int]:
        """The freed blocks of this pool, the longest unused first."""
        found = []
        for cidr, _ in sorted(freed.items(), key=lambda item: item[1]):
            network = network_of(cidr)
            if network.version == self._pool.version and network.prefixlen == self._length:
                found.append(int(network.network_address) >> self._shift)
        return found

    def _in_order(self) -> Iterator[int]:
        rested = set(self._rested)
        yield from self._gaps(self._single | rested)
        last = self._first + self._count
        for index in self._rested:
            is_ours = self._first <= index < last
            if is_ours and index not in self._single and not any(a <= index <= b for a, b in self._ranges):
                yield index

    def _gaps(self, skipped: set[int]) -> Iterator[int]:
        """Indices in ascending order that are in no range and not skipped; lazily, for a pool may hold 2^66 blocks."""
        index, last = self._first, self._first + self._count
        ranges = iter(self._ranges)
        upcoming = next(ranges, None)
        while index < last:
            while upcoming is not None and upcoming[1] < index:
                upcoming = next(ranges, None)
            if upcoming is not None and upcoming[0] <= index:
                index = upcoming[1] + 1
                continue
            if index not in skipped:
                yield index
            index += 1
