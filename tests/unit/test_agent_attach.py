"""CNI operations against the ledger (`controller.agent.attach`), with the kernel's effects replaced at their boundary."""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from controller.agent import attach
from controller.agent.attach import Attachments
from controller.agent.files import RunFolder
from controller.agent.state import State
from controller.api.clusternetwork import ClusterNetwork, ClusterNetworkSpec, PoolFlags
from controller.api.ipblock import NodeReference
from controller.api.nodenetwork import BlockGrant, NodeNetwork, NodeNetworkSpec
from controller.api.objects import Address, Metadata
from controller.cni.request import Command, Configuration, Pod, Request
from controller.cni.result import CniError, ErrorCode, Success
from controller.kernel.values import Attachment, PodLink, host_interface_name
from controller.plan.node import Local, Snapshot, plan_node
from controller.plan.speaking import Surroundings

BLOCKS = (
    BlockGrant(cidr="10.244.0.0/30", uid="b4", pool="p4"),
    BlockGrant(cidr="fd00:10:244::/126", uid="b6", pool="p6"),
)
# The next pod can only have its predecessor's addresses.
SCARCE = (
    BlockGrant(cidr="10.244.0.0/32", uid="b4", pool="p4"),
    BlockGrant(cidr="fd00:10:244::/128", uid="b6", pool="p6"),
)
CLUSTER = ClusterNetworkSpec(
    pools=(
        PoolFlags(name="p4", cidr="10.244.0.0/16", block_size=30),
        PoolFlags(name="p6", cidr="fd00:10:244::/56", block_size=126),
    )
)


class Kernel:
    """Remembers what it was asked; `before_wire` may wait or fail, and `is_slow` puts removals off until `remove_now`."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.is_slow = False
        self.wired: dict[str, Attachment] = {}
        self.removed: list[str] = []
        self.forgotten: list[tuple[Address, ...]] = []
        self.before_wire: Callable[[], Awaitable[None]] | None = None

    async def wire(self, netns: int, attachment: Attachment, mtu: int) -> tuple[Address, ...]:
        if self.before_wire:
            await self.before_wire()
        name = host_interface_name(attachment.container_id, attachment.interface)
        self.wired[name] = attachment
        await self.after_link()
        self.state.wired[name] = 7
        return ()

    async def after_link(self) -> None:
        """The veth is there, and the addition not complete yet."""

    def remove_later(self, name: str) -> None:
        self.removed.append(name)
        self.state.wired.pop(name, None)
        if not self.is_slow:
            self.remove_now(name)

    def remove_now(self, name: str) -> None:
        self.wired.pop(name, None)
        if self.state.ledger.unlinked(name):
            self.state.blocks_changed.ring()

    async def forget(self, addresses: tuple[Address, ...]) -> None:
        self.forgotten.append(addresses)

    async def problems(self, netns: int, attachment: Attachment, mtu: int) -> list[str]:
        return []

    async def links(self) -> list[PodLink]:
        return [PodLink(name, 7, True, 1500, attachment) for name, attachment in self.wired.items()]


class Node:
    """An agent's state with a kernel that only remembers."""

    def __init__(self, folder: Path, blocks: tuple[BlockGrant, ...] = BLOCKS) -> None:
        self.now = 100.0
        self.state = State("n0", RunFolder(folder), lambda: self.now)
        self.kernel = Kernel(self.state)
        self.attachments = Attachments(self.state, self.kernel)
        self.grant(blocks)

    def grant(self, blocks: tuple[BlockGrant, ...], epoch: str = "", pools: tuple[str, ...] | None = None) -> None:
        """What the reconciler does when the operator grants blocks; `pools` select the node."""
        addresses = ("10.0.0.2", "fd00::2")
        spec = NodeNetworkSpec(
            node=NodeReference(name="n0"), blocks=blocks, addresses=addresses, epoch=epoch, pools=pools
        )
        self.state.snapshot = Snapshot(
            node=NodeNetwork(metadata=Metadata(name="n0"), spec=spec),
            cluster=ClusterNetwork(metadata=Metadata(name="default"), spec=CLUSTER),
        )
        self.state.plan = plan_node(self.state.snapshot, Local((), self.state.ledger.occupied, Surroundings()))
        self.state.blocks_changed.ring()

    async def ask(
        self, command: Command, container: str = "c1", network: str = "podroute", **configuration: object
    ) -> Success | None:
        request = Request(
            command=command,
            container_id=container,
            interface="eth0",
            netns="/run/netns/x",
            netns_fd=9,
            pod=Pod("default", "web", "uid"),
            configuration=Configuration("1.1.0", network, **configuration),
        )
        return await self.attachments.handle(request)

    async def refused(self, command: Command, container: str = "c1", **configuration: object) -> CniError:
        with pytest.raises(CniError) as error:
            await self.ask(command, container, **configuration)
        return error.value


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def run(work: Awaitable[object]) -> None:
    asyncio.run(asyncio.wait_for(work, 10))


