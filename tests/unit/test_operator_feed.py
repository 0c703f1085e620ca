"""What kopf's lists become: one list of the reconciler's own a kind, after kopf's has ended."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import kopf
import pytest
from kopf._cogs.structs.references import Insights
from kopf._cogs.structs.references import Resource as KopfResource
from lightkube.config.kubeconfig import KubeConfig

from controller.api import IPBlock, IPPool
from controller.api.objects import Resource
from controller.kube.store import WatchEvent
from controller.operator.feed import Feed, ListEnds, Listener


def feed_of(
    *kinds: type[Resource],
    on_event: Callable[[WatchEvent], None] = lambda _: None,
    on_relist: Callable[[type[Resource]], None] = lambda _: None,
    on_failure: Callable[[], None] = lambda: None,
) -> Feed:
    listener = Listener(on_event, on_relist, on_failure)
    return Feed(KubeConfig.from_dict(CONFIG).get(), kinds, listener, "me")


def test_a_list_of_many_objects_is_one_relist_of_its_kind_after_the_last_of_them() -> None:
    heard: list[Any] = []
    feed = feed_of(IPPool, IPBlock, on_event=heard.append, on_relist=heard.append)

    async def body() -> None:
        both = asyncio.Event()
        ended: list[type] = []

        def on_end(kind: type) -> None:
            heard.append(kind)
            ended.append(kind)
            if len(ended) == 2:
                both.set()

        ends = ListEnds(on_end, quiet_seconds=0.02)
        for kind in (IPPool, IPBlock):
            handle = feed._handler(kind, ends)
            for number in range(50):
                await handle(event={"type": None, "object": {"metadata": {"name": f"{kind.PLURAL}-{number}"}}})
        await asyncio.wait_for(both.wait(), 10)

    asyncio.run(body())
    assert [isinstance(each, WatchEvent) for each in heard] == [True] * 100 + [False] * 2
    assert heard[-2:] == [IPPool, IPBlock]


def test_an_event_of_a_watch_is_no_list() -> None:
    listed: list[type] = []

    async def body() -> None:
        feed = feed_of(IPPool, on_relist=listed.append)
        ends = ListEnds(listed.append, quiet_seconds=0.0)
        await feed._handler(IPPool, ends)(event={"type": "ADDED", "object": {"metadata": {"name": "a"}}})
        assert not ends._timers

    asyncio.run(body())
    assert listed == []


@contextlib.asynccontextmanager
async def held() -> AsyncIterator[None]:
    try:
        yield
    finally:
        await asyncio.sleep(0)


async def a_watch_within_a_block() -> AsyncIterator[int]:
    while True:
        async with held():
            yield 1


def test_a_watch_that_is_cut_short_leaves_no_traceback_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left, rounds = [], threading.Semaphore(0)

    async def operator(**_: Any) -> None:
        # As kopf leaves its watches when it is cancelled between two events.
        left.append(stream := a_watch_within_a_block())
        await anext(stream)

    def on_relist(_: type) -> None:
        rounds.release()

    monkeypatch.setattr(kopf, "operator", operator)
    caplog.set_level(logging.DEBUG)
    feed = feed_of(IPPool, on_relist=on_relist)
    feed.start()
    assert rounds.acquire(timeout=10), "kopf's first round never ended"
    feed.stop(10)
    said = [r for r in caplog.records if "asynchronous generator" in r.getMessage()]
    assert {(r.levelno, r.exc_info) for r in said} == {(logging.DEBUG, None)}


def test_watches_that_all_fail_are_counted_and_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds, failures = threading.Semaphore(0), threading.Semaphore(0)

    async def operator(**_: Any) -> None:
        rounds.release()
        raise KeyError("getpwuid(): uid not found: 65534")

    monkeypatch.setattr(kopf, "operator", operator)
    monkeypatch.setattr("controller.operator.feed.RESTART_SECONDS", 0.01)
    feed = feed_of(IPPool, on_failure=failures.release)
    feed.start()
    try:
        for _ in range(2):
            assert rounds.acquire(timeout=10), "another round"
            assert failures.acquire(timeout=10), "its failure"
    finally:
        feed.stop(10)


def test_kopf_is_begun_again_until_it_finds_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds, complete = 0, threading.Event()
    failures: list[None] = []

    async def operator(*, insights: Insights, stop_flag: asyncio.Event, **_: Any) -> None:
        nonlocal rounds
        rounds += 1
        insights.watched_resources.add(FOUND[IPPool])
        if rounds == 3:
            insights.watched_resources.add(FOUND[IPBlock])
            complete.set()
        insights.ready_resources.set()
        await stop_flag.wait()

    monkeypatch.setattr(kopf, "operator", operator)
    for name in ("RESTART_SECONDS", "FIRST_PATIENCE_SECONDS"):
        monkeypatch.setattr(f"controller.operator.feed.{name}", 0.01)
    feed = feed_of(IPPool, IPBlock, on_failure=lambda: failures.append(None))
    feed.start()
    try:
        assert complete.wait(10), f"{rounds} rounds"
    finally:
        feed.stop(10)
    assert (rounds, len(failures)) == (3, 2)


FOUND = {kind: KopfResource("podroute.dev", "v1alpha1", kind.PLURAL) for kind in (IPPool, IPBlock)}
CONFIG = {
    "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1"}}],
    "users": [{"name": "u", "user": {"token": "t"}}],
    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    "current-context": "x",
}
