"""`podroute operator`: puts the parts together, runs them, and ends them. Called by `controller.cli.main`."""

import argparse
import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, field, replace

from controller.api.objects import Resource
from controller.kube.client import Api, connect
from controller.kube.errors import KubeError
from controller.kube.events import EventRecorder
from controller.kube.lease import Lease, LeaseTerms
from controller.kube.resources import collection_of
from controller.kube.store import Store, WatchEvent
from controller.operator.feed import Feed, Listener
from controller.operator.health import HealthServer, Metrics
from controller.operator.inventory import WATCHED
from controller.operator.reconciler import Reconciler
from controller.operator.rollout import SpeakerRollout
from controller.operator.telling import Teller
from controller.operator.term import Term
from controller.plan.inventory import RECLAIM_MARGIN

log = logging.getLogger(__name__)

CONTROLLER = "podroute.dev/operator"
LEASE_NAME = "podroute-operator"


@dataclass(frozen=True, slots=True)
class Options:
    """What `podroute operator` is told. Times are seconds; `metrics_address` is HOST:PORT, or empty for none."""

    kubeconfig: str = ""
    namespace: str = "podroute-system"
    identity: str = ""
    metrics_address: str = ""
    settle_seconds: float = 60.0
    relist_seconds: float = 300.0
    reclaim_margin: float = RECLAIM_MARGIN
    lease: LeaseTerms = field(default_factory=LeaseTerms)
    log_level: str = "info"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="podroute operator",
        description="Carves blocks for nodes out of IPPools, resolves BGPPeers into sessions, and writes what each node is to do. "
        "One a cluster writes (it holds the Lease podroute-operator); others wait.",
    )
    default = Options()
    parser.add_argument("--kubeconfig", default="", help="default: $KUBECONFIG, the pod's account, ~/.kube/config")
    parser.add_argument(
        "--namespace", default=default.namespace, help="podroute's own: Lease here (default %(default)s)"
    )
    parser.add_argument(
        "--identity", default="", help="this process's name in the Lease (default: host and process id)"
    )
    parser.add_argument(
        "--metrics-address", default="", metavar="HOST:PORT", help="/metrics, /healthz, /readyz (default: off)"
    )
    parser.add_argument(
        "--settle-seconds",
        type=float,
        default=60.0,
        metavar="S",
        help="after start, wait at most this long for every agent's word before granting (default %(default)s)",
    )
    parser.add_argument(
        "--relist-seconds",
        type=float,
        default=300.0,
        metavar="S",
        help="list everything this often, besides watching (default %(default)s)",
    )
    parser.add_argument(
        "--reclaim-margin-seconds",
        type=float,
        default=RECLAIM_MARGIN,
        metavar="S",
        help="beyond the grace period, wait this long for a deleted node's agent to give its blocks up (default %(default)s)",
    )
    parser.add_argument(
        "--lease-seconds",
        type=float,
        default=15.0,
        metavar="S",
        help="how long the Lease lasts without renewal (default %(default)s)",
    )
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"], default="info")
    return parser


def options_from(arguments: Sequence[str]) -> Options:
    """Reads the command line; exits with 2 and the usage if it is wrong."""
    parser = _parser()
    given = parser.parse_args(list(arguments))
    if given.metrics_address:
        _, _, port = given.metrics_address.rpartition(":")
        if not port.isdigit():
            parser.error(f"--metrics-address {given.metrics_address!r}: write HOST:PORT, e.g. 127.0.0.1:9101")
    if given.lease_seconds < 3:
        parser.error(f"--lease-seconds {given.lease_seconds}: at least 3")
    terms = LeaseTerms(given.lease_seconds, given.lease_seconds * 2 / 3, given.lease_seconds / 5)
    return Options(
        kubeconfig=given.kubeconfig,
        namespace=given.namespace,
        identity=given.identity,
        metrics_address=given.metrics_address,
        settle_seconds=given.settle_seconds,
        relist_seconds=given.relist_seconds,
        reclaim_margin=given.reclaim_margin_seconds,
        lease=terms,
        log_level=given.log_level,
    )


def main(arguments: Sequence[str]) -> int:
    """The daemon's entry: exit code 0 after SIGTERM, 1 if there is no way to the API server."""
    return run(options_from(arguments))


