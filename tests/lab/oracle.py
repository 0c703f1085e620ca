"""What is wrong in a lab, found with nothing but `kubectl -o json`, `ip -j`, `vtysh` and `birdc`: slow, obvious, and independent.

`podroute check` is compared with it. A finding is (kind, what), in the words of `controller.inspect.check.Finding`.
"""

import ipaddress
import itertools
import json
from collections import Counter
from typing import Any

from router_tables import pod_table

from controller.lab.cluster import Lab

Finding = tuple[str, str]


def wrong(lab: Lab) -> set[Finding]:
    """Everything that the oracle knows to look for."""
    nodes = lab.topology.node_names
    blocks = [(b["spec"]["cidr"], b["spec"]["node"]["name"]) for b in lab.get("ipblocks")["items"]]
    veths = {node: node_veths(lab, node) for node in nodes}
    pods = {pod["metadata"]["uid"]: pod for pod in lab.get("pods", "-A")["items"]}
    return {
        *_blocks_without_node(lab, blocks),
        *blocks_overlapping([cidr for cidr, _ in blocks]),
        *blocks_on_two_nodes({node: block_routes(lab, node) for node in nodes}),
        *addresses_outside_blocks(veths, blocks),
        *_veths_without_pod(veths, pods),
        *_pods_without_veth(veths, pods),
        *_addresses_twice(veths),
        *(finding for node in nodes for finding in _routes_without_veth(lab, node, veths[node])),
        *(finding for node in nodes for finding in _routes_missing(lab, node, veths[node])),
        *_announcements_without_block(lab, {cidr for cidr, _ in blocks}),
        *_announcements_missing(lab, blocks),
    }


def node_veths(lab: Lab, node: str) -> list[tuple[str, str, list[str]]]:
    """(interface, pod UID, addresses) of every veth named like ours, by its alias."""
    links = json.loads(lab.netns_exec(node, ["ip", "-j", "link", "show", "type", "veth"]))
    found = []
    for link in links:
        if link["ifname"].startswith("podr"):
            # The name of a network other than the installed one stands at the end.
            words = link.get("ifalias", "").split(" ")
            uid, addresses = (words[3], words[4].split(",")) if len(words) in (5, 6) else ("", [])
            found.append((link["ifname"], uid, addresses))
    return found


def _blocks_without_node(lab: Lab, blocks: list[tuple[str, str]]) -> set[Finding]:
    there = {node["metadata"]["name"] for node in lab.get("nodes")["items"]}
    return {("BlockWithoutNode", cidr) for cidr, node in blocks if node not in there}


def blocks_overlapping(cidrs: list[str]) -> set[Finding]:
    """Pairs of IPBlocks that have addresses in common."""
    pairs = itertools.combinations(map(ipaddress.ip_network, cidrs), 2)
    return {
        ("BlocksOverlap", f"{one} {other}")
        for one, other in pairs
        if one.version == other.version and one.overlaps(other)
    }


def block_routes(lab: Lab, node: str) -> set[str]:
    """What the node's kernel takes for its own blocks: our unreachable routes."""
    show = ("route", "show", "type", "unreachable", "proto", "179")
    return {
        str(ipaddress.ip_network(route["dst"]))
        for family in ("-4", "-6")
        for route in json.loads(lab.netns_exec(node, ["ip", "-j", family, *show]))
    }


def blocks_on_two_nodes(routes: dict[str, set[str]]) -> set[Finding]:
    """Blocks that more than one node's kernel takes for its own."""
    counts = Counter(cidr for cidrs in routes.values() for cidr in cidrs)
    return {("BlockOnTwoNodes", cidr) for cidr, count in counts.items() if count > 1}


def addresses_outside_blocks(
    veths: dict[str, list[tuple[str, str, list[str]]]], blocks: list[tuple[str, str]]
) -> set[Finding]:
    """Addresses of pods that lie in no block of their node."""
    own = {node: [ipaddress.ip_network(cidr) for cidr, owner in blocks if owner == node] for node in veths}
    return {
        ("AddressOutsideBlocks", address)
        for node, rows in veths.items()
        for _, _, addresses in rows
        for address in addresses
        if not any(ipaddress.ip_address(address) in block for block in own[node])
    }


def _veths_without_pod(veths: dict[str, list[tuple[str, str, list[str]]]], pods: dict[str, Any]) -> set[Finding]:
    return {
        ("VethWithoutPod", f"{node}/{name}")
        for node, rows in veths.items()
        for name, uid, _ in rows
        if uid not in pods or pods[uid]["spec"].get("nodeName") != node
    }


def _pods_without_veth(veths: dict[str, list[tuple[str, str, list[str]]]], pods: dict[str, Any]) -> set[Finding]:
    wired = {uid for rows in veths.values() for _, uid, _ in rows}
    return {
        ("PodWithoutVeth", f"{pod['metadata']['namespace']}/{pod['metadata']['name']}")
        for uid, pod in pods.items()
        if not pod["spec"].get("hostNetwork")
        and pod["status"]["phase"] == "Running"
        and "deletionTimestamp" not in pod["metadata"]
        and uid not in wired
    }


def _addresses_twice(veths: dict[str, list[tuple[str, str, list[str]]]]) -> set[Finding]:
    counts = Counter(address for rows in veths.values() for _, _, addresses in rows for address in addresses)
    return {("AddressTwice", address) for address, count in counts.items() if count > 1}


def _routes_without_veth(lab: Lab, node: str, veths: list[tuple[str, str, list[str]]]) -> set[Finding]:
    known = {(address, name) for name, _, addresses in veths for address in addresses}
    found = set()
    for family, length in (("-4", 32), ("-6", 128)):
        for route in json.loads(lab.netns_exec(node, ["ip", "-j", family, "route", "show", "proto", "179"])):
            network = ipaddress.ip_network(route["dst"])
            if network.prefixlen == length and (str(network.network_address), route.get("dev", "")) not in known:
                found.add(("RouteSurplus", f"{node}/{network}"))
    return found


def _routes_missing(lab: Lab, node: str, veths: list[tuple[str, str, list[str]]]) -> set[Finding]:
    """Addresses on a veth to which no route of ours leads over that veth."""
    there = {
        (str(ipaddress.ip_network(route["dst"]).network_address), route.get("dev", ""))
        for family in ("-4", "-6")
        for route in json.loads(lab.netns_exec(node, ["ip", "-j", family, "route", "show", "proto", "179"]))
    }
    wanted = {(address, name) for name, _, addresses in veths for address in addresses}
    return {("RouteMissing", f"{node}/{ipaddress.ip_network(address)}") for address, _ in wanted - there}


def _announcements_missing(lab: Lab, blocks: list[tuple[str, str]]) -> set[Finding]:
    """Blocks that the ToR of their own rack does not hold."""
    if not lab.topology.routed:
        return set()
    held = {tor: {*pod_table(lab, tor, 4), *pod_table(lab, tor, 6)} for tor in lab.topology.tor_names}
    return {
        ("AnnouncementMissing", cidr)
        for cidr, node in blocks
        if node in lab.topology.node_names and cidr not in held[lab.topology.tor_names[lab.topology.rack_of(node)]]
    }


def _announcements_without_block(lab: Lab, blocks: set[str]) -> set[Finding]:
    return {
        ("AnnouncementWithoutBlock", prefix)
        for router in lab.topology.router_names
        if router.startswith("tor")
        for family in (4, 6)
        for prefix in pod_table(lab, router, family)
        if prefix not in blocks
    }
