"""Keeps ExaBGP and its daemon running together: the lean long-lived part of `bgp.speaker.entry`.

Standard library only, run as `python -I -S -E supervision.py …` so that it stays small; it must not import anything
of this package outside the forked child. One recovery path: if ExaBGP or the daemon ends,
whatever is left is killed and both start anew within a second (later if that happens again and again); BGP graceful
restart covers the gap. ExaBGP's log goes
to standard error and, through a Unix socket, to the daemon, which reads in it whether a reload was accepted. The same
connection tells when the daemon is gone.
"""

import contextlib
import fcntl
import os
import resource
import select
import signal
import socket
import struct
import sys
import time

LOG_SOCKET = "log.sock"  # these names as in `bgp.speaker.paths`
SOCKET = "speaker.sock"
CONFIGURATION = "exabgp.conf"
CANNOT_START = 78  # EX_CONFIG of sysexits.h: starting again would not help
CONNECT_SECONDS = 30.0  # a daemon that has not come for its log after this long never will
STABLE_SECONDS = 60.0  # a unit that ran so long had no lasting trouble
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0  # well below the restart time for which routers keep the routes
LOG_BACKLOG = 4 * 1024 * 1024  # bytes a daemon may leave unread before it counts as stuck


class Settings:
    """What the unit is started with. Beside it counts the environment: see `bgp.exabgp.process`."""

    def __init__(self, words: list[str]) -> None:
        """`words`: run directory, uid, gid, then files that the user must be able to read."""
        self.run_dir = words[0]
        self.uid, self.gid = int(words[1]), int(words[2])
        self.readable = words[3:]


class Unit:
    """One run of ExaBGP with its daemon."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        """Starts ExaBGP; the daemon comes by itself, as ExaBGP's API process."""
        self.started = time.monotonic()
        self.exit_code: int | None = None
        self.daemon: socket.socket | None = None
        self._daemon_pidfd = -1
        self._backlog = b""
        self._listener = listener
        self.log, write_end = os.pipe()
        os.set_blocking(self.log, False)
        entry = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _run_exabgp(settings, write_end, entry)
        os.close(write_end)

    def accept_daemon(self) -> None:
        """The daemon comes for the log. A later connection replaces an earlier one."""
        connection, _ = self._listener.accept()
        self._forget_daemon()
        connection.setblocking(False)
        pid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        with contextlib.suppress(ProcessLookupError):
            self._daemon_pidfd = os.pidfd_open(pid)
        self.daemon = connection

    def daemon_is_gone(self) -> bool:
        """Whether the daemon closed its connection, or never opened one in time, or has stopped reading."""
        if self.daemon is None:
            return time.monotonic() - self.started > CONNECT_SECONDS
        if len(self._backlog) > LOG_BACKLOG:
            return True
        try:
            return self.daemon.recv(4096) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def copy_log(self) -> None:
        """Passes what ExaBGP has written since to standard error and to the daemon. Never waits."""
        while True:
            try:
                chunk = os.read(self.log, 65536)
            except BlockingIOError:
                break
            if not chunk:
                break
            _write_if_possible(chunk)
            if self.daemon is not None:
                self._backlog += chunk
        self.flush()

    def flush(self) -> None:
        """Writes what the daemon has not taken yet."""
        if self.daemon is None or not self._backlog:
            return
        try:
            self._backlog = self._backlog[self.daemon.send(self._backlog) :]
        except OSError:
            return  # full, or gone: `daemon_is_gone` tells which

    def wanted_events(self) -> int:
        """What to poll the daemon's connection for."""
        return select.POLLIN | (select.POLLOUT if self._backlog else 0)

    def reap(self) -> bool:
        """Whether ExaBGP has ended; collects its exit code."""
        if self.exit_code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid == self.pid:
                self.exit_code = os.waitstatus_to_exitcode(status)
        return self.exit_code is not None

    def kill(self) -> None:
        """Ends both for certain and waits for it. SIGKILL on purpose: a BGP restart neither withdraws nor notifies."""
        if self.exit_code is None:
            os.kill(self.pid, signal.SIGKILL)
            _, status = os.waitpid(self.pid, 0)
            self.exit_code = os.waitstatus_to_exitcode(status)
        if self._daemon_pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._daemon_pidfd, signal.SIGKILL)
            gone = select.poll()
            gone.register(self._daemon_pidfd, select.POLLIN)
            gone.poll(2000)
        self.copy_log()
        self._forget_daemon()
        os.close(self.log)

    def _forget_daemon(self) -> None:
        if self.daemon is not None:
            self.daemon.close()
        if self._daemon_pidfd >= 0:
            os.close(self._daemon_pidfd)
        self.daemon, self._daemon_pidfd, self._backlog = None, -1, b""


class Pauses:
    """How long to wait before the next start: each start brings the sessions down, and costs the node and its peers."""

    def __init__(self) -> None:
        """Nothing has ended yet."""
        self._next = 0.0

    def after(self, lifetime: float) -> float:
        """Seconds to wait after a unit that ran for `lifetime` seconds: none at first, then twice as long each time."""
        pause = 0.0 if lifetime >= STABLE_SECONDS else self._next
        self._next = min(max(FIRST_PAUSE_SECONDS, 2 * pause), LONGEST_PAUSE_SECONDS)
        return pause


