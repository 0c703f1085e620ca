"""The agent's end of the CNI socket: receives calls, hands them on as typed requests, answers.

The agent runs `serve` as one of its tasks. A plugin that goes away cancels the handling of its call; a handler's
CniError becomes the specification's error object. Only root may connect.
"""

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

from controller.cni.protocol import (
    LENGTH_SIZE,
    Answer,
    FramingError,
    body_length,
    decoded_call,
    encoded_answer,
)
from controller.cni.request import Command, Request, request_in, version_in
from controller.cni.result import (
    CniError,
    ErrorCode,
    Success,
    rendered_error,
    rendered_success,
    rendered_versions,
)

log = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Success | None]]
"""Carries out a request: a result for ADD, None for the others. Raises CniError.

`netns_fd` is closed after it has ended.
"""

_BACKLOG = 512
_RECEIVE_SECONDS = 10.0
_ACCEPT_AGAIN_SECONDS = 0.1
_CHUNK = 1 << 16
_CREDENTIALS = struct.Struct("=iII")


async def serve(path: Path, handle: Handler) -> None:
    """Answer calls until cancelled; then the socket's file is removed. Raises OSError if the socket can't be made."""
    listener = _listening(path)
    try:
        await _accept(listener, handle)
    finally:
        listener.close()
        _remove(path)


def _listening(path: Path) -> socket.socket:
    """A socket that only root reaches, in place of one that an earlier agent left."""
    _remove(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    previous = os.umask(0o177)
    try:
        listener.bind(str(path))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(previous)
    return listener


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


async def _accept(listener: socket.socket, handle: Handler) -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as calls:
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:
                # Out of descriptors, or the plugin has gone already: it waits in the backlog, and others are being served.
                log.error("a CNI call could not be accepted: %s", error)
                await asyncio.sleep(_ACCEPT_AGAIN_SECONDS)
                continue
            calls.create_task(_serve_one(connection, handle), name="cni call")


async def _serve_one(connection: socket.socket, handle: Handler) -> None:
    descriptors: list[int] = []
    try:
        with connection:
            _, user, _ = _CREDENTIALS.unpack(
                connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            )
            if user != 0:
                log.warning("CNI call by user %d refused: only root may call", user)
                return
            body = await asyncio.wait_for(_received(connection, descriptors), _RECEIVE_SECONDS)
            answer = await _answer_unless_gone(connection, body, descriptors[0] if descriptors else None, handle)
            if answer is not None:
                await asyncio.get_running_loop().sock_sendall(connection, encoded_answer(answer))
    except (FramingError, ConnectionError, TimeoutError) as error:
        log.warning("CNI call dropped: %s", error or type(error).__name__)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


async def _received(connection: socket.socket, descriptors: list[int]) -> bytes:
    """The body of a call; descriptors that come along are appended. Raises FramingError or ConnectionError."""
    data = bytearray()
    while True:
        await _readable(connection)
        try:
            chunk, received, _, _ = socket.recv_fds(connection, _CHUNK, 4, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            continue
        descriptors += received
        if not chunk:
            raise ConnectionError("the plugin closed the connection before its call was complete")
        data += chunk
        if len(data) >= LENGTH_SIZE:
            end = LENGTH_SIZE + body_length(bytes(data[:LENGTH_SIZE]))
            if len(data) > end:
                raise FramingError("more bytes than the call announced")
            if len(data) == end:
                return bytes(data[LENGTH_SIZE:])


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    # By number: the selector would describe a socket object in an error of its own, which asks the kernel twice.
    number = connection.fileno()
    loop.add_reader(number, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(number)


async def _answer_unless_gone(
    connection: socket.socket, body: bytes, netns_fd: int | None, handle: Handler
) -> Answer | None:
    """The answer, or None if the plugin went away first: then the handling was cancelled and has ended."""
    handling = asyncio.ensure_future(_answer(body, netns_fd, handle))
    # A plugin sends nothing after its call: whatever is to be read now is the end of the connection.
    gone = asyncio.ensure_future(_readable(connection))
    try:
        await asyncio.wait((handling, gone), return_when=asyncio.FIRST_COMPLETED)
        if handling.done():
            return handling.result()
        log.info("CNI call cancelled: the plugin has gone away")
        return None
    finally:
        gone.cancel()
        handling.cancel()
        # The namespace's descriptor is the handler's until it has ended.
        await asyncio.wait((handling, gone))


async def _answer(body: bytes, netns_fd: int | None, handle: Handler) -> Answer:
    call = decoded_call(body)
    version = version_in(call.stdin)
    try:
        request = request_in(call, netns_fd)
        version = request.configuration.cni_version
        if request.command is Command.VERSION:
            return Answer(0, rendered_versions(version))
        success = await handle(request)
        return Answer(0, rendered_success(success, version) if success else b"")
    except CniError as error:
        return Answer(1, rendered_error(error, version))
    except Exception:
        # One call that fails unexpectedly must not take the agent down with it.
        log.exception(
            "CNI %s of container %s failed",
            call.environment.get("CNI_COMMAND"),
            call.environment.get("CNI_CONTAINERID"),
        )
        failure = CniError(
            ErrorCode.INTERNAL, "the podroute agent failed unexpectedly", "see the agent's log for the traceback"
        )
        return Answer(1, rendered_error(failure, version))
