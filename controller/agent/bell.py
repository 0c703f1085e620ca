"""Wakes one task when something changed; many rings before it looks count as one. Used within the agent."""

import asyncio
from collections.abc import Iterable


class Bell:
    """Rung from the agent's event loop by whoever changed something; waited for by one task."""

    def __init__(self) -> None:
        """Starts silent."""
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Wakes the waiting task, or the next wait at once."""
        self._event.set()

    async def wait(self, seconds: float | None = None) -> bool:
        """Returns True after a ring, False if none came within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class Worklist(Bell):
    """A bell that says what for: everything, or the learned routes of some prefixes alone."""

    def __init__(self) -> None:
        """Starts silent."""
        super().__init__()
        self._everything = False
        self._prefixes: set[str] = set()

    def ring(self) -> None:
        """Everything is to be looked at."""
        self._everything = True
        super().ring()

    def ring_for(self, prefixes: Iterable[str]) -> None:
        """The best ways to these prefixes have changed."""
        self._prefixes.update(prefixes)
        super().ring()

    def take(self) -> frozenset[str] | None:
        """What was rung for since the last time: prefixes, or None for everything."""
        everything, prefixes = self._everything, frozenset(self._prefixes)
        self._everything, self._prefixes = False, set()
        return None if everything or not prefixes else prefixes


class Broadcast:
    """Wakes every task that waits now; used by additions that wait for a block."""

    def __init__(self) -> None:
        """Starts with nobody waiting."""
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Wakes all who wait now."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Returns at the next ring."""
        await self._event.wait()