def run(options: Options) -> int:
    """Runs the operator until SIGTERM or SIGINT."""
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    for noisy in ("kopf", "httpx2", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # It reports each attempt to reach a server that is away, which is said once elsewhere, and that it handles no signals.
    for noisy in ("kopf._cogs.clients", "kopf._core.reactor"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    try:
        api = connect(options.kubeconfig, namespace=options.namespace)
    except KubeError as error:
        print(f"podroute operator: {error}", file=sys.stderr)
        return 1
    return asyncio.run(Operator(options, api).run())


class Operator:
    """All parts of one operator process, and their order of starting and ending."""

    def __init__(self, options: Options, api: Api) -> None:
        self._options = options
        self._api = api
        self._identity = options.identity or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._metrics = Metrics()
        self._store = Store(WATCHED)
        lease = Lease(api, LEASE_NAME, options.namespace, self._identity, options.lease)
        self._term = Term(lease, self._on_begin, self._on_recovered)
        self._metrics.leader.set_function(lambda: float(self._term.may_write()))
        recorder = EventRecorder(api, CONTROLLER, self._identity)
        self._teller = Teller(api, recorder, self._term.may_write)
        self._rollout = SpeakerRollout(api, self._store, recorder, self._term.may_write)
        self._reconciler = Reconciler(api, self._store, self._teller, self._metrics)
        self._reconciler.may_write = self._term.may_write
        self._reconciler.new_epoch = lambda: secrets.token_hex(4)
        self._reconciler.memory = replace(
            self._reconciler.memory, settle_seconds=options.settle_seconds, reclaim_margin=options.reclaim_margin
        )

    def _on_begin(self) -> None:
        self._reconciler.begin_term()
        # The watches may go on from a version that this server never had.
        self._reconciler.on_rewound()

    def _on_recovered(self) -> None:
        # Deletes may have happened while no watch was open.
        self._reconciler.relist_all()

    async def run(self) -> int:
        """Runs until a signal asks it to end; then gives the Lease up."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        feed = self._feed(loop)
        self._reconciler.on_rewound = feed.restart
        # Any of these ending by itself is an error, and ends the process: starting again is harmless.
        tasks: set[asyncio.Task[None]] = {
            asyncio.create_task(coroutine, name=name) for name, coroutine in self._parts(feed)
        }
        stopping: asyncio.Task[None] = asyncio.create_task(_until(stop), name="stop")
        try:
            done, _ = await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            return self._verdict(done - {stopping})
        finally:
            for task in (stopping, *tasks):
                task.cancel()
            await asyncio.gather(stopping, *tasks, return_exceptions=True)
            await self._term.end()
            await self._api.close()
            await asyncio.to_thread(feed.stop, 2.0)

    def _feed(self, loop: asyncio.AbstractEventLoop) -> Feed:
        def on_event(event: WatchEvent) -> None:
            loop.call_soon_threadsafe(self._reconciler.on_event, event)

        def on_relist(kind: type[Resource]) -> None:
            loop.call_soon_threadsafe(self._reconciler.on_relist, kind)

        listener = Listener(on_event, on_relist, self._metrics.watch_failures.inc)
        return Feed(self._api.config, WATCHED, listener, self._identity)

    def _parts(self, feed: Feed) -> Iterator[tuple[str, Coroutine[None, None, None]]]:
        yield "lease", self._term.run()
        yield "reconciler", self._reconcile(feed)
        yield "teller", self._teller.run()
        yield "relist", self._relist()
        yield "rollout", self._rollout.run()
        if self._options.metrics_address:
            host, _, port = self._options.metrics_address.rpartition(":")
            server = HealthServer(self._metrics, lambda: True, lambda: self._store.is_loaded)
            yield "health", server.run(host.strip("[]"), int(port))

    async def _reconcile(self, feed: Feed) -> None:
        await self._await_kinds()
        feed.start()
        await self._reconciler.run()

    async def _await_kinds(self) -> None:
        """Waits until the server serves every kind: what is missing when kopf looks is watched later."""
        said = ""
        while True:
            try:
                for kind in WATCHED:
                    await self._api.list(collection_of(kind), field_selector="metadata.name=none")
                return
            except KubeError as error:
                if str(error) != said:
                    log.warning(
                        "waiting for the API server and the kinds (ours: manifests/crds; ServiceCIDR: Kubernetes 1.33): %s",
                        error,
                    )
                said = str(error)
            await asyncio.sleep(0.2)

    async def _relist(self) -> None:
        while True:
            await asyncio.sleep(self._options.relist_seconds)
            self._reconciler.relist_all()

    def _verdict(self, ended: set[asyncio.Task[None]]) -> int:
        for task in ended:
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("%s ended: %s", task.get_name(), error, exc_info=error)
            else:
                log.error("%s ended", task.get_name())
        return 1 if ended else 0


async def _until(event: asyncio.Event) -> None:
    await event.wait()
