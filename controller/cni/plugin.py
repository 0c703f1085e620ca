"""The CNI plugin in Python: the readable twin of `shim.c`, installed where no compiler was at hand.

The container runtime runs it. It passes standard input, the CNI_* variables and the opened network namespace to the
agent, and prints the answer. Without an agent it answers by itself: VERSION and DEL succeed, STATUS asks the marker
that the agent left, and the rest says try again. Both programs print the same bytes; one test runs both.
"""

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from controller.cni.protocol import (
    LENGTH_SIZE,
    LIMIT,
    READY_MARKER,
    RUN_DIRECTORY,
    RUN_DIRECTORY_VARIABLE,
    SOCKET,
    Answer,
    Call,
    FramingError,
    body_length,
    decoded_answer,
    encoded_call,
)
from controller.cni.request import version_in
from controller.cni.result import CniError, ErrorCode, rendered_error, rendered_versions

# ADD waits up to 20 s for a block of addresses, DEL for an ADD of the same container; the kubelet itself gives up after
# 2 min.
_SECONDS = {"ADD": 60, "STATUS": 5}
_SECONDS_OTHERWISE = 30


def main() -> int:
    """Answer one call of the runtime; the exit code is 0 or 1."""
    stdin = sys.stdin.buffer.read(LIMIT + 1)
    answer = answered(os.environ, stdin)
    sys.stdout.buffer.write(answer.stdout)
    sys.stdout.buffer.flush()
    return answer.exit_code


def answered(environment: Mapping[str, str], stdin: bytes) -> Answer:
    """The answer to a call: the agent's, or our own where it needs none or gives none."""
    command = environment.get("CNI_COMMAND", "")
    version = version_in(stdin)
    if command == "VERSION":
        return Answer(0, rendered_versions(version))
    call = Call({name: value for name, value in environment.items() if name.startswith("CNI_")}, stdin)
    folder = environment.get(RUN_DIRECTORY_VARIABLE) or RUN_DIRECTORY
    try:
        if len(frame := encoded_call(call)) > LENGTH_SIZE + LIMIT:
            error = CniError(
                ErrorCode.DECODE_FAILURE, "the call is too large", "give a configuration of less than 1 MiB"
            )
            return Answer(1, rendered_error(error, version))
        return _agents_answer(f"{folder}/{SOCKET}", frame, environment)
    except (OSError, FramingError):
        return _own_answer(command, version, Path(folder, READY_MARKER))


def _agents_answer(path: str, frame: bytes, environment: Mapping[str, str]) -> Answer:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_SECONDS.get(environment.get("CNI_COMMAND", ""), _SECONDS_OTHERWISE))
        connection.connect(path)
        netns = _opened(environment.get("CNI_NETNS", ""))
        try:
            sent = socket.send_fds(connection, [frame], [netns] if netns is not None else [])
        finally:
            if netns is not None:
                os.close(netns)
        # Even to send nothing fails once the agent has answered and closed.
        if sent < len(frame):
            connection.sendall(frame[sent:])
        return decoded_answer(_received(connection, body_length(_received(connection, LENGTH_SIZE))))


def _opened(netns: str) -> int | None:
    """The namespace, or None: whether that is an error is the agent's to say."""
    try:
        return os.open(netns, os.O_RDONLY | os.O_CLOEXEC) if netns else None
    except OSError:
        return None


def _received(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            raise ConnectionError("the agent closed the connection before its answer was complete")
        data += chunk
    return data


def _own_answer(command: str, version: str, marker: Path) -> Answer:
    # Removing the namespace frees everything, and the agent sees the link go.
    if command == "DEL" or (command == "STATUS" and marker.exists()):
        return Answer(0, b"")
    if command == "STATUS":
        error = CniError(
            ErrorCode.NOT_AVAILABLE, "the podroute agent has not been ready since boot", "wait for it, or see its log"
        )
    else:
        error = CniError(
            ErrorCode.TRY_AGAIN, "the podroute agent does not answer", "wait until it runs on this node, or see its log"
        )
    return Answer(1, rendered_error(error, version))


if __name__ == "__main__":
    sys.exit(main())
