"""Asks ExaBGP's own parser whether a configuration is good, in a process of its own: `python -I validation.py FILE…`.

The daemon runs it before every reload, since a reload that fails does lasting damage to a running ExaBGP; and, if the
whole is refused, once more with a file for each neighbour, to learn which one is to blame. Prints one line a file:
nothing if it is good, else why it is not. Importing ExaBGP into the daemon instead would cost it 15 MiB for good.
"""

import sys
from pathlib import Path


def refusal_of(path: str) -> str:
    """Why ExaBGP refuses the file, on one line, or "" if it accepts it. Lines with a password are left out."""
    from exabgp.configuration.configuration import Configuration

    configuration = Configuration([path])
    try:
        if configuration.reload() is True:
            return ""
    except Exception as error:  # its parser stumbles over this file: the next one may be good
        return f"ExaBGP's parser ends with {type(error).__name__}"
    lines = [line.strip() for line in str(configuration.error).splitlines()]
    return " ".join(line for line in lines if line and "md5-password" not in line) or "refused without a reason"


def main(paths: list[str]) -> None:
    """Prints a line for each file, in order."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from exabgp.environment import getenv
    from exabgp.logger import log

    log.init(getenv())
    log.silence()
    for path in paths:
        print(refusal_of(path), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