def test_an_addition_gives_one_address_of_each_family(node: Node) -> None:
    async def story() -> None:
        success = await node.ask(Command.ADD)
        assert success is not None
        assert [str(a) for a in success.addresses] == ["10.244.0.0", "fd00:10:244::"]
        assert success.host_interface in node.kernel.wired

    run(story())


def test_a_second_addition_of_the_same_is_refused_and_one_of_another_container_is_not(node: Node) -> None:
    async def story() -> None:
        await node.ask(Command.ADD)
        error = await node.refused(Command.ADD)
        assert error.code is ErrorCode.INTERFACE_EXISTS
        assert "c1" in error.message
        assert "DEL" in error.remedy
        assert await node.ask(Command.ADD, "c2") is not None

    run(story())


def test_deleting_twice_or_the_unknown_succeeds_and_the_addresses_rest(node: Node) -> None:
    async def story() -> None:
        await node.ask(Command.ADD)
        for _ in range(2):
            assert await node.ask(Command.DEL) is None
        assert await node.ask(Command.DEL, "never seen") is None
        assert not node.state.ledger.used
        assert set(node.state.ledger.resting.values()) == {130.0}
        assert node.state.folder.load_resting() == dict(node.state.ledger.resting)

    run(story())


def test_rests_are_in_the_file_before_the_veth_goes(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    remembered: list[set[Address]] = []
    folder = node.state.folder
    monkeypatch.setattr(node.kernel, "remove_later", lambda _: remembered.append(set(folder.load_resting())))

    async def story() -> None:
        success = await node.ask(Command.ADD)
        await node.ask(Command.DEL)
        assert success is not None
        assert remembered == [set(success.addresses)]

    run(story())


def test_a_deletion_adds_to_the_rests_in_the_file_and_the_last_line_of_an_address_counts(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    four, six = ipaddress.ip_address("10.244.0.1"), ipaddress.ip_address("fd00::1")
    folder.store_resting({four: 10.5, six: 11.0})
    folder.note_resting({four: 40.25})
    assert folder.load_resting() == {four: 40.25, six: 11.0}
    with (tmp_path / "resting").open("a") as file:
        file.write("10.244.0.2\nno address 12 .\n10.244.0.1 4")
    folder.note_resting({six: 41.0})
    assert folder.load_resting() == {four: 40.25, six: 41.0}
    folder.store_resting({})
    assert folder.load_resting() == {}


def test_the_rests_file_is_one_line_an_address_once_it_is_kept_and_is_not_written_twice(tmp_path: Path) -> None:
    folder, address = RunFolder(tmp_path), ipaddress.ip_address("10.244.0.1")
    for until in range(100):
        folder.note_resting({address: float(until)})
    folder.store_resting({address: 99.0})
    file = tmp_path / "resting"
    assert file.read_text().split() == ["10.244.0.1", "99.0", "."]
    written = file.stat().st_ino
    folder.store_resting({address: 99.0})
    assert file.stat().st_ino == written
    file.write_bytes(b"\xff\xfe no text\n10.244.0.1 99.0 .\n")
    assert folder.load_resting() == {address: 99.0}


def test_an_addition_waits_for_a_block_and_goes_on_when_one_is_granted(tmp_path: Path) -> None:
    async def story() -> None:
        node = Node(tmp_path, ())
        adding = asyncio.create_task(node.ask(Command.ADD))
        assert await node.state.report.wait(5)
        assert list(node.state.waiting.values()) == [frozenset({"p4", "p6"})]
        node.grant(BLOCKS)
        success = await adding
        assert success is not None
        assert len(success.addresses) == 2
        assert not node.state.waiting

    run(story())


def test_an_addition_that_waited_in_vain_says_try_again_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attach, "BLOCK_SECONDS", 0.0)

    async def story() -> None:
        node = Node(tmp_path, ())
        error = await node.refused(Command.ADD)
        assert error.code is ErrorCode.TRY_AGAIN
        assert error.message.startswith("NoBlock: ")
        assert "kubectl get ippools" in error.remedy
        assert not node.state.waiting

    run(story())


def test_an_addition_between_the_first_grants_of_two_families_waits_for_the_second(tmp_path: Path) -> None:
    async def story() -> None:
        node = Node(tmp_path, BLOCKS[:1])
        adding = asyncio.create_task(node.ask(Command.ADD))
        assert await node.state.report.wait(5)
        assert list(node.state.waiting.values()) == [frozenset({"p6"})]
        node.grant(BLOCKS)
        success = await adding
        assert success is not None
        assert [address.version for address in success.addresses] == [4, 6]

    run(story())


@pytest.mark.parametrize("family", [4, 6])
def test_a_family_that_the_operator_does_not_grant_here_is_waited_for_once_a_term(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: int
) -> None:
    monkeypatch.setattr(attach, "BLOCK_SECONDS", 0.0)
    monkeypatch.setattr(attach, "PARTIAL_SECONDS", 0.0)

    async def story() -> None:
        blocks = BLOCKS[:1] if family == 4 else BLOCKS[1:]
        node = Node(tmp_path, blocks)
        success = await node.ask(Command.ADD)
        assert success is not None
        assert [address.version for address in success.addresses] == [family]
        monkeypatch.setattr(attach, "BLOCK_SECONDS", 1000.0)
        assert await node.ask(Command.ADD, "c2") is not None
        node.grant(blocks, epoch="new")
        adding = asyncio.create_task(node.ask(Command.ADD, "c3"))
        await asyncio.sleep(0)
        assert not adding.done()
        node.grant(BLOCKS, epoch="new")
        success = await adding
        assert success is not None
        assert len(success.addresses) == 2
        assert not node.state.unanswered

    run(story())


def test_an_addition_whose_time_is_over_right_after_the_first_family_came_fails_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attach, "BLOCK_SECONDS", 0.0)

    async def story() -> None:
        node = Node(tmp_path, BLOCKS[:1])
        error = await node.refused(Command.ADD)
        assert error.code is ErrorCode.TRY_AGAIN
        assert "no ipv6 block yet" in error.message
        assert "IPPool p6" in error.message
        assert not node.state.ledger.used
        assert not node.state.unanswered

    run(story())


