"""What the routers' shells answer, as plain values. Pure; `Lab.sessions` and `Lab.bgp_routes` ask and read with this."""

import re
from collections.abc import Mapping
from typing import Any


def frr_sessions(summary: Mapping[str, Any]) -> dict[str, str]:
    """Neighbour address → state, of FRR's `show bgp summary json`."""
    return {
        address: peer["state"]
        for family in summary.values()
        if isinstance(family, dict)
        for address, peer in family.get("peers", {}).items()
    }


def bird_sessions(text: str) -> dict[str, str]:
    """Neighbour address → state (`Established`, `Active` …), of BIRD's `show protocols all`."""
    sessions, state = {}, ""
    for line in text.splitlines():
        if match := re.match(r"\s+BGP state:\s+(\S+)", line):
            state = match[1]
        elif match := re.match(r"\s+Neighbor address:\s+(\S+)", line):
            sessions[match[1]] = state
    return sessions


def frr_routes(table: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Prefix → next hops of its selected paths, of FRR's `show bgp ipv4 unicast json` (or ipv6)."""
    found: dict[str, tuple[str, ...]] = {}
    for prefix, paths in table.get("routes", {}).items():
        best = [path for path in paths if path.get("bestpath") or path.get("multipath")]
        hops = [hop["ip"] for path in best for hop in path.get("nexthops", []) if hop.get("used", True)]
        found[prefix] = tuple(dict.fromkeys(hops))
    return found


def bird_routes(text: str) -> dict[str, tuple[str, ...]]:
    """Prefix → next hops of its selected paths (none for a connected one), of BIRD's `show route primary`."""
    found: dict[str, tuple[str, ...]] = {}
    prefix = ""
    for line in text.splitlines():
        if match := re.match(r"([0-9a-f.:]+/\d+)\s", line):
            prefix = match[1]
            found.setdefault(prefix, ())
        elif prefix and (match := re.match(r"\s+via (\S+) on", line)):
            found[prefix] = (*found[prefix], match[1])
    return found
