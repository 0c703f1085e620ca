"""A node and pods as network namespaces, for the tests of routes, pods, rules and the watcher.

The test's own thread is in the node's namespace while a world lasts, so sockets, /proc/sys and programs it starts are too. All
namespaces carry the process id in their names and are removed with their links when the world ends.
"""

import contextlib
import ipaddress
import itertools
import json
import os
import select
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from controller.kernel import pods
from controller.kernel.netlink import attributes, in_netns, messages_in
from controller.kernel.values import Attachment, PodLink, mac_addresses

_numbers = itertools.count(1)
_ETH_P_ALL = 3
# linux/rtnetlink.h, linux/if_link.h, linux/if.h: up, as RFC 2863 has it.
_RTM_NEWLINK, _RTM_NEWADDR = 16, 20
_IFLA_OPERSTATE, _IF_OPER_UP = 16, b"\x06"
_MARK = b"podroute-test "
NODE_V4 = ipaddress.ip_address("192.0.2.10")
NODE_V6 = ipaddress.ip_address("2001:db8:1::10")
GATEWAY_V4 = ipaddress.ip_address("192.0.2.1")
GATEWAY_V6 = ipaddress.ip_address("2001:db8:1::1")


def run(*command: str, check: bool = True) -> str:
    """Run a program in the thread's namespace and return what it printed; its own words if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stderr or done.stdout}")
    return done.stdout


def ip_json(*arguments: str) -> list[dict[str, Any]]:
    """What `ip -j` lists."""
    text = run("ip", "-j", *arguments)
    return json.loads(text) if text.strip() else []


def wait_until(condition: Callable[[], object], what: str, seconds: float = 10.0) -> None:
    """Wait for a condition; fail with what was missing."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        select.select([], [], [], 0.01)


@dataclass
class Pod:
    """A pod's namespace, its descriptor, and what was wired for it."""

    name: str
    fd: int
    attachment: Attachment
    link: PodLink | None = None

    @property
    def v4(self) -> ipaddress.IPv4Address:
        return self.attachment.addresses[0]  # type: ignore[return-value]

    @property
    def v6(self) -> ipaddress.IPv6Address:
        return self.attachment.addresses[1]  # type: ignore[return-value]

    @property
    def host_end(self) -> str:
        assert self.link is not None
        return self.link.name

    def run(self, *command: str, check: bool = True) -> str:
        with in_netns(self.fd):
            return run(*command, check=check)

    def reaches(self, address: object, size: int | None = None) -> bool:
        """Whether one of three pings is answered; with `size`, packets of so many bytes that must not be fragmented."""
        options = ["-c", "1", "-W", "1"]
        if size is not None:
            overhead = 28 if ipaddress.ip_address(str(address)).version == 4 else 48
            options += ["-M", "do", "-s", str(size - overhead)]
        return any("1 received" in self.run("ping", *options, str(address), check=False) for _ in range(3))