@pytest.mark.parametrize("family", [4, 6])
def test_a_family_whose_pools_pass_the_node_over_is_not_waited_for(tmp_path: Path, family: int) -> None:
    async def story() -> None:
        mine = 0 if family == 4 else 1
        node = Node(tmp_path)
        node.grant(BLOCKS[mine : mine + 1], pools=(BLOCKS[mine].pool,))
        success = await node.ask(Command.ADD)
        assert success is not None
        assert [address.version for address in success.addresses] == [family]
        # Once the other selects the node, its block is waited for.
        node.grant(BLOCKS[mine : mine + 1], pools=("p4", "p6"))
        adding = asyncio.create_task(node.ask(Command.ADD, "c2"))
        await asyncio.sleep(0)
        assert not adding.done()
        node.grant(BLOCKS, pools=("p4", "p6"))
        success = await adding
        assert success is not None
        assert len(success.addresses) == 2

    run(story())


def test_an_addition_on_a_node_that_every_pool_passes_over_is_refused_at_once(tmp_path: Path) -> None:
    async def story() -> None:
        node = Node(tmp_path, ())
        node.grant((), pools=("others",))
        error = await node.refused(Command.ADD)
        assert error.code is ErrorCode.TRY_AGAIN
        assert "of IPPool p4, p6 none has a nodeSelector that matches node n0" in error.message

    run(story())


