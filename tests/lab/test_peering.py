"""ToR peering, the node mesh beside it, what is believed of what routers say, and changes that disturb no other session."""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bad_input import others_undisturbed
from refused_inputs import Body, body
from router_tables import kernel_routes, node_blocks, session_marks
from spare_router import OPEN_HOST, SPARE_AS, SpareRouter
from told import told_on
from workloads import apply, eventually, pods_on

from controller.lab.cluster import Lab
from controller.lab.errors import LabError
from controller.lab.execute import run_checked
from controller.lab.podroute import network_objects

pytestmark = [pytest.mark.lab, pytest.mark.root]

EXAMPLES = Path(__file__).parents[2] / "examples"
NODE = "n0"
NODES_AS = 64512
TOR_HOLD_TIME_MS = 9000  # as the lab's routers ask; podroute asks for more
ON_NODE = {"matchLabels": {"kubernetes.io/hostname": NODE}}


def are_replaced(lab: Lab, objects: list[dict[str, Any]]) -> bool:
    """Whether the server took them: the operator may write a status between kubectl's look and its write, which is refused then."""
    try:
        lab.kubectl("replace", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    except LabError as error:
        if "(Conflict)" not in str(error):
            raise
        return False
    return True


@pytest.fixture
def restored(lab: Lab) -> Iterator[Lab]:
    """The lab's own pools and peers, and no BGPConfiguration, after the test."""
    yield lab
    lab.kubectl("delete", "bgpconfiguration", "default", "--ignore-not-found")
    objects = network_objects(lab.topology)
    apply(lab, *objects)
    # `apply` leaves fields alone that a patch has added.
    peers = [each for each in objects if each["kind"] == "BGPPeer"]
    eventually(lambda: are_replaced(lab, peers), 10, "the lab's own peers are as they were")
    eventually(
        lambda: (
            sessions_of(lab, NODE, "mesh") == []
            and all_established(lab)
            and set(hold_times(lab).values()) == {TOR_HOLD_TIME_MS}
        ),
        40,
        lambda: f"the lab is as it was: {hold_times(lab)}",
    )


@pytest.fixture(scope="module")
def spare(lab: Lab) -> Iterator[SpareRouter]:
    """A router in rack 0 that announces what it is told to."""
    with SpareRouter(lab) as router:
        yield router


def learned(lab: Lab, node: str, prefix: str = "") -> list[dict[str, Any]]:
    """The routes that the node heard; of one prefix if named."""
    return [row for row in told_on(lab, node, "learned") if prefix in ("", row["prefix"])]


def sessions_of(lab: Lab, node: str, peer: str) -> list[dict[str, Any]]:
    status = lab.get("nodenetwork", node).get("status", {})
    return [each for each in status.get("sessions", []) if each["peer"].startswith(peer)]


def all_established(lab: Lab) -> bool:
    return all("stablished" in mark for tor in lab.topology.tor_names for mark in session_marks(lab, tor).values())


def blocks(lab: Lab, node: str, family: int) -> list[str]:
    return [cidr for cidr, owner in node_blocks(lab).items() if owner == node and (":" in cidr) == (family == 6)]


def installed(lab: Lab, node: str, prefix: str) -> list[dict[str, Any]]:
    """The kernel's routes to exactly that prefix on the node."""
    return kernel_routes(lab, node, "-6" if ":" in prefix else "-4", "route", "show", "exact", prefix)


def address(lab: Lab, node: str, family: int) -> str:
    pair = lab.topology.addresses(node)
    return pair.v4 if family == 4 else pair.v6


def test_tor_peering_alone_keeps_no_mesh_and_marks_what_it_announces(restored: Lab) -> None:
    lab = restored
    objects = [
        each
        for path in sorted((EXAMPLES / "tor-peering").glob("*.yaml"))
        for each in yaml.safe_load_all(path.read_text())
    ]
    marks = {tor: session_marks(lab, tor) for tor in lab.topology.tor_names}
    apply(lab, *objects)
    for tor, family in itertools.product(lab.topology.tor_names, (4, 6)):
        mark = "64512:100" if family == 4 else "64512:1:100"
        for block in (each for node in lab.topology.nodes_in(int(tor[3:])) for each in blocks(lab, node, family)):
            eventually(
                lambda tor=tor, block=block, mark=mark: mark in attributes(lab, tor, block),
                15,
                lambda tor=tor, block=block: f"{attributes(lab, tor, block)}",
            )
    assert all(sessions_of(lab, node, "mesh") == [] for node in lab.topology.node_names)
    assert lab.get("bgpconfiguration", "default")["status"].get("meshMembers", 0) == 0
    assert {tor: session_marks(lab, tor) for tor in lab.topology.tor_names} == marks
    with pods_on(lab, [lab.topology.node_names[0], lab.topology.node_names[-1]], "peering") as (one, other):
        for target in other.addresses:
            run_checked([*one.place.enter, "ping", "-c1", "-W2", target])


def attributes(lab: Lab, router: str, prefix: str) -> str:
    """What a router knows about its path to a prefix, with separators as BGP documents write them."""
    if lab.is_bird(router):
        text = lab.birdc(router, f"show route {prefix} primary all")
        return text.replace(", ", ":").replace(",", ":").replace("(", "").replace(")", "")
    family = "ipv6" if ":" in prefix else "ipv4"
    return str(lab.vtysh(router, f"show bgp {family} unicast {prefix} json"))


def test_a_mesh_beside_the_tor_installs_one_path_and_tells_why_the_other_lost(restored: Lab) -> None:
    lab = restored
    neighbour = lab.topology.nodes_in(0)[1]
    with others_undisturbed(lab):
        apply(lab, body("BGPConfiguration", "default", nodeMesh="Enabled"))
        for family in (4, 6):
            for block in blocks(lab, neighbour, family):
                eventually(
                    lambda block=block: len(learned(lab, NODE, block)) == 2,
                    30,
                    lambda block=block: learned(lab, NODE, block),
                )
                mesh, tor = sorted(learned(lab, NODE, block), key=lambda row: row["session"])
                assert (mesh["session"].split("/")[:2], mesh["as_path"], mesh["verdict"]) == (
                    ["mesh", neighbour],
                    "",
                    "best",
                )
                assert (tor["session"].split("/")[0], tor["verdict"]) == (
                    f"rack0-tor-v{family}",
                    "not best: LongerASPath",
                )
                assert tor["as_path"].split() == ["65001", "64512"]
                (route,) = installed(lab, NODE, block)
                assert route["gateway"] == address(lab, neighbour, family)
        lab.kubectl("delete", "bgpconfiguration", "default")
        block = blocks(lab, neighbour, 4)[0]
        eventually(
            lambda: [r["verdict"] for r in learned(lab, NODE, block)] == ["best"], 20, "the ToR's path is best now"
        )
        assert len(installed(lab, NODE, block)) == 1


def spare_peer(family: int, **spec: object) -> Body:
    pair = ("10.10.0", "fd00:10:10:")
    where = f"{pair[0]}.{OPEN_HOST}" if family == 4 else f"{pair[1]}:{OPEN_HOST}"
    return body("BGPPeer", f"spare-v{family}", nodeSelector=ON_NODE, address=where, asNumber=SPARE_AS, **spec)


@pytest.mark.parametrize("family", [4, 6])
def test_of_what_a_router_announces_only_what_may_be_believed_is_installed(
    lab: Lab, spare: SpareRouter, family: int
) -> None:
    own = blocks(lab, NODE, family)[0]
    accepted, others = ("192.0.2.0/25", "198.51.100.0/24") if family == 4 else ("2001:db8:2::/64", "2001:db8:3::/64")
    good = "10.244.250.0/26" if family == 4 else "fd00:10:244:f0::/122"
    refused = {
        "0.0.0.0/0" if family == 4 else "::/0": "NotAccepted",
        others: "NotAccepted",
        own: "OwnBlock",
        ("10.244.251.0/28" if family == 4 else "fd00:10:244:f1::/124"): "LongerThanBlock",
        ("10.96.0.0/24" if family == 4 else "fd00:10:96::/120"): "ServiceRange",
        f"{address(lab, lab.topology.nodes_in(0)[1], family)}/{32 if family == 4 else 128}": "NodeRange",
    }
    range_ = "192.0.2.0/24" if family == 4 else "2001:db8:2::/48"
    before = {prefix: installed(lab, NODE, prefix) for prefix in refused}
    peer = spare_peer(family, **{"import": {"accept": [range_]}})
    spare.announce([good, accepted, *refused])
    try:
        with others_undisturbed(lab):
            apply(lab, peer)
            for prefix in (good, accepted):
                eventually(
                    lambda prefix=prefix: (
                        [r.get("gateway") for r in installed(lab, NODE, prefix)] == [spare.address(family)]
                    ),
                    20,
                    lambda prefix=prefix: f"{prefix} is installed: {learned(lab, NODE, prefix)}",
                )
            verdicts = {r["prefix"]: r["verdict"] for r in learned(lab, NODE) if r["session"].startswith("spare")}
            assert verdicts == {good: "best", accepted: "best"} | {p: f"refused: {why}" for p, why in refused.items()}
            assert {prefix: installed(lab, NODE, prefix) for prefix in refused} == before
            assert spare.is_established(NODE, family)
            # What is withdrawn goes from the kernel again.
            spare.announce([good])
            eventually(lambda: installed(lab, NODE, accepted) == [], 10, f"{accepted} is gone")
    finally:
        spare.announce([])
        lab.kubectl("delete", "bgppeer", peer["metadata"]["name"], "--ignore-not-found")


@pytest.mark.parametrize("family", [4, 6])
def test_above_the_limit_the_excess_is_refused_and_the_session_stays(lab: Lab, spare: SpareRouter, family: int) -> None:
    prefixes = [f"10.244.{250 + i}.0/26" if family == 4 else f"fd00:10:244:f{i}::/122" for i in range(5)]
    peer = spare_peer(family, **{"import": {"maxPrefixes": 3}})

    def count() -> int:
        return sum(installed(lab, NODE, prefix) != [] for prefix in prefixes)

    def verdicts() -> list[str]:
        rows = [r for r in learned(lab, NODE) if r["session"].startswith("spare")]
        return sorted(row["verdict"] for row in rows)

    spare.announce(prefixes)
    try:
        with others_undisturbed(lab):
            apply(lab, peer)
            eventually(lambda: len(verdicts()) == 5 and count() == 3, 20, lambda: f"{verdicts()} {count()}")
            assert verdicts() == ["best"] * 3 + ["refused: AboveMaxPrefixes"] * 2
            marks = spare.birdc(f"show protocols {NODE}_{family}").split()[-1]
            (session,) = (row for row in told_on(lab, NODE, "sessions") if row["session"].startswith("spare"))
            counts = (session["state"], session["accepted"], session["refused"])
            assert (marks, counts) == ("Established", ("established", 3, "AboveMaxPrefixes 2"))
            # The limit raised, the rest is believed without a new session.
            apply(lab, spare_peer(family, **{"import": {"maxPrefixes": 5}}))
            eventually(lambda: count() == 5, 20, lambda: f"all five installed: {verdicts()}")
    finally:
        spare.announce([])
        lab.kubectl("delete", "bgppeer", peer["metadata"]["name"], "--ignore-not-found")


@pytest.mark.parametrize("family", [4, 6])
def test_a_route_that_two_routers_announce_alike_has_both_as_next_hops(
    lab: Lab, spare: SpareRouter, family: int
) -> None:
    prefix = "10.244.252.0/26" if family == 4 else "fd00:10:244:f2::/122"

    def next_hops() -> set[str]:
        return {
            hop["gateway"]
            for route in installed(lab, NODE, prefix)
            for hop in route.get("nexthops", [route] if "gateway" in route else [])
        }

    with SpareRouter(lab, number=1) as second, others_undisturbed(lab):
        both = (spare_peer(family), twin_peer(family, second))
        try:
            apply(lab, *both)
            for router in (spare, second):
                router.announce([prefix])
            ways = {spare.address(family), second.address(family)}
            eventually(lambda: next_hops() == ways, 30, lambda: f"{next_hops()}: {learned(lab, NODE, prefix)}")
            assert len(installed(lab, NODE, prefix)) == 1
            assert [row["verdict"] for row in learned(lab, NODE, prefix)] == ["best", "best"]
            second.announce([])
            eventually(lambda: next_hops() == {spare.address(family)}, 10, lambda: f"one way is left: {next_hops()}")
        finally:
            spare.announce([])
            for peer in both:
                lab.kubectl("delete", "bgppeer", peer["metadata"]["name"], "--ignore-not-found")


def twin_peer(family: int, router: SpareRouter) -> Body:
    return body("BGPPeer", f"twin-v{family}", nodeSelector=ON_NODE, address=router.address(family), asNumber=SPARE_AS)


CHANGES: dict[str, tuple[Body, Callable[[str], bool], Callable[[str], bool]]] = {
    "communities": (
        {"export": {"communities": ["64512:77"]}},
        lambda frr: "64512:77" in frr,
        lambda bird: "BGP.community: 64512:77" in bird,
    ),
    "large communities": (
        {"export": {"largeCommunities": ["64512:7:8"]}},
        lambda frr: "64512:7:8" in frr,
        lambda bird: "BGP.large_community: 64512:7:8" in bird,
    ),
    "MED": (
        {"export": {"med": 321}},
        lambda frr: "'metric': 321" in frr,
        lambda bird: "BGP.med: 321" in bird,
    ),
    "prepend": (
        {"export": {"prepend": 2}},
        lambda frr: "64512 64512 64512" in frr,
        lambda bird: "BGP.as_path: 64512 64512 64512" in bird,
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("tor", "family"), [("tor0", 4), ("tor1", 6)])
def test_a_change_of_attributes_is_seen_at_the_router_and_resets_no_session(
    restored: Lab, tor: str, family: int, change: str
) -> None:
    lab = restored
    spec, frr, bird = CHANGES[change]
    is_seen = bird if lab.is_bird(tor) else frr
    block = blocks(lab, lab.topology.nodes_in(int(tor[3:]))[0], family)[0]
    assert not is_seen(attributes(lab, tor, block))
    marks = {each: session_marks(lab, each) for each in lab.topology.tor_names}
    patch(lab, f"rack{tor[3:]}-tor-v{family}", spec)
    eventually(lambda: is_seen(attributes(lab, tor, block)), 15, lambda: attributes(lab, tor, block))
    assert {each: session_marks(lab, each) for each in lab.topology.tor_names} == marks


def patch(lab: Lab, peer: str, spec: Body) -> None:
    lab.kubectl("patch", "bgppeer", peer, "--type=merge", "-p", json.dumps({"spec": spec}))


@pytest.mark.parametrize("family", [4, 6])
def test_a_shutdown_and_a_hold_time_touch_the_session_that_they_name_alone(restored: Lab, family: int) -> None:
    lab = restored
    (name, other) = (f"rack0-tor-v{family}", 10 - family)
    nodes = lab.topology.nodes_in(0)
    ends = {address(lab, node, family) for node in nodes}

    def marks_of_others() -> dict[str, str]:
        there = {tor: session_marks(lab, tor) for tor in lab.topology.tor_names}
        return {f"{tor} {n}": m for tor, each in there.items() for n, m in each.items() if n not in ends}

    eventually(lambda: all_established(lab), 40, "every session is up before the change")
    before = marks_of_others()
    assert len(before) >= len(nodes), f"sessions of family {other} are watched"
    patch(lab, name, {"shutdown": True})
    eventually(lambda: all("stablished" not in session_marks(lab, "tor0")[end] for end in ends), 15, "the sessions end")
    assert not any(attributes_exist(lab, block) for node in nodes for block in blocks(lab, node, family))
    # 6 s is less than the ToR's 9 s, so it is what both sides use.
    patch(lab, name, {"shutdown": False, "holdTime": 6})
    eventually(
        lambda: {hold_time(lab, end) for end in ends} == {6000}, 40, lambda: f"{[hold_time(lab, e) for e in ends]}"
    )
    eventually(
        lambda: all(attributes_exist(lab, block) for node in nodes for block in blocks(lab, node, family)), 15, "routes"
    )
    assert marks_of_others() == before


def hold_time(lab: Lab, neighbour: str) -> int:
    """Milliseconds, as FRR negotiated it; 0 without a session."""
    return hold_times(lab)[neighbour]


def hold_times(lab: Lab) -> dict[str, int]:
    """Those of every session that tor0 has with a node."""
    return {
        name: int(each["bgpTimerHoldTimeMsecs"]) if each["bgpState"] == "Established" else 0
        for name, each in lab.vtysh("tor0", "show bgp neighbors json").items()
        if each["remoteAs"] == NODES_AS
    }


def attributes_exist(lab: Lab, block: str) -> bool:
    return "bestpath" in attributes(lab, "tor0", block)
