"""The daemon: ExaBGP's API process. Reads its events, writes its commands, answers at the speaker's socket.

One task owns `SpeakerState`; the reader of events never waits for anything else, since an unread pipe would stop
ExaBGP itself. Started by `bgp.speaker.start_daemon`; ends when ExaBGP's pipe does.

With PODROUTE_RECORD=FILE in the environment, orders and events are appended to that file as they come (passwords
included): `tests/replay` plays such files back.
"""

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import socket
import sys
import time
from pathlib import Path

import msgspec

from bgp.exabgp.events import Event, Other, event_of
from bgp.prefixes import family_of
from bgp.reasons import ProblemReason
from bgp.speaker.paths import CONFIGURATION_NAME, GOOD_NAME, LOG_SOCKET_NAME, SOCKET_NAME, STORE_NAME
from bgp.speaker.reload import Reloader, ReloadRefused, ValidationFailed
from bgp.speaker.server import Server
from bgp.speaker.state import SpeakerState
from bgp.speaker.store import Store
from bgp.values import Desired, Family, Neighbour, Problem

log = logging.getLogger("speaker")

PIPE_BYTES = 1024 * 1024
TICK_SECONDS = 0.25
ADDRESS_CHECK_SECONDS = 2.0
BIND_RETRY_SECONDS = 10.0
COALESCE_SECONDS = 0.05
CONFIGURATION_RETRY_SECONDS = 2.0
DECISIONS_PER_ROUND = 2000


