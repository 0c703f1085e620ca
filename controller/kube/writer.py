"""Typed writes with the server's own preconditions. Each gives the object as the server now has it.

The operator and the agent write through this module alone. A write is refused (Conflict) rather than done to another object, or
another version, than the one that was decided about.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from controller.api.objects import Resource, encode
from controller.kube.client import Api, Raw
from controller.kube.errors import Conflict, NotFound
from controller.kube.resources import collection_of

R = TypeVar("R", bound=Resource)

STATUS_ATTEMPTS = 5


class Writer:
    """Writes objects of our kinds. `may_write` is asked before every request: False once the Lease is lost."""

    def __init__(self, api: Api, may_write: Callable[[], bool] = lambda: True) -> None:
        self._api = api
        self._may_write = may_write

    async def read(self, kind: type[Resource], name: str) -> Raw | None:
        """The object as the server has it now, after a refused write; None if there is none."""
        try:
            return await self._api.get(collection_of(kind), name)
        except NotFound:
            return None

    async def create(self, body: Resource) -> Raw:
        """Creates the object; raises AlreadyExists if its name is taken."""
        self._fence(body.metadata.name)
        raw = encode(body)
        raw.pop("status", None)
        return await self._api.create(collection_of(type(body)), raw)

    async def replace(self, body: Resource) -> Raw:
        """Writes the whole object but its status, if `metadata.resourceVersion` is still the latest."""
        self._fence(body.metadata.name)
        raw = encode(body)
        raw.pop("status", None)
        return await self._api.replace(collection_of(type(body)), raw)

    async def set_finalizers(self, kind: type[Resource], metadata: dict[str, Any]) -> Raw:
        """Patches `metadata.finalizers`; `metadata` holds name, uid, resourceVersion and finalizers."""
        self._fence(metadata["name"])
        return await self._api.patch(collection_of(kind), {"metadata": metadata})

    async def delete(self, kind: type[Resource], name: str, uid: str, resource_version: str = "") -> None:
        """Deletes the object of that name and UID, and, if given, of that version."""
        self._fence(name)
        await self._api.delete(collection_of(kind), name, uid=uid, resource_version=resource_version)

    async def replace_status(self, body: Resource) -> Raw:
        """Writes the object's status if `metadata.resourceVersion` is still the latest."""
        self._fence(body.metadata.name)
        return await self._api.replace(collection_of(type(body)), encode(body), subresource="status")

    async def set_status(self, kind: type[R], name: str, uid: str, status: msgspec.Struct) -> Raw:
        """Writes a whole status over whatever it is now, for the object of that name and UID; others' writes are retried past.

        For statuses with one writer: the agent's own NodeNetwork.
        """
        for attempt in range(1, STATUS_ATTEMPTS + 1):
            self._fence(name)
            raw = await self._api.get(collection_of(kind), name)
            metadata = raw["metadata"]
            if uid and metadata.get("uid") != uid:
                raise Conflict(f"status of {kind.__name__} {name}", "another object has this name now")
            raw["status"] = msgspec.to_builtins(status)
            try:
                return await self._api.replace(collection_of(kind), raw, subresource="status")
            except Conflict:
                if attempt == STATUS_ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    def _fence(self, name: str) -> None:
        if not self._may_write():
            raise Fenced(f"write of {name}", "the Lease is lost: another operator may be writing")


class Fenced(Conflict):
    """The write was not sent: the Lease is lost."""
