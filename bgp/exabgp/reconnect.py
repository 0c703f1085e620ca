"""Bounds how long ExaBGP, and the kernel for it, wait between two attempts to connect. Called by `bgp.exabgp.run` only.

Its own wait grows by a fifth with each failure, up to a minute (exabgp/reactor/delay.py): a router that was away for five minutes,
or a mesh member that left and came back, would be heard a minute late. Neighbours are a link away and few, so asking often is
cheap. (RFC 4271 section 8.1.1 leaves such damping, DampPeerOscillations, optional.)

An attempt that nobody answers is the kernel's: it repeats the SYN after 1, 2, 4 … 64 seconds (tcp(7), tcp_syn_retries), so a router
whose answers were dropped on the way for long would be asked a minute late, too.
"""

import socket
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


# Repetitions of a SYN, after one and two more seconds; the attempt fails four seconds later, and the next one begins.
SYN_REPETITIONS = 2


def bound_connecting() -> None:
    """From here on an attempt to connect is given up, and begun anew, after a few seconds without an answer."""
    from exabgp.reactor.network.outgoing import Outgoing

    prepare = Outgoing._setup

    def setup(connection: Any) -> Any:
        problem = prepare(connection)
        if problem is None:
            connection.io.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, SYN_REPETITIONS)
        return problem

    Outgoing._setup = setup
