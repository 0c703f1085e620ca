"""What the operator counts, and the small HTTP server that shows it. Called by `controller.operator.main`."""

import asyncio
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

REQUEST_SECONDS = 5.0


class Metrics:
    """The operator's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.plans = Histogram("podroute_operator_plan_seconds", "Time to compute a plan", registry=registry)
        self.looks = Histogram(
            "podroute_operator_reconcile_seconds", "Time from a change to nothing left to write", registry=registry
        )
        self.writes = Counter("podroute_operator_writes", "Objects written", ["verb", "kind"], registry=registry)
        self.errors = Counter(
            "podroute_operator_write_errors", "Writes refused", ["verb", "kind", "error"], registry=registry
        )
        self.lists = Counter("podroute_operator_lists", "Whole lists read", ["kind"], registry=registry)
        self.watch_failures = Counter(
            "podroute_operator_watch_failures", "Times that all watches ended by an error", registry=registry
        )
        self.leader = Gauge("podroute_operator_is_leader", "Whether this operator holds the Lease", registry=registry)
        self.settled = Gauge("podroute_operator_settled", "Whether blocks may be granted", registry=registry)


class HealthServer:
    """Answers GET on three paths. `is_alive` and `is_ready` are asked at each request."""

    def __init__(self, metrics: Metrics, is_alive: Callable[[], bool], is_ready: Callable[[], bool]) -> None:
        self._metrics = metrics
        self._is_alive = is_alive
        self._is_ready = is_ready

    async def run(self, host: str, port: int) -> None:
        """Serves until cancelled. Raises OSError if the address can't be bound."""
        server = await asyncio.start_server(self._answer, host, port)
        async with server:
            await server.serve_forever()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                words = (await reader.readline()).split()
                while (await reader.readline()).strip():
                    continue
            status, body = self._respond(words[1].decode() if len(words) > 1 and words[0] == b"GET" else "")
            head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {len(body)}\r\n"
            writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
            await writer.drain()
        except (OSError, TimeoutError, ValueError):
            return
        finally:
            writer.close()

    def _respond(self, path: str) -> tuple[str, bytes]:
        match path.partition("?")[0]:
            case "/metrics":
                return "200 OK", generate_latest(self._metrics.registry)
            case "/healthz":
                return _yes_or_no(self._is_alive())
            case "/readyz":
                return _yes_or_no(self._is_ready())
        return "404 Not Found", b"try /metrics, /healthz or /readyz\n"


def _yes_or_no(answer: bool) -> tuple[str, bytes]:
    return ("200 OK", b"ok\n") if answer else ("503 Service Unavailable", b"not yet\n")
