"""One row of the table of bad input with its objects, and how it is held: who refuses it, how, and what good input is served.

A row's bad object is refused either by the API server (`kubectl apply` fails) or by the operator (a condition of the object turns
False). Meanwhile everything that was served before still is.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from bad_input_table import API_SERVER, Refusal
from cni_calls import address_from
from refused_inputs import Body
from router_tables import session_marks
from workloads import apply, eventually

from controller.lab.cluster import Lab
from controller.lab.errors import LabError


@dataclass(frozen=True)
class Row:
    """`refusal` is what the table (bad_input_table) says of the bad object.

    `before` is there first; `served` says whether the good input does what it is for, and is asked until it does.
    """

    bad: Body
    refusal: Refusal
    good: Body
    served: Callable[[Lab], bool]
    before: tuple[Body, ...] = ()
    also: Callable[[Lab], bool] = field(default=lambda _lab: True)


def hold(lab: Lab, row: Row) -> None:
    """The bad input is refused in these words and disturbs nobody; the good one is accepted and served."""
    with others_undisturbed(lab), removed_after(lab, row.bad, row.good, *row.before):
        for each in row.before:
            apply(lab, each)
        younger_from_now_on(lab, *row.before)
        if row.refusal.by == API_SERVER:
            with pytest.raises(LabError) as refusal:
                apply(lab, row.bad)
            said = str(refusal.value)
            assert row.bad["kind"] in said
        else:
            apply(lab, row.bad)
            said = refused_by(lab, row.bad, row.refusal.by, row.refusal.words)
            eventually(lambda: row.also(lab), 20, f"the rest of what follows from {row.bad}")
        missing = [word for word in row.refusal.words if word not in said]
        assert not missing, f"{missing} not in: {said}"
        if row.refusal.by != API_SERVER:
            # Gone before the good input comes, unless it is the same object corrected.
            with_one_name = row.bad["kind"] == row.good["kind"] and named(row.bad) == named(row.good)
            if not with_one_name or row.bad["kind"] == "IPPool":
                delete(lab, row.bad)
        apply(lab, row.good)
        eventually(
            lambda: condition(lab, row.good, "Accepted").get("status") == "True",
            15,
            lambda: f"{row.good} is accepted: {condition(lab, row.good, 'Accepted')}",
        )
        eventually(lambda: row.served(lab), 30, lambda: f"{row.good} is served: {found(lab, row.good)}")


def younger_from_now_on(lab: Lab, *bodies: Body) -> None:
    """Waits until what is created is younger than these: creationTimestamp counts whole seconds, within one the UID decides."""
    stamps = [str(found(lab, each)["metadata"]["creationTimestamp"]) for each in bodies]
    eventually(lambda: all(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}" > each for each in stamps), 5, "the next second")


def named(body: Body) -> str:
    """The object's name."""
    return str(body["metadata"]["name"])


def found(lab: Lab, body: Body) -> Body:
    """The object as the API server has it, empty if it has none."""
    where = ("-n", body["metadata"].get("namespace", "default"))
    text = lab.kubectl("get", body["kind"].lower(), named(body), *where, "-o", "json", "--ignore-not-found")
    answer: Body = json.loads(text) if text.strip() else {}
    return answer


def condition(lab: Lab, body: Body, type_: str) -> dict[str, Any]:
    """A condition of the object that is about its present spec; empty if there is none yet."""
    there = found(lab, body)
    for each in there.get("status", {}).get("conditions", []):
        if each["type"] == type_ and each["observedGeneration"] == there["metadata"]["generation"]:
            return dict(each)
    return {}


def refused_by(lab: Lab, body: Body, type_: str, words: tuple[str, ...]) -> str:
    """Reason and message of the condition, once it is False and has all the words."""

    def said() -> str:
        answer = condition(lab, body, type_)
        text = f"{body['kind']} {named(body)} {answer.get('reason')}: {answer.get('message')}"
        return text if answer.get("status") == "False" and all(word in text for word in words) else ""

    text: str = eventually(said, 25, lambda: f"{type_} False with {words}; now {condition(lab, body, type_)}")
    return text


def delete(lab: Lab, *bodies: Body) -> None:
    """Without waiting for pools, whose addresses rest first."""
    for each in bodies:
        namespace = each["metadata"].get("namespace", "default")
        lab.kubectl("delete", each["kind"].lower(), named(each), "-n", namespace, "--ignore-not-found", "--wait=false")


@contextmanager
def removed_after(lab: Lab, *bodies: Body) -> Iterator[None]:
    """Whatever the test made of these is deleted in the end."""
    try:
        yield
    finally:
        delete(lab, *bodies)


@contextmanager
def others_undisturbed(lab: Lab) -> Iterator[None]:
    """Pools, sessions with the ToRs and new pods are served as before, without a session's restart."""
    before = {tor: session_marks(lab, tor) for tor in lab.topology.tor_names}
    yield
    eventually(lambda: all_served(lab), 20, "the lab's own pools and peers are served")
    now = {tor: session_marks(lab, tor) for tor in lab.topology.tor_names}
    assert now == before, f"{now} was {before}"
    for pool in ("pods-v4", "pods-v6"):
        assert address_from(lab, "n0", pool, "undisturbed")


def all_served(lab: Lab) -> bool:
    """Whether the lab's own pools are accepted and its own peers established."""
    wanted = {"IPPool": ("Accepted", "Available"), "BGPPeer": ("Accepted", "Established")}
    objects = [o for o in lab.get("ippools,bgppeers")["items"] if named(o).startswith(("pods-", "rack"))]
    return all(
        any(c["type"] == type_ and c["status"] == "True" for c in each.get("status", {}).get("conditions", []))
        for each in objects
        for type_ in wanted[each["kind"]]
    )