def test_a_family_that_the_node_has_no_address_of_is_not_waited_for(tmp_path: Path) -> None:
    async def story() -> None:
        node = Node(tmp_path, BLOCKS[:1])
        snapshot = node.state.snapshot
        assert snapshot.node is not None
        spec = msgspec.structs.replace(snapshot.node.spec, addresses=("10.0.0.2",))
        single = msgspec.structs.replace(snapshot.node, spec=spec)
        node.state.snapshot = msgspec.structs.replace(snapshot, node=single)
        success = await node.ask(Command.ADD)
        assert success is not None
        assert len(success.addresses) == 1

    run(story())


def test_an_annotation_that_names_a_pool_which_does_not_serve_is_refused_at_once(node: Node) -> None:
    async def story() -> None:
        error = await node.refused(Command.ADD, annotations={"podroute.dev/pools": "other"})
        assert error.code is ErrorCode.TRY_AGAIN
        assert "podroute.dev/pools='other'" in error.message
        success = await node.ask(Command.ADD, annotations={"podroute.dev/pools": "p6"})
        assert success is not None
        assert [address.version for address in success.addresses] == [6]

    run(story())


def test_a_failed_wiring_leaves_the_addresses_free(node: Node) -> None:
    async def story() -> None:
        async def fail() -> None:
            raise CniError(ErrorCode.KERNEL, "no", "none")

        node.kernel.before_wire = fail
        await node.refused(Command.ADD)
        assert node.state.ledger.occupied == frozenset()

    run(story())


def test_a_cancelled_addition_leaves_the_addresses_free(node: Node) -> None:
    async def story() -> None:
        begun = asyncio.Event()

        async def stay() -> None:
            begun.set()
            await asyncio.Event().wait()

        node.kernel.before_wire = stay
        adding = asyncio.create_task(node.ask(Command.ADD))
        await begun.wait()
        assert node.state.ledger.used
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
        assert node.state.ledger.occupied == frozenset()

    run(story())


def test_a_deletion_waits_for_the_addition_of_the_same_container(node: Node) -> None:
    async def story() -> None:
        begun, go = asyncio.Event(), asyncio.Event()

        async def slowly() -> None:
            begun.set()
            await go.wait()

        node.kernel.before_wire = slowly
        adding = asyncio.create_task(node.ask(Command.ADD))
        await begun.wait()
        deleting = asyncio.create_task(node.ask(Command.DEL))
        node.kernel.before_wire = None
        await node.ask(Command.ADD, "c2")
        assert not deleting.done()
        go.set()
        assert await adding is not None
        assert await deleting is None
        assert [key[0] for key in set(node.state.ledger.used.values())] == ["c2"]

    run(story())


def test_connections_of_an_address_that_did_not_rest_in_full_are_forgotten_first(tmp_path: Path) -> None:
    async def story() -> None:
        node = Node(tmp_path, SCARCE)
        await node.ask(Command.ADD)
        await node.ask(Command.DEL)
        assert await node.ask(Command.ADD, "c2") is not None
        assert node.kernel.forgotten == [tuple(map(ipaddress.ip_address, ("10.244.0.0", "fd00:10:244::")))]

    run(story())


def test_an_address_whose_old_veth_is_still_there_is_given_to_nobody_until_that_is_gone(tmp_path: Path) -> None:
    async def story() -> None:
        node = Node(tmp_path, SCARCE)
        await node.ask(Command.ADD)
        node.kernel.is_slow = True
        await node.ask(Command.DEL)
        adding = asyncio.create_task(node.ask(Command.ADD, "c2"))
        await asyncio.sleep(0)
        (old,) = node.kernel.removed
        assert list(node.kernel.wired) == [old]
        assert not node.state.ledger.used
        # Another block is not what it waits for.
        assert not node.state.waiting
        node.kernel.remove_now(old)
        assert await adding is not None
        assert old not in node.kernel.wired

    run(story())


def test_an_address_of_a_failed_addition_is_free_once_what_was_begun_is_removed(node: Node) -> None:
    async def story() -> None:
        async def fail() -> None:
            raise CniError(ErrorCode.KERNEL, "no", "none")

        node.kernel.before_wire, node.kernel.is_slow = fail, True
        await node.refused(Command.ADD)
        (name,) = node.kernel.removed
        assert len(node.state.ledger.occupied) == 2
        node.kernel.remove_now(name)
        assert node.state.ledger.occupied == frozenset()

    run(story())


