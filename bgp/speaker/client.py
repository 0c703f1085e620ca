"""Talks to the speaker's socket: for the agent (asyncio, stays connected) and for the command line (one question).

    async with SpeakerClient(path) as speaker:
        observed = await speaker.sync(desired)
        async for change in speaker.changes():
            ...

Errors: SpeakerError
        ├── SpeakerAway     nobody answers at the socket
        └── DesiredRefused  the speaker could not read or store what was sent; the old state stands
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from types import TracebackType

import msgspec

from bgp.speaker.paths import DEFAULT_SOCKET
from bgp.speaker.protocol import (
    LINE_LIMIT,
    Delta,
    Failed,
    Reply,
    Request,
    Show,
    Shown,
    Snapshot,
    Stored,
    Sync,
    Watch,
    line_of,
    reply_of,
)
from bgp.values import Desired, Detail, Observed

RECONNECT_SECONDS = 0.2


class SpeakerError(Exception):
    """Something between us and the speaker failed; the message names the socket."""


class SpeakerAway(SpeakerError):
    """Nobody answers at the socket."""


class DesiredRefused(SpeakerError):
    """The speaker could not read or store the desired state; what it did before, it still does."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """The observed state after a change.

    `prefixes` are those whose best way changed; None means that all must be compared (first answer, reconnect).
    `observed.routes` is the client's live picture: read it before awaiting the next change, or copy it.
    """

    observed: Observed
    prefixes: frozenset[str] | None


class SpeakerClient:
    """A connection that outlives the speaker: it reconnects, and repeats the last `sync` when it does."""

    def __init__(self, path: str = DEFAULT_SOCKET, *, answer_seconds: float = 10.0) -> None:
        """`path` is the speaker's socket, `answer_seconds` how long `sync` waits in all, reconnects included."""
        self._path = path
        self._answer_seconds = answer_seconds
        self._desired: Desired | None = None
        self._saying = asyncio.Lock()
        self.connected = False

    async def __aenter__(self) -> "SpeakerClient":
        """Connects lazily: a speaker that is away is no error yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing to close: each request has a connection of its own, `changes` closes its own."""

    async def sync(self, desired: Desired) -> Observed:
        """Makes `desired` the speaker's state; returns what is observed once it is stored (not yet applied).

        Raises SpeakerAway if nobody answers within `answer_seconds`, DesiredRefused if it was not stored.
        """
        self._desired = desired
        try:
            return await asyncio.wait_for(self._sync_until_answered(desired), self._answer_seconds)
        except TimeoutError as error:
            raise SpeakerAway(f"no speaker answers at {self._path} within {self._answer_seconds:g} s") from error

    async def _sync_until_answered(self, desired: Desired) -> Observed:
        while True:
            with contextlib.suppress(SpeakerAway):
                return await self._sync_once(desired)
            await asyncio.sleep(RECONNECT_SECONDS)

    async def changes(self) -> AsyncIterator[Change]:
        """Yields the whole observed state first and after every reconnect, then each batch of changes. Never ends."""
        while True:
            with contextlib.suppress(SpeakerError):
                async for change in self._changes_of_one_connection():
                    yield change
            self.connected = False
            await asyncio.sleep(RECONNECT_SECONDS)
            with contextlib.suppress(SpeakerError):
                await self._say_again()

    async def _say_again(self) -> None:
        async with self._saying:
            # What is desired now: an older order must not overtake a newer one.
            if self._desired is not None:
                await self._sync_once(self._desired)

    async def _changes_of_one_connection(self) -> AsyncIterator[Change]:
        async with _connection(self._path) as (reader, writer):
            await _write(writer, Watch())
            observed = Observed()
            while True:
                reply = await _read(reader, self._path)
                self.connected = True
                if isinstance(reply, Snapshot):
                    observed = reply.observed
                    yield Change(observed=observed, prefixes=None)
                elif isinstance(reply, Delta):
                    observed = _merged(observed, reply)
                    yield Change(observed=observed, prefixes=frozenset(reply.routes))

    async def _sync_once(self, desired: Desired) -> Observed:
        async with _connection(self._path) as (reader, writer):
            await _write(writer, Sync(desired))
            reply = await _read(reader, self._path)
        if isinstance(reply, Stored):
            return reply.observed
        raise DesiredRefused(reply.message if isinstance(reply, Failed) else f"unexpected answer from {self._path}")


def _merged(observed: Observed, delta: Delta) -> Observed:
    """The head of the delta over the routes so far; the route table is kept and changed in place."""
    routes = observed.routes
    for prefix, route in delta.routes.items():
        if route is None:
            routes.pop(prefix, None)
        else:
            routes[prefix] = route
    return msgspec.structs.replace(delta.head, routes=routes)


@contextlib.asynccontextmanager
async def _connection(path: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=LINE_LIMIT)
    except OSError as error:
        raise SpeakerAway(f"no speaker answers at {path}: {error.strerror or error}") from error
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _write(writer: asyncio.StreamWriter, request: Request) -> None:
    try:
        writer.write(line_of(request))
        await writer.drain()
    except OSError as error:
        raise SpeakerAway(f"the speaker closed the connection: {error.strerror or error}") from error


async def _read(reader: asyncio.StreamReader, path: str) -> Reply:
    try:
        line = await reader.readline()
        if not line.endswith(b"\n"):
            raise SpeakerAway(f"the speaker at {path} ended")
        return reply_of(line)
    except OSError as error:
        raise SpeakerAway(f"the speaker at {path} closed the connection: {error.strerror or error}") from error
    except (ValueError, msgspec.MsgspecError) as error:
        # Agent and speaker are of different versions, or the line is beyond the limit.
        raise SpeakerError(f"the answer of the speaker at {path} can't be read: {error}") from error


def observe(path: str = DEFAULT_SOCKET, *, answer_seconds: float = 10.0) -> Detail:
    """Everything the speaker knows, asked once and synchronously. Raises SpeakerAway."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(answer_seconds)
            connection.connect(path)
            connection.sendall(line_of(Show()))
            with connection.makefile("rb") as answers:
                line = answers.readline()
    except OSError as error:
        raise SpeakerAway(f"no speaker answers at {path}: {error.strerror or error}") from error
    if not line.endswith(b"\n"):
        raise SpeakerAway(f"the speaker at {path} ended before it answered")
    reply = reply_of(line)
    if not isinstance(reply, Shown):
        raise SpeakerError(f"unexpected answer from {path}: {type(reply).__name__}")
    return reply.detail
