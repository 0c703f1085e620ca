"""Additions and deletions by the agent's own code in a real kernel (`controller.agent.attach`, `controller.agent.pods`)."""

import asyncio
import ipaddress
import json
import threading
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
from netns_world import Pod, World, ip_json
from netns_world import run as world_run

from bgp.speaker.client import SpeakerClient
from controller.agent.attach import Attachments
from controller.agent.files import RunFolder
from controller.agent.pods import PodEffects
from controller.agent.reconciler import Reconciler
from controller.agent.speaker import Speaking
from controller.agent.state import State
from controller.api.clusternetwork import ClusterNetwork, ClusterNetworkSpec, PoolFlags
from controller.api.ipblock import NodeReference
from controller.api.nodenetwork import BlockGrant, NodeNetwork, NodeNetworkSpec
from controller.api.objects import Metadata
from controller.cni.request import Command, Configuration, Request
from controller.cni.request import Pod as PodName
from controller.cni.result import SUPPORTED_VERSIONS, CniError, ErrorCode, Success, rendered_success
from controller.kernel import pods
from controller.kernel.values import PodLink
from controller.plan.addresses import REST_SECONDS
from controller.plan.node import Local, Snapshot, plan_node
from controller.plan.speaking import Surroundings

pytestmark = pytest.mark.root

# One address of each family: the next pod can only have its predecessor's.
BLOCKS = (
    BlockGrant(cidr="10.1.0.1/32", uid="b4", pool="p4"),
    BlockGrant(cidr="fd00:1::1/128", uid="b6", pool="p6"),
)
ROOMY = (BlockGrant(cidr="10.1.0.0/26", uid="b4", pool="p4"), BlockGrant(cidr="fd00:1::/122", uid="b6", pool="p6"))
POOLS = (
    PoolFlags(name="p4", cidr="10.1.0.0/16", block_size=32),
    PoolFlags(name="p6", cidr="fd00:1::/64", block_size=128),
)


class Agent:
    """Those parts of an agent that serve CNI calls, in the world's node; makes its threads in that namespace."""

    def __init__(self, folder: Path, blocks: tuple[BlockGrant, ...] = BLOCKS, now: float = 100.0) -> None:
        self.state = State("n0", RunFolder(folder), lambda: now)
        spec = NodeNetworkSpec(node=NodeReference(name="n0"), addresses=("192.0.2.10", "2001:db8:1::10"), blocks=blocks)
        self.state.snapshot = Snapshot(
            node=NodeNetwork(metadata=Metadata(name="n0"), spec=spec),
            cluster=ClusterNetwork(metadata=Metadata(name="default"), spec=ClusterNetworkSpec(pools=POOLS)),
        )
        self.state.plan = plan_node(self.state.snapshot, Local((), frozenset(), Surroundings()))
        self.effects = PodEffects(self.state)
        self.attachments = Attachments(self.state, self.effects)

    async def ask(
        self, command: Command, pod: Pod, interface: str = "eth0", previous: dict[str, Any] | None = None
    ) -> Success | None:
        request = Request(
            command=command,
            container_id=pod.attachment.container_id,
            interface=interface,
            netns=f"/run/netns/{pod.name}",
            netns_fd=pod.fd,
            pod=PodName("default", "web", "uid"),
            configuration=Configuration("1.1.0", "podroute", prev_result=previous),
        )
        return await self.attachments.handle(request)


def run(agent: Agent, work: Awaitable[object]) -> None:
    try:
        asyncio.run(asyncio.wait_for(work, 20))
    finally:
        agent.effects.close()


