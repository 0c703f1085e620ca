"""The `podroute` command, also installed as `kubectl-podroute`: picks what was asked for and loads only that.

The daemons (operator, agent, speaker), and what runs before them, have argument parsers of their own and are started without the
command line's libraries: they run on every node, and typer and rich would cost each of them memory for nothing.
"""

import sys
from collections.abc import Callable, Sequence

Main = Callable[[Sequence[str]], int]


def _agent() -> Main:
    from controller.agent.main import main as agent

    return agent


def _operator() -> Main:
    from controller.operator.main import main as operator

    return operator


def _speaker() -> Main:
    from bgp.speaker.entry import main as speaker

    return speaker


def _install_plugin() -> Main:
    from controller.cni.command import main as install_plugin

    return install_plugin


DAEMONS: dict[str, Callable[[], Main]] = {
    "agent": _agent,
    "operator": _operator,
    "speaker": _speaker,
    "install-plugin": _install_plugin,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0 good, 1 what was asked is not so, 2 wrong use."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in DAEMONS:
        return DAEMONS[words[0]]()(words[1:])
    from controller.cli.app import run

    return run(words)


if __name__ == "__main__":
    sys.exit(main())
