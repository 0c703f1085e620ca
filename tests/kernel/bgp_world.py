"""Small networks for the speaker's tests: namespaces on one segment, real BIRD and FRR, real speakers.

Everything made here is named `spk-…`, ends with the test process (parent-death signal) and is removed by `close`.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from bgp.speaker.client import SpeakerAway, observe
from bgp.speaker.protocol import Stored, Sync, line_of, reply_of
from bgp.values import Desired, Detail, Observed, Session

TREE = Path(__file__).resolve().parents[2]
FRR = Path("/usr/lib/frr")
T = TypeVar("T")


def wait_for(condition: Callable[[], T], what: str, seconds: float = 20.0) -> T:
    """Polls until the condition is true and returns its value; says what was missing if it never is."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"after {seconds:g} s still not: {what} (last: {value!r})"
        time.sleep(0.02)


class Host:
    """A network namespace on the segment, with one address of each family."""

    def __init__(self, world: "World", name: str, number: int) -> None:
        self.world = world
        self.namespace = f"{world.name}-{name}"
        self.ipv4, self.ipv6 = f"10.99.0.{number}", f"fd99::{number:x}"
        self.link = "up0"
        run("ip", "netns", "add", self.namespace)
        port = f"{name[:8]}{number}"
        run(*f"ip -n {self.namespace} link add {self.link} type veth peer name {port} netns {world.lan}".split())
        run(*f"ip -n {world.lan} link set {port} master br0 up".split())
        run(*f"ip -n {self.namespace} link set lo up".split())
        run(*f"ip -n {self.namespace} link set {self.link} up".split())
        self.add_address(self.ipv4)
        self.add_address(self.ipv6)
        self.port = port

    def add_address(self, address: str) -> None:
        """Adds an address at once usable (no duplicate address detection)."""
        plain = "64 nodad" if ":" in address else "24"
        run(*f"ip -n {self.namespace} address add {address}/{plain} dev {self.link}".split())

    def remove_address(self, address: str) -> None:
        length = "64" if ":" in address else "24"
        run(*f"ip -n {self.namespace} address del {address}/{length} dev {self.link}".split())

    def cut(self) -> None:
        """Takes the host's port off the segment: silence in both directions, no carrier change at the host."""
        run(*f"ip -n {self.world.lan} link set {self.port} nomaster".split())

    def mend(self) -> None:
        run(*f"ip -n {self.world.lan} link set {self.port} master br0".split())

    def command(self, *words: str) -> list[str]:
        """The command line that runs `words` inside the namespace, as the same process."""
        return ["nsenter", f"--net=/run/netns/{self.namespace}", *words]


class World:
    """One segment and the hosts on it."""

    def __init__(self) -> None:
        self.name = f"spk-{secrets.token_hex(3)}"
        self.lan = f"{self.name}-lan"
        self.folder = Path("/run") / self.name
        self.folder.mkdir(mode=0o755)
        self._processes: list[subprocess.Popen[bytes]] = []
        self.hosts: list[Host] = []
        run("ip", "netns", "add", self.lan)
        run(*f"ip -n {self.lan} link add br0 type bridge forward_delay 0".split())
        run(*f"ip -n {self.lan} link set br0 up".split())

    def host(self, name: str, number: int) -> Host:
        host = Host(self, name, number)
        self.hosts.append(host)
        return host

    def start(
        self, command: list[str], log: Path, environment: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Starts a process that ends with the test; its output goes to `log`."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(environment or {})},
            )
        self._processes.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGTERM) -> None:
        if process.poll() is None:
            process.send_signal(how)
        process.wait(10)

    def close(self) -> None:
        """Ends and removes everything; asserts that no process is left in a namespace of ours."""
        for process in reversed(self._processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop(process)
            if process.poll() is None:
                self.stop(process, signal.SIGKILL)
        left = wait_for_no_processes([host.namespace for host in self.hosts])
        for namespace in [host.namespace for host in self.hosts] + [self.lan]:
            run("ip", "netns", "del", namespace)
        shutil.rmtree(self.folder)
        assert not left, f"processes left in the namespaces: {left}"


@pytest.fixture
def segment() -> Iterator[World]:
    """A segment of its own for one test; with it everything ends that the test started on it."""
    made = World()
    try:
        yield made
    finally:
        made.close()


def wait_for_no_processes(namespaces: list[str]) -> str:
    """Waits up to 5 s for the namespaces to be empty of processes; returns what is still there."""
    deadline = time.monotonic() + 5
    while True:
        left = {name: pids for name in namespaces if (pids := run("ip", "netns", "pids", name).split())}
        if not left or time.monotonic() > deadline:
            return " ".join(f"{name}: {' '.join(command_of(pid) for pid in pids)}" for name, pids in left.items())
        time.sleep(0.05)


def command_of(pid: str) -> str:
    with contextlib.suppress(OSError):
        return f"{pid} {Path(f'/proc/{pid}/cmdline').read_bytes().replace(bytes(1), b' ').decode()}"
    return pid


def run(*words: str) -> str:
    """Runs a program to its end and returns what it printed."""
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}{done.stdout}"
    return done.stdout


