"""Requests to the API server: connect, get, list, watch, create, replace, patch, delete.

lightkube reads kubeconfigs and service accounts, keeps the connections and the token fresh; objects travel as plain dictionaries.
This is the only module that sees lightkube's and httpx's errors: everything leaves it as `controller.kube.errors`.
Called by every other module of this room, and by those who read objects that have no kind of ours (Secrets).
"""

import os
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any, NoReturn, Protocol, cast

import httpx2
import msgspec
from lightkube.config.client_adapter import ConnectionParams
from lightkube.config.kubeconfig import SERVICE_ACCOUNT, KubeConfig, SingleConfig
from lightkube.core.exceptions import ConfigError
from lightkube.core.generic_client import BasicRequest, GenericAsyncClient

from controller.kube import errors
from controller.kube.resources import Collection

Raw = dict[str, Any]

# A page of a list: large enough for one request in most clusters, small enough for the server not to be slow for others.
PAGE = 500
REQUEST_SECONDS = 10.0
# Bookmarks come about once a minute: a watch that is silent for longer has lost its connection.
WATCH_READ_SECONDS = 75.0


class Listing(msgspec.Struct, frozen=True):
    """What a list answered, and the resourceVersion that it is as of."""

    items: list[Raw]
    resource_version: str


class _Transport(Protocol):
    """What is used of lightkube's client, which has no types here."""

    def build_adapter_request(self, br: BasicRequest) -> httpx2.Request: ...

    async def send(self, req: httpx2.Request, stream: bool = False) -> httpx2.Response: ...

    async def close(self) -> None: ...


