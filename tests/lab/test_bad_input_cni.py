"""Bad calls of the installed CNI plugin: which error, naming what, and that the nearest good call wires a pod that is reached."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from cni_calls import CONFIGURATION, Answer, Container, call
from oracle import node_veths
from workloads import eventually

from controller.lab.cluster import Lab
from controller.lab.podroute import ensure_plugin, processes_on

pytestmark = [pytest.mark.lab, pytest.mark.root]

NODE = "n0"


@pytest.fixture
def container(lab: Lab) -> Iterator[Container]:
    """A network namespace for a pod on n0; whatever the test attached is gone afterwards, on the host's side, too."""
    before = veths(lab)
    with Container(lab, NODE, "bad-input") as made:
        yield made
    eventually(lambda: veths(lab) == before, 15, lambda: f"{veths(lab)} as before: {before}")


def veths(lab: Lab) -> set[str]:
    return {name for name, _, _ in node_veths(lab, NODE)}


def is_served(container: Container) -> None:
    """ADD answers addresses of both families, the interface has them, and the node reaches them; DEL ends it."""
    answer = container.call("ADD")
    assert answer.exit_code == 0, answer.said
    assert sorted(":" in address for address in answer.addresses) == [False, True]
    assert container.has_addresses(answer.addresses)
    for address in answer.addresses:
        container.lab.netns_exec(NODE, ["ping", "-c1", "-W2", address])
    assert container.call("DEL") == Answer(0, {})


def configuration(**changes: object) -> str:
    return json.dumps({key: value for key, value in {**CONFIGURATION, **changes}.items() if value is not None})


@dataclass(frozen=True)
class Bad:
    """A call and its error: the specification's code, and what message and details name."""

    code: int
    words: tuple[str, ...]
    stdin: str | None = None
    variables: tuple[tuple[str, str], ...] = ()
    command: str = "ADD"


