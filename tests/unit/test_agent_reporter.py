"""When a node's status is written, and what is remembered of it (`controller.agent.reporter`)."""

import asyncio
import errno
import os
import time
from pathlib import Path

import msgspec
import pytest

from bgp.values import Family, Observed, Session, SessionState
from controller.agent import files
from controller.agent.files import RunFolder
from controller.agent.reporter import COUNTERS, LEAST, NOTABLE, Reporter, Written, seconds_until_write
from controller.agent.state import State
from controller.api.clusternetwork import ClusterNetwork
from controller.api.ipblock import NodeReference
from controller.api.nodenetwork import (
    BlockGrant,
    NodeNetwork,
    NodeNetworkSpec,
    NodeNetworkStatus,
    PoolDemand,
    SessionStatus,
)
from controller.api.objects import Metadata
from controller.plan.node import Local, Snapshot, plan_node
from controller.plan.returned import Return
from controller.plan.speaking import Surroundings
from controller.plan.withdrawal import Keeping, Told

QUIET = NodeNetworkStatus(epoch="e", pods=1)


def wait(status: NodeNetworkStatus, at: float, since: float | None = None, jitter: float = 0.0) -> float | None:
    """How long to wait at time `at`, if QUIET was written at 0."""
    return seconds_until_write(status, Written(QUIET, 0.0, since), at, jitter)


def changed(**changes: object) -> NodeNetworkStatus:
    return msgspec.structs.replace(QUIET, **changes)


def test_the_first_status_is_written_at_once() -> None:
    assert seconds_until_write(QUIET, Written(), 5.0, 0.0) == 0.0


def test_an_unchanged_status_is_not_written() -> None:
    assert wait(QUIET, 1000.0) is None


def test_what_the_operator_waits_for_is_written_at_once_but_at_most_once_a_second() -> None:
    for status in (
        changed(epoch="f"),
        changed(released=("uid",)),
        changed(demand=(PoolDemand(pool="p", waiting=1),)),
    ):
        assert wait(status, 10.0) == 0.0
        assert wait(status, 0.25) == LEAST - 0.25


def test_a_session_that_changed_is_written_a_second_later_however_often_it_changes_meanwhile() -> None:
    status = changed(sessions=(SessionStatus(peer="t", address="a", state="connecting"),))
    assert wait(status, 10.0) == NOTABLE
    assert wait(status, 10.5, since=10.0) == NOTABLE - 0.5
    assert wait(status, 11.0, since=10.0) == 0.0


def test_that_a_session_refuses_routes_is_no_mere_counter_and_how_many_is() -> None:
    def written(refused: int, now: int) -> float | None:
        session = SessionStatus(peer="t", address="a", state="established", refused=refused)
        status = msgspec.structs.replace(QUIET, sessions=(session,))
        later = msgspec.structs.replace(QUIET, sessions=(msgspec.structs.replace(session, refused=now),))
        return seconds_until_write(later, Written(status, 0.0), 10.0, 0.0)

    assert written(0, 2) == NOTABLE
    assert written(2, 3) == COUNTERS - 10.0
    assert written(2, 0) == NOTABLE


def test_counters_alone_are_written_once_a_minute_with_jitter() -> None:
    assert wait(changed(pods=2), 10.0) == COUNTERS - 10.0
    assert wait(changed(pods=2), 10.0, jitter=1.0) == 1.5 * COUNTERS - 10.0
    assert wait(changed(pods=2), 2 * COUNTERS) == 0.0


class Refused(Exception):
    """What the API server answers."""


def reporting(folder: Path) -> State:
    """An agent that was asked for an empty block back, and whose speaker has withdrawn it."""
    block = BlockGrant(cidr="10.244.0.0/26", uid="b", pool="p", state="Releasing")
    spec = NodeNetworkSpec(node=NodeReference(name="n0"), epoch="e", blocks=(block,))
    node = NodeNetwork(metadata=Metadata(name="n0", uid="object", generation=10), spec=spec)
    state = State("n0", RunFolder(folder), lambda: 1000.0)
    state.snapshot = Snapshot(node=node, cluster=ClusterNetwork(metadata=Metadata(name="default")))
    state.plan = state.done = plan_node(state.snapshot, Local((), frozenset(), Surroundings()))
    state.observed, state.said_generation = Observed(generation=1), 1
    return state


def test_a_block_that_is_given_back_is_remembered_before_that_is_said_and_though_it_was_not_heard(
    tmp_path: Path,
) -> None:
    state = reporting(tmp_path)
    remembered: list[dict[str, Return]] = []
    written = asyncio.Event()

    async def write(_: str, status: NodeNetworkStatus) -> None:
        assert status.released == ("b",)
        remembered.append(state.folder.load_snapshot().returns.blocks)
        written.set()
        raise Refused

    async def story() -> None:
        reporter = Reporter(state, write, (Refused,))
        task = asyncio.create_task(reporter.run())
        state.report.ring()
        # The plan is to be made anew: the block is another node's now.
        assert await state.reconcile.wait(5)
        await written.wait()
        task.cancel()

    asyncio.run(asyncio.wait_for(story(), 10))
    assert remembered == [{"b": Return("object", 10, "e")}]
    assert state.snapshot.returns.blocks == remembered[0]


def test_nothing_is_given_back_while_that_can_not_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = reporting(tmp_path)
    state.clock = time.monotonic
    written: asyncio.Queue[NodeNetworkStatus] = asyncio.Queue()
    real = files.write_atomically

    def full(path: Path, content: bytes, mode: int = 0o600) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def write(_: str, status: NodeNetworkStatus) -> None:
        await written.put(status)

    async def story() -> None:
        task = asyncio.create_task(Reporter(state, write, (Refused,)).run())
        monkeypatch.setattr(files, "write_atomically", full)
        state.report.ring()
        assert (await written.get()).released == ()
        assert state.snapshot.returns.blocks == {}
        monkeypatch.setattr(files, "write_atomically", real)
        state.report.ring()
        assert (await written.get()).released == ("b",)
        assert state.folder.load_snapshot().returns.blocks == {"b": Return("object", 10, "e")}
        task.cancel()

    asyncio.run(asyncio.wait_for(story(), 10))


def test_a_block_that_waits_for_a_routers_restart_time_is_given_back_when_that_is_over(tmp_path: Path) -> None:
    state = reporting(tmp_path)
    state.clock = time.monotonic
    tor = Keeping((Family.IPV4,), 129.0)
    fell = time.monotonic() - tor.seconds + 0.4
    session = Session(name="tor", address="10.0.0.1", state=SessionState.CONNECTING, since=fell, restarts=1)
    state.observed = Observed(generation=1, sessions=(session,))
    state.snapshot = msgspec.structs.replace(state.snapshot, told=Told(sessions={"tor": tor}))
    written: asyncio.Queue[tuple[float, NodeNetworkStatus]] = asyncio.Queue()

    async def write(_: str, status: NodeNetworkStatus) -> None:
        await written.put((time.monotonic(), status))

    async def story() -> None:
        task = asyncio.create_task(Reporter(state, write, (Refused,)).run())
        state.report.ring()
        _, first = await written.get()
        assert first.released == ()
        at, second = await written.get()
        assert second.released == ("b",)
        assert at >= fell + tor.seconds
        task.cancel()

    asyncio.run(asyncio.wait_for(story(), 10))
