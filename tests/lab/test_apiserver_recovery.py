"""The operator beside a real server that loses history, collects garbage, or holds an object that does not decode."""

from collections.abc import Iterator

import pytest
import yaml
from apiserver_world import REPOSITORY, World, wait_for
from echo_agents import EchoAgents
from test_apiserver_operator import POOL4, Start, add_nodes, agents, blocks_of, condition, node, settled, start

from controller.api import IPPool, IPReservation
from controller.kube.client import connect
from controller.operator.feed import Feed, Listener

__all__ = ["agents", "start"]

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]


@pytest.fixture
def collecting() -> Iterator[World]:
    """A server of its own with the garbage collector."""
    with World() as world:
        world.install_crds()
        world.start_controllers("garbage-collector-controller")
        yield world


def test_after_a_restored_backup_no_block_is_given_twice_and_grants_go_on(
    world: World, start: Start, agents: EchoAgents
) -> None:
    names = ("n0", "n1", "n2")
    add_nodes(world, *(node(name, 11 + number) for number, name in enumerate(names)))
    start("one", "--settle-seconds=20")
    pool = {**POOL4, "spec": {"cidr": "10.244.0.0/16", "headroom": 4}}
    world.apply(pool)
    wait_for(lambda: settled(world, names, 1), "one block a node")
    world.save("backup")
    wait_for(lambda: settled(world, names, 1), "unchanged after the restart", 60)
    # What happens from here on is not in the backup: n1 gets a second block, and uses it.
    first = set(blocks_of(world, "n1"))
    agents.waiting["n1", "v4"] = 80
    wait_for(lambda: len(blocks_of(world, "n1")) == 2, "a second block for n1", 60)
    (late,) = set(blocks_of(world, "n1")) - first
    agents.waiting.clear()
    agents.in_use[late] = 40
    wait_for(lambda: world.get("ippool", "v4")["status"]["inUse"] == 40, "the use is known", 60)
    lock = blocks_of(world)[late]["uid"]
    world.restore("backup")
    agents.waiting["n2", "v4"] = 80
    wait_for(lambda: late in blocks_of(world, "n1"), "n1's claim is locked again", 60)
    assert blocks_of(world)[late]["uid"] != lock, "the backup did not have it"
    wait_for(lambda: len(blocks_of(world, "n2")) == 2, "grants go on", 60)
    assert late not in blocks_of(world, "n2")
    world.apply({**POOL4, "metadata": {"name": "after"}, "spec": {"cidr": "10.245.0.0/24"}})
    wait_for(lambda: blocks_of(world, pool="after"), "the operator's watches hear what comes after", 60)


def test_a_deleted_nodes_network_is_collected_and_comes_back_with_the_node(collecting: World) -> None:
    from test_apiserver_operator import OperatorProcess

    world = collecting
    with EchoAgents(str(world.kubeconfig)):
        operator = OperatorProcess(world, "one")
        try:
            add_nodes(world, node("n0", 11), node("n1", 12))
            world.apply(POOL4)
            wait_for(lambda: settled(world, ("n0", "n1"), 2), "blocks on both nodes")
            before = set(blocks_of(world, "n1"))
            world.kubectl("delete", "node", "n1")
            wait_for(
                lambda: [n["metadata"]["name"] for n in world.items("nodenetworks")] == ["n0"], "n1's is collected"
            )
            assert set(blocks_of(world, "n1")) == before
            add_nodes(world, node("n1", 12))
            wait_for(lambda: settled(world, ("n1",), 2), "n1 has its blocks")
            assert set(blocks_of(world, "n1")) == before
            # Owned by the new Node, it stays: the collector had its time while this was waited for.
            wait_for(
                lambda: (
                    world.get("nodenetwork", "n1")["metadata"]["ownerReferences"][0]["uid"]
                    == world.get("node", "n1")["metadata"]["uid"]
                ),
                "the new owner",
            )
        finally:
            operator.kill()
            print(operator.log.read_text()[-2000:])


def test_an_object_that_older_rules_let_through_says_so_and_stops_no_other(
    world: World, start: Start, agents: EchoAgents
) -> None:
    path = REPOSITORY / "manifests" / "crds" / "podroute.dev_ippools.yaml"
    without_rules = yaml.safe_load(path.read_text())
    schema = without_rules["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    del schema["x-kubernetes-validations"], schema["properties"]["cidr"]["x-kubernetes-validations"]
    add_nodes(world, node("n0", 11))
    start()
    world.apply(without_rules)
    try:
        bad = {**POOL4, "metadata": {"name": "bad"}, "spec": {"cidr": "10.244.0.1/16"}}
        wait_for(lambda: world.attempt("apply", "-f", "-", text=yaml.safe_dump(bad)).returncode == 0, "rules are gone")
        said = wait_for(lambda: condition(world, "ippools", "bad", "Accepted"), "the bad pool has a verdict")
        assert (said["status"], said["reason"]) == ("False", "Invalid")
        assert "spec.cidr: 10.244.0.1/16 has host bits set" in said["message"]
        world.apply(POOL4)
        wait_for(lambda: settled(world, ("n0",), 2), "the good pool is served")
    finally:
        world.kubectl("delete", "ippool", "bad", "--ignore-not-found")
        world.kubectl("apply", "-f", str(path))


def test_a_kind_that_the_server_lists_late_is_watched_all_the_same(world: World) -> None:
    path = str(REPOSITORY / "manifests" / "crds" / "podroute.dev_ipreservations.yaml")
    reservation = {**POOL4, "kind": "IPReservation", "metadata": {"name": "late"}, "spec": {"cidrs": ["10.244.0.0/30"]}}
    heard: list[str] = []
    failures: list[None] = []
    listener = Listener(
        on_event=lambda event: heard.append(event.raw["metadata"]["name"]),
        on_relist=lambda _: None,
        on_failure=lambda: failures.append(None),
    )
    feed = Feed(connect(str(world.kubeconfig)).config, (IPPool, IPReservation), listener, "me")
    try:
        world.kubectl("delete", "-f", path)
        feed.start()
        wait_for(lambda: failures, "the watches say that a kind is missing")
        world.kubectl("apply", "-f", path)
        text = yaml.safe_dump(reservation)
        wait_for(lambda: world.attempt("apply", "-f", "-", text=text).returncode == 0, "objects of the kind are taken")
        wait_for(lambda: "late" in heard, "an event of the kind")
        so_far = len(failures)
        world.apply(POOL4)
        wait_for(lambda: "v4" in heard, "an event of the other kind")
        assert len(failures) == so_far, "all kinds are watched now"
    finally:
        feed.stop(10)
        world.install_crds()
