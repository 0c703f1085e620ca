"""A plan carried out against a server that fails at some of it, or that others write to as well."""

import asyncio
from typing import Any, cast

import msgspec
import pytest
from memory_api import MemoryApi

from controller.api import IPBlock, IPPool
from controller.api.ipblock import IPBlockSpec, NodeReference
from controller.api.objects import Condition, Metadata, Resource, encode
from controller.kube import errors
from controller.kube.client import Api
from controller.kube.resources import Collection, collection_of
from controller.kube.store import Store, WatchEvent
from controller.kube.writer import Writer
from controller.operator import applying
from controller.operator.applying import Applier
from controller.operator.health import Metrics
from controller.plan.inventory import Memory
from controller.plan.operator import OperatorPlan
from controller.plan.pools import FINALIZER


class Site:
    """An applier between a server in memory and its Store."""

    def __init__(self, *pools: str) -> None:
        self.api = MemoryApi()
        self.store = Store([IPPool, IPBlock])
        for kind in self.store.kinds:
            self.store.replace(kind, [], "0")
        for name in pools:
            self.hear(self.api.put(collection_of(IPPool), encode(pool_named(name))))
        self.applier = Applier(Writer(cast(Api, self.api)), self.store, Metrics())

    def hear(self, raw: dict[str, Any]) -> None:
        self.store.apply(WatchEvent(IPPool, raw))

    def pool(self, name: str) -> IPPool:
        found = self.store.get(IPPool, name)
        assert found is not None
        return found

    def served(self, name: str) -> dict[str, Any]:
        return self.api.objects["ippools", name]

    def with_status(self, name: str, reason: str) -> IPPool:
        known = self.pool(name)
        told = Condition(type="Accepted", status="True", reason=reason, message="")
        return msgspec.structs.replace(known, status=msgspec.structs.replace(known.status, conditions=(told,)))

    def apply(self, **parts: tuple[Resource, ...]) -> bool:
        nothing: dict[str, Any] = dict.fromkeys(
            ("creates", "updates", "deletes", "finalizers", "statuses", "notes"), ()
        )
        plan = OperatorPlan(**{**nothing, **parts}, memory=Memory(epoch="1", unsettled_since=None))
        return asyncio.run(self.applier.apply(plan))


def pool_named(name: str) -> IPPool:
    raw = {"metadata": {"name": name}, "spec": {"cidr": "10.244.0.0/16"}}
    return msgspec.convert(raw, IPPool)


def block_named(name: str) -> IPBlock:
    spec = IPBlockSpec(cidr="10.244.0.0/26", pool="a", node=NodeReference(name="n0", uid="u0"))
    return IPBlock(metadata=Metadata(name=name), spec=spec)


def failing_at(name: str, error: Exception) -> Any:
    return lambda verb, plural, asked: error if asked == name else None


def test_a_server_error_about_one_object_puts_off_that_object_alone() -> None:
    site = Site("a", "b")
    site.api.trouble = failing_at("block-1", errors.Troubled("create", "etcdserver: request too large"))
    blocks = (block_named("block-1"), block_named("block-2"))
    assert site.apply(creates=blocks, statuses=(site.with_status("a", "Accepted"), site.with_status("b", "Accepted")))
    assert site.api.asked("create") == ["block-2"]
    assert sorted(site.api.asked("status")) == ["a", "b"]
    assert site.applier.wake_at is not None


def test_what_failed_and_is_not_wanted_any_more_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applying.time, "monotonic", lambda: 1000.0)
    site = Site()
    site.api.trouble = failing_at("block-1", errors.Troubled("create", "etcdserver: request too large"))
    wanted = (block_named("block-1"),)
    site.apply(creates=wanted)
    site.api.trouble = lambda *_: None
    assert not site.apply(creates=wanted), "it is still put off"
    site.apply()
    assert site.apply(creates=wanted)
    assert site.store.get(IPBlock, "block-1") is not None


def test_a_server_that_does_not_answer_ends_the_pass() -> None:
    site = Site("a")
    site.api.trouble = failing_at("block-1", errors.Unavailable("create", "connection refused"))
    with pytest.raises(errors.Unavailable):
        site.apply(creates=(block_named("block-1"),), statuses=(site.with_status("a", "Accepted"),))
    assert site.api.asked("status") == []


