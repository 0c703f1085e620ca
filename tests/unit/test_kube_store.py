"""Lists and events meeting in one Store, in every order that they may come in."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from controller.api import IPPool, IPReservation
from controller.kube.store import Change, Store, WatchEvent


def pool(name: str, version: int, cidr: str = "10.244.0.0/16", **metadata: Any) -> dict[str, Any]:
    named = {"name": name, "uid": f"uid-{name}", "resourceVersion": str(version), **metadata}
    return {"apiVersion": "podroute.dev/v1alpha1", "kind": "IPPool", "metadata": named, "spec": {"cidr": cidr}}


def store_with(*raws: dict[str, Any], version: str = "10") -> Store:
    store = Store([IPPool])
    store.replace(IPPool, raws, version)
    return store


def event(raw: dict[str, Any], *, is_delete: bool = False) -> WatchEvent:
    return WatchEvent(IPPool, raw, is_delete=is_delete)


def names(store: Store) -> set[str]:
    return {each.metadata.name for each in store.all(IPPool)}


def test_nothing_is_loaded_before_every_kind_was_listed() -> None:
    store = Store([IPPool, IPReservation])
    assert not store.is_loaded
    store.replace(IPPool, [], "5")
    assert not store.is_loaded
    store.replace(IPReservation, [], "5")
    assert store.is_loaded


def test_a_list_removes_what_is_not_in_it_and_says_so() -> None:
    store = store_with(pool("a", 1), pool("b", 2))
    change = store.replace(IPPool, [pool("a", 1)], "20", store.highest(IPPool))
    assert change == Change(IPPool, removed=frozenset({"b"}))
    assert names(store) == {"a"}


def test_the_same_list_again_changes_nothing() -> None:
    store = store_with(pool("a", 1), pool("b", 2))
    assert not store.replace(IPPool, [pool("a", 1), pool("b", 2)], "20", store.highest(IPPool))


def test_a_list_that_an_event_overtook_does_not_undo_it() -> None:
    store = store_with(pool("a", 1))
    since = store.highest(IPPool)
    store.apply(event(pool("new", 12)))
    store.apply(event(pool("a", 13), is_delete=True))
    store.replace(IPPool, [pool("a", 1)], "11", since)
    assert names(store) == {"new"}


def test_an_older_event_does_not_undo_a_newer_one() -> None:
    store = store_with(pool("a", 5, "10.1.0.0/16"))
    assert store.apply(event(pool("a", 9, "10.9.0.0/16")))
    assert not store.apply(event(pool("a", 7, "10.7.0.0/16")))
    assert store.all(IPPool)[0].spec.cidr == "10.9.0.0/16"
    assert not store.apply(event(pool("a", 8), is_delete=True)), "the delete of an earlier object of that name"


def test_what_this_process_deleted_does_not_come_back_with_a_late_event() -> None:
    store = store_with(pool("a", 5))
    assert store.forget(IPPool, "a")
    assert not store.apply(event(pool("a", 5)))
    assert store.apply(event(pool("a", 30, uid="another"))), "created again"


def test_a_server_with_an_older_history_is_believed_and_reported() -> None:
    store = store_with(pool("a", 90), pool("b", 95), version="100")
    change = store.replace(IPPool, [pool("a", 40)], "50", store.highest(IPPool))
    assert change.rewound
    assert names(store) == {"a"}
    assert store.all(IPPool)[0].metadata.resource_version == "40"
    assert not store.replace(IPPool, [pool("a", 40)], "55", store.highest(IPPool)).rewound


def test_an_object_older_than_it_was_known_betrays_a_lost_history_though_the_list_is_newer() -> None:
    store = store_with(pool("a", 90), pool("b", 20), version="100")
    change = store.replace(IPPool, [pool("a", 40)], "120", store.highest(IPPool))
    assert change.rewound
    assert store.all(IPPool)[0].metadata.resource_version == "40"
    since = store.highest(IPPool)
    store.apply(event(pool("a", 130)))
    assert not store.replace(IPPool, [pool("a", 40)], "121", since).rewound, "an event overtook the list"
    assert store.all(IPPool)[0].metadata.resource_version == "130"


def test_an_object_that_does_not_decode_keeps_its_last_good_version_and_is_named() -> None:
    store = store_with(pool("a", 1), pool("b", 2))
    broken = pool("a", 3)
    broken["spec"]["cidr"] = 7
    assert store.apply(event(broken))
    (invalid,) = store.invalid()
    assert (invalid.kind, invalid.name, invalid.field) == ("IPPool", "a", "spec.cidr")
    assert names(store) == {"a", "b"}
    assert store.apply(event(pool("a", 4)))
    assert store.invalid() == ()


def test_a_value_that_can_not_be_worked_with_is_invalid_though_its_type_is_right() -> None:
    store = store_with(pool("hosts", 1, "10.244.0.1/16"), pool("tiny", 2, "10.0.0.0/28"), pool("good", 3))
    assert {(i.name, i.field) for i in store.invalid()} == {("hosts", "spec.cidr"), ("tiny", "spec.blockSize")}
    assert names(store) == {"good"}


def test_an_invalid_object_that_is_deleted_is_no_longer_named() -> None:
    store = store_with(pool("hosts", 1, "10.244.0.1/16"))
    store.replace(IPPool, [], "20", store.highest(IPPool))
    assert store.invalid() == ()


def test_an_invalid_object_is_unknown_only_if_it_never_had_a_good_version() -> None:
    store = store_with(pool("hosts", 1, "10.244.0.1/16"), pool("a", 2))
    store.apply(event(pool("a", 3, "10.244.0.1/16")))
    assert store.shelf(IPPool).unknown == {"hosts"}
    assert set(store.shelf(IPPool).invalid) == {"hosts", "a"}
    store.apply(event(pool("hosts", 4)))
    assert store.shelf(IPPool).unknown == set()


OPERATION = st.tuples(st.sampled_from(["put", "delete", "list"]), st.sampled_from("abc"), st.integers(0, 3))


@given(st.lists(OPERATION, max_size=30))
def test_after_a_list_the_store_is_what_the_server_has_however_late_events_are(
    operations: list[tuple[str, str, int]],
) -> None:
    """A model of the server: events arrive late by up to three writes, or are lost (deletes are never delivered)."""
    store, server, version, late = Store([IPPool]), dict[str, dict[str, Any]](), 10, list[WatchEvent]()
    for what, name, delay in operations:
        version += 1
        if what == "put":
            server[name] = pool(name, version)
            late.append(event(server[name]))
        elif what == "delete":
            server.pop(name, None)
        else:
            store.replace(IPPool, server.values(), str(version), store.highest(IPPool))
            assert names(store) >= set(server)
        while len(late) > delay:
            store.apply(late.pop(0))
    for each in late:
        store.apply(each)
    store.replace(IPPool, server.values(), str(version + 1), store.highest(IPPool))
    assert names(store) == set(server)


def test_a_list_or_event_that_comes_late_does_not_bring_back_what_a_newer_list_showed_gone() -> None:
    store = store_with(pool("a", 1), pool("b", 2))
    since = store.highest(IPPool)
    store.replace(IPPool, [pool("a", 1)], "30", since)
    assert not store.replace(IPPool, [pool("a", 1), pool("b", 2)], "20", since)
    assert not store.apply(event(pool("b", 2)))
    assert names(store) == {"a"}


def test_a_newer_list_that_shows_what_was_gone_already_is_of_a_restored_backup() -> None:
    store = store_with(pool("a", 1), pool("b", 2))
    store.replace(IPPool, [pool("a", 1)], "30", store.highest(IPPool))
    change = store.replace(IPPool, [pool("a", 1), pool("b", 2)], "40", store.highest(IPPool))
    assert change.rewound
    assert names(store) == {"a", "b"}


def test_a_late_event_does_not_bring_back_what_was_deleted_by_others_and_then_forgotten() -> None:
    store = store_with(pool("a", 5))
    store.apply(event(pool("a", 9), is_delete=True))
    store.forget(IPPool, "a")
    assert not store.apply(event(pool("a", 8)))
    assert names(store) == set()
