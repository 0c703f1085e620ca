"""A CNI call as a typed request, or an error that names the variable or field, its value and the remedy. Pure.

The agent's handler gets the request from `server`; nothing after this module sees environment variables or JSON.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from controller.cni.protocol import Call
from controller.cni.result import LATEST_VERSION, SUPPORTED_VERSIONS, CniError, ErrorCode

ANNOTATIONS_CAPABILITY = "io.kubernetes.cri.pod-annotations"
VALID_ATTACHMENTS = "cni.dev/valid-attachments"

# Specification, section 2: "must start with an alphanumeric character, optionally followed by …".
_CONTAINER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")
_INTERFACE_MAX = 15
_VERSION_SCAN = re.compile(rb'"cniVersion"\s*:\s*"([0-9.]{1,15})"')


class Command(StrEnum):
    """The operations of specification 1.1."""

    ADD = "ADD"
    DEL = "DEL"
    CHECK = "CHECK"
    GC = "GC"
    STATUS = "STATUS"
    VERSION = "VERSION"


# The versions that brought the younger operations.
_SINCE = {Command.CHECK: "0.4.0", Command.GC: "1.1.0", Command.STATUS: "1.1.0"}
_NEEDS_NETNS = (Command.ADD, Command.CHECK)
_NEEDS_CONTAINER = (Command.ADD, Command.CHECK, Command.DEL)


@dataclass(frozen=True, slots=True)
class Pod:
    """Who the container is, from CNI_ARGS; each part is empty if the runtime did not say."""

    namespace: str = ""
    name: str = ""
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Configuration:
    """The network configuration on standard input. `annotations` are the pod's, through the runtime's capability.

    `valid_attachments` are (container id, interface) pairs that GC must keep; None unless the operation is GC and
    the runtime lists them.
    """

    cni_version: str
    name: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    prev_result: Mapping[str, Any] | None = None
    valid_attachments: frozenset[tuple[str, str]] | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One call of the runtime.

    `netns` is the path as the runtime knows it, `netns_fd` the opened namespace (borrowed, not owned).
    """

    command: Command
    container_id: str
    interface: str
    netns: str
    netns_fd: int | None
    pod: Pod
    configuration: Configuration


def request_in(call: Call, netns_fd: int | None) -> Request:
    """The request that a call makes. Raises CniError with the specification's code if it makes none."""
    environment = call.environment
    command = _command(environment)
    _require_container(command, environment)
    if command in _NEEDS_NETNS and netns_fd is None:
        path = environment.get("CNI_NETNS", "")
        raise _bad_variable("CNI_NETNS", path, "is missing or can't be opened", "give the path of a network namespace")
    return Request(
        command=command,
        container_id=environment.get("CNI_CONTAINERID", ""),
        interface=environment.get("CNI_IFNAME", ""),
        netns=environment.get("CNI_NETNS", ""),
        netns_fd=netns_fd,
        pod=_pod(environment.get("CNI_ARGS", "")),
        configuration=_configuration(command, call.stdin),
    )


def version_in(stdin: bytes) -> str:
    """The version to answer in, if standard input is no JSON too: the first cniVersion in it, else the latest."""
    match = _VERSION_SCAN.search(stdin)
    return match[1].decode() if match else LATEST_VERSION


def _command(environment: Mapping[str, str]) -> Command:
    value = environment.get("CNI_COMMAND", "")
    try:
        return Command(value)
    except ValueError:
        known = ", ".join(Command)
        raise _bad_variable("CNI_COMMAND", value, "is no operation", f"use one of {known}") from None


def _require_container(command: Command, environment: Mapping[str, str]) -> None:
    if command not in _NEEDS_CONTAINER:
        return
    container_id = environment.get("CNI_CONTAINERID", "")
    if not _CONTAINER_ID.fullmatch(container_id):
        raise _bad_variable(
            "CNI_CONTAINERID",
            container_id,
            "is no container id",
            "use letters, digits, '_', '.', '-', a letter or digit first",
        )
    interface = environment.get("CNI_IFNAME", "")
    if not _is_interface_name(interface):
        raise _bad_variable(
            "CNI_IFNAME",
            interface,
            "is no interface name",
            "use 1 to 15 visible characters without '/' and ':', e.g. eth0",
        )


def _is_interface_name(name: str) -> bool:
    """As dev_valid_name() in net/core/dev.c judges."""
    fits = 0 < len(name.encode(errors="surrogateescape")) <= _INTERFACE_MAX and name not in (".", "..")
    return fits and not any(letter in "/:" or letter.isspace() or not letter.isprintable() for letter in name)


def _bad_variable(name: str, value: str, problem: str, remedy: str) -> CniError:
    return CniError(ErrorCode.INVALID_ENVIRONMENT, f"environment variable {name}={value!r} {problem}", remedy)


