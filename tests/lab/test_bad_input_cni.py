"""Bad calls of the installed CNI plugin: which error, naming what, and that the nearest good call wires a pod that is reached."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from bad_input_table import held_against
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
    """A call: its operation, standard input if not the lab's configuration, and CNI_ variables that are others."""

    stdin: str | None = None
    variables: tuple[tuple[str, str], ...] = ()
    command: str = "ADD"


CALLS = {
    "broken JSON": Bad('{"cniVersion": "1.1.0", "na'),
    "nothing on standard input": Bad(""),
    "a list": Bad("[]"),
    "unknown version": Bad(configuration(cniVersion="9.9.9")),
    "version that is a number": Bad(configuration(cniVersion=1.1)),
    "no network name": Bad(configuration(name=None)),
    "result of a plugin before": Bad(configuration(prevResult={})),
    "no container id": Bad(variables=(("containerid", ""),)),
    "strange container id": Bad(variables=(("containerid", "../x"),)),
    "no interface name": Bad(variables=(("ifname", ""),)),
    "long interface name": Bad(variables=(("ifname", "abcdefghijklmnop"),)),
    "no namespace": Bad(variables=(("netns", ""),)),
    "namespace that is not there": Bad(variables=(("netns", "/run/netns/none"),)),
    "arguments without sign": Bad(variables=(("args", "IgnoreUnknown"),)),
    "DEL without container id": Bad(variables=(("containerid", ""),), command="DEL"),
    "DEL without interface name": Bad(variables=(("ifname", ""),), command="DEL"),
    "unknown operation": Bad(command="UPDATE"),
    "GC with a list of names": Bad(configuration(**{"cni.dev/valid-attachments": ["bad-input"]}), command="GC"),
    "CHECK of the unknown": Bad(configuration(prevResult={"cniVersion": "1.1.0"}), command="CHECK"),
}


def is_refused(answer: Answer, name: str) -> None:
    """The answer is an error and names what the table says."""
    assert answer.exit_code == 1, answer.said
    held_against(f"code {answer.said['code']} {answer.words}", name)


@pytest.mark.parametrize("name", CALLS)
def test_a_bad_call_is_answered_with_what_is_wrong_and_the_nearest_good_one_is_served(
    container: Container, name: str
) -> None:
    bad = CALLS[name]
    is_refused(container.call(bad.command, bad.stdin, **dict(bad.variables)), name)
    is_served(container)


def test_the_second_of_two_additions_is_refused_and_the_first_stays(container: Container) -> None:
    first = container.call("ADD")
    is_refused(container.call("ADD"), "ADD twice")
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
        is_refused(container.call("ADD"), "agent away")
        assert container.call("DEL") == Answer(0, {})
        assert container.call("VERSION").said["supportedVersions"]
        # Once ready since boot, the node goes on being ready: pods wait for the agent with ADD.
        assert call(lab, NODE, "STATUS") == Answer(0, {})
        lab.node(NODE).run(["mv", marker, f"{marker}.away"])
        try:
            status = call(lab, NODE, "STATUS")
        finally:
            lab.node(NODE).run(["mv", f"{marker}.away", marker])
        is_refused(status, "agent not ready since boot")
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
