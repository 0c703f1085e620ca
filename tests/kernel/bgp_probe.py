"""Watches a routing table without a pause and tells whether a prefix was ever missing."""

import threading
from collections.abc import Callable
from types import TracebackType


class RouteProbe:
    """Asks a router for its prefixes as fast as it answers, between `with` and its end.

    `looks` counts the answers, `missing` those that lacked one of the wanted prefixes.
    """

    def __init__(self, prefixes: Callable[[], set[str]], wanted: set[str]) -> None:
        self._prefixes, self._wanted = prefixes, wanted
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.looks = 0
        self.missing: list[set[str]] = []

    def __enter__(self) -> "RouteProbe":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stopping.wait(0.01):
            lacking = self._wanted - self._prefixes()
            self.looks += 1
            if lacking:
                self.missing.append(lacking)
