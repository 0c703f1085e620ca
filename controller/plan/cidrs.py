"""Text to network, remembered: the operator reads the same blocks at every look, and parsing is most of what that costs."""

import ipaddress
from functools import lru_cache

from controller.api.objects import Address, Network

REMEMBERED = 1 << 17


@lru_cache(maxsize=REMEMBERED)
def network_of(cidr: str) -> Network:
    """The network of a CIDR; the host bits must be zero. Raises ValueError."""
    return ipaddress.ip_network(cidr)


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
