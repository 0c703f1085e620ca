"""The program of the daemon's process: `python -I start_daemon.py RUN_DIR PARENT`. ExaBGP starts it as its API process.

It finds the package beside itself, wherever the tree lies, and dies with ExaBGP.
"""

import sys
from pathlib import Path


def main(run_dir: str, parent: int) -> None:
    """Runs the daemon until ExaBGP's pipe ends. `parent` is ExaBGP's process id: without it there is nothing to do."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from bgp.speaker.daemon import run
    from bgp.speaker.privileges import die_with_parent

    die_with_parent(parent)
    run(Path(run_dir))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