def test_an_address_is_never_on_two_veths_however_scarce(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = Agent(tmp_path)
    one, two = world.unwired_pod(), world.unwired_pod()
    go = threading.Event()
    unwire = pods.unwire_pod

    def slowly(name: str) -> bool:
        """As under load, when the kernel's grace periods are long."""
        assert go.wait(10)
        return unwire(name)

    monkeypatch.setattr(pods, "unwire_pod", slowly)

    async def story() -> None:
        await agent.ask(Command.ADD, one)
        (old,) = await agent.effects.links()
        await agent.ask(Command.DEL, one)
        adding = asyncio.create_task(agent.ask(Command.ADD, two))
        # An addition that does not wait is done long before.
        await asyncio.wait([adding], timeout=0.5)
        assert await agent.effects.links() == [old]
        go.set()
        success = await adding
        assert success is not None
        assert [str(address) for address in success.addresses] == ["10.1.0.1", "fd00:1::1"]
        (new,) = await agent.effects.links()
        assert new.name == success.host_interface != old.name

    run(agent, story())


def test_a_failed_addition_leaves_neither_veth_nor_taken_addresses(world: World, tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    one, two = world.unwired_pod(), world.unwired_pod()
    one.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")

    async def story() -> None:
        with pytest.raises(Exception, match="has an interface of this name already"):
            await agent.ask(Command.ADD, one)
        assert await agent.ask(Command.ADD, two) is not None
        assert len(await agent.effects.links()) == 1

    run(agent, story())
    assert len(pods.read_pods()) == 1


def test_a_veth_made_anew_under_a_pods_name_neither_gets_its_routes_nor_keeps_its_addresses(
    world: World, tmp_path: Path
) -> None:
    agent = Agent(tmp_path)
    pod = world.unwired_pod()

    async def story() -> None:
        reconciler = Reconciler(agent.state, Speaking(agent.state, SpeakerClient("/nowhere")), None)
        success = await agent.ask(Command.ADD, pod)
        assert success is not None
        await reconciler._pass()
        assert len(agent.state.ledger.used) == 2
        world_run("ip", "link", "delete", success.host_interface)
        world_run("ip", "link", "add", success.host_interface, "type", "veth", "peer", "name", "other")
        await reconciler._pass()
        assert not agent.state.ledger.used
        assert not ip_json("route", "show", "dev", success.host_interface)

    run(agent, story())


def test_a_second_interface_of_a_pod_gets_addresses_and_leaves_the_first_ones_default_route(
    world: World, tmp_path: Path
) -> None:
    agent = Agent(tmp_path, ROOMY)
    pod = world.unwired_pod()

    async def story() -> None:
        answers = [await agent.ask(Command.ADD, pod, interface) for interface in ("eth0", "net1")]
        eth0, net1 = [json.loads(rendered_success(answer, "1.1.0")) for answer in answers if answer]
        assert [route["dst"] for route in eth0["routes"]] == ["0.0.0.0/0", "::/0"]
        assert net1["routes"] == []
        assert len(net1["ips"]) == 2
        for family in ("-4", "-6"):
            assert "dev eth0" in pod.run("ip", family, "route", "show", "default")
            assert "dev net1" not in pod.run("ip", family, "route", "show", "default")
            assert all(entry["address"].split("/")[0] in pod.run("ip", "addr", "show", "net1") for entry in net1["ips"])
        for interface, result in (("eth0", eth0), ("net1", net1)):
            assert await agent.ask(Command.CHECK, pod, interface, result) is None
        assert pods.wiring_problems() == []
        await agent.ask(Command.DEL, pod, "net1")
        assert await agent.ask(Command.CHECK, pod, "eth0", eth0) is None
        assert len(agent.state.ledger.used) == 2

    run(agent, story())


def test_an_address_freed_without_an_agent_rests_however_soon_after_its_addition_and_what_the_kernel_has_stays(
    world: World, tmp_path: Path
) -> None:
    former, agent = Agent(tmp_path, ROOMY), Agent(tmp_path, ROOMY)
    gone, staying = world.unwired_pod(), world.unwired_pod()

    async def before() -> None:
        await former.effects.adopt()
        for pod in (gone, staying):
            await former.ask(Command.ADD, pod)

    async def after() -> None:
        (link,) = [link for link in pods.read_pods() if link.attachment and not is_of(link, staying)]
        pods.unwire_pod(link.name)
        await agent.effects.adopt()
        assert link.attachment is not None
        assert set(agent.state.ledger.resting) == set(link.attachment.addresses)
        assert {key[0] for key in agent.state.ledger.used.values()} == {staying.attachment.container_id}
        # The next agent knows of it, too.
        assert agent.state.folder.load_resting() == dict(agent.state.ledger.resting)

    run(former, before())
    run(agent, after())


def test_an_address_that_had_not_rested_and_was_used_again_rests_anew_when_its_pod_goes_without_an_agent(
    world: World, tmp_path: Path
) -> None:
    former, agent = Agent(tmp_path), Agent(tmp_path, now=1000.0)
    one, two = world.unwired_pod(), world.unwired_pod()

    async def before() -> None:
        await former.ask(Command.ADD, one)
        await former.ask(Command.DEL, one)
        assert len(former.state.folder.load_resting()) == 2
        await former.ask(Command.ADD, two)
        assert not former.state.ledger.resting

    async def after() -> None:
        (link,) = pods.read_pods()
        pods.unwire_pod(link.name)
        await agent.effects.adopt()
        assert set(agent.state.ledger.resting.values()) == {1000.0 + REST_SECONDS}
        assert len(agent.state.ledger.resting) == 2

    run(former, before())
    run(agent, after())


def test_what_was_noted_before_a_line_cut_short_is_known(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    noted = frozenset(map(ipaddress.ip_address, ("10.1.0.1", "fd00:1::1")))
    folder.note_used(noted)
    with (tmp_path / "used").open("a") as file:
        file.write("10.1.")
    assert folder.load_used() == noted


def is_of(link: PodLink, pod: Pod) -> bool:
    return link.attachment is not None and link.attachment.container_id == pod.attachment.container_id


def with_other(result: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """The result with another value at `path`, as if ADD had answered that."""
    changed = json.loads(json.dumps(result))
    *parents, last = path.split("/")
    place = changed
    for step in parents:
        place = place[int(step) if step.isdigit() else step]
    place[int(last) if last.isdigit() else last] = value
    return changed


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS[1:])
def test_check_compares_the_result_of_the_addition_with_what_is_there(
    world: World, tmp_path: Path, version: str
) -> None:
    agent = Agent(tmp_path)
    pod = world.unwired_pod()

    async def failed(result: dict[str, Any]) -> str:
        with pytest.raises(CniError) as error:
            await agent.ask(Command.CHECK, pod, previous=result)
        assert error.value.code is ErrorCode.CHECK_FAILED
        return error.value.message

    async def story() -> None:
        success = await agent.ask(Command.ADD, pod)
        assert success is not None
        result = json.loads(rendered_success(success, version))
        assert await agent.ask(Command.CHECK, pod, previous=result) is None
        for path, value, words in (
            ("ips/0/address", "10.1.0.9/32", "prevResult.ips: eth0 has no address 10.1.0.9/32"),
            ("ips/1/address", "fd00:1::1/64", "prevResult.ips: eth0 has no address fd00:1::1/64"),
            ("routes/0/dst", "10.9.0.0/16", "no route to 10.9.0.0/16 via 169.254.1.1 on eth0"),
            ("routes/1/gw", "fe80::1", "no route to ::/0 via fe80::1 on eth0"),
            ("interfaces/1/mac", "06:00:00:00:00:01", "not 06:00:00:00:00:01"),
            ("interfaces/0/name", "podr0123456789a", "podr0123456789a is not the host end of eth0"),
        ):
            assert words in await failed(with_other(result, path, value))
        pod.run("ip", "route", "delete", "default")
        assert "no route to 0.0.0.0/0 via 169.254.1.1 on eth0" in await failed(result)

    run(agent, story())
