"""The room controller/kube against a real API server, killed and slowed where that matters."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest
from apiserver_world import SERVER, World, wait_for

from controller.api import ClusterNetwork, IPPool, NodeNetwork, decode
from controller.api.clusternetwork import ClusterNetworkSpec
from controller.api.ipblock import NodeReference
from controller.api.nodenetwork import NodeNetworkSpec, NodeNetworkStatus
from controller.api.notes import Note
from controller.api.objects import Metadata
from controller.kube import errors
from controller.kube.client import Api, connect
from controller.kube.events import EventRecorder
from controller.kube.lease import Lease, LeaseTerms
from controller.kube.reflector import Reflector, exponential
from controller.kube.resources import SECRETS, collection_of
from controller.kube.store import Change, Store
from controller.kube.writer import Fenced, Writer

pytestmark = [pytest.mark.root]


def node_network(name: str, epoch: str = "1") -> NodeNetwork:
    spec = NodeNetworkSpec(node=NodeReference(name=name), epoch=epoch)
    return NodeNetwork(metadata=Metadata(name=name), spec=spec)


def run(world: World, body: Callable[[Api], Any]) -> Any:
    async def inside() -> Any:
        async with connect(str(world.kubeconfig)) as api:
            return await asyncio.wait_for(body(api), 60)

    return asyncio.run(inside())


async def until(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    deadline = asyncio.get_running_loop().time() + seconds
    while not (answer := condition()):
        assert asyncio.get_running_loop().time() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.02)
    return answer


def test_every_refusal_of_the_server_is_one_of_our_errors(world: World) -> None:
    async def body(api: Api) -> None:
        pools = collection_of(IPPool)
        good = {
            "apiVersion": pools.api_version,
            "kind": "IPPool",
            "metadata": {"name": "p"},
            "spec": {"cidr": "10.244.0.0/16"},
        }
        with pytest.raises(errors.NotFound, match="not found"):
            await api.get(pools, "p")
        with pytest.raises(errors.Rejected, match="host bits are set"):
            await api.create(pools, {**good, "spec": {"cidr": "10.244.0.1/16"}})
        made = await api.create(pools, good)
        with pytest.raises(errors.AlreadyExists):
            await api.create(pools, good)
        with pytest.raises(errors.Conflict):
            await api.delete(pools, "p", uid="00000000-0000-0000-0000-000000000000")
        stale = {**made, "metadata": {**made["metadata"], "resourceVersion": "1"}}
        with pytest.raises(errors.Conflict):
            await api.replace(pools, stale)
        await api.delete(pools, "p", uid=made["metadata"]["uid"])

    run(world, body)


def test_a_wrong_token_and_no_server_are_told_apart(world: World) -> None:
    wrong, nowhere = world.folder / "wrong.kubeconfig", world.folder / "nowhere.kubeconfig"
    wrong.write_text(world.kubeconfig_for("no-such-token"))
    nowhere.write_text(world.kubeconfig_for("any", port=1))

    async def ask(path: str) -> None:
        async with connect(path) as api:
            await api.get(SECRETS, "x", "default")

    with pytest.raises(errors.Unauthorized, match="the token is not valid"):
        asyncio.run(ask(str(wrong)))
    with pytest.raises(errors.Unavailable):
        asyncio.run(ask(str(nowhere)))
    with pytest.raises(errors.NotConfigured, match="give --kubeconfig"):
        connect(str(world.folder / "absent"))


def test_a_list_longer_than_a_page_is_whole(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.kube.client.PAGE", 7)

    async def body(api: Api) -> None:
        writer = Writer(api)
        for number in range(20):
            await writer.create(node_network(f"n{number}"))
        listing = await api.list(collection_of(NodeNetwork))
        assert {item["metadata"]["name"] for item in listing.items} == {f"n{number}" for number in range(20)}

    run(world, body)


@pytest.fixture
def followed(world: World) -> tuple[World, Store, list[Change]]:
    return world, Store([NodeNetwork, ClusterNetwork]), []


def reflector_of(api: Api, store: Store, changes: list[Change], name: str) -> Reflector:
    return Reflector(api, store, NodeNetwork, backoff=exponential(Random(1), most=0.5), on_change=changes.append).named(
        name
    )


def test_a_reflector_sees_its_own_object_and_no_other(followed: tuple[World, Store, list[Change]]) -> None:
    world, store, changes = followed

    async def body(api: Api) -> None:
        writer = Writer(api)
        task = asyncio.create_task(reflector_of(api, store, changes, "n1").run())
        await until(lambda: store.shelf(NodeNetwork).is_loaded, "the first list")
        assert store.all(NodeNetwork) == ()
        await writer.create(node_network("n0"))
        made = await writer.create(node_network("n1"))
        await until(lambda: store.get(NodeNetwork, "n1"), "n1 in the store")
        await writer.set_status(NodeNetwork, "n1", made["metadata"]["uid"], NodeNetworkStatus(epoch="7"))
        await until(lambda: store.get(NodeNetwork, "n1").status.epoch == "7", "the status in the store")
        await writer.delete(NodeNetwork, "n1", made["metadata"]["uid"])
        await until(lambda: not store.all(NodeNetwork), "the delete")
        assert all(change.changed <= {"n1"} for change in changes)
        task.cancel()

    run(world, body)


def test_an_object_deleted_while_the_server_was_down_is_noticed(followed: tuple[World, Store, list[Change]]) -> None:
    world, store, changes = followed

    async def body(api: Api) -> None:
        made = await Writer(api).create(node_network("n1"))
        reflector = reflector_of(api, store, changes, "n1")
        task = asyncio.create_task(reflector.run())
        await until(lambda: store.get(NodeNetwork, "n1"), "n1 in the store")
        world.kill_server()
        await until(lambda: reflector.trouble, "the outage is noticed")
        assert store.get(NodeNetwork, "n1"), "what was known stays known"
        assert not reflector.is_current
        # Nobody watches now: the reflector's next attempts fail until it is started again.
        task.cancel()
        world.start_server()
        await Writer(api).delete(NodeNetwork, "n1", made["metadata"]["uid"])
        task = asyncio.create_task(reflector.run())
        await until(lambda: not store.all(NodeNetwork), "the delete is noticed by the list")
        assert reflector.is_current
        task.cancel()

    run(world, body)


def test_a_half_open_connection_is_noticed_and_replaced(followed: tuple[World, Store, list[Change]]) -> None:
    world, store, changes = followed
    proxied = world.folder / "proxied.kubeconfig"
    proxied.write_text(world.kubeconfig_for(world.token, port=7443))

    async def body(api: Api) -> None:
        frozen = asyncio.Event()
        proxy = await asyncio.start_server(lambda r, w: _relay(r, w, frozen), SERVER, 7443)
        async with connect(str(proxied)) as through:
            reflector = reflector_of(through, store, changes, "n1")
            reflector.read_seconds = 0.5
            task = asyncio.create_task(reflector.run())
            await until(lambda: store.shelf(NodeNetwork).is_loaded, "the first list")
            frozen.set()
            await Writer(api).create(node_network("n1"))
            await until(lambda: reflector.trouble, "silence is noticed")
            assert store.all(NodeNetwork) == ()
            frozen.clear()
            await until(lambda: store.get(NodeNetwork, "n1"), "n1 after a new connection", 30)
            task.cancel()
        proxy.close()

    run(world, body)


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, frozen: asyncio.Event) -> None:
    """A proxy that, once `frozen` is set, keeps connections open and passes nothing on."""
    upstream_reader, upstream_writer = await asyncio.open_connection(SERVER, 6443)

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            if not frozen.is_set():
                sink.write(data)
                await sink.drain()

    tasks = [asyncio.create_task(pump(reader, upstream_writer)), asyncio.create_task(pump(upstream_reader, writer))]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    upstream_writer.close()
    writer.close()


def test_a_status_is_written_past_other_writers_but_not_to_another_object(world: World) -> None:
    async def body(api: Api) -> None:
        writer = Writer(api)
        made = await writer.create(node_network("n1"))
        writes = [
            writer.set_status(NodeNetwork, "n1", made["metadata"]["uid"], NodeNetworkStatus(pods=number))
            for number in range(3)
        ]
        await asyncio.gather(*writes)
        with pytest.raises(errors.Conflict, match="another object has this name"):
            await writer.set_status(NodeNetwork, "n1", "another-uid", NodeNetworkStatus())

    run(world, body)


def test_only_one_of_two_holds_the_lease_until_it_is_given_up_or_runs_out(world: World) -> None:
    wall = datetime(2026, 1, 1, tzinfo=UTC)
    terms = LeaseTerms(duration=15, trusted=10, renew=3)

    async def body(api: Api) -> None:
        # One clock for both and for this test: what they hold counts from the request, what they see of each other from its answer.
        clock = [0.0]

        def lease(identity: str) -> Lease:
            return Lease(api, "operator", "default", identity, terms, clock=lambda: clock[0])

        async def renew(lease: Lease, at: float) -> bool:
            clock[0] = at
            return await lease.renew(at, wall)

        one, two = lease("one"), lease("two")
        assert await renew(one, 0.0)
        assert not await renew(two, 1.0)
        assert two.holder == "one"
        assert one.is_held(9.9)
        assert not one.is_held(10.0), "the holder stops before anybody else may start"
        assert not await renew(two, 15.9)
        assert await renew(two, 16.0), "unchanged for its duration"
        assert not await renew(one, 17.0)
        await two.release(18.0, wall)
        assert not two.is_held(18.0)
        assert await renew(one, 19.0), "given up, so free at once"

    run(world, body)


def test_a_lease_older_than_the_one_written_betrays_a_restored_backup(world: World) -> None:
    wall = datetime(2026, 1, 1, tzinfo=UTC)

    async def written(api: Api, lease: Lease) -> None:
        assert await lease.renew(0.0, wall)
        assert await lease.renew(1.0, wall)
        assert not lease.has_lost_history

    async def renewed(api: Api, lease: Lease) -> None:
        assert await lease.renew(2.0, wall)
        assert lease.has_lost_history

    lease = Lease(None, "history", "default", "one", LeaseTerms())  # type: ignore[arg-type]
    world.save("before")
    run(world, lambda api: written(api, with_api(lease, api)))
    world.restore("before")
    run(world, lambda api: renewed(api, with_api(lease, api)))


def with_api(lease: Lease, api: Api) -> Lease:
    """The same Lease over another connection: the first one ended with its event loop."""
    lease._api = api
    return lease


def test_nothing_is_sent_once_the_lease_is_lost(world: World) -> None:
    async def body(api: Api) -> None:
        held = True
        writer = Writer(api, lambda: held)
        made = await writer.create(node_network("n1"))
        held = False
        with pytest.raises(Fenced, match="Lease is lost"):
            await writer.delete(NodeNetwork, "n1", made["metadata"]["uid"])
        await api.get(collection_of(NodeNetwork), "n1")

    run(world, body)


def test_the_same_event_is_said_once_and_then_as_a_series(world: World) -> None:
    wall = datetime(2026, 1, 1, tzinfo=UTC)
    note = Note("v1", "Node", "n1", "uid-1", "PoolExhausted", "no block left")

    async def body(api: Api) -> None:
        recorder = EventRecorder(api, "podroute.dev/operator", "op-1")
        for now in (0.0, 1.0, 700.0):
            await recorder.record(note, now, wall)
        # Another process says the same: no second Event.
        await EventRecorder(api, "podroute.dev/operator", "op-2").record(note, 0.0, wall)

    run(world, body)
    (event,) = [e for e in world.items("events.events.k8s.io", "-n", "default") if e["reason"] == "PoolExhausted"]
    assert event["regarding"]["name"] == "n1"
    assert event["series"]["count"] >= 2


def test_a_watch_from_no_version_at_all_is_refused_as_any_request(world: World) -> None:
    async def body(api: Api) -> None:
        events = api.watch(collection_of(NodeNetwork), "not-a-version")
        with pytest.raises(errors.KubeError):
            await anext(events)

    run(world, body)


def test_a_kind_that_is_written_comes_back_equal(world: World) -> None:
    async def body(api: Api) -> None:
        cluster = ClusterNetwork(
            metadata=Metadata(name="default"), spec=ClusterNetworkSpec(service_ranges=("10.96.0.0/16",))
        )
        back = decode(ClusterNetwork, await Writer(api).create(cluster))
        assert isinstance(back, ClusterNetwork)
        assert back.spec == cluster.spec

    run(world, body)
    wait_for(lambda: world.items("clusternetworks"), "the object")
