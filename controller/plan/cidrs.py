"""Text to network, remembered: the operator reads the same blocks at every look, and parsing is most of what that costs."""

import ipaddress
from functools import lru_cache

from controller.api.objects import Network


@lru_cache(maxsize=1 << 17)
def network_of(cidr: str) -> Network:
    """The network of a CIDR; the host bits must be zero. Raises ValueError."""
    return ipaddress.ip_network(cidr)