def test_what_a_busy_server_asked_for_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applying.time, "monotonic", lambda: 1000.0)
    site = Site()
    site.api.trouble = failing_at("block-1", errors.Troubled("create", "too many requests", 7.0))
    site.apply(creates=(block_named("block-1"),))
    assert site.applier.wake_at == 1007.0


def test_a_conflict_whose_object_can_not_be_read_puts_off_that_object_alone() -> None:
    site = Site("a", "b")
    late = site.with_status("a", "Accepted")
    site.api.put(collection_of(IPPool), site.served("a"))
    site.api.trouble = lambda verb, plural, name: errors.Forbidden("get", "no") if verb == "get" else None
    site.apply(statuses=(late, site.with_status("b", "Accepted")))
    assert site.api.asked("status")[-1] == "b"
    assert site.applier.wake_at is not None


def test_blocks_are_written_before_statuses() -> None:
    site = Site("a")
    site.apply(creates=(block_named("block-1"),), statuses=(site.with_status("a", "Accepted"),))
    assert [verb for verb, _, _ in site.api.requests] == ["create", "status"]


def test_news_of_one_write_is_not_forgotten_by_another_that_is_refused_later(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()
    create = site.api.create

    async def answers_late(collection: Collection, body: Any, namespace: str = "") -> Any:
        is_bad = body["metadata"]["name"] == "bad"
        for _ in range(5 if is_bad else 1):
            await asyncio.sleep(0)
        if is_bad:
            raise errors.Troubled("create", "etcdserver: request too large")
        return await create(collection, body, namespace)

    monkeypatch.setattr(site.api, "create", answers_late)
    assert site.apply(creates=(block_named("bad"), block_named("good")))
    assert site.store.get(IPBlock, "good") is not None


def test_what_a_plan_has_no_time_for_is_left_to_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0

    def takes_a_second(*_: str) -> None:
        nonlocal now
        now += 1.0

    monkeypatch.setattr(applying.time, "monotonic", lambda: now)
    site = Site("a")
    site.api.trouble = takes_a_second
    wanted = tuple(block_named(f"block-{number:02}") for number in range(12))
    assert site.apply(creates=wanted, statuses=(site.with_status("a", "Accepted"),)), (
        "another plan is to be made at once"
    )
    assert len(site.api.asked("create")) == applying.SLICE_SECONDS * (1 - applying.SHARE_OF_OTHERS)
    assert site.api.asked("status") == ["a"], "blocks leave time for others"
    for _ in range(3):
        left = tuple(each for each in wanted if site.store.get(IPBlock, each.metadata.name) is None)
        site.apply(creates=left)
    assert sorted(site.api.asked("create")) == [each.metadata.name for each in wanted]


@pytest.mark.parametrize("is_adding", [True, False])
def test_a_finalizer_that_somebody_added_meanwhile_stays(is_adding: bool) -> None:
    site = Site("a")
    before = [] if is_adding else [FINALIZER]
    raw = site.api.put(collection_of(IPPool), with_finalizers(site.served("a"), before))
    site.hear(raw)
    planned = site.pool("a")
    wanted = (FINALIZER,) if is_adding else ()
    body = msgspec.structs.replace(planned, metadata=msgspec.structs.replace(planned.metadata, finalizers=wanted))
    site.hear(site.api.put(collection_of(IPPool), with_finalizers(raw, [*before, "example.com/theirs"])))
    site.apply(finalizers=(body,))
    assert set(site.served("a")["metadata"]["finalizers"]) == {"example.com/theirs", *wanted}


def with_finalizers(raw: dict[str, Any], finalizers: list[str]) -> dict[str, Any]:
    return {**raw, "metadata": {**raw["metadata"], "finalizers": finalizers}}


def test_a_status_that_flaps_is_written_at_once_and_then_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(applying.time, "monotonic", lambda: now)
    site = Site("a")
    written = []
    for step in range(40):
        now = 1000.0 + step / 10
        site.apply(statuses=(site.with_status("a", f"Reason{step}"),))
        written.append(len(site.api.asked("status")))
    assert written[0] == 1, "the first change at once"
    assert written[-1] == 4
    now = 1010.0
    site.apply(statuses=(site.with_status("a", "Last"),))
    site.apply(statuses=(site.with_status("a", "Later"),))
    assert site.applier.wake_at == 1011.0, "what was put off is written in time"
