"""What kopf's lists become: one list of the reconciler's own a kind, after kopf's has ended."""

import asyncio
from typing import Any

from lightkube.config.kubeconfig import KubeConfig

from controller.api import IPBlock, IPPool
from controller.kube.store import WatchEvent
from controller.operator.feed import Feed, ListEnds


def test_a_list_of_many_objects_is_one_relist_of_its_kind_after_the_last_of_them() -> None:
    heard: list[Any] = []
    feed = Feed(KubeConfig.from_dict(CONFIG).get(), [IPPool, IPBlock], heard.append, heard.append)

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
        feed = Feed(KubeConfig.from_dict(CONFIG).get(), [IPPool], lambda _: None, listed.append)
        ends = ListEnds(listed.append, quiet_seconds=0.0)
        await feed._handler(IPPool, ends)(event={"type": "ADDED", "object": {"metadata": {"name": "a"}}})
        assert not ends._timers

    asyncio.run(body())
    assert listed == []


CONFIG = {
    "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1"}}],
    "users": [{"name": "u", "user": {"token": "t"}}],
    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    "current-context": "x",
}