class Daemon:
    """Ties the state to ExaBGP's pipes, the configuration, the store and the socket."""

    def __init__(self, run_dir: Path) -> None:
        """`run_dir` is the speaker's own folder."""
        self._run_dir = run_dir
        self._store = Store(run_dir / STORE_NAME)
        self._good_store = Store(run_dir / GOOD_NAME)
        self._stored_good: Desired | None = None
        self._state = SpeakerState(time.monotonic())
        self._server = Server(self._state, self._on_desired)
        self._reloader = Reloader(run_dir, [sys.executable, "-I", *_own_command()])
        self._configuration_due = asyncio.Event()
        self._work_due = asyncio.Event()
        self._running_text = ""
        self._attempted: list[Neighbour] = []
        self._bind_retry_at: float | None = None
        recording = os.environ.get("PODROUTE_RECORD")
        self._recording = os.open(recording, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if recording else -1

    def _record(self, key: str, value: object) -> None:
        if self._recording >= 0:
            os.write(self._recording, msgspec.json.encode({"at": time.monotonic(), key: value}) + b"\n")

    async def run(self) -> None:
        """Serves until ExaBGP or the supervision goes away, or one of the tasks fails."""
        self._restore()
        with contextlib.suppress(FileNotFoundError):
            (self._run_dir / SOCKET_NAME).unlink()
        async with await asyncio.start_unix_server(
            self._server.serve, self._run_dir / SOCKET_NAME, limit=self._server.line_limit
        ):
            (self._run_dir / SOCKET_NAME).chmod(0o660)
            tasks = {
                asyncio.create_task(self._read_events(), name="reading events"),
                asyncio.create_task(self._read_log(), name="reading the log"),
                asyncio.create_task(self._configure(), name="configuring"),
                asyncio.create_task(self._work(), name="writing commands"),
                asyncio.create_task(self._keep_time(), name="keeping time"),
            }
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                expected = error is None or isinstance(error, ReloadRefused | OSError)
                log.warning("ending: %s: %s", task.get_name(), error or "over", exc_info=None if expected else error)

    # Orders

    def _restore(self) -> None:
        try:
            self._stored_good = self._good_store.load()
        except (OSError, msgspec.DecodeError) as error:
            log.error("what ran before can't be read and is left out: %s", error)
        if self._stored_good is not None:
            self._state.wanted.recall(self._stored_good)
        try:
            desired = self._store.load()
        except (OSError, msgspec.DecodeError) as error:
            log.error("the stored state can't be read and is left out until the agent comes: %s", error)
            return
        if desired is None:
            return
        try:
            self._accept(desired)
        except Exception:  # a mistake of ours must not keep the agent from sending another order
            log.exception("the stored state can't be followed and is left out until the agent comes")

    def _on_desired(self, desired: Desired) -> None:
        """Stores an order, then follows it. Raises OSError if it can't be stored; nothing has changed then."""
        if self._state.wanted.desired != desired:
            self._store.save(desired)
            self._accept(desired)

    def _accept(self, desired: Desired) -> None:
        self._record("desired", desired)
        self._state.set_desired(desired, time.monotonic())
        self._check_addresses()
        self._configuration_due.set()
        self._work_due.set()

    def _check_addresses(self) -> None:
        """Notes which local addresses the node lacks: a socket can be bound to the others."""
        wanted = {neighbour.local_address for neighbour in self._state.clean.neighbours}
        missing = frozenset(address for address in wanted if not _is_local(address))
        if missing != self._state.wanted.missing_addresses:
            self._state.wanted.missing_addresses = missing
            self._configuration_due.set()
            self._work_due.set()

    # ExaBGP

    async def _read_events(self) -> None:
        reader = await _pipe_reader(sys.stdin.fileno())
        while line := await reader.readline():
            self._record("line", line.decode(errors="replace"))
            self._on_event(event_of(line))
            self._work_due.set()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Other) and event.unreadable:
            log.error("an event of ExaBGP can't be read and is left out: %s", event.text)
        try:
            self._state.on_event(event, time.monotonic())
        except Exception:  # ending would bring the same event again, and every session down each time
            log.exception("an event of ExaBGP can't be followed and is left out: %r", event)

    async def _read_log(self) -> None:
        reader, _ = await asyncio.open_unix_connection(self._run_dir / LOG_SOCKET_NAME)
        while line := await reader.readline():
            text = line.decode(errors="replace").strip()
            self._reloader.on_log_line(text)
            if "can not bind to" in text:
                self._on_bind_failure(text)

    def _on_bind_failure(self, text: str) -> None:
        self._bind_retry_at = time.monotonic() + BIND_RETRY_SECONDS
        self._state.note(
            Problem(
                object="desired",
                field="listen_port",
                value=str(self._state.clean.listen_port),
                reason=ProblemReason.NOT_APPLIED,
                message=f"{text.partition('can not ')[2]}; tried again every {BIND_RETRY_SECONDS:g} s",
            )
        )
        self._work_due.set()

    async def _configure(self) -> None:
        """Keeps ExaBGP's configuration equal to what the state wants, a batch of changes at a time."""
        while True:
            await self._configuration_due.wait()
            await asyncio.sleep(COALESCE_SECONDS)
            self._configuration_due.clear()
            try:
                await self._configure_once()
            except (OSError, ValidationFailed) as error:
                log.error("the configuration stays as it was, trying again: %s", error)
                self._note_not_applied(str(error))
                self._configuration_due.set()
                await asyncio.sleep(CONFIGURATION_RETRY_SECONDS)

    async def _configure_once(self) -> None:
        desired, neighbours = self._state.clean, self._state.neighbours_to_configure()
        self._attempted = neighbours
        text = self._reloader.text(desired, neighbours)
        if text != self._running_text:
            refused = await self._reloader.refusals(desired, neighbours)
            if refused:
                self._state.reject(refused, time.monotonic())
                self._configuration_due.set()
                return
            self._state.expect_resets(neighbours)
            self._state.notes.pop("desired listen_port", None)
            await self._reloader.apply(text, len(neighbours))
            self._running_text = text
            log.info("ExaBGP runs a configuration with %d neighbours", len(neighbours))
        self._state.set_configured(neighbours, desired)
        self._remember_good()
        if self._configuration_due.is_set():
            self._state.applied = False  # a later order is already there
        self._state.notes.pop("desired configuration", None)
        self._work_due.set()

    def _remember_good(self) -> None:
        """Keeps on disk what runs: a later start must find it even if the order has become a wrong one since."""
        good = self._state.wanted.good
        if good is None or good == self._stored_good:
            return
        try:
            self._good_store.save(good)
            self._stored_good = good
        except OSError as error:
            log.error("what runs can't be stored, and is not there for a restart with a wrong order: %s", error)

    def _note_not_applied(self, message: str) -> None:
        path = str(self._run_dir / CONFIGURATION_NAME)
        reason = ProblemReason.NOT_APPLIED
        self._state.note(Problem(object="desired", field="configuration", value=path, reason=reason, message=message))
        self._work_due.set()

    async def _work(self) -> None:
        """Writes commands, decides routes and tells the watchers, in rounds short enough to keep reading events."""
        writer = await _pipe_writer(sys.stdout.fileno())
        while True:
            await self._work_due.wait()
            self._work_due.clear()
            for line in self._state.telling.lines():
                writer.write(f"{line}\n".encode())
            self._server.publish(self._state.decide(DECISIONS_PER_ROUND))
            if self._state.rib.dirty:
                self._work_due.set()
            await writer.drain()
            await asyncio.sleep(0)

    async def _keep_time(self) -> None:
        addresses_at = 0.0
        while True:
            await asyncio.sleep(self._state.seconds_to_wait(TICK_SECONDS))
            now = time.monotonic()
            if not self._state.telling.exabgp_is_alive(now):
                log.error("ExaBGP does not answer any more")
                return
            if self._state.tick(now) or self._state.telling.commands_wait:
                self._work_due.set()
            if now >= addresses_at:
                addresses_at = now + ADDRESS_CHECK_SECONDS
                self._check_addresses()
            if self._bind_retry_at is not None and now >= self._bind_retry_at:
                self._bind_retry_at = None
                self._running_text = ""
                self._configuration_due.set()
            if self._state.neighbours_to_configure() != self._attempted:
                self._configuration_due.set()


def _own_command() -> list[str]:
    return [str(Path(__file__).with_name("start_daemon.py")), *sys.argv[1:]]


def _is_local(address: str) -> bool:
    kind = socket.AF_INET6 if family_of(address) is Family.IPV6 else socket.AF_INET
    with socket.socket(kind, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            return error.errno != errno.EADDRNOTAVAIL
    return True


async def _pipe_reader(descriptor: int) -> asyncio.StreamReader:
    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    reader = asyncio.StreamReader(limit=16 * PIPE_BYTES)
    pipe = os.fdopen(descriptor, "rb", buffering=0)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader


async def _pipe_writer(descriptor: int) -> asyncio.StreamWriter:
    loop = asyncio.get_running_loop()
    pipe = os.fdopen(descriptor, "wb", buffering=0)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, pipe)
    return asyncio.StreamWriter(transport, protocol, None, loop)


def run(run_dir: Path) -> None:
    """The daemon's whole life. Its log goes to standard error, which is ExaBGP's log."""
    os.umask(0o077)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="speaker         %(message)s")
    try:
        asyncio.run(Daemon(run_dir).run())
    except ReloadRefused as error:
        log.error("%s", error)
