"""The operator's term: the time during which it holds the Lease and may write. Called by `controller.operator.main`."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime

from controller.kube.errors import KubeError
from controller.kube.lease import Lease, read_lease_clock

log = logging.getLogger(__name__)


class Term:
    """Keeps the Lease renewed. `on_begin` is called when it was won, and when the server lost what was written since.

    A Lease that lapsed is won anew, however short the lapse was: somebody else may have written in it. `on_recovered` is called
    when the server answers again after silence. `clock` is the one that the Lease counts in.
    """

    def __init__(
        self,
        lease: Lease,
        on_begin: Callable[[], None],
        on_recovered: Callable[[], None],
        clock: Callable[[], float] = read_lease_clock,
    ) -> None:
        self._lease = lease
        self._clock = clock
        self._on_begin = on_begin
        self._on_recovered = on_recovered
        self._is_silent = False
        self._was_cut_short = False

    def may_write(self) -> bool:
        """Whether this process may write now."""
        return self._lease.is_held(self._clock())

    async def run(self) -> None:
        """Never ends by itself; cancel it, then `end`."""
        was_held = False
        while True:
            trusted_until = self._lease.trusted_until
            held = await self._renewed(was_held)
            # Nothing is awaited between the renewal and this: no write can slip in before the new term has begun.
            has_lapsed = was_held and self._clock() >= trusted_until
            if has_lapsed:
                log.warning(
                    "the Lease lapsed before it was renewed: everything is read anew before anything is written"
                )
            if held and (has_lapsed or not was_held):
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
            if not self._was_cut_short:
                is_well = held and not self._is_silent
                await asyncio.sleep(self._lease.terms.renew if is_well else self._lease.terms.renew / 3)

    async def _renewed(self, was_held: bool) -> bool:
        self._was_cut_short = False
        try:
            # A server that is just starting, or half gone, may keep a request for long: better ask again than lose the Lease. One
            # that is merely slow is given time, though: half of that for which the Lease is trusted.
            async with asyncio.timeout(max(1.0, self._lease.terms.trusted / 2)):
                held = await self._lease.renew(self._clock(), datetime.now(UTC))
        except (KubeError, TimeoutError) as error:
            # It has waited already: what is left of the Lease's time is for asking again.
            self._was_cut_short = isinstance(error, TimeoutError)
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
            await self._lease.release(self._clock(), datetime.now(UTC))
        except KubeError as error:
            log.warning("the Lease was not given up, it runs out by itself: %s", error)