TABLE = {
    "broken JSON": Bad(6, ("no JSON", '{"cniVersion": "1.1.0",', "give the network"), '{"cniVersion": "1.1.0", "na'),
    "nothing on standard input": Bad(6, ("no JSON", "give the network configuration"), ""),
    "a list": Bad(6, ("a list, not a JSON object", "give one network configuration"), "[]"),
    "unknown version": Bad(1, ("cniVersion '9.9.9'", "1.1.0"), configuration(cniVersion="9.9.9")),
    "version that is a number": Bad(7, ("cniVersion", "1.1", "give a string"), configuration(cniVersion=1.1)),
    "no network name": Bad(7, ("field name", "is missing", "name the network"), configuration(name=None)),
    "result of a plugin before": Bad(7, ("prevResult", "put podroute first"), configuration(prevResult={})),
    "no container id": Bad(4, ("CNI_CONTAINERID=''", "use letters"), None, (("containerid", ""),)),
    "strange container id": Bad(4, ("CNI_CONTAINERID='../x'", "use letters"), None, (("containerid", "../x"),)),
    "no interface name": Bad(4, ("CNI_IFNAME=''", "eth0"), None, (("ifname", ""),)),
    "long interface name": Bad(
        4, ("CNI_IFNAME='abcdefghijklmnop'", "1 to 15"), None, (("ifname", "abcdefghijklmnop"),)
    ),
    "no namespace": Bad(4, ("CNI_NETNS=''", "give the path"), None, (("netns", ""),)),
    "namespace that is not there": Bad(
        4, ("CNI_NETNS='/run/netns/none'", "give the path"), None, (("netns", "/run/netns/none"),)
    ),
    "arguments without sign": Bad(4, ("CNI_ARGS", "'IgnoreUnknown'", "KEY=VALUE"), None, (("args", "IgnoreUnknown"),)),
    "DEL without container id": Bad(4, ("CNI_CONTAINERID=''", "use letters"), None, (("containerid", ""),), "DEL"),
    "DEL without interface name": Bad(4, ("CNI_IFNAME=''", "eth0"), None, (("ifname", ""),), "DEL"),
    "unknown operation": Bad(4, ("CNI_COMMAND='UPDATE'", "ADD, DEL, CHECK"), None, (), "UPDATE"),
    "GC without a list": Bad(7, ("cni.dev/valid-attachments", "is missing", "list the attachments"), None, (), "GC"),
    "CHECK of the unknown": Bad(
        3, ("bad-input", "eth0", "call ADD first"), configuration(prevResult={"cniVersion": "1.1.0"}), (), "CHECK"
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_a_bad_call_is_answered_with_what_is_wrong_and_the_nearest_good_one_is_served(
    container: Container, name: str
) -> None:
    bad = TABLE[name]
    answer = container.call(bad.command, bad.stdin, **dict(bad.variables))
    assert (answer.exit_code, answer.said["code"]) == (1, bad.code), answer.said
    missing = [word for word in bad.words if word not in answer.words]
    assert not missing, f"{missing} not in: {answer.words}"
    is_served(container)


def test_the_second_of_two_additions_is_refused_and_the_first_stays(container: Container) -> None:
    first = container.call("ADD")
    second = container.call("ADD")
    assert (second.exit_code, second.said["code"]) == (1, 100)
    for word in ("bad-input", "eth0", "ADD came twice", "call DEL before ADD"):
        assert word in second.words
    assert container.has_addresses(first.addresses)
    container.lab.netns_exec(NODE, ["ping", "-c1", "-W2", first.addresses[0]])
    assert container.call("DEL") == Answer(0, {})
    is_served(container)


def test_deleting_the_unknown_and_deleting_twice_succeed_and_touch_nobody_else(container: Container) -> None:
    added = container.call("ADD")
    assert container.call("DEL", containerid="never-seen") == Answer(0, {})
    assert container.call("DEL", ifname="eth9") == Answer(0, {})
    container.lab.netns_exec(NODE, ["ping", "-c1", "-W2", added.addresses[0]])
    assert container.call("DEL") == Answer(0, {})
    assert container.call("DEL") == Answer(0, {})
    is_served(container)


@contextmanager
def agent_away(lab: Lab) -> Iterator[None]:
    """The agent has ended and does not come back by itself."""
    lab.node(NODE).stop("agent")
    try:
        yield
    finally:
        machine = lab.node(NODE)
        (agent,) = (p for p in processes_on(NODE, machine.folder, str(ensure_plugin())) if p.name == "agent")
        lab.start(NODE, agent)
        # STATUS would be answered by the marker; only the agent itself finds an operation's variables wrong.
        eventually(lambda: call(lab, NODE, "DEL").exit_code == 1, 30, "the agent answers again")


def test_without_the_agent_additions_are_to_be_tried_again_and_deletions_succeed(container: Container) -> None:
    lab = container.lab
    marker = "/run/podroute/agent/ready"
    with agent_away(lab):
        added = container.call("ADD")
        assert (added.exit_code, added.said["code"]) == (1, 11)
        for word in ("the podroute agent does not answer", "wait until it runs on this node, or see its log"):
            assert word in added.words
        assert container.call("DEL") == Answer(0, {})
        assert container.call("VERSION").said["supportedVersions"]
        # Once ready since boot, the node goes on being ready: pods wait for the agent with ADD.
        assert call(lab, NODE, "STATUS") == Answer(0, {})
        lab.node(NODE).run(["mv", marker, f"{marker}.away"])
        try:
            status = call(lab, NODE, "STATUS")
        finally:
            lab.node(NODE).run(["mv", f"{marker}.away", marker])
        assert (status.exit_code, status.said["code"]) == (1, 50)
        assert "has not been ready since boot" in status.words
    assert call(lab, NODE, "STATUS") == Answer(0, {})
    is_served(container)


def test_a_pod_that_was_deleted_while_the_agent_was_away_leaves_nothing(lab: Lab) -> None:
    before = veths(lab)
    with Container(lab, NODE, "bad-gone") as container:
        assert container.call("ADD").exit_code == 0
        with agent_away(lab):
            assert container.call("DEL") == Answer(0, {})
            lab.node(NODE).run(["ip", "netns", "del", "bad-gone"])
            eventually(lambda: veths(lab) == before, 10, "the veth goes with the namespace")
            lab.node(NODE).run(["ip", "netns", "add", "bad-gone"])
        is_served(container)
    eventually(lambda: veths(lab) == before, 15, "nothing is left")


def test_an_addition_right_after_a_deletion_keeps_its_interface(container: Container) -> None:
    # Both have one container id, so the link that is still being removed has the new one's name.
    for _ in range(5):
        is_served(container)
    answer = container.call("ADD")
    assert container.call("CHECK", configuration(prevResult=answer.said)) == Answer(0, {})
    for address in answer.addresses:
        container.lab.netns_exec(NODE, ["ping", "-c3", "-i0.1", "-W2", address])