def test_collection_removes_what_the_runtime_no_longer_lists_and_nothing_else(node: Node) -> None:
    async def story() -> None:
        for container in ("c1", "c2", "c3"):
            await node.ask(Command.ADD, container)
        await node.ask(Command.GC, valid_attachments=None)
        assert len(node.kernel.wired) == 3
        await node.ask(Command.GC, valid_attachments=frozenset({("c2", "eth0")}))
        assert {attachment.container_id for attachment in node.kernel.wired.values()} == {"c2"}
        assert {key[0] for key in node.state.ledger.used.values()} == {"c2"}

    run(story())


def test_collection_of_one_network_leaves_the_pods_of_others_alone(node: Node) -> None:
    async def story() -> None:
        await node.ask(Command.ADD, "c1")
        await node.ask(Command.ADD, "c2", network="another")
        await node.ask(Command.GC, network="third", valid_attachments=frozenset())
        assert {key[0] for key in node.state.ledger.used.values()} == {"c1", "c2"}
        await node.ask(Command.GC, network="another", valid_attachments=frozenset())
        assert {key[0] for key in node.state.ledger.used.values()} == {"c1"}
        await node.ask(Command.GC, valid_attachments=frozenset())
        assert node.kernel.wired == {}

    run(story())


def test_collection_spares_an_addition_that_was_under_way_when_the_runtime_listed_its_own(node: Node) -> None:
    async def story() -> None:
        begun, go = asyncio.Event(), asyncio.Event()

        async def slowly() -> None:
            begun.set()
            await go.wait()

        await node.ask(Command.ADD, "c1")
        node.kernel.after_link = slowly
        adding = asyncio.create_task(node.ask(Command.ADD, "c2"))
        await begun.wait()
        collecting = asyncio.create_task(node.ask(Command.GC, valid_attachments=frozenset()))
        await asyncio.wait([collecting], timeout=0.1)
        go.set()
        assert await adding is not None
        await collecting
        assert {key[0] for key in node.state.ledger.used.values()} == {"c2"}

    run(story())


def test_check_knows_what_was_added_and_refuses_the_unknown(node: Node) -> None:
    async def story() -> None:
        await node.ask(Command.ADD)
        assert await node.ask(Command.CHECK) is None
        error = await node.refused(Command.CHECK, "c2")
        assert error.code is ErrorCode.UNKNOWN_CONTAINER
        assert "c2" in error.message

    run(story())


def test_status_fails_until_the_first_complete_pass_and_never_after(node: Node) -> None:
    async def story() -> None:
        error = await node.refused(Command.STATUS)
        assert error.code is ErrorCode.NOT_AVAILABLE
        node.state.ready.set()
        assert await node.ask(Command.STATUS) is None
        node.grant(())
        assert await node.ask(Command.STATUS) is None

    run(story())


def test_a_block_that_vanished_keeps_its_pods_and_gives_no_new_address(node: Node) -> None:
    async def story() -> None:
        await node.ask(Command.ADD)
        held = node.state.plan.blocks if node.state.plan else ()
        other = (BlockGrant(cidr="10.244.1.0/30", uid="c4", pool="p4"), BLOCKS[1])
        node.grant(other)
        node.state.snapshot = msgspec.structs.replace(node.state.snapshot, held=held)
        node.state.plan = plan_node(node.state.snapshot, Local((), node.state.ledger.occupied, Surroundings()))
        assert node.state.plan is not None
        assert BLOCKS[0] in node.state.plan.blocks
        success = await node.ask(Command.ADD, "c2")
        assert success is not None
        assert success.addresses[0] in ipaddress.ip_network("10.244.1.0/30")

    run(story())


def test_a_node_that_retires_starts_no_more_pods_and_still_ends_those_that_run(node: Node) -> None:
    async def story() -> None:
        await node.ask(Command.ADD)
        cluster = node.state.snapshot.cluster
        assert cluster is not None
        spec = msgspec.structs.replace(cluster.spec, retiring="one")
        node.state.snapshot = msgspec.structs.replace(
            node.state.snapshot, cluster=msgspec.structs.replace(cluster, spec=spec)
        )
        with pytest.raises(CniError) as refused:
            await node.ask(Command.ADD, "c2")
        assert refused.value.code is ErrorCode.TRY_AGAIN
        assert "being uninstalled" in str(refused.value)
        await node.ask(Command.DEL)
        assert node.kernel.wired == {}

    run(story())
