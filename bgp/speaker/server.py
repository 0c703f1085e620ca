"""The speaker's Unix socket: takes orders, answers questions, streams changes. Called by the daemon.

A slow watcher holds nobody up: what it has not been told yet is a set of prefixes, merged until it reads again.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator

import msgspec

from bgp.speaker.protocol import (
    LINE_LIMIT,
    Delta,
    Failed,
    Show,
    Snapshot,
    Stored,
    Sync,
    Watch,
    line_of,
    pieces_of_observed,
    pieces_of_shown,
    request_of,
)
from bgp.speaker.state import SpeakerState
from bgp.speaker.view import head_of, observed_of, shown_of
from bgp.values import Desired, Observed

log = logging.getLogger("speaker")

DEBOUNCE_SECONDS = 0.02


class _Watcher:
    """What one watching client has still to hear."""

    def __init__(self) -> None:
        self.prefixes: set[str] = set()
        self.due = asyncio.Event()


class Server:
    """Serves any number of clients."""

    line_limit = LINE_LIMIT

    def __init__(self, state: SpeakerState, on_desired: Callable[[Desired], None]) -> None:
        """`on_desired` stores an order and follows it; it raises OSError if it could not be stored."""
        self._state = state
        self._on_desired = on_desired
        self._watchers: set[_Watcher] = set()

    def publish(self, prefixes: Iterable[str]) -> None:
        """Something changed: the routes of these prefixes, or (none given) only the head."""
        for watcher in self._watchers:
            watcher.prefixes.update(prefixes)
            watcher.due.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until it closes."""
        try:
            while line := await reader.readline():
                if await self._answer(line, writer):
                    watching = asyncio.create_task(self._watch(writer), name="watch")
                    await reader.read()  # a watcher only closes
                    watching.cancel()
        except (OSError, asyncio.LimitOverrunError, ValueError):
            pass  # the client went away or talks something else
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> bool:
        """Answers one request; True if the client wants to watch from here on."""
        try:
            request = request_of(line)
        except msgspec.DecodeError as error:
            writer.write(line_of(Failed(f"can't read the request: {error}")))
            await writer.drain()
            return False
        if isinstance(request, Watch):
            return True
        if isinstance(request, Show):
            await _write_pieces(writer, pieces_of_shown(*shown_of(self._state)))
        elif isinstance(request, Sync):
            try:
                self._on_desired(request.desired)
            except OSError as error:
                writer.write(line_of(Failed(f"can't store the desired state: {error}")))
            except Exception as error:  # a mistake of ours: the client must hear that its order is not followed
                log.exception("an order can't be followed")
                writer.write(line_of(Failed(f"can't follow the desired state: {error!r}")))
            else:
                await _write_pieces(writer, pieces_of_observed(Stored(observed_of(self._state))))
        await writer.drain()
        return False

    async def _watch(self, writer: asyncio.StreamWriter) -> None:
        watcher = _Watcher()
        self._watchers.add(watcher)
        try:
            observed = observed_of(self._state)
            last = msgspec.structs.replace(observed, routes={})
            await _write_pieces(writer, pieces_of_observed(Snapshot(observed)))
            while not writer.is_closing():
                await watcher.due.wait()
                await asyncio.sleep(DEBOUNCE_SECONDS)
                last = await self._tell(watcher, writer, last)
        except OSError:
            writer.close()
        finally:
            self._watchers.discard(watcher)

    async def _tell(self, watcher: _Watcher, writer: asyncio.StreamWriter, last: Observed) -> Observed:
        watcher.due.clear()
        prefixes, watcher.prefixes = watcher.prefixes, set()
        head = head_of(self._state)
        if prefixes or head != last:
            routes = self._state.rib.routes
            writer.write(line_of(Delta(head, {prefix: routes.get(prefix) for prefix in prefixes})))
            await writer.drain()
        return head


async def _write_pieces(writer: asyncio.StreamWriter, pieces: Iterator[bytes]) -> None:
    """Writes a long line while everything else goes on: the largest takes seconds to make."""
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)  # drain returns at once as long as the client keeps up
