"""The result of ADD as CHECK gets it back (specification 1.1, "prevResult"), typed. Pure.

The agent compares it with what is in the pod. Plugins chained behind ours add to it: kept is what concerns the pod's interface.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import Any

from controller.cni.result import Address, CniError, ErrorCode

_REMEDY = "give CHECK the result of ADD, unchanged"


@dataclass(frozen=True, slots=True)
class PreviousRoute:
    """A route of the result; `gateway` None: the result names none."""

    destination: IPv4Network | IPv6Network
    gateway: Address | None


@dataclass(frozen=True, slots=True)
class Previous:
    """What ADD said of the pod's interface. `mac` and `mtu` are empty and 0 where it said nothing.

    `host_interfaces` are the names of all interfaces outside the pod, those of other plugins included.
    """

    mac: str = ""
    mtu: int = 0
    host_interfaces: tuple[str, ...] = ()
    addresses: tuple[IPv4Interface | IPv6Interface, ...] = ()
    routes: tuple[PreviousRoute, ...] = ()


def previous_of(result: Mapping[str, Any], interface: str) -> Previous:
    """What the result says of `interface`. Raises CniError that names the field if it can't be read or says nothing of it."""
    interfaces = _objects(result, "interfaces")
    ours = [n for n, each in enumerate(interfaces) if each.get("sandbox") and each.get("name") == interface]
    if not ours:
        raise _bad("interfaces", [each.get("name") for each in interfaces], f"lacks {interface} in a sandbox")
    mac, mtu = interfaces[ours[0]].get("mac") or "", interfaces[ours[0]].get("mtu") or 0
    if not isinstance(mac, str) or not isinstance(mtu, int):
        raise _bad(f"interfaces[{ours[0]}]", interfaces[ours[0]], "has a mac or an mtu of another type")
    return Previous(
        mac=mac.lower(),
        mtu=mtu,
        host_interfaces=tuple(str(each.get("name", "")) for each in interfaces if not each.get("sandbox")),
        addresses=tuple(
            _interface(entry, position)
            for position, entry in enumerate(_objects(result, "ips"))
            if entry.get("interface") is None or entry["interface"] in ours
        ),
        routes=tuple(_route(entry, position) for position, entry in enumerate(_objects(result, "routes"))),
    )


def _objects(result: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    listed = result.get(key) or []
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise _bad(key, listed, "is no list of objects")
    return listed


def _interface(entry: dict[str, Any], position: int) -> IPv4Interface | IPv6Interface:
    try:
        return ipaddress.ip_interface(str(entry.get("address")))
    except ValueError as error:
        raise _bad(f"ips[{position}].address", entry.get("address"), f"is no address: {error}") from error


def _route(entry: dict[str, Any], position: int) -> PreviousRoute:
    try:
        destination = ipaddress.ip_network(str(entry.get("dst")), strict=False)
        gateway = ipaddress.ip_address(str(entry["gw"])) if entry.get("gw") else None
    except ValueError as error:
        raise _bad(f"routes[{position}]", entry, f"is no route: {error}") from error
    return PreviousRoute(destination, gateway)


def _bad(field: str, value: object, problem: str) -> CniError:
    return CniError(ErrorCode.INVALID_CONFIGURATION, f"field prevResult.{field} = {str(value)[:80]} {problem}", _REMEDY)
