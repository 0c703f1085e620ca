"""The API server's rules about versions, in memory: the effect boundary of tests that need a server to fail at will."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from controller.kube import errors
from controller.kube.client import Listing, Raw
from controller.kube.resources import Collection


class MemoryApi:
    """Stands where `controller.kube.client.Api` does. `trouble` is asked before each request and gives what to raise."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Raw] = {}
        self.requests: list[tuple[str, str, str]] = []
        self.trouble: Callable[[str, str, str], Exception | None] = lambda verb, plural, name: None
        self._version = 100
        self.namespace = "podroute-system"

    def asked(self, verb: str) -> list[str]:
        """Names of the objects that requests of that verb were about."""
        return [name for said, _, name in self.requests if said == verb]

    def put(self, collection: Collection, raw: Mapping[str, Any]) -> Raw:
        """Stores the object at the next version; gives it."""
        self._version += 1
        stored = copy.deepcopy(dict(raw))
        stored["metadata"] = {**stored["metadata"], "resourceVersion": str(self._version)}
        stored["metadata"].setdefault("uid", f"uid-{stored['metadata']['name']}")
        self.objects[collection.plural, stored["metadata"]["name"]] = stored
        return copy.deepcopy(stored)

    async def get(self, collection: Collection, name: str, namespace: str = "") -> Raw:
        return copy.deepcopy(self._found("get", collection, name))

    async def list(
        self, collection: Collection, *, field_selector: str = "", label_selector: str = "", namespace: str = ""
    ) -> Listing:
        self._ask("list", collection, "")
        wanted = dict(part.split("=") for part in label_selector.split(",") if part)
        items = [
            copy.deepcopy(raw)
            for (plural, _), raw in self.objects.items()
            if plural == collection.plural and wanted.items() <= raw["metadata"].get("labels", {}).items()
        ]
        return Listing(items, str(self._version))

    async def create(self, collection: Collection, body: Mapping[str, Any], namespace: str = "") -> Raw:
        name = body["metadata"]["name"]
        self._ask("create", collection, name)
        if (collection.plural, name) in self.objects:
            raise errors.AlreadyExists("create", name)
        return self.put(collection, body)

    async def replace(
        self, collection: Collection, body: Mapping[str, Any], namespace: str = "", subresource: str = ""
    ) -> Raw:
        known = self._expected(subresource or "replace", collection, body["metadata"])
        part = {"status": body["status"]} if subresource else dict(body)
        return self.put(collection, {**known, **part, "metadata": known["metadata"]})

    async def patch(
        self, collection: Collection, body: Mapping[str, Any], namespace: str = "", subresource: str = ""
    ) -> Raw:
        known = self._expected(f"patch{subresource}", collection, body["metadata"])
        parts = {key: {**known.get(key, {}), **part} for key, part in body.items() if isinstance(part, dict)}
        return self.put(collection, {**known, **body, **parts})

    async def delete(
        self,
        collection: Collection,
        name: str,
        *,
        uid: str = "",
        resource_version: str = "",
        namespace: str = "",
        at_once: bool = False,
    ) -> None:
        verb = "delete at once" if at_once else "delete"
        self._expected(verb, collection, {"name": name, "uid": uid, "resourceVersion": resource_version})
        del self.objects[collection.plural, name]

    def _ask(self, verb: str, collection: Collection, name: str) -> None:
        error = self.trouble(verb, collection.plural, name)
        if error is not None:
            raise error
        self.requests.append((verb, collection.plural, name))

    def _found(self, verb: str, collection: Collection, name: str) -> Raw:
        self._ask(verb, collection, name)
        if (collection.plural, name) not in self.objects:
            raise errors.NotFound(verb, name)
        return self.objects[collection.plural, name]

    def _expected(self, verb: str, collection: Collection, metadata: Mapping[str, Any]) -> Raw:
        known = self._found(verb, collection, metadata["name"])
        for key in ("uid", "resourceVersion"):
            if metadata.get(key) and metadata[key] != known["metadata"][key]:
                raise errors.Conflict(verb, f"{metadata['name']}: another {key}")
        return known
