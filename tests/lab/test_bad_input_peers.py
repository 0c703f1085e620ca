"""Bad BGPPeers: who refuses them, which side expects what, and that the nearest good one has its session, as the router sees it."""

import base64
from collections.abc import Callable, Iterator

import pytest
from bad_input import Row, condition, found, hold
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

    refused_numbers = {
        0: "greater than or equal to 1",
        65535: "AS 65535 is reserved",
        4294967296: "less than or equal to 4294967294",
    }
    return {
        **{
            f"AS {number}, {f}": Row(
                peer(f"good-{f}", family, asNumber=number),
                (f"good-{f}", "spec.asNumber", f"Invalid value: {number}", remedy),
                good,
                stands(),
            )
            for number, remedy in refused_numbers.items()
        },
        f"no way to name the peer, {f}": Row(
            without(good, "address"),
            (f"good-{f}", "spec", "neither address nor peerSelector", "exactly one way", "address for a router"),
            good,
            stands(),
        ),
        f"two ways to name the peer, {f}": Row(
            peer(f"good-{f}", family, peerSelector={}),
            (f"good-{f}", "spec", f"address {address(family)} and peerSelector", "or peerSelector for nodes"),
            good,
            stands(),
        ),
        f"unreachable peer, {f}": Row(
            peer(f"silent-{f}", family, SILENT_HOST),
            ("SessionsDown", "Node n0", address(family, SILENT_HOST), "NotConnected", "port 179", "NodeNetwork"),
            good,
            stands(),
            "Established",
            also=session_says(
                family, SILENT_HOST, "connecting NotConnected", address(family, SILENT_HOST), "unreachable"
            ),
        ),
        f"the peer has another AS, {f}": Row(
            peer(f"as-{f}", family, asNumber=65101),
            ("SessionsDown", "Node n0", address(family), "WrongASN", f"expects AS 65101, peer sent {SPARE_AS}"),
            peer(f"as-{f}", family, asNumber=SPARE_AS),
            stands(),
            "Established",
            also=session_says(family, OPEN_HOST, "WrongASN", f"expects AS 65101, peer sent {SPARE_AS}"),
        ),
        f"the peer expects another AS, {f}": Row(
            peer(f"local-{f}", family, localASN=64999),
            ("SessionsDown", f"{address(family)} expects another AS than 64999 from {own(family)}", "WrongASN"),
            peer(f"local-{f}", family, localASN=64512),
            stands(),
            "Established",
            also=session_says(family, OPEN_HOST, "WrongASN", "another AS than 64999"),
        ),
        f"two peers for one address, {f}": Row(
            twice,
            ("AddressConflict", "Node n0", f"{address(family)} is BGPPeer older-{f}'s", "delete one of the two"),
            elsewhere,
            lambda lab: spare.is_established("n1", family) and spare.is_established("n0", family),
            "Accepted",
            before=(older,),
            also=stands(),
        ),
        f"unknown Secret, {f}": Row(
            guarded(unknown),
            ("SecretMissing", f"Secret {unknown}", "create it in podroute-system"),
            guarded(right),
            stands(host=GUARDED_HOST),
            "Established",
            before=(secret(right, PASSWORD),),
            also=session_says(family, GUARDED_HOST, "refused SecretMissing", unknown),
        ),
        f"another password, {f}": Row(
            guarded(wrong),
            ("SessionsDown", address(family, GUARDED_HOST), "NotConnected", "or the passwords differ"),
            guarded(right),
            stands(host=GUARDED_HOST),
            "Established",
            before=(secret(right, PASSWORD), secret(wrong, "battery-staple")),
            also=session_says(family, GUARDED_HOST, "NotConnected", "passwords differ"),
        ),
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
    finally:
        lab.kubectl("delete", "bgppeer", "late")
        lab.kubectl("delete", "secret", "-n", "podroute-system", "late", "--ignore-not-found")
