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
def valid_network(cidr: str) -> Network | None:
    """The network of a CIDR; None if the text is none."""
    try:
        return ipaddress.ip_network(cidr)
    except ValueError:
        return None


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
def address_key(address: str) -> tuple[int, int]:
    """Sorts addresses, and so a node's sessions: IPv4 first, then by number."""
    parsed = ipaddress.ip_address(address)
    return parsed.version, int(parsed)
