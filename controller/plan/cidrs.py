"""Text to network, remembered: operator and agent read the same ones at every look, and parsing is most of what that costs."""

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

from controller.api.objects import Address, Network

REMEMBERED = 1 << 17


@lru_cache(maxsize=REMEMBERED)
def network_of(cidr: str) -> Network:
    """The network of a CIDR; the host bits must be zero. Raises ValueError."""
    return ipaddress.ip_network(cidr)


@lru_cache(maxsize=REMEMBERED)
def valid_network(cidr: str) -> Network | None:
    """The network of a CIDR; None if the text is none."""
    try:
        return ipaddress.ip_network(cidr)
    except ValueError:
        return None


# As many lists as an agent has at a time: that of all nodes' addresses is megabytes in a large cluster.
@lru_cache(maxsize=5)
def distinct_networks(cidrs: tuple[str, ...]) -> tuple[Network, ...]:
    """The networks without those inside others, sorted, IPv4 first; an address alone is a network of one. Raises ValueError."""
    return union(map(ipaddress.ip_network, cidrs))


def union(networks: Iterable[Network]) -> tuple[Network, ...]:
    """The networks without those inside others, sorted, IPv4 first."""
    known = tuple(networks)
    v4 = ipaddress.collapse_addresses(n for n in known if isinstance(n, ipaddress.IPv4Network))
    v6 = ipaddress.collapse_addresses(n for n in known if isinstance(n, ipaddress.IPv6Network))
    return (*v4, *v6)


@lru_cache(maxsize=1)
def single_networks(addresses: tuple[str, ...]) -> tuple[str, ...]:
    """Each address as a CIDR of its own, in the same order. Raises ValueError."""
    return tuple(str(ipaddress.ip_network(address)) for address in addresses)


@lru_cache(maxsize=REMEMBERED)
def is_inside(cidr: str, around: str) -> bool:
    """Whether all addresses of the first network are the second's, too."""
    inner, outer = network_of(cidr), network_of(around)
    # Of two networks of one family that overlap, the one that is no shorter lies inside.
    return outer.overlaps(inner) and outer.prefixlen <= inner.prefixlen


@lru_cache(maxsize=REMEMBERED)
def size_of(cidr: str) -> int:
    """How many addresses a CIDR holds."""
    return network_of(cidr).num_addresses


@lru_cache(maxsize=REMEMBERED)
def address_of(text: str) -> Address | None:
    """The address that the text is; None if it is none."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


@lru_cache(maxsize=REMEMBERED)
def canonical_address(text: str) -> str | None:
    """The address as RFC 5952 writes it; None if the text is none."""
    address = address_of(text)
    return None if address is None else str(address)


@lru_cache(maxsize=REMEMBERED)
def address_key(address: str) -> tuple[int, int]:
    """Sorts addresses, and so a node's sessions: IPv4 first, then by number."""
    parsed = ipaddress.ip_address(address)
    return parsed.version, int(parsed)
