"""The operator's term: the time during which it holds the Lease and may write. Called by `controller.operator.main`."""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from controller.kube.errors import KubeError
from controller.kube.lease import Lease

log = logging.getLogger(__name__)


class Term:
    """Keeps the Lease renewed. `on_begin` is called when it was won, and when the server lost what was written since.

    `on_recovered` is called when the server answers again after silence.
    """

    def __init__(self, lease: Lease, on_begin: Callable[[], None], on_recovered: Callable[[], None]) -> None:
        self._lease = lease
        self._on_begin = on_begin
        self._on_recovered = on_recovered
        self._is_silent = False

    def may_write(self) -> bool:
        """Whether this process may write now."""
        return self._lease.is_held(time.monotonic())

    async def run(self) -> None:
        """Never ends by itself; cancel it, then `end`."""
        was_held = False
        while True:
            held = await self._renewed(was_held)
            if held and not was_held:
                log.info("this operator writes now: it holds the Lease")
                self._on_begin()
            elif held and self._lease.has_lost_history:
                log.error(
                    "the server shows an older Lease than was written: a restored backup? Everything is read anew"
                )
                self._on_begin()
            self._lease.has_lost_history = False
            if was_held and not held:
                log.warning(
                    "this operator writes no more: the Lease was not renewed in time; last holder: %s",
                    self._lease.holder,
                )
            was_held = held
            await asyncio.sleep(
                self._lease.terms.renew if held and not self._is_silent else self._lease.terms.renew / 3
            )

    async def _renewed(self, was_held: bool) -> bool:
        try:
            # A server that is just starting, or half gone, may keep a request for long: better ask again than lose the Lease.
            async with asyncio.timeout(max(1.0, self._lease.terms.renew)):
                held = await self._lease.renew(time.monotonic(), datetime.now(UTC))
        except (KubeError, TimeoutError) as error:
            if not self._is_silent:
                log.warning("the Lease can't be renewed: %s", str(error) or "no answer in time")
            self._is_silent = True
            # Once lost, a term does not come back by itself: it begins anew with the next renewal.
            return was_held and self.may_write()
        if self._is_silent:
            self._is_silent = False
            self._on_recovered()
        return held

    async def end(self) -> None:
        """Gives the Lease up, so that the next operator starts at once."""
        try:
            await self._lease.release(time.monotonic(), datetime.now(UTC))
        except KubeError as error:
            log.warning("the Lease was not given up, it runs out by itself: %s", error)