class Bird:
    """A real BIRD 2. `neighbours` is BIRD configuration text for its BGP protocols."""

    def __init__(self, host: Host, asn: int, neighbours: str, statics: str = "") -> None:
        self.host, self.asn = host, asn
        self.folder = host.world.folder / host.namespace
        self.folder.mkdir()
        self.process: subprocess.Popen[bytes] | None = None
        self.neighbours, self.statics = neighbours, statics
        self.start()

    def start(self, *, recover: bool = False) -> None:
        """Starts BIRD; with `recover` it says that it restarts and kept its forwarding state (RFC 4724)."""
        self.write()
        configuration, socket = self.folder / "bird.conf", self.folder / "bird.ctl"
        run("bird", "-p", "-c", str(configuration))
        command = self.host.command(
            "bird", "-f", *(["-R"] if recover else []), "-c", str(configuration), "-s", str(socket)
        )
        self.process = self.host.world.start(command, self.folder / "log")
        wait_for(socket.exists, "BIRD's control socket")

    def write(self) -> None:
        (self.folder / "bird.conf").write_text(
            f"""log stderr all;
router id {self.host.ipv4};
protocol device {{ scan time 1; }}
protocol direct {{ ipv4; ipv6; }}
{self.statics}
{self.neighbours}
"""
        )

    def configure(self, neighbours: str, statics: str = "") -> None:
        self.neighbours, self.statics = neighbours, statics
        self.write()
        self.ask("configure")

    def ask(self, *words: str) -> str:
        return run("birdc", "-r" if words[0] == "show" else "-v", "-s", str(self.folder / "bird.ctl"), *words)

    def prefixes(self, protocol: str) -> set[str]:
        """What was learned through one BGP protocol, of both families."""
        lines = self.ask("show", "route", "protocol", protocol).splitlines()
        return {line.split()[0] for line in lines if "/" in line and "[" in line}

    def attributes(self, prefix: str, protocol: str) -> str:
        return self.ask("show", "route", "for", prefix, "protocol", protocol, "all")

    def kill(self) -> None:
        assert self.process is not None
        self.host.world.stop(self.process, signal.SIGKILL)
        (self.folder / "bird.ctl").unlink()


class Frr:
    """A real FRR: zebra and bgpd. `router` is FRR configuration text."""

    def __init__(self, host: Host, router: str) -> None:
        self.host = host
        self.folder = host.world.folder / host.namespace
        self.folder.mkdir()
        shutil.chown(self.folder, "frr", "frr")
        self.processes: list[subprocess.Popen[bytes]] = []
        self.router = router
        self.start()

    def start(self) -> None:
        configuration = self.folder / "frr.conf"
        configuration.write_text(f"log file {self.folder / 'frr.log'}\n{self.router}\n")
        sockets = ["-z", str(self.folder / "zserv.api"), "--vty_socket", str(self.folder), "-u", "frr", "-g", "frr"]
        for daemon in ("zebra", "bgpd"):
            (self.folder / f"{daemon}.conf").write_text(configuration.read_text() if daemon == "bgpd" else "")
            words = ["-f", str(self.folder / f"{daemon}.conf"), "-i", str(self.folder / f"{daemon}.pid"), *sockets]
            port = ["-A", "127.0.0.1", "-P", "0"]
            command = self.host.command(str(FRR / daemon), *words, *port)
            self.processes.append(self.host.world.start(command, self.folder / "log"))
            wait_for((self.folder / f"{daemon}.vty").exists, f"{daemon}'s terminal socket")

    def ask(self, *lines: str) -> str:
        commands = [word for line in lines for word in ("-c", line)]
        return run("vtysh", "--vty_socket", str(self.folder), "-d", "bgpd", *commands)

    def table(self, family: str = "ipv4") -> dict[str, list[dict[str, object]]]:
        answer = json.loads(self.ask(f"show bgp {family} unicast json"))
        return dict(answer.get("routes", {}))

    def prefixes(self, neighbour: str) -> set[str]:
        """What was learned from one neighbour, of both families; stale routes count."""
        return {
            prefix
            for family in ("ipv4", "ipv6")
            for prefix, paths in self.table(family).items()
            if any(path.get("peerId") == neighbour for path in paths)
        }

    def peer(self, neighbour: str) -> dict[str, object]:
        answer = json.loads(self.ask(f"show bgp neighbors {neighbour} json"))
        return dict(answer.get(neighbour, {}))

    def kill(self) -> None:
        for process in self.processes:
            self.host.world.stop(process, signal.SIGKILL)
        self.processes.clear()


