"""All objects that a process knows, typed, in memory, fed by lists and by events. Pure: it asks nobody and knows no time.

Two feeds meet here: `replace` with a whole list, and `apply` with one event. A watch may lose deletes, a list may be older than an
event that overtook it; resourceVersions decide (Kubernetes: "Resource versions", comparable as numbers within one kind). An object
that does not decode is kept as `Invalid`, beside the last good version, which stays served. Called by reflector and operator.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from controller.api.objects import Invalid, Resource, decode

R = TypeVar("R", bound=Resource)


class WatchEvent(msgspec.Struct, frozen=True):
    """One event of a watch: the kind, whether it is a delete, and the object as the server sent it."""

    kind: type[Resource]
    raw: Mapping[str, Any]
    is_delete: bool = False


class Change(msgspec.Struct, frozen=True):
    """What a feed changed in one kind: keys of objects. `rewound`: the server's history is older than what was known."""

    kind: type[Resource]
    changed: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    rewound: bool = False

    def __bool__(self) -> bool:
        return bool(self.changed or self.removed or self.rewound)


class Shelf(Generic[R]):
    """The objects of one kind, by name (`namespace/name` if namespaced)."""

    def __init__(self, kind: type[R]) -> None:
        self.kind = kind
        self.objects: dict[str, R] = {}
        self.invalid: dict[str, Invalid] = {}
        self.is_loaded = False
        self.highest = 0
        # The version of the newest list: what it did not show, and is not newer than it, is no more.
        self._listed = 0
        self._versions: dict[str, int] = {}
        self._graves: dict[str, int] = {}

    def replace(self, raws: Iterable[Mapping[str, Any]], version: int, since: int) -> Change:
        """The list `raws`, as of `version`, takes the place of everything; `since` is `highest` when it was asked for."""
        listed = {key_of(raw): raw for raw in raws}
        rewound = version < since or any(
            self._is_older(key, raw, since)
            or (version >= self._listed and key not in self._graves and self._is_ghost(key, raw))
            for key, raw in listed.items()
        )
        if rewound:
            self._listed = 0
            self._versions.clear()
            self._graves.clear()
            self.highest = 0
        gone = {key for key, known in self._versions.items() if key not in listed and known <= version}
        if rewound or not self.is_loaded:
            gone |= {key for key in (*self.objects, *self.invalid) if key not in listed}
        changed = {key for key, raw in listed.items() if self._put(key, raw)}
        removed = {key for key in gone if self._drop(key)}
        self._listed = max(self._listed, version)
        self._graves = {key: grave for key, grave in self._graves.items() if grave > version}
        self.highest = max(self.highest, version)
        self.is_loaded = True
        return Change(self.kind, frozenset(changed), frozenset(removed), rewound)

    def _is_older(self, key: str, raw: Mapping[str, Any], since: int) -> bool:
        """Whether the list shows an older version of an object than was known when it was asked for: no honest server does."""
        return version_of(raw) < self._versions.get(key, 0) <= since

    def _is_ghost(self, key: str, raw: Mapping[str, Any]) -> bool:
        """Whether the newest list should have shown this version, and did not: late news of what is gone, or a restored backup."""
        return key not in self._versions and version_of(raw) <= self._listed

    def apply(self, raw: Mapping[str, Any], *, is_delete: bool) -> Change:
        """One event. An older one than what is known changes nothing."""
        key, version = key_of(raw), version_of(raw)
        if not is_delete:
            return Change(self.kind, changed=frozenset({key} if self._put(key, raw) else ()))
        if version < self._versions.get(key, 0):
            return Change(self.kind)
        self.highest = max(self.highest, version)
        self._graves[key] = max(version, self._graves.get(key, 0))
        return Change(self.kind, removed=frozenset({key} if self._drop(key) else ()))

    def forget(self, key: str) -> Change:
        """Removes the known version of an object; older and equal versions of it do not come back."""
        grave = {"metadata": {"name": key, "resourceVersion": str(self._versions.get(key, 0) + 1)}}
        return self.apply(grave, is_delete=True)

    def _put(self, key: str, raw: Mapping[str, Any]) -> bool:
        version = version_of(raw)
        if version < max(self._versions.get(key, 0), self._graves.get(key, 0)) or self._is_ghost(key, raw):
            return False
        is_news = version != self._versions.get(key)
        self.highest = max(self.highest, version)
        self._versions[key] = version
        decoded = decode(self.kind, raw)
        if isinstance(decoded, Invalid):
            is_news |= self.invalid.get(key) != decoded
            self.invalid[key] = decoded
            return is_news
        is_news |= self.invalid.pop(key, None) is not None or key not in self.objects
        self.objects[key] = decoded
        return is_news

    @property
    def unknown(self) -> frozenset[str]:
        """Objects that do not decode and of which no good version is known: they exist, and that is all that is known."""
        return frozenset(self.invalid.keys() - self.objects.keys())

    def _drop(self, key: str) -> bool:
        self._versions.pop(key, None)
        # Both, always: an object may be invalid now and have a good version from before.
        return any([self.objects.pop(key, None) is not None, self.invalid.pop(key, None) is not None])


