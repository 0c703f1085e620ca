"""Renders ExaBGP's configuration file. Pure; the daemon writes, `bgp.exabgp.validation` tries it.

Order matters: an error before the `process` section makes ExaBGP kill the daemon at once, so that section is first.
Passwords are written in base64, which needs no quoting. Nothing else is free text: every value comes from a checked
neighbour (`bgp.checking`).
"""

import base64
from collections.abc import Iterable, Sequence

from bgp.exabgp.process import PROCESS_NAME, process_section
from bgp.values import Desired, Family, Neighbour


def configuration_text(run: Sequence[str], desired: Desired, neighbours: Iterable[Neighbour]) -> str:
    """The whole file: the daemon first, then one section for each neighbour."""
    sections = [neighbour_section(neighbour, desired.router_id, desired.listen_port) for neighbour in neighbours]
    return process_section(run) + "".join(sections)


def neighbour_section(neighbour: Neighbour, router_id: str, listen_port: int) -> str:
    """One neighbour. A passive one listens on its own local address, so nothing listens without one."""
    lines = [
        f"router-id {router_id}",
        f"local-address {neighbour.local_address}",
        f"local-as {neighbour.local_asn}",
        f"peer-as {neighbour.asn}",
        f"hold-time {neighbour.hold_time}",
        f"passive {'true' if neighbour.passive else 'false'}",
        f"listen {listen_port}" if neighbour.passive else f"connect {neighbour.port}",
        *_ttl_lines(neighbour),
        *_password_lines(neighbour),
        "adj-rib-out false",
        "adj-rib-in false",
        "auto-flush true",
        "group-updates true",
        "manual-eor true",
    ]
    families = " ".join(f"{family} unicast;" for family in (Family.IPV4, Family.IPV6) if family in neighbour.families)
    body = "".join(f"    {line};\n" for line in lines)
    return (
        f"neighbor {neighbour.address} {{\n{body}"
        f"    family {{ {families} }}\n"
        f"    capability {{ asn4 true; route-refresh false; graceful-restart {_graceful(neighbour)}; }}\n"
        f"    api {{\n        processes [ {PROCESS_NAME} ];\n        neighbor-changes;\n"
        "        receive { parsed; open; update; notification; }\n"
        "        send { parsed; update; notification; }\n    }\n}\n"
    )


def _graceful(neighbour: Neighbour) -> str:
    return str(neighbour.graceful_restart) if neighbour.graceful_restart else "disable"


def _ttl_lines(neighbour: Neighbour) -> list[str]:
    if neighbour.ttl_security is not None:
        return ["outgoing-ttl 255", f"incoming-ttl {256 - neighbour.ttl_security}"]  # RFC 5082 section 3
    if neighbour.multihop is not None:
        return [f"outgoing-ttl {neighbour.multihop}"]
    return []


def _password_lines(neighbour: Neighbour) -> list[str]:
    if not neighbour.password:
        return []
    return [f"md5-password {base64.b64encode(neighbour.password.encode()).decode()}", "md5-base64 true"]
