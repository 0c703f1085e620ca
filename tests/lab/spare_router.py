"""A router more on a rack's segment: BIRD in a network namespace of its own, which announces and expects what a test wants.

Sessions with it leave the lab's ToRs as they are. It waits for nodes on one of two addresses of each family; sessions with the
second are protected by PASSWORD.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from workloads import eventually

from controller.lab.cluster import Lab

SPARE_AS = 65100
NODE_AS = 64512
PASSWORD = "correct-horse"
# Always the same: a node remembers for a while who had the address. The second router of a rack has the next one.
MAC = "02:00:00:00:00:c{}"
OPEN_HOST, GUARDED_HOST, SILENT_HOST = 200, 201, 202


@dataclass(frozen=True)
class Session:
    """How it keeps its sessions: its AS number and TCP port, more of BIRD's words, and nodes that call from other addresses."""

    asn: int = SPARE_AS
    port: int = 179
    words: str = ""
    nodes: tuple[str, ...] = ()
    sources: Mapping[tuple[str, int], str] = field(default_factory=dict)


@dataclass
class SpareRouter:
    """Enter it to have it run; leaving it ends BIRD and removes the namespace."""

    lab: Lab
    rack: int = 0
    announced: tuple[str, ...] = ()
    served: int = OPEN_HOST
    number: int = 0
    session: Session = field(default_factory=Session)
    _folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="spare-")))
    _bird: subprocess.Popen[bytes] | None = None

    @property
    def namespace(self) -> str:
        """Its network namespace."""
        return f"{self.lab.name}-spare{self.rack}{'ab'[self.number]}"

    def address(self, family: int, host: int = OPEN_HOST) -> str:
        """Its address of that family; `host` chooses between open and guarded, or names one that is nobody's."""
        pair = self.lab.topology.rack_subnet(self.rack).host(host + 10 * self.number)
        return pair.v4 if family == 4 else pair.v6

    def __enter__(self) -> Self:
        try:
            self._plug_in()
            (self._folder / "bird.conf").write_text(self._configuration())
            argv = ["bird", "-f", "-c", str(self._folder / "bird.conf"), "-s", str(self._folder / "ctl")]
            with (self._folder / "log").open("wb") as log:
                self._bird = subprocess.Popen(
                    ["ip", "netns", "exec", self.namespace, *argv], stdout=log, stderr=log, start_new_session=True
                )
            eventually((self._folder / "ctl").exists, 10, (self._folder / "log").read_text)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bird is not None:
            self._bird.terminate()
            self._bird.wait(10)
        # The namespace's links go some time after it: the next router's may have the same names.
        segment = self.lab.topology.namespace(f"rack{self.rack}")
        subprocess.run(["ip", "-n", segment, "link", "del", f"spare{self.number}"], check=False)
        subprocess.run(["ip", "netns", "del", self.namespace], check=False)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _plug_in(self) -> None:
        """One end of a veth on the segment's bridge, the other here with all four addresses."""
        segment, port = self.lab.topology.namespace(f"rack{self.rack}"), f"spare{self.number}"
        _ip("netns", "add", self.namespace)
        _ip(
            "-n",
            segment,
            "link",
            "add",
            port,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "address",
            MAC.format(8 + self.number),
            "netns",
            self.namespace,
        )
        _ip("-n", segment, "link", "set", port, "master", "br0", "up")
        for host in (OPEN_HOST, GUARDED_HOST):
            _ip("-n", self.namespace, "address", "add", f"{self.address(4, host)}/24", "dev", "eth0")
            _ip("-n", self.namespace, "address", "add", f"{self.address(6, host)}/64", "dev", "eth0", "nodad")
        _ip("-n", self.namespace, "link", "set", "eth0", "up")

    def _configuration(self) -> str:
        how = self.session
        password = f'password "{PASSWORD}"; ' if self.served == GUARDED_HOST else ""
        sessions = "".join(
            _session(
                f"{node}_{family}",
                self.address(family, self.served),
                how.sources.get((node, family), address),
                replace(how, words=how.words + password),
            )
            for node in how.nodes or self.lab.topology.nodes_in(self.rack)
            for family, address in zip((4, 6), self.lab.topology.addresses(node), strict=True)
        )
        return f"router id {self.address(4)};\nlog stderr all;\nprotocol device {{ }}\n{self._statics()}{sessions}"

    def _statics(self) -> str:
        return "".join(
            f"protocol static statics{family} {{ ipv{family}; {_routes(self.announced, family)} }}\n"
            for family in (4, 6)
        )

    def announce(self, prefixes: Sequence[str]) -> None:
        """From now on these, and nothing else, go to every neighbour."""
        self.announced = tuple(prefixes)
        self._reconfigure()

    def keep(self, session: Session) -> None:
        """From now on its sessions are kept so; those that are kept otherwise start anew."""
        self.session = session
        self._reconfigure()

    def serve(self, host: int) -> None:
        """Wait on that address alone: BIRD holds a lock for each neighbour, so a second session with it would never start."""
        if host != self.served:
            self.served = host
            self._reconfigure()

    def _reconfigure(self) -> None:
        (self._folder / "bird.conf").write_text(self._configuration())
        said = self.birdc("configure")
        assert "Reconfigured" in said or "in progress" in said, said

    def birdc(self, command: str) -> str:
        """BIRD's own answer."""
        argv = ["birdc", "-s", str(self._folder / "ctl"), *command.split()]
        return subprocess.run(argv, capture_output=True, text=True, timeout=10, check=True).stdout

    def is_established(self, node: str, family: int, host: int = OPEN_HOST) -> bool:
        """Whether the session with a node stands, as BIRD sees it."""
        return host == self.served and "Established" in self.birdc(f"show protocols {node}_{family}")

    def heard(self, node: str, family: int) -> str:
        """What a node announced to it, with all attributes."""
        return self.birdc(f"show route protocol {node}_{family} all")


def _routes(prefixes: Sequence[str], family: int) -> str:
    return " ".join(f"route {each} blackhole;" for each in prefixes if (":" in each) == (family == 6))


def _session(name: str, local: str, node: str, how: Session) -> str:
    family = "ipv6" if ":" in local else "ipv4"
    return (
        f"protocol bgp {name} {{ local {local} port {how.port} as {how.asn}; neighbor {node} as {NODE_AS}; passive; "
        f"hold time 9; {how.words} graceful restart aware; error wait time 1, 2; "
        f"{family} {{ import all; export where source = RTS_STATIC; next hop self; }}; }}\n"
    )


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
