"""Watch events by kopf, in a thread and an event loop of its own: kopf cancels what it finds in its loop.

kopf is the event source and nothing more: it sets no finalizer and no annotation, and patches nothing. Its handlers hand every
event on. It does not tell which objects vanished while its watch was broken, so each time that it lists again, this is told, too,
once a kind, and the reconciler lists for itself. Called by `controller.operator.main`.
"""

import asyncio
import base64
import contextlib
import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kopf

# What `kopf.operator` takes as `insights`, and keeps what it found in: kopf does not export the type.
from kopf._cogs.structs.references import Insights
from lightkube.config.kubeconfig import SingleConfig

from controller.api.objects import Resource
from controller.kube.resources import collection_of
from controller.kube.store import WatchEvent

log = logging.getLogger(__name__)

# Seconds before kopf is started again after it ended with an error.
RESTART_SECONDS = 2.0
# Seconds before it looks again for kinds that were missing, at first and at most: the others are watched meanwhile.
FIRST_PATIENCE_SECONDS, LONGEST_PATIENCE_SECONDS = 2.0, 60.0
# kopf hands a list on object by object: it has ended once none came for this long.
QUIET_SECONDS = 0.3


class ListEnds:
    """Makes one call of `on_end` for each kind out of the many objects of a list. Lives in kopf's event loop.

    The call comes after the last object, so that the reconciler's own list is later than kopf's, and once for all of them.
    """

    def __init__(self, on_end: Callable[[type[Resource]], None], quiet_seconds: float = QUIET_SECONDS) -> None:
        self._on_end = on_end
        self._quiet_seconds = quiet_seconds
        self._timers: dict[type[Resource], asyncio.TimerHandle] = {}

    def on_listed(self, kind: type[Resource]) -> None:
        """An object of `kind` came from a list."""
        if (timer := self._timers.pop(kind, None)) is not None:
            timer.cancel()
        self._timers[kind] = asyncio.get_running_loop().call_later(self._quiet_seconds, self._end, kind)

    def _end(self, kind: type[Resource]) -> None:
        self._timers.pop(kind, None)
        self._on_end(kind)


@dataclass(frozen=True, slots=True)
class Listener:
    """What is called from the feed's thread: for every event, for each kind that was listed again, and when all watches failed."""

    on_event: Callable[[WatchEvent], None]
    on_relist: Callable[[type[Resource]], None]
    on_failure: Callable[[], None]


