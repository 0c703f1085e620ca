"""How ExaBGP connects: bounded waits between two attempts, and a failed one known as such. Called by `bgp.exabgp.run` only.

Its own wait grows by a fifth with each failure, up to a minute (exabgp/reactor/delay.py): a router that was away for five minutes,
or a mesh member that left and came back, would be heard a minute late. Neighbours are a link away and few, so asking often is
cheap. (RFC 4271 section 8.1.1 leaves such damping, DampPeerOscillations, optional.)

An attempt that nobody answers is the kernel's: it repeats the SYN after 1, 2, 4 … 64 seconds (tcp(7), tcp_syn_retries), so a router
whose answers were dropped on the way for long would be asked a minute late, too.

The outcome of an attempt is told once, by SO_ERROR (socket(7)). ExaBGP reads it again when it was one of a refusal or a timeout
(`ready` in exabgp/reactor/network/tcp.py), finds nothing, and takes the connection for established: a router that does not listen
would be reported as one that accepts connections and closes them.
"""

import os
import select
import socket
from collections.abc import Iterator
from typing import Any

LONGEST_SECONDS = 3


def bound_reconnect_delay() -> None:
    """From here on no wait of ExaBGP's is longer than LONGEST_SECONDS. Irreversible, and only for ExaBGP's own process."""
    from exabgp.reactor.delay import Delay

    grow = Delay.increase

    def increase(delay: Any) -> None:
        delay._next = min(delay._next, LONGEST_SECONDS)
        grow(delay)

    Delay.increase = increase


# Repetitions of a SYN, after a second; the attempt fails two seconds later, and the next one begins.
SYN_REPETITIONS = 1


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


def notice_refusals() -> None:
    """From here on a connection that was refused or that nobody answered has failed: ExaBGP waits, then begins another."""
    from exabgp.reactor.network import outgoing
    from exabgp.reactor.network.error import NotConnected

    def ready(connecting: socket.socket) -> Iterator[tuple[bool, str]]:
        poller = select.poll()
        poller.register(connecting, select.POLLOUT)
        while not poller.poll(0):
            yield False, "waiting for an answer"
        problem = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if problem:
            raise NotConnected(os.strerror(problem))
        yield True, "connected"

    outgoing.ready = ready