class Api:
    """One connection pool to one API server. Close it with `close`, or use it as an asynchronous context manager."""

    def __init__(self, config: SingleConfig, namespace: str = "") -> None:
        self.config = config
        self.namespace = namespace or config.namespace
        parameters = ConnectionParams(timeout=httpx2.Timeout(REQUEST_SECONDS), trust_env=False)
        self._client = cast(_Transport, GenericAsyncClient(parameters, config=config))

    async def __aenter__(self) -> "Api":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends all connections."""
        await self._client.close()

    async def get(self, collection: Collection, name: str, namespace: str = "") -> Raw:
        """One object. Raises NotFound."""
        return await self._asked("GET", collection.path(name, namespace))

    async def list(
        self, collection: Collection, *, field_selector: str = "", label_selector: str = "", namespace: str = ""
    ) -> Listing:
        """All objects, as of one moment: in pages, and without resourceVersion, so that the answer is not an old one."""
        items: list[Raw] = []
        selectors = {"fieldSelector": field_selector, "labelSelector": label_selector}
        parameters = {"limit": str(PAGE), **{key: value for key, value in selectors.items() if value}}
        while True:
            page = await self._asked("GET", collection.path(namespace=namespace), parameters=parameters)
            items += page.get("items") or []
            metadata = page.get("metadata") or {}
            parameters["continue"] = metadata.get("continue") or ""
            if not parameters["continue"]:
                return Listing(items, metadata.get("resourceVersion", ""))

    async def create(self, collection: Collection, body: Mapping[str, Any], namespace: str = "") -> Raw:
        """Creates an object. Raises AlreadyExists, Rejected, Forbidden."""
        return await self._asked("POST", collection.path(namespace=namespace), body=body)

    async def replace(
        self, collection: Collection, body: Mapping[str, Any], namespace: str = "", subresource: str = ""
    ) -> Raw:
        """Writes a whole object. With `metadata.resourceVersion` set it raises Conflict if that is no longer the latest."""
        name = body["metadata"]["name"]
        return await self._asked("PUT", collection.path(name, namespace, subresource), body=body)

    async def patch(
        self, collection: Collection, body: Mapping[str, Any], namespace: str = "", subresource: str = ""
    ) -> Raw:
        """A JSON merge patch (RFC 7396) of the object that `body` names; resourceVersion and uid in it are preconditions."""
        name = body["metadata"]["name"]
        path = collection.path(name, namespace, subresource)
        return await self._asked("PATCH", path, body=body, content_type="application/merge-patch+json")

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
        """Deletes an object; with `uid` or `resource_version` only that one: Conflict if it is another, or another version, now.

        `at_once`: without the word of the kubelet that runs it.
        """
        given = {"uid": uid, "resourceVersion": resource_version}
        options: Raw = {"apiVersion": "v1", "kind": "DeleteOptions"}
        options["preconditions"] = {key: value for key, value in given.items() if value}
        if at_once:
            options["gracePeriodSeconds"] = 0
        await self._asked("DELETE", collection.path(name, namespace), body=options)

    async def watch(
        self,
        collection: Collection,
        resource_version: str,
        *,
        field_selector: str = "",
        seconds: float = 300.0,
        read_seconds: float = WATCH_READ_SECONDS,
    ) -> AsyncGenerator[Raw, None]:
        """Events (`type`, `object`), bookmarks too, until the server ends the watch after `seconds`.

        Raises Unavailable when the connection breaks or nothing at all is read for `read_seconds`, Expired when history is lost.
        """
        parameters = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(max(1, int(seconds))),
            **({"fieldSelector": field_selector} if field_selector else {}),
        }
        path = collection.path()
        timeout = httpx2.Timeout(REQUEST_SECONDS, read=read_seconds)
        request = BasicRequest("GET", path, params=parameters, timeout=timeout)
        asked = f"watch {path}"
        try:
            response = await self._client.send(self._client.build_adapter_request(request), stream=True)
            try:
                if response.is_error:
                    await response.aread()
                    _refuse(asked, response)
                async for line in response.aiter_lines():
                    yield _event(asked, line)
            finally:
                await response.aclose()
        except (httpx2.HTTPError, OSError, ConfigError, msgspec.DecodeError) as error:
            raise errors.Unavailable(asked, _words(error)) from error

    async def _asked(
        self,
        method: str,
        path: str,
        *,
        parameters: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> Raw:
        asked = f"{method} {path}"
        headers = {"Content-Type": content_type, "Accept": "application/json"}
        request = BasicRequest(method, path, params=dict(parameters or {}), data=body, headers=headers)
        try:
            response = await self._client.send(self._client.build_adapter_request(request))
            if response.is_error:
                _refuse(asked, response)
            answer: Raw = msgspec.json.decode(response.content) if response.content else {}
        except (httpx2.HTTPError, OSError, ConfigError, msgspec.DecodeError) as error:
            raise errors.Unavailable(asked, _words(error)) from error
        return answer


def _event(asked: str, line: str) -> Raw:
    event: Raw = msgspec.json.decode(line)
    if event["type"] == "ERROR":
        _refuse_status(asked, event["object"])
    return event


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _refuse(asked: str, response: httpx2.Response) -> NoReturn:
    try:
        status = msgspec.json.decode(response.content)
    except msgspec.DecodeError:
        status = {"message": response.text[:200]}
    if not isinstance(status, dict):
        status = {"message": str(status)[:200]}
    _refuse_status(asked, {**status, "code": response.status_code}, response.headers.get("Retry-After", ""))


def _refuse_status(asked: str, status: Mapping[str, Any], retry_after: str = "") -> NoReturn:
    """Raises the error for a metav1.Status."""
    code, said = int(status.get("code") or 500), str(status.get("message") or "no message")
    by_code = {
        400: errors.Rejected,
        401: errors.Unauthorized,
        403: errors.Forbidden,
        404: errors.NotFound,
        409: errors.AlreadyExists if status.get("reason") == "AlreadyExists" else errors.Conflict,
        410: errors.Expired,
        422: errors.Rejected,
    }
    if code == 429 or code >= 500 or code == 408:
        wait = (status.get("details") or {}).get("retryAfterSeconds") or retry_after
        raise errors.Troubled(asked, said, float(wait) if str(wait).isdigit() else 0.0)
    raise by_code.get(code, errors.Refused)(asked, f"{said} [{code}]")


def find_config(kubeconfig: str = "", context: str = "") -> SingleConfig:
    """How to reach the server: `kubeconfig`, else $KUBECONFIG, else the pod's service account, else ~/.kube/config.

    Raises NotConfigured, which says what was looked at.
    """
    named = kubeconfig or os.environ.get("KUBECONFIG", "")
    try:
        if named:
            # kubectl takes several files separated by colons; the first that exists is read here.
            files = [part for part in named.split(os.pathsep) if part]
            chosen = next((part for part in files if Path(part).expanduser().is_file()), files[0])
            found = KubeConfig.from_file(chosen)
        elif Path(SERVICE_ACCOUNT, "token").is_file() and os.environ.get("KUBERNETES_SERVICE_HOST"):
            found = KubeConfig.from_service_account()
        else:
            found = KubeConfig.from_file("~/.kube/config")
        config = found.get(context or None)
    except (ConfigError, OSError, KeyError, TypeError, ValueError, msgspec.ValidationError) as error:
        raise errors.NotConfigured(named or "~/.kube/config", _words(error)) from error
    except Exception as error:
        # PyYAML's errors share no base with anything that is imported here.
        raise errors.NotConfigured(named, f"is no kubeconfig: {_words(error)}") from error
    if config is None:
        raise errors.NotConfigured(named, "has no current context")
    if config.user is None:
        from lightkube.config.models import User

        config = config._replace(user=User())
    return config


def connect(kubeconfig: str = "", context: str = "", namespace: str = "") -> Api:
    """A client by the usual rules (see `find_config`). Nothing is sent yet. Raises NotConfigured."""
    config = find_config(kubeconfig, context)
    try:
        return Api(config, namespace)
    except (ConfigError, OSError, ValueError) as error:
        raise errors.NotConfigured(kubeconfig or config.context_name, _words(error)) from error