def supervise(settings: Settings) -> int:
    """Runs units one after the other until SIGTERM or SIGINT. Returns the exit code."""
    stopping: list[int] = []
    wake_read, wake_write = os.pipe()
    for end in (wake_read, wake_write):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake_write)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, frame: stopping.append(received))
    signal.signal(signal.SIGCHLD, lambda received, frame: None)
    lock = _lock(settings.run_dir)
    if lock < 0:
        return 1
    pauses = Pauses()
    with _log_listener(settings.run_dir) as listener:
        while not stopping:
            unit = Unit(settings, listener)
            try:
                why = _watch(unit, listener, wake_read, stopping)
            finally:
                unit.kill()
            if stopping:
                break
            if unit.exit_code == CANNOT_START:
                return 1
            pause = pauses.after(time.monotonic() - unit.started)
            _say(f"{why}; starting ExaBGP and its daemon anew" + (f" in {pause:g} s" if pause else ""))
            _pause(wake_read, pause, stopping)
    for name in (LOG_SOCKET, SOCKET):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(settings.run_dir, name))
    return 0


def _watch(unit: Unit, listener: socket.socket, wake: int, stopping: list[int]) -> str:
    """Serves one unit until it has to end; says why."""
    while not stopping:
        poller = select.poll()
        for watched in (wake, unit.log, listener.fileno()):
            poller.register(watched, select.POLLIN)
        if unit.daemon is not None:
            poller.register(unit.daemon.fileno(), unit.wanted_events())
        ready = dict(poller.poll(None if unit.daemon is not None else 1000))
        _drain(wake)
        unit.copy_log()  # before accepting: a daemon must not be told of a reload older than itself
        if unit.reap():
            return f"ExaBGP ended with {_exit_text(unit.exit_code)}"
        if listener.fileno() in ready:
            unit.accept_daemon()
        if unit.daemon_is_gone():
            return "the daemon ended"
        _reap_strangers(unit.pid)
    return "stopping"


def _run_exabgp(settings: Settings, log: int, entry: int) -> None:
    """In the child: drops privileges, writes a configuration that only starts the daemon, becomes ExaBGP."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()  # a Ctrl-C on the terminal is the entry's affair
        here = os.path.dirname(os.path.abspath(__file__))
        sys.path.insert(0, os.path.dirname(os.path.dirname(here)))
        from bgp.exabgp.process import process_section
        from bgp.speaker.privileges import become, die_with_parent

        become(settings.uid, settings.gid)
        die_with_parent(entry)
        os.umask(0o077)
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # ExaBGP ends when its sessions use them up
        for path in settings.readable:
            _check_readable(path)
        configuration = os.path.join(settings.run_dir, CONFIGURATION)
        with open(configuration, "w") as file:
            # No neighbours yet: the daemon writes the real configuration once it has read what is desired.
            # ExaBGP takes this process over and is the daemon's parent: that one checks it is not orphaned already.
            daemon = [sys.executable, "-I", f"{here}/start_daemon.py", settings.run_dir, str(os.getpid())]
            file.write(process_section(daemon))
        with open(os.environ["EXABGP_ENVFILE"], "w"):
            pass  # everything is set in the environment; without this file ExaBGP complains
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        program = os.path.join(os.path.dirname(here), "exabgp", "run.py")
        os.execv(sys.executable, [sys.executable, "-I", program, configuration])
    except Exception as error:  # whatever it is, it would be the same the next time
        print(f"podroute speaker: can't start ExaBGP: {error}", file=sys.stderr, flush=True)
        code = CANNOT_START
    finally:
        os._exit(code)


def _check_readable(path: str) -> None:
    """Raises OSError naming the first folder that keeps the unprivileged user out, and the remedy."""
    if os.access(path, os.R_OK):
        return
    parts = path.split("/")
    for end in range(2, len(parts) + 1):
        folder = "/".join(parts[:end])
        if not os.access(folder, os.X_OK if os.path.isdir(folder) else os.R_OK):
            who = f"the speaker's user (uid {os.getuid()})"
            raise PermissionError(
                f"{who} can't read {path}: {folder} keeps it out. Install podroute where every user can read it, "
                f"allow it (chmod o+rx {folder}), or name another user with --user."
            )
    raise FileNotFoundError(f"{path} does not exist: install podroute again")


def _lock(run_dir: str) -> int:
    """Holds the run directory against a second speaker for as long as this process lives; -1 if one has it."""
    path = os.path.join(run_dir, "lock")
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(lock, 32).decode(errors="replace").strip()
        _say(f"another speaker (process {owner}) uses {run_dir}: stop it, or name another folder with --run-dir")
        os.close(lock)
        return -1
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    return lock


def _log_listener(run_dir: str) -> socket.socket:
    path = os.path.join(run_dir, LOG_SOCKET)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0)  # the folder is what keeps others out
    try:
        listener.bind(path)
    finally:
        os.umask(before)
    listener.listen(1)
    return listener


def _write_if_possible(chunk: bytes) -> None:
    """Standard error must never hold up ExaBGP: what it does not take is dropped, the daemon still sees it."""
    poller = select.poll()
    poller.register(2, select.POLLOUT)
    while chunk and dict(poller.poll(0)).get(2, 0) == select.POLLOUT:
        try:
            chunk = chunk[os.write(2, chunk[: select.PIPE_BUF]) :]
        except OSError:
            return


def _say(text: str) -> None:
    _write_if_possible(f"podroute speaker: {text}\n".encode())


def _drain(wake: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.read(wake, 4096)


def _pause(wake: int, seconds: float, stopping: list[int]) -> None:
    until = time.monotonic() + seconds
    while not stopping and (left := until - time.monotonic()) > 0:
        select.select([wake], [], [], left)
        _drain(wake)


def _reap_strangers(own: int) -> None:
    """As process 1 of a container, the entry inherits what others leave behind."""
    if os.getpid() != 1:
        return
    with contextlib.suppress(ChildProcessError):
        while True:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is None or found.si_pid == own:
                return
            os.waitpid(found.si_pid, 0)


def _exit_text(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


if __name__ == "__main__":
    sys.exit(supervise(Settings(sys.argv[1:])))
