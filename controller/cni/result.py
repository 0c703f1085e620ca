"""What a CNI plugin answers: success, supported versions, or an error, rendered for the version that the caller speaks.
Pure.

The agent builds these values; the plugin prints the rendered bytes unread.
"""

import json
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address

SUPPORTED_VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
LATEST_VERSION = SUPPORTED_VERSIONS[-1]


class ErrorCode(IntEnum):
    """The specification's error codes (section 5, "Error"), those of STATUS included."""

    INCOMPATIBLE_VERSION = 1
    UNSUPPORTED_FIELD = 2
    UNKNOWN_CONTAINER = 3
    INVALID_ENVIRONMENT = 4
    IO_FAILURE = 5
    DECODE_FAILURE = 6
    INVALID_CONFIGURATION = 7
    TRY_AGAIN = 11
    NOT_AVAILABLE = 50
    NOT_AVAILABLE_AND_LIMITED = 51
    # Codes from 100 on are a plugin's own.
    INTERFACE_EXISTS = 100
    CHECK_FAILED = 101
    KERNEL = 102
    INTERNAL = 103


class CniError(Exception):
    """A call that is answered with an error: `message` says what is wrong with which field, `remedy` what to do."""

    def __init__(self, code: ErrorCode, message: str, remedy: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Success:
    """The result of ADD: one veth. Hardware addresses are 6 bytes, `mtu` counts bytes of the IP packet.

    `gateways` has at most one address of each family; a default route is answered for each, but for those in `without_default`.
    """

    host_interface: str
    host_mac: bytes
    interface: str
    pod_mac: bytes
    netns: str
    mtu: int
    addresses: tuple[Address, ...]
    gateways: tuple[Address, ...]
    without_default: tuple[Address, ...] = ()


def rendered_success(success: Success, version: str) -> bytes:
    """The ADD result as JSON for a caller of `version` (one of SUPPORTED_VERSIONS)."""
    host: dict[str, object] = {"name": success.host_interface, "mac": success.host_mac.hex(":")}
    pod: dict[str, object] = {"name": success.interface, "mac": success.pod_mac.hex(":"), "sandbox": success.netns}
    if version == "1.1.0":
        host |= {"mtu": success.mtu}
        pod |= {"mtu": success.mtu}
    families = {address.version for address in success.addresses}
    gateways = {gateway.version: str(gateway) for gateway in success.gateways if gateway.version in families}
    ips = []
    for address in success.addresses:
        # The family was spelled out before 1.0.0.
        family = {"version": str(address.version)} if version.startswith("0.") else {}
        entry = {"address": f"{address}/{address.max_prefixlen}", "interface": 1}
        ips.append(family | entry | _gateway("gateway", gateways.get(address.version)))
    routes = [
        {"dst": "0.0.0.0/0" if family == 4 else "::/0"} | _gateway("gw", gateway)
        for family, gateway in gateways.items()
        if gateway not in map(str, success.without_default)
    ]
    return _json({"cniVersion": version, "interfaces": [host, pod], "ips": ips, "routes": routes, "dns": {}})


def _gateway(key: str, gateway: str | None) -> dict[str, str]:
    return {key: gateway} if gateway else {}


def rendered_versions(version: str) -> bytes:
    """The answer to VERSION: the caller's own version, and those that are supported."""
    return _json({"cniVersion": version, "supportedVersions": list(SUPPORTED_VERSIONS)})


def rendered_error(error: CniError, version: str) -> bytes:
    """An error as JSON; the exit code that goes with it is 1."""
    return _json(
        {"cniVersion": version, "code": int(error.code), "msg": error.message, "details": error.remedy},
    )


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
