"""The program of ExaBGP's process: `python -I run.py CONFIGURATION`. Started by `bgp.speaker.entry`.

It makes the clock steady before anything of ExaBGP is imported, bounds its waits and has refusals noticed,
then hands over to ExaBGP's own server.
"""

import sys
from pathlib import Path


def main(configuration: str) -> None:
    """Runs ExaBGP until it ends; its exit code is this process's."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from bgp.exabgp.clock import install_steady_clock
    from bgp.exabgp.reconnect import bound_connecting, bound_reconnect_delay, notice_refusals

    install_steady_clock()
    bound_reconnect_delay()
    bound_connecting()
    notice_refusals()
    sys.argv = ["exabgp", configuration]
    from exabgp.application.server import main as serve

    serve()


if __name__ == "__main__":
    main(sys.argv[1])
