"""A term that lapses: the machine sleeps, or the server is late. What was decided before is not written after."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
import pytest
from memory_api import MemoryApi

from controller.api import IPPool, NodeNetwork
from controller.api.kubernetes import Node
from controller.api.objects import encode
from controller.kube.client import Api
from controller.kube.events import EventRecorder
from controller.kube.lease import Lease, LeaseTerms, read_lease_clock
from controller.kube.resources import LEASES, collection_of
from controller.kube.store import Store
from controller.kube.writer import Fenced
from controller.operator.health import Metrics
from controller.operator.inventory import WATCHED
from controller.operator.reconciler import Reconciler
from controller.operator.telling import Teller
from controller.operator.term import Term

# Renewals come every few milliseconds of real time; the clock that the Lease counts in is the test's.
TERMS = LeaseTerms(duration=15.0, trusted=10.0, renew=0.003)
READY = {"type": "Ready", "status": "True"}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, f"not within 10 s: {what}"
        await asyncio.sleep(0)


def test_the_leases_clock_counts_the_machines_sleep() -> None:
    assert abs(read_lease_clock() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 1.0


@pytest.mark.parametrize(("slept", "terms"), [(9.0, 1), (10.0, 2), (3600.0, 2)])
def test_a_lease_that_lapsed_in_the_machines_sleep_begins_a_new_term_and_no_other_does(
    slept: float, terms: int
) -> None:
    api, clock, begun = MemoryApi(), Clock(), []

    async def body() -> None:
        lease = Lease(cast(Api, api), "operator", "default", "one", TERMS)
        term = Term(lease, lambda: begun.append(clock.now), lambda: None, clock)
        task = asyncio.create_task(term.run())
        await until(lambda: begun, "the first term")
        clock.now += slept
        assert term.may_write() == (slept < TERMS.trusted)
        renewals = len(api.asked("replace"))
        await until(lambda: len(api.asked("replace")) > renewals + 2, "renewals")
        assert term.may_write()
        task.cancel()

    asyncio.run(body())
    assert len(begun) == terms


def test_a_renewal_that_is_answered_after_the_lease_lapsed_begins_a_new_term() -> None:
    api, clock, begun = MemoryApi(), Clock(), []

    def passes(verb: str, plural: str, name: str) -> None:
        if verb == "replace":
            clock.now += 6.0

    async def body() -> None:
        lease = Lease(cast(Api, api), "operator", "default", "one", TERMS)
        task = asyncio.create_task(Term(lease, lambda: begun.append(clock.now), lambda: None, clock).run())
        await until(lambda: begun, "the first term")
        clock.now += 7.0
        api.trouble = passes
        await until(lambda: len(begun) > 1, "a second term")
        task.cancel()

    asyncio.run(body())
    assert ("replace", LEASES.plural, "operator") in api.requests


def test_a_plan_of_a_lapsed_term_is_not_written_in_the_next_one() -> None:
    api = MemoryApi()
    for number in range(3):
        raw = {"metadata": {"name": f"n{number}"}, "spec": {"cidr": f"10.{number}.0.0/16"}}
        api.put(collection_of(IPPool), encode(msgspec.convert(raw, IPPool)))
    addresses = [{"type": "InternalIP", "address": "10.10.0.11"}]
    api.put(
        collection_of(Node), {"metadata": {"name": "node"}, "status": {"addresses": addresses, "conditions": [READY]}}
    )
    store = Store(WATCHED)
    metrics = Metrics()
    recorder = EventRecorder(cast(Api, api), "podroute.dev/operator", "one")
    reconciler = Reconciler(cast(Api, api), store, Teller(cast(Api, api), recorder, lambda: True), metrics)
    epochs = iter(("first", "second"))
    reconciler.may_write, reconciler.new_epoch = lambda: True, lambda: next(epochs)
    lists_at_lapse: list[int] = []

    def lapse(verb: str, plural: str, name: str) -> None:
        if verb != "list" and not lists_at_lapse:
            lists_at_lapse.append(len(api.asked("list")))
            reconciler.begin_term()

    async def body() -> None:
        reconciler.begin_term()
        api.trouble = lapse
        with pytest.raises(Fenced):
            await reconciler._look()
        assert len(api.requests) - len(api.asked("list")) == 1, "the request that was under way, and none after it"
        await reconciler._look()

    asyncio.run(body())
    assert len(api.asked("list")) >= lists_at_lapse[0] + len(WATCHED), "fresh lists"
    assert not reconciler.memory.is_settled
    assert {raw["spec"]["epoch"] for (plural, _), raw in api.objects.items() if plural == NodeNetwork.PLURAL} == {
        "second"
    }


def test_who_wakes_from_sleep_in_the_middle_of_a_renewal_does_not_take_the_lease_of_one_that_lives() -> None:
    api, clock = MemoryApi(), Clock()

    async def body() -> None:
        one, other = (Lease(cast(Api, api), "operator", "default", name, TERMS, clock) for name in ("one", "other"))
        wall = datetime(2026, 1, 1, tzinfo=UTC)
        assert await one.renew(clock.now, wall)
        asked = clock.now
        for _ in range(3):
            clock.now += TERMS.duration
            await other.renew(clock.now, wall)
        assert other.is_held(clock.now)
        # Its request, sent before it slept, is answered: it has just seen the other one for the first time.
        assert not await one.renew(asked, wall)
        clock.now += 1.0
        assert not await one.renew(clock.now, wall)
        assert other.is_held(clock.now)

    asyncio.run(body())
