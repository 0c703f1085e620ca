"""The Lease that says which operator writes (coordination.k8s.io/v1): the first of two fences; creating an IPBlock is the second.

As in client-go's leader election, clocks of machines are never compared: somebody else's Lease has run out once it has not changed
for its duration on our own clock, which goes on while the machine is suspended. The holder stops writing before others may take
over. Called by the operator.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from controller.kube.client import Api, Raw
from controller.kube.errors import AlreadyExists, Conflict, NotFound
from controller.kube.resources import LEASES


def read_lease_clock() -> float:
    """Seconds that are never set back, and that count while the machine sleeps: the others' clocks go on then, too."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class LeaseTerms(msgspec.Struct, frozen=True):
    """Seconds: how long a Lease lasts without renewal, how long its holder trusts it, and how often it is renewed.

    A holder that cannot renew stops writing `duration - trusted` seconds before anybody else may start.
    """

    duration: float = 15.0
    trusted: float = 10.0
    renew: float = 3.0


class Lease:
    """One named Lease. `identity` must be another for each process, also for two on one machine."""

    def __init__(
        self,
        api: Api,
        name: str,
        namespace: str,
        identity: str,
        terms: LeaseTerms,
        clock: Callable[[], float] = read_lease_clock,
    ) -> None:
        # Six, since where it lies, whose it is, and what it counts in are the caller's to say.
        self._api = api
        self._name = name
        self._namespace = namespace
        self._identity = identity
        self.terms = terms
        self._clock = clock
        self._renewed: float | None = None
        self._seen: tuple[str, float] = ("", 0.0)
        self._written = 0
        # The Lease as this process wrote it last.
        self._last: Raw | None = None
        self.holder = ""
        # Whether the server showed an older Lease than this process wrote: it lost history. Whoever acts on it resets it.
        self.has_lost_history = False

    def is_held(self, now: float) -> bool:
        """Whether this process may write at `now` (seconds of `read_lease_clock`)."""
        return now < self.trusted_until

    @property
    def trusted_until(self) -> float:
        """When the Lease ends for this process, unless it is renewed before."""
        return float("-inf") if self._renewed is None else self._renewed + self.terms.trusted

    async def renew(self, now: float, wall: datetime) -> bool:
        """Takes or renews the Lease, if that is allowed; the answer is `is_held`. Raises KubeError if the server can't be asked.

        `now` must be read before the call: the Lease counts from when the request was sent, not from when it was answered. Who
        holds it asks once, with the version that it wrote: a server that takes seconds for an answer is asked no more than that.
        """
        if self._last is not None and self.is_held(now):
            try:
                return await self._written_anew(self._last, now, wall)
            except (Conflict, NotFound):
                # Somebody else wrote, or the server lost what was written.
                self._last = None
        try:
            raw = await self._api.get(LEASES, self._name, self._namespace)
        except NotFound:
            return await self._create(now, wall)
        self.has_lost_history |= _version_of(raw) < self._written
        spec = raw.get("spec") or {}
        self.holder = spec.get("holderIdentity") or ""
        # Since when others are seen counts from the answer: the requests before it may have taken long, or this machine slept.
        if self.holder != self._identity and not self._has_run_out(raw, self._clock()):
            self._renewed = None
            return False
        try:
            return await self._written_anew(raw, now, wall)
        except Conflict:
            # Somebody else wrote between the two requests. What we hold lasts as long as it would have anyway.
            return self.is_held(now)

    async def _written_anew(self, raw: Raw, now: float, wall: datetime) -> bool:
        """Writes the Lease as ours at the version that `raw` has. Raises Conflict if that is no longer the latest."""
        spec = raw.get("spec") or {}
        is_ours = spec.get("holderIdentity") == self._identity
        transitions = int(spec.get("leaseTransitions") or 0) + (not is_ours)
        wanted = {**raw, "spec": self._spec(wall, transitions, spec.get("acquireTime") if is_ours else None)}
        self._keep(await self._api.replace(LEASES, wanted, self._namespace), now)
        return True

    def _keep(self, written: Raw, now: float) -> None:
        self._last, self._written = written, _version_of(written)
        self.holder = self._identity
        self._renewed = now

    async def release(self, now: float, wall: datetime) -> None:
        """Gives the Lease up, so that the next operator need not wait for its end. Stops writing at once."""
        held, self._renewed, self._last = self.is_held(now), None, None
        if not held:
            return
        raw = await self._api.get(LEASES, self._name, self._namespace)
        if (raw.get("spec") or {}).get("holderIdentity") != self._identity:
            return
        raw["spec"] = {**self._spec(wall, int(raw["spec"].get("leaseTransitions") or 0), None), "holderIdentity": ""}
        await self._api.replace(LEASES, raw, self._namespace)

    async def _create(self, now: float, wall: datetime) -> bool:
        metadata = {"name": self._name, "namespace": self._namespace}
        body = {
            "apiVersion": LEASES.api_version,
            "kind": "Lease",
            "metadata": metadata,
            "spec": self._spec(wall, 0, None),
        }
        try:
            written = await self._api.create(LEASES, body, self._namespace)
        except AlreadyExists:
            return False
        # Ours is gone: somebody deleted it, or the server lost it with everything since.
        self.has_lost_history |= self._written > 0
        self._keep(written, now)
        return True

    def _has_run_out(self, raw: dict[str, Any], now: float) -> bool:
        """Whether the Lease is free: given up, or unchanged for its duration as we saw it."""
        version = str(raw["metadata"].get("resourceVersion", ""))
        if not self.holder:
            return True
        if self._seen[0] != version:
            self._seen = (version, now)
            return False
        return now - self._seen[1] >= float((raw.get("spec") or {}).get("leaseDurationSeconds") or self.terms.duration)

    def _spec(self, wall: datetime, transitions: int, acquired: str | None) -> dict[str, Any]:
        stamp = wall.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, int(self.terms.duration)),
            "acquireTime": acquired or stamp,
            "renewTime": stamp,
            "leaseTransitions": transitions,
        }


def _version_of(raw: dict[str, Any]) -> int:
    said = str(raw["metadata"].get("resourceVersion", ""))
    return int(said) if said.isdigit() else 0