class Store:
    """A shelf for each kind that the process watches."""

    def __init__(self, kinds: Iterable[type[Resource]]) -> None:
        self._shelves: dict[type[Resource], Shelf[Any]] = {kind: Shelf(kind) for kind in kinds}

    @property
    def kinds(self) -> tuple[type[Resource], ...]:
        """The kinds that it keeps."""
        return tuple(self._shelves)

    @property
    def is_loaded(self) -> bool:
        """Whether every kind has been listed once: nothing is to be decided before."""
        return all(shelf.is_loaded for shelf in self._shelves.values())

    def shelf(self, kind: type[R]) -> Shelf[R]:
        """The shelf of one kind."""
        return self._shelves[kind]

    def all(self, kind: type[R]) -> tuple[R, ...]:
        """Every object of a kind that decodes."""
        return tuple(self._shelves[kind].objects.values())

    def get(self, kind: type[R], name: str) -> R | None:
        """One object; None if there is none, or never was a version of it that decodes."""
        return self._shelves[kind].objects.get(name)

    def invalid(self) -> tuple[Invalid, ...]:
        """Every object whose latest version does not decode."""
        return tuple(each for shelf in self._shelves.values() for each in shelf.invalid.values())

    def highest(self, kind: type[Resource]) -> int:
        """The highest resourceVersion seen of a kind: ask for it before a list, and hand it to `replace`."""
        return self._shelves[kind].highest

    def replace(
        self, kind: type[Resource], raws: Iterable[Mapping[str, Any]], version: str = "", since: int = 0
    ) -> Change:
        """A whole list of one kind. What is neither in it nor newer than it is gone."""
        raws = list(raws)
        as_of = int(version) if version.isdigit() else max((version_of(raw) for raw in raws), default=since)
        return self._shelves[kind].replace(raws, as_of, since)

    def apply(self, event: WatchEvent) -> Change:
        """One event."""
        return self._shelves[event.kind].apply(event.raw, is_delete=event.is_delete)

    def forget(self, kind: type[Resource], name: str) -> Change:
        """The object that is known was deleted by this process: events about it that are still under way change nothing."""
        return self._shelves[kind].forget(name)


def key_of(raw: Mapping[str, Any]) -> str:
    """`name`, or `namespace/name`."""
    metadata = raw.get("metadata") or {}
    namespace, name = metadata.get("namespace"), str(metadata.get("name", ""))
    return f"{namespace}/{name}" if namespace else name


def version_of(raw: Mapping[str, Any]) -> int:
    """The resourceVersion as a number; 0 if it is none."""
    said = str((raw.get("metadata") or {}).get("resourceVersion", ""))
    return int(said) if said.isdigit() else 0
