"""What `podroute status`, `pools` and `node …` say is what kubectl, ip and the routers say; and how they end."""

import ipaddress
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from refused_inputs import body
from router_tables import kernel_routes, node_blocks
from told import told_on
from workloads import Pod, apply, eventually, pods_on

from controller.lab.cluster import Lab

pytestmark = [pytest.mark.lab, pytest.mark.root]


@pytest.fixture(scope="module")
def pod(lab: Lab) -> Iterator[Pod]:
    with pods_on(lab, [lab.topology.node_names[0]], "asked") as (pod,):
        yield pod


def podroute(lab: Lab, *words: str, program: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command for this lab, as it is installed or from the tree."""
    start = [program] if program else [sys.executable, "-m", "controller.cli.main"]
    return subprocess.run([*start, *words, "--lab", lab.name], capture_output=True, text=True, timeout=60, check=False)


def told(lab: Lab, *words: str) -> Any:
    """What a command prints as JSON, if it is content."""
    done = podroute(lab, *words, "-o", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def pods_with_addresses(lab: Lab, node: str) -> int:
    """The node's pods that have a network namespace of their own, by kubectl."""
    pods = lab.get("pods", "-A", "--field-selector", f"spec.nodeName={node}")["items"]
    return sum(bool(each["status"].get("podIPs")) and not each["spec"].get("hostNetwork") for each in pods)


def test_status_says_of_every_node_what_kubectl_says(lab: Lab, pod: Pod) -> None:
    blocks = node_blocks(lab)
    rows = {row["node"]: row for row in told(lab, "status")["nodes"]}
    assert set(rows) == set(lab.topology.node_names)
    for node, row in rows.items():
        assert row["ready"] is True
        assert tuple(row["addresses"]) == tuple(lab.topology.addresses(node))
        assert set(row["blocks"]) == {cidr for cidr, owner in blocks.items() if owner == node}
        assert row["sessions"] == "2/2"
        assert row["synced"] == "True"

    def pods_agree() -> bool:
        found = {row["node"]: row["pods"] for row in told(lab, "status")["nodes"]}
        return found == {node: pods_with_addresses(lab, node) for node in found}

    # A status that differs in counts alone is written once a minute.
    eventually(pods_agree, 80, lambda: f"pods: {told(lab, 'status')['nodes']}")


def test_status_says_of_every_peer_how_many_sessions_the_routers_hold(lab: Lab) -> None:
    rows = {row["peer"]: row for row in told(lab, "status")["peers"]}
    for rack, tor in enumerate(lab.topology.tor_names):
        states = lab.sessions(tor)
        for family, gateway in zip(("v4", "v6"), lab.topology.gateway(rack), strict=True):
            row = rows[f"rack{rack}-tor-{family}"]
            ends = [getattr(lab.topology.addresses(node), family) for node in lab.topology.nodes_in(rack)]
            assert row["established"] == sum(states[end] == "Established" for end in ends) == len(ends)
            assert (row["address"], row["accepted"]) == (str(ipaddress.ip_address(gateway)), "True")


def test_pools_counts_the_blocks_that_there_are(lab: Lab) -> None:
    blocks = lab.get("ipblocks")["items"]
    rows = {row["pool"]: row for row in told(lab, "pools")}
    assert set(rows) == {pool["metadata"]["name"] for pool in lab.get("ippools")["items"]}
    for name, row in rows.items():
        own = [block["spec"] for block in blocks if block["spec"]["pool"] == name]
        assert row["blocks"] == len(own) > 0
        assert row["nodes"] == len({spec["node"]["name"] for spec in own})
        assert row["addresses"] == sum(ipaddress.ip_network(spec["cidr"]).num_addresses for spec in own)
        assert row["total_blocks"] == 2 ** (len_of(own[0]["cidr"]) - len_of(row["cidr"]))


def len_of(cidr: str) -> int:
    return ipaddress.ip_network(cidr).prefixlen


def test_pools_ends_with_1_while_a_pool_is_refused_and_says_which_and_why(lab: Lab) -> None:
    overlapping = body("IPPool", "overlapping", cidr="10.244.128.0/20")
    apply(lab, overlapping)
    try:
        eventually(lambda: "OverlapsPool" in podroute(lab, "pools").stdout, 20, lambda: podroute(lab, "pools").stdout)
        done = podroute(lab, "pools")
        assert done.returncode == 1
        assert "overlapping" in done.stdout
    finally:
        lab.kubectl("delete", "ippool", "overlapping")
    assert podroute(lab, "pools").returncode == 0


def test_tables_are_for_people_and_name_everything(lab: Lab) -> None:
    said = podroute(lab, "status").stdout
    for word in ("Nodes", "Pools", "BGP peers", *lab.topology.node_names, "pods-v4", "pods-v6", "rack1-tor-v6"):
        assert word in said
    assert said.count("\n") > len(lab.topology.node_names)


def test_wrong_use_ends_with_2_and_names_what_is_wrong(lab: Lab) -> None:
    for words in (("status", "-o", "yaml"), ("pools", "--wrong"), ("nothing",), ("node", "everything")):
        done = podroute(lab, *words)
        assert done.returncode == 2, done.stdout + done.stderr
        assert words[-1] in done.stderr
        assert "Traceback" not in done.stderr


def test_kubectl_podroute_is_the_same_command(lab: Lab) -> None:
    plugin = Path(sys.executable).with_name("kubectl-podroute")
    done = podroute(lab, "pools", "-o", "json", program=str(plugin))
    assert done.returncode == 0, done.stderr
    assert {row["pool"] for row in json.loads(done.stdout)} == {row["pool"] for row in told(lab, "pools")}


def test_node_pods_are_the_veths_and_addresses_that_ip_shows(lab: Lab, pod: Pod) -> None:
    links = json.loads(lab.netns_exec(pod.node, ["ip", "-j", "link", "show", "type", "veth"]))
    aliases = {link["ifname"]: link["ifalias"].split(" ") for link in links if link["ifname"].startswith("podr")}
    rows = told_on(lab, pod.node, "pods")
    assert {row["link"]: (row["pod_uid"], row["addresses"]) for row in rows} == {
        name: (words[3], words[4].split(",")) for name, words in aliases.items()
    }
    (own,) = (row for row in rows if row["pod_uid"] == pod.uid)
    assert (tuple(own["addresses"]), own["up"], own["interface"]) == (pod.addresses, True, "eth0")


def test_node_blocks_are_the_nodes_ipblocks_and_announced(lab: Lab, pod: Pod) -> None:
    rows = told_on(lab, pod.node, "blocks")
    wanted = {cidr for cidr, owner in node_blocks(lab).items() if owner == pod.node}
    assert {row["block"] for row in rows} == wanted
    assert {(row["state"], row["announced"]) for row in rows} == {("Active", True)}


def test_node_routes_are_those_of_our_protocol_in_the_kernel(lab: Lab, pod: Pod) -> None:
    there = {
        str(ipaddress.ip_network(route["dst"]))
        for family in ("-4", "-6")
        for route in kernel_routes(lab, pod.node, family, "route", "show", "proto", "179")
    }
    rows = told_on(lab, pod.node, "routes")
    assert {row["prefix"] for row in rows} == there
    assert {row["state"] for row in rows} == {"there"}


def test_node_sessions_are_established_with_the_tor_and_have_sent_every_block(lab: Lab, pod: Pod) -> None:
    rows = told_on(lab, pod.node, "sessions")
    assert {row["address"] for row in rows} == {str(ipaddress.ip_address(g)) for g in lab.topology.gateway(0)}
    blocks = [cidr for cidr, owner in node_blocks(lab).items() if owner == pod.node]
    for row in rows:
        assert row["state"] == "established"
        assert row["sent"] == sum((":" in cidr) == (":" in row["address"]) for cidr in blocks)


def test_an_agent_says_that_it_lives_and_that_it_is_ready(lab: Lab, pod: Pod) -> None:
    for path, answer in (("healthz", "ok 200"), ("readyz", "ready 200"), ("nothing", "404")):
        url = f"http://127.0.0.1:9479/{path}"
        said = lab.netns_exec(pod.node, ["curl", "-s", "-w", " %{http_code}", url]).split()
        assert " ".join(said).endswith(answer)