class World:
    """A node with one uplink, without default route; `uplink` is a namespace on its other end, a router that forwards nothing."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self.pods: list[Pod] = []
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="knl-")))
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        self.node_fd, self.node = self._namespace("node")
        self.uplink_fd, self.uplink = self._namespace("up")
        self._stack.enter_context(in_netns(self.node_fd))
        for setting in ("ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding", "ipv6/conf/default/forwarding"):
            Path("/proc/sys/net", setting).write_text("1")
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "uplink0", "type", "veth", "peer", "name", "node0", "netns", self.uplink)
        _set_up("uplink0", NODE_V4, NODE_V6)
        with in_netns(self.uplink_fd):
            _set_up("node0", GATEWAY_V4, GATEWAY_V6)
        wait_until(lambda: "linkdown" not in run("ip", "route"), "the carrier of uplink0")

    def _namespace(self, role: str) -> tuple[int, str]:
        name = f"knl-{os.getpid()}-{next(_numbers)}-{role}"
        run("ip", "netns", "add", name)
        self._stack.callback(run, "ip", "netns", "del", name)
        descriptor = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        self._stack.callback(os.close, descriptor)
        return descriptor, name

    def close(self) -> None:
        """Remove everything."""
        self._stack.close()

    def unwired_pod(self) -> Pod:
        """A namespace for a pod, and the attachment that would be wired there: 10.1.0.N and fd00:1::N."""
        number = len(self.pods) + 1
        descriptor, name = self._namespace(f"pod{number}")
        addresses = (ipaddress.ip_address(f"10.1.0.{number}"), ipaddress.ip_address(f"fd00:1::{number}"))
        pod = Pod(name, descriptor, Attachment(f"{number:064x}", "eth0", f"uid-{number}", addresses))
        self.pods.append(pod)
        return pod

    def pod(self, mtu: int = 1500) -> Pod:
        """A wired pod."""
        pod = self.unwired_pod()
        pod.link = pods.wire_pod(pod.fd, pod.attachment, mtu).link
        return pod


def _set_up(interface: str, *addresses: object) -> None:
    run("ip", "link", "set", "lo", "up")
    for address in addresses:
        # Without duplicate address detection, for which the tests would wait.
        length, nodad = ("64", ["nodad"]) if ":" in str(address) else ("24", [])
        run("ip", "addr", "add", f"{address}/{length}", "dev", interface, *nodad)
    run("ip", "link", "set", interface, "up")


@pytest.fixture
def world() -> Iterator[World]:
    """A node of its own for one test, in whose namespace the test runs. What the test leaves open fails it."""
    before = len(os.listdir("/proc/self/fd"))
    home = os.readlink("/proc/thread-self/ns/net")
    made = World()
    try:
        yield made
    finally:
        made.close()
    assert os.readlink("/proc/thread-self/ns/net") == home
    assert len(os.listdir("/proc/self/fd")) <= before, "a descriptor leaked"


def message_kinds(monitor: socket.socket) -> list[int]:
    """The types of the notifications that a netlink socket has received so far."""
    kinds = []
    while select.select([monitor], [], [], 0)[0]:
        kinds += [kind for kind, *_ in messages_in(monitor.recv(1 << 16))]
    return kinds


class LateNews:
    """What the kernel tells of a new link only after its maker's last request was answered, as a netlink socket hears it.

    Two of its work queues run later: one ends the address's duplicate address detection (address, then its routes), one makes the
    link operational. Each tells all it has to tell under the lock that requests take, so a request of ours comes after it.
    """

    def __init__(self, ifindex: int, monitor: socket.socket) -> None:
        self._ifindex = ifindex
        self._monitor = monitor
        self._missing = {_RTM_NEWADDR, _RTM_NEWLINK}

    def is_complete(self) -> bool:
        """Whether both have been heard; then nothing is left unread in the socket."""
        while select.select([self._monitor], [], [], 0)[0]:
            for kind, _, _, _, body in messages_in(self._monitor.recv(1 << 16)):
                # ifinfomsg and ifaddrmsg have the interface's index at the same place.
                is_ours = struct.unpack_from("=I", body, 4)[0] == self._ifindex
                if is_ours and (kind != _RTM_NEWLINK or _is_operational(body)):
                    self._missing.discard(kind)
        if self._missing:
            return False
        run("ip", "link", "set", "lo", "up")
        message_kinds(self._monitor)
        return True


def told_operational(monitor: socket.socket) -> set[int]:
    """Indices of the links that the kernel has called operational so far."""
    found = set()
    while select.select([monitor], [], [], 0)[0]:
        for kind, _, _, _, body in messages_in(monitor.recv(1 << 16)):
            if kind == _RTM_NEWLINK and _is_operational(body):
                found.add(struct.unpack_from("=I", body, 4)[0])
    return found


def _is_operational(link: bytes) -> bool:
    return attributes(link, 16).get(_IFLA_OPERSTATE) == _IF_OPER_UP


@contextlib.contextmanager
def capture(fd: int, interface: str) -> Iterator[socket.socket]:
    """A packet socket on an interface of a namespace: it sees what arrives, whatever the stack then does with it."""
    with in_netns(fd):
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        sock.bind((interface, 0))
    with sock:
        yield sock


def payloads(sock: socket.socket) -> set[bytes]:
    """The UDP payloads that arrived so far."""
    found = set()
    while select.select([sock], [], [], 0)[0]:
        frame = sock.recv(65535)
        at = frame.find(_MARK)
        if at >= 0:
            found.add(frame[at:])
    return found


def udp_frame(pod: Pod, source: object, destination: object, label: str) -> bytes:
    """A UDP packet with any source, in a frame from a pod to its host end; `label` is its payload."""
    host_mac, pod_mac = mac_addresses(pod.attachment.container_id, pod.attachment.interface)
    origin, target = ipaddress.ip_address(str(source)), ipaddress.ip_address(str(destination))
    payload = _MARK + label.encode()
    udp = struct.pack("!HHHH", 5000, 5000, 8 + len(payload), 0) + payload
    if origin.version == 4:
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, origin.packed, target.packed)
        head = head[:10] + struct.pack("!H", _checksum(head)) + head[12:]
        return host_mac + pod_mac + b"\x08\x00" + head + udp
    pseudo = origin.packed + target.packed + struct.pack("!II", len(udp), 17)
    udp = udp[:6] + struct.pack("!H", _checksum(pseudo + udp)) + udp[8:]
    head = struct.pack("!IHBB16s16s", 6 << 28, len(udp), 17, 64, origin.packed, target.packed)
    return host_mac + pod_mac + b"\x86\xdd" + head + udp


def send_frames(pod: Pod, frames: list[bytes]) -> None:
    """Put frames on a pod's interface, past its own stack."""
    with capture(pod.fd, pod.attachment.interface) as sock:
        for frame in frames:
            sock.send(frame)


def _checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
