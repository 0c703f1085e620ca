"""/healthz, /readyz and /metrics of the agent, over plain HTTP on one address.

Counters are read from the agent's state when they are asked for; there is no second copy to keep right.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from controller.agent.state import State, Trouble
from controller.api.reasons import Reason
from controller.kernel.values import DriftKind

# A request line and its headers; nobody needs more to ask for metrics.
_REQUEST_LIMIT = 8192
_REQUEST_SECONDS = 5.0


class StateCollector(Collector):
    """The agent's state as metrics."""

    def __init__(self, state: State) -> None:
        """Reads `state` whenever it is collected."""
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """One pass over the state."""
        state = self._state
        yield _gauge("podroute_agent_ready", "1 once the node may start pods.", float(state.is_ready))
        yield _gauge("podroute_addresses_in_use", "Addresses of pods.", len(state.ledger.used))
        yield _gauge("podroute_addresses_resting", "Released addresses that rest.", len(state.ledger.resting))
        yield _gauge("podroute_additions_waiting", "Pods that wait for a block.", len(state.waiting))
        yield _gauge("podroute_blocks", "Blocks that the node holds.", len(state.plan.blocks) if state.plan else 0)
        yield _gauge("podroute_learned_routes", "Learned routes in the kernel.", state.learned_installed)
        yielded = CounterMetricFamily("podroute_addresses_yielded", "Addresses reused before their rest was over.")
        yielded.add_metric([], state.ledger.yielded)
        yield yielded
        drift = CounterMetricFamily("podroute_drift_repaired", "Foreign changes repaired.", labels=["kind"])
        for kind in DriftKind:
            drift.add_metric([kind], state.drift[kind])
        yield drift
        yield self._troubles()
        yield from self._sessions()

    def _troubles(self) -> Metric:
        troubles = GaugeMetricFamily(
            "podroute_trouble", "1 for each reason why the node is not as planned.", labels=["reason"]
        )
        for reason in sorted({trouble.reason for trouble in self._state.troubles.values()}):
            troubles.add_metric([reason], 1)
        return troubles

    def _sessions(self) -> Iterable[Metric]:
        up = GaugeMetricFamily("podroute_session_established", "1 if the session is established.", labels=["session"])
        sent = GaugeMetricFamily("podroute_session_prefixes_sent", "Prefixes announced.", labels=["session"])
        accepted = GaugeMetricFamily("podroute_session_prefixes_accepted", "Routes accepted.", labels=["session"])
        refused = GaugeMetricFamily(
            "podroute_session_prefixes_refused", "Routes refused.", labels=["session", "reason"]
        )
        restarts = CounterMetricFamily(
            "podroute_session_restarts", "Times the session left Established.", labels=["session"]
        )
        # What a speaker said last that does not answer any more need not be so.
        is_away = any(each.reason is Reason.SPEAKER_AWAY for each in self._state.troubles.values())
        for session in self._state.observed.sessions:
            up.add_metric([session.name], float(session.state == "established" and not is_away))
            sent.add_metric([session.name], len(session.sent))
            accepted.add_metric([session.name], session.accepted)
            restarts.add_metric([session.name], session.restarts)
            for reason, count in session.refused.items():
                refused.add_metric([session.name, reason], count)
        return up, sent, accepted, refused, restarts


def _gauge(name: str, text: str, value: float) -> Metric:
    gauge = GaugeMetricFamily(name, text)
    gauge.add_metric([], value)
    return gauge


def answer(path: str, state: State, registry: CollectorRegistry) -> tuple[int, bytes]:
    """Status code and body for a path."""
    match path:
        case "/healthz":
            return 200, b"ok\n"
        case "/readyz":
            return (200, b"ready\n") if state.is_ready else (503, b"no complete picture yet\n")
        case "/metrics":
            return 200, generate_latest(registry)
    return 404, b"ask for /healthz, /readyz or /metrics\n"


async def serve(state: State, address: str) -> None:
    """The task: serves until cancelled; at once done if `address` is empty."""
    if not address:
        return
    registry = CollectorRegistry()
    registry.register(StateCollector(state))

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(
            OSError, TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError
        ):
            async with asyncio.timeout(_REQUEST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                code, body = answer(head.split(b" ", 2)[1].decode(errors="replace"), state, registry)
                head_out = f"HTTP/1.0 {code} {'OK' if code == 200 else 'Error'}\r\nContent-Type: text/plain; version=0.0.4\r\n\r\n"
                writer.write(head_out.encode() + body)
                await writer.drain()
        writer.close()

    host, _, port = address.rpartition(":")
    try:
        server = await asyncio.start_server(on_connection, host.strip("[]"), int(port), limit=_REQUEST_LIMIT)
    except OSError as error:
        state.set_trouble("health", Trouble(Reason.HEALTH_PORT, f"--health {address}: {error.strerror or error}"))
        return
    async with server:
        await server.serve_forever()
