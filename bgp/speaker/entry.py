"""`podroute speaker`: checks what can be checked, then becomes the small process that keeps the speaker running.

Called by the command line with its arguments. Standard library only.
"""

import argparse
import importlib.util
import os
import pwd
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from bgp.exabgp.process import exabgp_environment, process_section
from bgp.speaker.paths import DEFAULT_RUN_DIR, SETTINGS_NAME

# Measured: halves the idle processor time of 1, and adds at most 40 ms to a reaction that no event wakes.
DEFAULT_SPEED = "5"
_FOLDER_MODE = 0o2770

_DESCRIPTION = """\
Keeps this node's BGP sessions. Starts ExaBGP and, under it, podroute's own daemon, as an unprivileged user that may
bind port 179 and nothing else; starts both again within a second if either ends. The agent tells the speaker what to
announce through RUN_DIR/speaker.sock; the last order is stored and outlives the agent and this process.

Stopping it (SIGTERM, Ctrl-C, even kill -9) is a BGP restart: the routers keep the routes for the graceful restart
time (RFC 4724). To withdraw routes, drain the node first."""


def main(argv: Sequence[str] | None = None) -> int:
    """Starts the speaker. Returns an exit code only if it can't start: 1 refused by the system, 2 wrong use."""
    options = _parser().parse_args(argv)
    try:
        user = pwd.getpwnam(options.user)
    except KeyError:
        print(f"podroute speaker: --user {options.user}: there is no such user", file=sys.stderr)
        return 2
    found = importlib.util.find_spec("exabgp")
    if found is None or found.origin is None:
        print("podroute speaker: the Python package exabgp is not installed here", file=sys.stderr)
        return 1
    run_dir = os.path.abspath(options.run_dir)
    try:
        _make_run_dir(Path(run_dir), user.pw_uid)
    except OSError as error:
        print(f"podroute speaker: --run-dir {run_dir}: {error.strerror}", file=sys.stderr)
        return 1
    here = Path(__file__).resolve().parent
    daemon = str(here / "start_daemon.py")
    try:
        process_section([sys.executable, daemon, run_dir])  # only to see that these words can be written
    except ValueError as error:
        print(f"podroute speaker: {error}", file=sys.stderr)
        return 1
    words = [run_dir, str(user.pw_uid), str(user.pw_gid), sys.executable, daemon, found.origin]
    sys.stdout.flush()
    # Replaced by a process without site packages: 8 MiB instead of what the command line has loaded.
    program = [sys.executable, "-I", "-S", "-E", str(here / "supervision.py"), *words]
    environment = exabgp_environment(user=options.user, speed=options.speed, settings_file=f"{run_dir}/{SETTINGS_NAME}")
    os.execve(sys.executable, program, {**os.environ, **environment})
    return 1  # not reached: execve replaces this process or raises


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="podroute speaker", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--run-dir",
        metavar="RUN_DIR",
        default=DEFAULT_RUN_DIR,
        help="where the socket and the stored orders live; should not survive a reboot (default: %(default)s)",
    )
    parser.add_argument(
        "--user",
        default="nobody",
        help="the unprivileged user that ExaBGP and the daemon run as (default: %(default)s)",
    )
    parser.add_argument(
        "--speed",
        type=_speed,
        default=DEFAULT_SPEED,
        help="ExaBGP's reactor speed: hundredths of a second it may sleep when nothing happens (default: %(default)s)",
    )
    return parser


def _speed(text: str) -> str:
    """ExaBGP itself ends with a traceback on a bad value."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 100):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 100")
    return text


def _make_run_dir(run_dir: Path, uid: int) -> None:
    """The folder belongs to the speaker's user and to root's group, which is the agent's; it is closed to all others.

    Root may be one without the right to override permissions or owners (capabilities(7)). What is made in the folder is of its
    group, so that the agent reaches the socket.
    """
    run_dir.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    run_dir.mkdir(exist_ok=True, mode=0o700)
    if os.geteuid() != 0:
        run_dir.chmod(0o700)
        return
    there = run_dir.lstat()
    if (there.st_uid, there.st_gid, stat.S_IMODE(there.st_mode)) != (uid, os.getegid(), _FOLDER_MODE):
        os.chown(run_dir, os.geteuid(), os.getegid(), follow_symlinks=False)
        run_dir.chmod(_FOLDER_MODE)
        # What an earlier speaker of another user left: its stored orders are this one's now.
        for path in run_dir.iterdir():
            if stat.S_ISREG(path.lstat().st_mode):
                os.chown(path, uid, os.getegid(), follow_symlinks=False)
        os.chown(run_dir, uid, os.getegid(), follow_symlinks=False)


if __name__ == "__main__":
    sys.exit(main())
