"""What people are told: once, but only what the server took counts as told; and nobody waits for it."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

import pytest
from memory_api import MemoryApi

from controller.api import IPPool
from controller.api.notes import Note
from controller.api.objects import Invalid, decode
from controller.kube import errors
from controller.kube.client import Api
from controller.kube.events import EventRecorder
from controller.kube.resources import collection_of
from controller.operator import telling
from controller.operator.telling import Teller

BROKEN = Invalid("IPPool", "bad", "spec.cidr", "has host bits set")


def note(name: str) -> Note:
    return Note("v1", "Node", name, f"uid-{name}", "PoolExhausted", "no block left")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "RETRY_SECONDS", 0.001)


@pytest.fixture
def api() -> MemoryApi:
    served = MemoryApi()
    served.put(collection_of(IPPool), {"metadata": {"name": "bad"}, "spec": {"cidr": "10.0.0.1/8"}, "status": {}})
    return served


async def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, f"not within 10 s: {what}"
        await asyncio.sleep(0)


def telling_to(api: MemoryApi, body: Callable[[Teller], Any], may_write: Callable[[], bool] = lambda: True) -> None:
    async def inside() -> None:
        teller = Teller(cast(Api, api), EventRecorder(cast(Api, api), "podroute.dev/operator", "one"), may_write)
        task = asyncio.create_task(teller.run())
        await body(teller)
        task.cancel()

    asyncio.run(inside())


def failing(api: MemoryApi, times: int, error: Exception) -> None:
    left = iter(range(times))
    api.trouble = lambda *_: error if next(left, None) is not None else None


@pytest.mark.parametrize("error", [errors.Unavailable("x", "y"), errors.Troubled("x", "y"), errors.Forbidden("x", "y")])
def test_what_the_server_did_not_take_is_told_again_until_it_does(api: MemoryApi, error: Exception) -> None:
    failing(api, 3, error)

    async def body(teller: Teller) -> None:
        teller.offer([note("n1")], [BROKEN])
        await until(lambda: api.asked("create") and api.asked("patchstatus"), "Event and condition")

    telling_to(api, body)
    (condition,) = api.objects["ippools", "bad"]["status"]["conditions"]
    assert (condition["reason"], condition["status"]) == ("Invalid", "False")


def test_an_object_that_is_as_broken_as_the_one_that_it_replaced_is_told_of_its_own(api: MemoryApi) -> None:
    raws = [{"metadata": {"name": "bad", "uid": uid, "generation": 3}, "spec": {"cidr": 7}} for uid in ("one", "two")]
    (first, second) = (decode(IPPool, raw) for raw in raws)
    assert isinstance(first, Invalid)
    assert isinstance(second, Invalid)

    async def body(teller: Teller) -> None:
        teller.offer([], [first])
        await until(lambda: api.asked("patchstatus") == ["bad"], "the first is told")
        teller.offer([], [second])
        await until(lambda: api.asked("patchstatus") == ["bad", "bad"], "the second is told")

    telling_to(api, body)
    (condition,) = api.objects["ippools", "bad"]["status"]["conditions"]
    assert condition["observedGeneration"] == 3


def test_a_thing_is_told_once_however_often_it_is_offered_and_again_when_it_comes_back(api: MemoryApi) -> None:
    async def body(teller: Teller) -> None:
        for number in range(5):
            teller.offer([note("n1"), note(f"other-{number}")], [BROKEN])
            await until(lambda count=number + 2: len(api.asked("create")) == count, "the newest note")
        assert api.asked("patchstatus") == ["bad"]
        teller.offer([], [])
        teller.offer([], [BROKEN])
        await until(lambda: len(api.asked("patchstatus")) == 2, "broken again, told again")

    telling_to(api, body)


def test_one_that_can_not_be_told_does_not_hold_up_the_others(api: MemoryApi) -> None:
    api.trouble = lambda verb, plural, name: errors.Rejected(verb, "no") if verb == "patchstatus" else None

    async def body(teller: Teller) -> None:
        teller.offer([note("n1"), note("n2")], [BROKEN])
        await until(lambda: len(api.asked("create")) == 2, "both Events")

    telling_to(api, body)


def test_nothing_is_told_without_the_lease_and_what_is_offered_with_it_is(api: MemoryApi) -> None:
    held = False

    async def body(teller: Teller) -> None:
        nonlocal held
        teller.offer([note("n1")], [BROKEN])
        await until(lambda: not teller._offered, "the offer is dropped")
        assert not api.requests
        held = True
        teller.offer([note("n1")], [BROKEN])
        await until(lambda: len(api.requests) == 2, "both")

    telling_to(api, body, lambda: held)


def test_what_was_forgotten_before_it_could_be_told_keeps_nobody_awake(
    api: MemoryApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "RETRY_SECONDS", 0.05)
    failing(api, 1, errors.Troubled("patch", "500"))
    looks: list[float] = []
    look = Teller._tell_offered

    async def counted(teller: Teller) -> None:
        looks.append(time.monotonic())
        await look(teller)

    monkeypatch.setattr(Teller, "_tell_offered", counted)

    async def body(teller: Teller) -> None:
        teller.offer([], [BROKEN])
        await until(lambda: teller._not_before, "the telling failed")
        teller.forget()
        before, since = len(looks), time.monotonic()
        await until(lambda: time.monotonic() > since + 0.2, "four retries' time")
        assert len(looks) <= before + 1

    telling_to(api, body)
