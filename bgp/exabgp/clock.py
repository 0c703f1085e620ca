"""Makes ExaBGP's clock steady: a wall clock that is stepped must not end sessions.

ExaBGP measures its hold, keepalive and reconnect times with `time.time()` in a dozen modules (timer, delay, loop,
processes, …): a step of +1 h notifies every peer, a step of -1 h stops reconnecting for an hour. Replacing the
function before ExaBGP is imported covers all of them at once. Called by `bgp.exabgp.run` only.
"""

import time


def install_steady_clock() -> None:
    """From here on `time.time()` in this process is the wall clock of now plus monotonic time: it never steps.

    Irreversible, and only for ExaBGP's own process.
    """
    monotonic = time.monotonic
    offset = time.time() - monotonic()

    def steady_time() -> float:
        return monotonic() + offset

    time.time = steady_time
