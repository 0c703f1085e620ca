"""GC of the installed CNI plugin, as a runtime calls it that lists the attachments it still knows (CNI specification 1.1)."""

import json

import pytest
from cni_calls import CONFIGURATION, Answer, Container, call
from oracle import node_veths
from workloads import eventually, pods_on

from controller.lab.cluster import Lab

pytestmark = [pytest.mark.lab, pytest.mark.root]

NODE = "n0"


def attachments(lab: Lab) -> set[tuple[str, str]]:
    """(container id, interface) of every veth of ours, by its alias."""
    links = json.loads(lab.netns_exec(NODE, ["ip", "-j", "link", "show", "type", "veth"]))
    aliases = [link.get("ifalias", "").split(" ") for link in links if link["ifname"].startswith("podr")]
    return {(words[1], words[2]) for words in aliases}


def collect(lab: Lab, valid: set[tuple[str, str]]) -> Answer:
    listed = [{"containerID": container, "ifname": interface} for container, interface in sorted(valid)]
    return call(lab, NODE, "GC", json.dumps({**CONFIGURATION, "cni.dev/valid-attachments": listed}))


def test_collection_removes_what_the_runtime_no_longer_lists_and_leaves_running_pods_alone(lab: Lab) -> None:
    with (
        pods_on(lab, [NODE], "collected") as (pod,),
        Container(lab, NODE, "listed") as listed,
        Container(lab, NODE, "lost") as lost,
    ):
        kept, gone = listed.call("ADD"), lost.call("ADD")
        before = attachments(lab)
        assert {("listed", "eth0"), ("lost", "eth0")} < before
        assert collect(lab, before) == Answer(0, {})
        assert lost.has_addresses(gone.addresses)
        assert collect(lab, before - {("lost", "eth0")}) == Answer(0, {})
        eventually(lambda: attachments(lab) == before - {("lost", "eth0")}, 10, "the veth of the lost one is gone")
        for address in (*kept.addresses, *pod.addresses):
            lab.netns_exec(NODE, ["ping", "-c1", "-W2", address])
        used = [address for _, _, addresses in node_veths(lab, NODE) for address in addresses]
        assert not set(gone.addresses) & set(used)
        # The container's own namespace is there still: it may be attached anew, with others, since its own rest.
        again = lost.call("ADD")
        assert again.exit_code == 0, again.said
        assert not set(again.addresses) & set(gone.addresses)