class Feed:
    """Delivers every event of `kinds` from a thread of its own. `identity` is this process's name."""

    def __init__(
        self, config: SingleConfig, kinds: Iterable[type[Resource]], listener: Listener, identity: str
    ) -> None:
        self._config = config
        self._kinds = tuple(kinds)
        self._listener = listener
        self._patience = FIRST_PATIENCE_SECONDS
        # kopf does not export its type of names.
        self._identity: Any = identity
        self._stop = threading.Event()
        # Ends one run of kopf; another begins unless `_stop` is set, too.
        self._round = threading.Event()
        self._end: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._thread = threading.Thread(target=self._run, name="kopf", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Asks kopf to end and waits for that, but not for long: nothing is lost with it."""
        self._stop.set()
        self.restart()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def restart(self) -> None:
        """Begins all watches anew: after a restored backup kopf would go on from a version yet to come, and hear nothing."""
        self._round.set()
        if self._end is not None:
            loop, event = self._end
            # The loop may have ended by itself.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(event.set)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._round.clear()
            try:
                asyncio.run(self._operate())
            except Exception as error:
                # Whatever ends kopf, it is started again, and every kind is listed again.
                log.error("the watches ended and are started again: %s", error)
                self._listener.on_failure()
            for kind in self._kinds:
                if not self._stop.is_set():
                    self._listener.on_relist(kind)
            if not self._round.is_set():
                self._stop.wait(RESTART_SECONDS)

    async def _operate(self) -> None:
        # An event of this loop: for a threading.Event kopf would wait in an executor's thread, which nothing can end, and a kopf
        # that failed would never return.
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_in_one_line)
        self._end = (loop, end := asyncio.Event())
        if self._round.is_set():
            return
        insights = Insights()
        looking = asyncio.create_task(self._look_for_all_kinds(insights, end))
        try:
            await self._run_kopf(insights, end)
        finally:
            looking.cancel()

    async def _look_for_all_kinds(self, insights: Insights, end: asyncio.Event) -> None:
        """Ends kopf, after a while, if it did not find every kind: it would watch the others alone for ever.

        A server that has just begun to serve a kind need not list it yet, and of several each has a list of its own.
        """
        await insights.ready_resources.wait()
        found = {(each.group, each.plural) for each in insights.watched_resources}
        wanted = [collection_of(kind) for kind in self._kinds]
        missing = [f"{each.plural}.{each.group}" for each in wanted if (each.group, each.plural) not in found]
        if not missing:
            self._patience = FIRST_PATIENCE_SECONDS
            return
        patience, self._patience = self._patience, min(2 * self._patience, LONGEST_PATIENCE_SECONDS)
        log.error("the API server does not list %s: looked for again in %g s", ", ".join(missing), patience)
        self._listener.on_failure()
        await asyncio.sleep(patience)
        end.set()

    async def _run_kopf(self, insights: Insights, end: asyncio.Event) -> None:
        await kopf.operator(
            registry=self._registry(),
            settings=_settings(),
            clusterwide=True,
            standalone=True,
            # Without one kopf looks for the user's name, and a container's user needs none: that would be the end of every round.
            identity=self._identity,
            insights=insights,
            stop_flag=end,
        )

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        ends = ListEnds(self._listener.on_relist)
        kopf.on.login(registry=registry)(self._login)
        for kind in self._kinds:
            collection = collection_of(kind)
            # kopf knows the core group by the name "" with version "v1".
            kopf.on.event(
                collection.group, collection.version, collection.plural, registry=registry, id=collection.plural
            )(self._handler(kind, ends))
        return registry

    def _handler(self, kind: type[Resource], ends: ListEnds) -> Callable[..., Any]:
        async def on_event(event: kopf.RawEvent, **_: Any) -> None:
            if event["type"] is None:
                ends.on_listed(kind)
            self._listener.on_event(WatchEvent(kind, dict(event["object"]), is_delete=event["type"] == "DELETED"))

        return on_event

    async def _login(self, **_: Any) -> kopf.ConnectionInfo:
        return connection_of(self._config)


def _in_one_line(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Tells what failed in kopf's loop and has nobody to catch it.

    A watch that kopf's end cuts short leaves generators behind, one within the other. asyncio closes them all at once, and the
    outer one then finds the inner one closed or closing. One that ends while it logs in leaves its connections to the collector of
    garbage. Nothing is lost with either, since this loop ends and every kind is listed anew.
    """
    is_harmless = not context.keys().isdisjoint(("asyncgen", "client_session", "connector"))
    level = logging.DEBUG if is_harmless else logging.ERROR
    log.log(level, "in the watches: %s: %s", context["message"], context.get("exception", "no exception"))


def connection_of(config: SingleConfig) -> kopf.ConnectionInfo:
    """The kubeconfig's cluster and user as kopf wants them. A token file is read anew at each login."""
    cluster, user = config.cluster, config.user
    token = user.token if user else None
    if user and user.token_file:
        token = Path(config.abs_file(user.token_file)).read_text().strip()
    return kopf.ConnectionInfo(
        server=cluster.server,
        ca_path=config.abs_file(cluster.certificate_auth) if cluster.certificate_auth else None,
        ca_data=base64.b64decode(cluster.certificate_auth_data) if cluster.certificate_auth_data else None,
        insecure=cluster.insecure,
        username=user.username if user else None,
        password=user.password if user else None,
        token=token,
        certificate_path=config.abs_file(user.client_cert) if user and user.client_cert else None,
        certificate_data=base64.b64decode(user.client_cert_data) if user and user.client_cert_data else None,
        private_key_path=config.abs_file(user.client_key) if user and user.client_key else None,
        private_key_data=base64.b64decode(user.client_key_data) if user and user.client_key_data else None,
    )


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.process.ultimate_exiting_timeout = None
    settings.queueing.exit_timeout = 0.5
    settings.watching.connect_timeout = 10.0
    settings.watching.server_timeout = 300
    settings.networking.request_timeout = 30.0
    settings.networking.error_backoffs = _Backoffs()
    return settings


class _Backoffs:
    """Seconds between the attempts of a request: without end, as long as the API server may be away."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.2, 0.5, 1.0, 2.0)
        yield from itertools.repeat(3.0)