class Speaker:
    """A real speaker in a namespace. The tree and the Python environment are bind-mounted where all may read them."""

    package = TREE / "bgp"

    def __init__(
        self, host: Host, environment: dict[str, str] | None = None, name: str = "speaker", user: str = "nobody"
    ) -> None:
        self.host = host
        self.folder = host.world.folder / f"{host.namespace}-{name}" if "/" not in name else host.world.folder / name
        self.socket = str(self.folder / "speaker.sock")
        self.environment = environment or {}
        self.user = user
        self.log = host.world.folder / f"{host.namespace}-{name.replace('/', '-')}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        script = (
            "mount --make-rprivate / && mount -t tmpfs -o mode=755 none /opt && mkdir -p /opt/podroute/bgp /opt/python"
            f" && mount --bind {self.package} /opt/podroute/bgp && mount --bind {sys.prefix} /opt/python"
            f" && cd /opt/podroute && exec /opt/python/bin/python -m bgp.speaker.entry --run-dir {self.folder}"
            f" --user {self.user}"
        )
        command = self.host.command("unshare", "-m", "sh", "-c", script)
        self.process = self.host.world.start(command, self.log, self.environment)

    @property
    def entry(self) -> int:
        assert self.process is not None
        return self.process.pid

    def exabgp(self) -> int:
        """The process id of ExaBGP, once it has started."""
        return wait_for(lambda: child_of(self.entry, "run.py"), "ExaBGP under the entry")

    def daemon(self) -> int:
        """The process id of the daemon, once it has started."""
        return wait_for(lambda: child_of(self.exabgp(), "start_daemon.py"), "the daemon under ExaBGP")

    def sync(self, desired: Desired, seconds: float = 30.0) -> Observed:
        """Sends a desired state as the agent's client does, but at once and synchronously."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                with socket_to(self.socket) as stream:
                    stream.write(line_of(Sync(desired)))
                    stream.flush()
                    reply = reply_of(stream.readline())
                assert isinstance(reply, Stored), reply
                return reply.observed
            except OSError as error:
                if time.monotonic() > deadline:
                    raise AssertionError(f"no speaker at {self.socket}\n{self.log.read_text()}") from error
                time.sleep(0.05)

    def detail(self) -> Detail:
        return observe(self.socket)

    def observed(self) -> Observed:
        return observe(self.socket).observed

    def started(self) -> float:
        """When the present run of the daemon began, on CLOCK_MONOTONIC; 0 while nobody answers."""
        with contextlib.suppress(SpeakerAway):
            return self.observed().started
        return 0.0

    def is_answering(self) -> bool:
        return self.started() > 0

    def session(self, name: str) -> Session:
        sessions = {session.name: session for session in self.observed().sessions}
        assert name in sessions, f"no session {name} among {sorted(sessions)}"
        return sessions[name]

    def wait_until_established(self, *names: str, seconds: float = 20.0) -> None:
        for name in names:
            try:
                wait_for(lambda name=name: self.session(name).state == "established", f"{name} established", seconds)
            except AssertionError as error:
                raise AssertionError(f"{error}\n{self.session(name)}\n{self.log.read_text()[-4000:]}") from None

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        assert self.process is not None
        self.host.world.stop(self.process, how)


@contextlib.contextmanager
def socket_to(path: str) -> Iterator[object]:
    import socket

    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(path)
        with connection.makefile("rwb") as stream:
            yield stream


def child_of(parent: int, word: str) -> int:
    """The process id of a child of `parent` whose command line has a word ending in `word`; 0 if there is none."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            words = (entry / "cmdline").read_bytes().split(bytes(1))
            if int(fields[1]) == parent and any(part.decode().endswith(word) for part in words):
                return int(entry.name)
    return 0
