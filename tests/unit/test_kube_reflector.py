"""How often a reflector lists when its watches end at once, cleanly or not."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from controller.api import NodeNetwork
from controller.kube.client import Listing
from controller.kube.errors import Expired, KubeError, Unavailable
from controller.kube.reflector import Reflector
from controller.kube.store import Store


class EndingApi:
    """Every list is good; every watch ends at once, as it is told to."""

    def __init__(self, end: KubeError | None) -> None:
        self.end, self.lists = end, 0

    async def list(self, *_: Any, **__: Any) -> Listing:
        self.lists += 1
        # As a real request does: others get their turn.
        await asyncio.sleep(0)
        return Listing(items=[], resource_version=str(self.lists))

    async def watch(self, *_: Any, **__: Any) -> AsyncIterator[dict[str, Any]]:
        if self.end is not None:
            raise self.end
        for event in ():
            yield event


async def attempts_of(api: Any, rounds: int) -> list[int]:
    """The attempts before which the reflector pauses, until it has paused so often."""
    attempts: list[int] = []
    done = asyncio.Event()

    def backoff(attempt: int) -> float:
        attempts.append(attempt)
        if len(attempts) == rounds:
            done.set()
        return 0.0

    reflector = Reflector(api, Store([NodeNetwork]), NodeNetwork, backoff=backoff, on_change=lambda _: None)
    task = asyncio.create_task(reflector.run())
    try:
        async with asyncio.timeout(5):
            await done.wait()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return attempts


@pytest.mark.parametrize("end", [None, Expired("watch", "too old")], ids=["clean", "expired"])
def test_the_first_end_is_followed_by_a_list_at_once_and_further_ones_by_longer_and_longer_pauses(
    end: KubeError | None,
) -> None:
    api = EndingApi(end)
    assert asyncio.run(attempts_of(api, 3))[:3] == [1, 2, 3]
    assert 4 <= api.lists <= 5


def test_a_watch_that_fails_at_once_is_paused_for_longer_each_time_though_lists_succeed() -> None:
    assert asyncio.run(attempts_of(EndingApi(Unavailable("watch", "503")), 4))[:4] == [1, 2, 3, 4]
