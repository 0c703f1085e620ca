"""How a CNI call travels from the plugin to the agent, and the answer back. Pure; used by `plugin`, `server` and, in C,
`shim.c`.

One connection carries one call. All lengths are big-endian unsigned 32-bit integers that count the bytes after them.

    call:   length | "CNI_COMMAND=ADD" NUL … NUL | standard input        the network namespace comes along as SCM_RIGHTS
    answer: length | exit code (1 byte) | standard output

The environment ends with an empty string. Only variables whose names begin with CNI_ travel. A plugin that closes the
connection before the answer has gone away (the runtime gave up, or was killed), and its call is to be cancelled.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

RUN_DIRECTORY = "/run/podroute/agent"
# Where the plugin looks instead, for tests and for several nodes on one machine.
RUN_DIRECTORY_VARIABLE = "PODROUTE_RUN"
SOCKET = "cni.sock"
# Exists once the agent has had a complete snapshot since boot: answers STATUS while the agent is away.
READY_MARKER = "ready"
# A configuration with a previous result is a few KiB; more than this is not one.
LIMIT = 1 << 20

_LENGTH = struct.Struct("!I")
LENGTH_SIZE = _LENGTH.size


class FramingError(ValueError):
    """The bytes are no call or no answer: the two ends are not of one version, or the connection broke."""


@dataclass(frozen=True, slots=True)
class Call:
    """What the runtime gave the plugin: the CNI_* environment variables and standard input, unparsed."""

    environment: Mapping[str, str]
    stdin: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What the plugin gives the runtime: exit code (0 to 255) and standard output."""

    exit_code: int
    stdout: bytes


def encoded_call(call: Call) -> bytes:
    """The call as it is sent, length included."""
    variables = [
        f"{name}={value}".encode(errors="surrogateescape")
        for name, value in call.environment.items()
        if name.startswith("CNI_")
    ]
    return _framed(b"".join(text + b"\0" for text in variables) + b"\0" + call.stdin)


def encoded_answer(answer: Answer) -> bytes:
    """The answer as it is sent, length included."""
    return _framed(bytes([answer.exit_code]) + answer.stdout)


def _framed(body: bytes) -> bytes:
    return _LENGTH.pack(len(body)) + body


def body_length(header: bytes) -> int:
    """The length that the four bytes of a header announce. Raises FramingError above LIMIT."""
    length: int = _LENGTH.unpack(header)[0]
    if length > LIMIT:
        raise FramingError(f"a message of {length} bytes: at most {LIMIT} are accepted")
    return length


def decoded_call(body: bytes) -> Call:
    """The call in the bytes after the header.

    Raises FramingError if the environment does not end or a variable has no '='.
    """
    environment: dict[str, str] = {}
    rest = body
    while True:
        variable, zero, rest = rest.partition(b"\0")
        if not zero:
            raise FramingError("the environment does not end with an empty string")
        if not variable:
            return Call(environment, rest)
        name, equals, value = variable.decode(errors="surrogateescape").partition("=")
        if not equals:
            raise FramingError(f"environment variable {name!r} has no value")
        environment[name] = value


def decoded_answer(body: bytes) -> Answer:
    """The answer in the bytes after the header. Raises FramingError if there is no exit code."""
    if not body:
        raise FramingError("an answer without exit code")
    return Answer(body[0], body[1:])
