"""Bounds how long ExaBGP waits between two attempts to connect to a neighbour. Called by `bgp.exabgp.run` only.

Its own wait grows by a fifth with each failure, up to a minute (exabgp/reactor/delay.py): a router that was away for five minutes,
or a mesh member that left and came back, would be heard a minute late. Neighbours are a link away and few, so asking often is
cheap. (RFC 4271 section 8.1.1 leaves such damping, DampPeerOscillations, optional.)
"""

from typing import Any

LONGEST_SECONDS = 5


def bound_reconnect_delay() -> None:
    """From here on no wait of ExaBGP's is longer than LONGEST_SECONDS. Irreversible, and only for ExaBGP's own process."""
    from exabgp.reactor.delay import Delay

    grow = Delay.increase

    def increase(delay: Any) -> None:
        delay._next = min(delay._next, LONGEST_SECONDS)
        grow(delay)

    Delay.increase = increase