def _pod(arguments: str) -> Pod:
    pairs = {}
    for argument in filter(None, arguments.split(";")):
        name, equals, value = argument.partition("=")
        if not equals:
            raise _bad_variable(
                "CNI_ARGS", arguments, f"has {argument!r} without '='", "use KEY=VALUE pairs separated by ';'"
            )
        pairs[name] = value
    return Pod(pairs.get("K8S_POD_NAMESPACE", ""), pairs.get("K8S_POD_NAME", ""), pairs.get("K8S_POD_UID", ""))


def _configuration(command: Command, stdin: bytes) -> Configuration:
    try:
        document = json.loads(stdin)
    except (ValueError, RecursionError) as error:
        start = stdin[:80].decode(errors="replace")
        raise CniError(
            ErrorCode.DECODE_FAILURE,
            f"standard input is no JSON: {error}; it begins with {start!r}",
            "give the network configuration on standard input, e.g. with cnitool",
        ) from None
    if not isinstance(document, dict):
        raise CniError(
            ErrorCode.DECODE_FAILURE,
            f"standard input is {_kind(document)}, not a JSON object",
            "give one network configuration",
        )
    version = _version(command, document)
    if command is Command.VERSION:
        return Configuration(version)
    name = _field(document, "name", str, "")
    if not name and command is not Command.STATUS:
        raise _bad_field("name", name, "is missing", "name the network, as the installed configuration list does")
    return Configuration(
        cni_version=version,
        name=name,
        annotations=_annotations(document),
        prev_result=_prev_result(command, document),
        valid_attachments=_valid_attachments(document) if command is Command.GC else None,
    )


def _version(command: Command, document: dict[str, Any]) -> str:
    # A configuration without a version is of 0.1.0, from before it had to be said.
    version: str = _field(document, "cniVersion", str, "0.1.0")
    if version not in SUPPORTED_VERSIONS and command is not Command.VERSION:
        raise CniError(
            ErrorCode.INCOMPATIBLE_VERSION,
            f"cniVersion {version!r} is not supported",
            f"use one of {', '.join(SUPPORTED_VERSIONS)}",
        )
    since = _SINCE.get(command)
    if since and SUPPORTED_VERSIONS.index(version) < SUPPORTED_VERSIONS.index(since):
        raise CniError(
            ErrorCode.INCOMPATIBLE_VERSION,
            f"cniVersion {version!r} has no {command}",
            f"use {since} or later",
        )
    return version


def _annotations(document: dict[str, Any]) -> dict[str, str]:
    runtime = _field(document, "runtimeConfig", dict, {})
    annotations: dict[str, str] = _field(runtime, ANNOTATIONS_CAPABILITY, dict, {}, parent="runtimeConfig.")
    for key, value in annotations.items():
        if not isinstance(value, str):
            raise _bad_field(
                f"runtimeConfig.{ANNOTATIONS_CAPABILITY}[{key!r}]", value, "is no string", "quote the value"
            )
    return annotations


def _prev_result(command: Command, document: dict[str, Any]) -> dict[str, Any] | None:
    previous: dict[str, Any] | None = _field(document, "prevResult", dict, None)
    if command is Command.ADD and previous is not None:
        raise _bad_field(
            "prevResult", "…", "is set", "put podroute first in the configuration list: it makes the interface"
        )
    if command is Command.CHECK and previous is None:
        raise _bad_field("prevResult", None, "is missing", "give CHECK the result of ADD")
    return previous


def _valid_attachments(document: dict[str, Any]) -> frozenset[tuple[str, str]] | None:
    # Without the list every pod's interface would look abandoned: it is never taken as empty. libcni calls so for cnitool, after
    # it has deleted by itself what it knew of.
    listed = _field(document, VALID_ATTACHMENTS, list, None)
    if listed is None:
        return None
    pairs = set()
    for position, entry in enumerate(listed):
        parent = f"{VALID_ATTACHMENTS}[{position}]"
        if not isinstance(entry, dict):
            raise _bad_field(parent, entry, "is no object", 'use {"containerID": …, "ifname": …}')
        container_id = _field(entry, "containerID", str, "", parent=f"{parent}.")
        interface = _field(entry, "ifname", str, "", parent=f"{parent}.")
        if not container_id or not interface:
            raise _bad_field(parent, entry, "lacks containerID or ifname", 'use {"containerID": …, "ifname": …}')
        pairs.add((container_id, interface))
    return frozenset(pairs)


def _field(document: dict[str, Any], key: str, kind: type, default: Any, parent: str = "") -> Any:
    value = document.get(key)
    if value is None:
        return default
    if not isinstance(value, kind):
        expected = "a string" if kind is str else "an object" if kind is dict else "a list"
        raise _bad_field(parent + key, value, f"is {_kind(value)}", f"give {expected}")
    return value


def _kind(value: object) -> str:
    names = {str: "a string", dict: "an object", list: "a list", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _bad_field(name: str, value: object, problem: str, remedy: str) -> CniError:
    shown = json.dumps(value, ensure_ascii=False)[:80]
    return CniError(ErrorCode.INVALID_CONFIGURATION, f"field {name} = {shown} {problem}", remedy)
