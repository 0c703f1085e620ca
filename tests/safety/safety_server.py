"""The API server's rules about versions, in memory, with its history: for the state machine of address safety.

Every change is a version and an event. A backup is the objects at a version; restored, the versions go on from there, and
nobody who watches hears of it until he lists again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from controller.api.kubernetes import Node
from controller.api.nodenetwork import NodeNetwork
from controller.api.objects import Metadata, Resource, encode
from controller.kube.store import WatchEvent

R = TypeVar("R", bound=Resource)
Key = tuple[type[Resource], str]


class Refused(Exception):
    """The request was refused: the name is taken, or the object is another, or another version, or gone."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An object as it is stored, and as it is sent."""

    body: Any
    raw: dict[str, Any]


@dataclass
class Lease:
    """Who may write, and until when others have to wait."""

    holder: str = ""
    until: float = 0.0


@dataclass(frozen=True, slots=True)
class Backup:
    """What a restore brings back."""

    version: int
    objects: dict[Key, Kept]
    holder: str


@dataclass
class Server:
    """`era` counts restores: a watch of an earlier one hears nothing."""

    objects: dict[Key, Kept] = field(default_factory=dict)
    events: dict[type[Resource], list[WatchEvent]] = field(default_factory=dict)
    version: int = 100
    era: int = 0
    lease: Lease = field(default_factory=Lease)
    # Sees what an operator deletes, before it is gone.
    on_delete: Callable[[Any], None] = lambda body: None
    _serial: int = 0

    def get(self, kind: type[R], name: str) -> R | None:
        kept = self.objects.get((kind, name))
        return None if kept is None else kept.body

    def all(self, kind: type[R]) -> list[R]:
        return [kept.body for (each, _), kept in self.objects.items() if each is kind]

    def list(self, kind: type[Resource]) -> tuple[list[dict[str, Any]], str]:
        """The raw objects, and the version that the list is of."""
        return [kept.raw for (each, _), kept in self.objects.items() if each is kind], str(self.version)

    def create(self, body: Resource) -> dict[str, Any]:
        if (type(body), body.metadata.name) in self.objects:
            raise Refused("AlreadyExists")
        self._serial += 1
        stamp = f"2026-01-01T{self._serial // 3600:02}:{self._serial // 60 % 60:02}:{self._serial % 60:02}Z"
        return self._put(body, uid=f"u{self._serial}", creation_timestamp=stamp, generation=1)

    def replace(self, body: Resource) -> dict[str, Any]:
        """The whole object but its status, at the version that it names."""
        known = self._expected(type(body), body.metadata)
        changes: dict[str, Any] = {}
        if hasattr(known, "status"):
            body = msgspec.structs.replace(body, status=known.status)
        if known.spec != body.spec:  # type: ignore[attr-defined]
            changes["generation"] = known.metadata.generation + 1
        return self._put(body, **changes)

    def replace_status(self, body: Resource) -> dict[str, Any]:
        known = self._expected(type(body), body.metadata)
        return self._put(msgspec.structs.replace(known, status=body.status))  # type: ignore[attr-defined]

    def set_finalizers(self, kind: type[Resource], metadata: Metadata) -> dict[str, Any] | None:
        known = self._expected(kind, metadata)
        if known.metadata.deletion_timestamp and not metadata.finalizers:
            self._drop(kind, metadata.name)
            return None
        return self._put(known, finalizers=metadata.finalizers)

    def delete_by_operator(self, kind: type[Resource], metadata: Metadata) -> None:
        self.on_delete(self._expected(kind, metadata))
        self.delete(kind, metadata.name)

    def delete(self, kind: type[Resource], name: str) -> None:
        known = self._expected(kind, Metadata(name=name))
        if known.metadata.finalizers:
            self._put(known, deletion_timestamp="2026-01-02T00:00:00Z")
        else:
            self._drop(kind, name)

    def collect_garbage(self) -> None:
        """Deletes NodeNetworks whose owner is gone."""
        uids = {node.metadata.uid for node in self.all(Node)}
        for network in self.all(NodeNetwork):
            if not uids.intersection(owner.uid for owner in network.metadata.owner_references):
                self._drop(NodeNetwork, network.metadata.name)

    def backup(self) -> Backup:
        return Backup(self.version, dict(self.objects), self.lease.holder)

    def restore(self, backup: Backup, now: float) -> None:
        self.objects, self.version = dict(backup.objects), backup.version
        # Who finds a Lease that he has not seen waits for its whole duration.
        self.lease = Lease(backup.holder, now + 15.0)
        self.events.clear()
        self.era += 1

    def _expected(self, kind: type[Resource], metadata: Metadata) -> Any:
        """The object, if it is the one, and the version, that the request is about."""
        kept = self.objects.get((kind, metadata.name))
        if kept is None:
            raise Refused("NotFound")
        mine = kept.body.metadata
        if metadata.uid not in ("", mine.uid) or metadata.resource_version not in ("", mine.resource_version):
            raise Refused("Conflict")
        return kept.body

    def _put(self, body: Resource, **changes: Any) -> dict[str, Any]:
        kept = self.objects.get((type(body), body.metadata.name))
        body = msgspec.structs.replace(body, metadata=msgspec.structs.replace(body.metadata, **changes))
        if kept is not None and kept.body == body:
            # A write that changes nothing is no version.
            return kept.raw
        self.version += 1
        metadata = msgspec.structs.replace(body.metadata, resource_version=str(self.version))
        body = msgspec.structs.replace(body, metadata=metadata)
        raw = encode(body)
        self.objects[type(body), metadata.name] = Kept(body, raw)
        self._tell(WatchEvent(type(body), raw))
        return raw

    def _drop(self, kind: type[Resource], name: str) -> None:
        self.version += 1
        raw = self.objects.pop((kind, name)).raw
        metadata = {**raw["metadata"], "resourceVersion": str(self.version)}
        self._tell(WatchEvent(kind, {**raw, "metadata": metadata}, is_delete=True))

    def _tell(self, event: WatchEvent) -> None:
        self.events.setdefault(event.kind, []).append(event)
