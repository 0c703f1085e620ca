"""Bad BGPPeers: who refuses them, which side expects what, and that the nearest good one has its session, as the router sees it."""

import base64
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bad_input import Row, condition, found, hold
from bad_input_table import TABLE
from refused_inputs import Body, body, without
from spare_router import GUARDED_HOST, OPEN_HOST, PASSWORD, SILENT_HOST, SPARE_AS, SpareRouter
from workloads import apply, eventually

from controller.lab.cluster import Lab

pytestmark = [pytest.mark.lab, pytest.mark.root]

FAMILIES = (4, 6)


@pytest.fixture(scope="module")
def spare(lab: Lab) -> Iterator[SpareRouter]:
    """A router for n0 and its neighbours in rack 0, beside the ToR."""
    with SpareRouter(lab) as router:
        yield router


def on(node: str) -> Body:
    return {"matchLabels": {"kubernetes.io/hostname": node}}


def address(family: int, host: int = OPEN_HOST) -> str:
    return f"10.10.0.{host}" if family == 4 else f"fd00:10:10::{host}"


def own(family: int) -> str:
    return "10.10.0.11" if family == 4 else "fd00:10:10::11"


def peer(name: str, family: int, host: int = OPEN_HOST, **spec: object) -> Body:
    """A session of n0 with the spare router."""
    return body(
        "BGPPeer",
        name,
        **{"nodeSelector": on("n0"), "address": address(family, host), "asNumber": SPARE_AS, **spec},
    )


def secret(name: str, password: str) -> Body:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": "podroute-system"},
        "data": {"password": base64.b64encode(password.encode()).decode()},
    }


def session_says(family: int, host: int, *words: str) -> Callable[[Lab], bool]:
    """Whether the node's own status has the session with that address, with these words in state, reason and message."""

    def says(lab: Lab) -> bool:
        sessions = lab.get("nodenetwork", "n0")["status"].get("sessions", [])
        texts = [
            " ".join((each["state"], each.get("reason", ""), each.get("message", "")))
            for each in sessions
            if each["address"] == address(family, host)
        ]
        return any(all(word in text for word in words) for text in texts)

    return says


def rows(family: int, spare: SpareRouter) -> dict[str, Row]:
    """The rows about peers, for one family; a name is used once, since a session's end takes a moment."""
    f = f"v{family}"

    def stands(node: str = "n0", host: int = OPEN_HOST) -> Callable[[Lab], bool]:
        return lambda _lab: spare.is_established(node, family, host)

    good = peer(f"good-{f}", family)
    older, twice = peer(f"older-{f}", family), peer(f"younger-{f}", family)
    elsewhere = peer(f"younger-{f}", family, nodeSelector=on("n1"))
    unknown, right, wrong = (f"{word}-{f}" for word in ("unknown", "right", "wrong"))

    def guarded(name: str) -> Body:
        return peer(f"guarded-{f}", family, GUARDED_HOST, passwordSecretRef={"name": name})

    def at_apply(bad: Body) -> tuple[Body, Body, Callable[[Lab], bool]]:
        return bad, good, stands()

    def says(host: int, *words: str) -> dict[str, Any]:
        return {"also": session_says(family, host, *words)}

    inputs: dict[str, tuple[tuple[Body, Body, Callable[[Lab], bool]], dict[str, Any]]] = {
        "AS 0": (at_apply(peer(f"good-{f}", family, asNumber=0)), {}),
        "AS 65535": (at_apply(peer(f"good-{f}", family, asNumber=65535)), {}),
        "AS out of range": (at_apply(peer(f"good-{f}", family, asNumber=4294967296)), {}),
        "no way to name the peer": (at_apply(without(good, "address")), {}),
        "two ways to name the peer": (at_apply(peer(f"good-{f}", family, peerSelector={})), {}),
        "unreachable peer": (
            (peer(f"silent-{f}", family, SILENT_HOST), good, stands()),
            says(SILENT_HOST, "connecting NotConnected", address(family, SILENT_HOST), "unreachable"),
        ),
        "the peer has another AS": (
            (peer(f"as-{f}", family, asNumber=SPARE_AS + 1), peer(f"as-{f}", family, asNumber=SPARE_AS), stands()),
            says(OPEN_HOST, "WrongASN", f"expects AS {SPARE_AS + 1}, peer sent {SPARE_AS}"),
        ),
        "the peer expects another AS": (
            (peer(f"local-{f}", family, localASN=64999), peer(f"local-{f}", family, localASN=64512), stands()),
            says(OPEN_HOST, "WrongASN", f"another AS than 64999 from {own(family)}"),
        ),
        "two peers for one address": (
            (twice, elsewhere, lambda _lab: spare.is_established("n1", family) and spare.is_established("n0", family)),
            {"before": (older,), "also": stands()},
        ),
        "unknown Secret": (
            (guarded(unknown), guarded(right), stands(host=GUARDED_HOST)),
            {"before": (secret(right, PASSWORD),), **says(GUARDED_HOST, "refused SecretMissing", unknown)},
        ),
        "another password": (
            (guarded(wrong), guarded(right), stands(host=GUARDED_HOST)),
            {
                "before": (secret(right, PASSWORD), secret(wrong, "battery-staple")),
                **says(GUARDED_HOST, "NotConnected", "passwords differ"),
            },
        ),
    }
    return {
        f"{name}, {f}": Row(bad, TABLE[f"{name}, {f}"], nearest, served, **more)
        for name, ((bad, nearest, served), more) in inputs.items()
    }


NAMES = [name for family in FAMILIES for name in rows(family, SpareRouter.__new__(SpareRouter))]


@pytest.mark.parametrize("name", NAMES)
def test_a_bad_peer_is_refused_and_the_nearest_good_one_has_its_session(
    lab: Lab, spare: SpareRouter, name: str
) -> None:
    table = {key: row for family in FAMILIES for key, row in rows(family, spare).items()}
    spare.serve(GUARDED_HOST if "assword" in name or "Secret" in name else OPEN_HOST)
    hold(lab, table[name])
    family = 6 if name.endswith("v6") else 4
    eventually(
        lambda: not any(spare.is_established(node, family, host) for node in ("n0", "n1") for host in (200, 201)),
        15,
        f"sessions of {name} end with their BGPPeers",
    )


def test_a_peer_whose_secret_comes_later_has_its_session_then(lab: Lab, spare: SpareRouter) -> None:
    late, waiting = secret("late", PASSWORD), peer("late", 4, GUARDED_HOST, passwordSecretRef={"name": "late"})
    spare.serve(GUARDED_HOST)
    try:
        apply(lab, waiting)
        eventually(lambda: condition(lab, waiting, "Established").get("reason") == "SecretMissing", 15, "SecretMissing")
        apply(lab, late)
        eventually(lambda: spare.is_established("n0", 4, GUARDED_HOST), 40, lambda: f"a session: {found(lab, waiting)}")
        logs = {name: lab.log(*name).read_text() for name in (("n0", "agent"), ("n0", "speaker"), ("cp", "operator"))}
        assert all(logs.values())
        # ExaBGP is told of it in base64, and so is the API server.
        for text in (PASSWORD, base64.b64encode(PASSWORD.encode()).decode()):
            assert [name for name, log in logs.items() if text in log] == []
    finally:
        lab.kubectl("delete", "bgppeer", "late")
        lab.kubectl("delete", "secret", "-n", "podroute-system", "late", "--ignore-not-found")
