"""A small packed netlink transport: many messages in one send, an answer for each that failed, dumps.

Called by `routes`, `pods`, `conntrack` and `watch` of this room. A socket belongs to the network namespace in which its
thread was when it was opened, for good. Message and attribute layout: linux/netlink.h, linux/rtnetlink.h. Tests hold it
against pyroute2.
"""

import contextlib
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLA_F_NESTED = 0x8000
_NLA_TYPE_MASK = 0x3FFF

_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12
_SO_RCVBUFFORCE = 33
_NLMSGERR_ATTR_MSG = 1
_ACK_TLVS = 0x200
_CLONE_NEWNET = 0x40000000

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERRNO = struct.Struct("=i")
_RECEIVE = 1 << 16
# A refused message takes about 1.3 KiB of the receive buffer: room for the refusals of a whole batch.
_RECEIVE_BUFFER = 4 << 20
_BATCH = 500
_DUMP_TRIES = 32

# Port ids (nl_pid) of this process are two random bytes and a counter, so that `watch` knows our own writes without a
# register.
_PORT_PREFIX = (int.from_bytes(os.urandom(2)) | 0x8000) << 16

Message = tuple[int, int, bytes]
"""Type, flags beyond NLM_F_REQUEST, and everything after the header, a multiple of four bytes long."""


class KernelError(Exception):
    """The kernel refused something: `what` names the object, `number` is the errno, `detail` the kernel's own words."""

    def __init__(self, what: str, number: int, detail: str = "") -> None:
        super().__init__(f"{what}: {detail or os.strerror(number)}")
        self.what = what
        self.number = number
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Refusal:
    """One message of a batch that the kernel refused: its position, the errno, and the kernel's words if it had any."""

    position: int
    number: int
    detail: str


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    length = 4 + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + b"\0" * (-length % 4)


def text_attribute(kind: int, text: str) -> bytes:
    """A string attribute with its closing zero."""
    return attribute(kind, text.encode() + b"\0")


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Attribute type to payload; of a repeated type the last counts."""
    found: dict[int, bytes] = {}
    end = len(data)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            break
        found[kind & _NLA_TYPE_MASK] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def messages_in(data: bytes) -> Iterator[tuple[int, int, int, int, bytes]]:
    """Type, flags, sequence number, port id and body of each message in what one receive returned."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags, sequence, port = _HEADER.unpack_from(data, offset)
        if length < 16:
            return
        yield kind, flags, sequence, port, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def is_own_port(port: int) -> bool:
    """Whether a notification carries the port id of a socket of this process."""
    return port & 0xFFFF0000 == _PORT_PREFIX


def bound_socket(protocol: int, groups: int = 0) -> socket.socket:
    """A netlink socket in the thread's network namespace, with a port id that `is_own_port` knows."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    start = int.from_bytes(os.urandom(2))
    for step in range(1 << 16):
        try:
            sock.bind((_PORT_PREFIX | ((start + step) & 0xFFFF), groups))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            sock.close()
            raise
        return sock
    sock.close()
    raise KernelError("netlink socket", errno.EADDRINUSE, "all port ids of this process are taken")


class Netlink:
    """One connection to the kernel. Not for several threads at once; opening one takes some 20 µs."""

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        self._socket = bound_socket(protocol)
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def send(self, messages: Sequence[Message]) -> list[Refusal]:
        """Have the kernel carry out messages in order; one that it refuses does not stop the next.

        Returns the refused ones.
        """
        refused = []
        for start in range(0, len(messages), _BATCH):
            refused += self._send_batch(messages[start : start + _BATCH], start)
        return refused

    def request(self, message: Message, what: str) -> None:
        """Have the kernel carry out one message. Raises KernelError that names `what`."""
        for refusal in self.send([message]):
            raise KernelError(what, refusal.number, refusal.detail)

    def _send_batch(self, messages: Sequence[Message], position: int) -> list[Refusal]:
        first = self._sequence + 1
        last = self._sequence = self._sequence + len(messages)
        parts: list[bytes] = []
        for sequence, (kind, flags, body) in enumerate(messages, first):
            # Refusals come without being asked for, so only the last message has to be acknowledged.
            all_flags = flags | NLM_F_REQUEST | (NLM_F_ACK if sequence == last else 0)
            parts += (_HEADER.pack(16 + len(body), kind, all_flags, sequence, 0), body)
        self._socket.send(b"".join(parts))
        refused = []
        while True:
            for kind, flags, sequence, _, body in messages_in(self._socket.recv(_RECEIVE)):
                if kind != _NLMSG_ERROR or sequence < first:
                    continue
                number = -_ERRNO.unpack_from(body)[0]
                if number:
                    refused.append(Refusal(position + sequence - first, number, _detail(flags, body)))
                if sequence == last:
                    return refused

    def ask(self, kind: int, body: bytes, what: str) -> bytes:
        """The body of the one answer to a request that is no dump. Raises KernelError that names `what`."""
        self._sequence += 1
        self._socket.send(_HEADER.pack(16 + len(body), kind, NLM_F_REQUEST, self._sequence, 0) + body)
        while True:
            for answer, flags, sequence, _, content in messages_in(self._socket.recv(_RECEIVE)):
                if sequence != self._sequence:
                    continue
                if answer == _NLMSG_ERROR:
                    _raise_refusal(what, flags, content)
                return content

    def dump(self, kind: int, body: bytes, what: str) -> list[bytes]:
        """The bodies of all that the kernel lists for a request. Raises KernelError that names `what`.

        A list that changed while it was read is read again.
        """
        for _ in range(_DUMP_TRIES):
            bodies = self._dump_once(kind, body, what)
            if bodies is not None:
                return bodies
        raise KernelError(what, errno.EINTR, f"changed {_DUMP_TRIES} times while it was read")

    def _dump_once(self, kind: int, body: bytes, what: str) -> list[bytes] | None:
        self._sequence += 1
        self._socket.send(_HEADER.pack(16 + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, self._sequence, 0) + body)
        bodies: list[bytes] = []
        interrupted = 0
        while True:
            for answer, flags, sequence, _, content in messages_in(self._socket.recv(_RECEIVE)):
                if sequence != self._sequence:
                    continue
                interrupted |= flags & NLM_F_DUMP_INTR
                if answer in (_NLMSG_ERROR, _NLMSG_DONE):
                    _raise_refusal(what, flags, content)
                    return None if interrupted else bodies
                bodies.append(content)


def _raise_refusal(what: str, flags: int, body: bytes) -> None:
    number = -_ERRNO.unpack_from(body)[0]
    if number:
        raise KernelError(what, number, _detail(flags, body))


def _detail(flags: int, body: bytes) -> str:
    """The kernel's words (extended acknowledgement): they follow the errno and the refused message's header."""
    if not flags & _ACK_TLVS:
        return ""
    words = attributes(body, 20).get(_NLMSGERR_ATTR_MSG, b"")
    return words.rstrip(b"\0").decode(errors="replace")


_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def in_netns(descriptor: int) -> Iterator[None]:
    """Have the calling thread in the network namespace of an opened descriptor; afterwards it is back in its own.

    Never on a thread that runs an event loop: nothing may run in between. Raises KernelError if the descriptor is no
    network namespace.
    """
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(descriptor)
        try:
            yield
        finally:
            _setns(own)
    finally:
        os.close(own)


def _setns(descriptor: int) -> None:
    # os.setns came with Python 3.12.
    if _libc.setns(descriptor, _CLONE_NEWNET):
        raise KernelError("network namespace", ctypes.get_errno(), "the descriptor is no network namespace")
