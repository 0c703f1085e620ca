"""The fields of a BGPPeer that decide whether a session comes up at all, and what goes over it, as another router sees them.

Each is tried on a session with a BIRD that insists on it, and beside it what happens without.
"""

from collections.abc import Iterator

import pytest
from bad_input import others_undisturbed
from refused_inputs import Body, body
from spare_router import NODE_AS, SPARE_AS, Session, SpareRouter
from test_peering import blocks, sessions_of
from workloads import apply, eventually

from controller.lab.cluster import Lab
from controller.lab.execute import run_checked

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.parametrize("family", [4, 6])]

NODE = "n0"
ON_NODE = {"matchLabels": {"kubernetes.io/hostname": NODE}}
NAME = "fields"
# A router of another rack is behind the node's ToR, the spine and its own ToR.
ROUTERS_BETWEEN = 3


@pytest.fixture(scope="module")
def spare(lab: Lab) -> Iterator[SpareRouter]:
    """A router in the node's rack."""
    with SpareRouter(lab) as router:
        yield router


@pytest.fixture(autouse=True)
def peer_gone(lab: Lab) -> Iterator[None]:
    """After each test its BGPPeer is deleted, and its session at an end; no other session noticed anything."""
    with others_undisturbed(lab):
        yield
        lab.kubectl("delete", "bgppeer", NAME, "--ignore-not-found")
        eventually(lambda: sessions_of(lab, NODE, NAME) == [], 20, lambda: sessions_of(lab, NODE, NAME))


def peer(router: SpareRouter, family: int, asn: int = SPARE_AS, **spec: object) -> Body:
    """The node's session with the router."""
    return body("BGPPeer", NAME, nodeSelector=ON_NODE, address=router.address(family), asNumber=asn, **spec)


def stands(router: SpareRouter, family: int) -> None:
    eventually(
        lambda: router.is_established(NODE, family),
        30,
        lambda: f"a session with {NODE}: {router.birdc(f'show protocols all {NODE}_{family}')}",
    )


def is_told_why(lab: Lab, *reasons: str) -> None:
    """The session does not come up, and the node's status says why."""

    def says() -> bool:
        found = sessions_of(lab, NODE, NAME)
        return len(found) == 1 and found[0].get("reason") in reasons and found[0]["state"] != "established"

    eventually(says, 25, lambda: f"{reasons}: {sessions_of(lab, NODE, NAME)}")


def test_a_session_goes_to_the_port_that_the_router_listens_on(lab: Lab, spare: SpareRouter, family: int) -> None:
    spare.keep(Session(port=1790))
    apply(lab, peer(spare, family))
    is_told_why(lab, "NotConnected")
    apply(lab, peer(spare, family, port=1790))
    stands(spare, family)


def test_ttl_security_is_kept_on_both_sides_or_the_session_does_not_come_up(
    lab: Lab, spare: SpareRouter, family: int
) -> None:
    spare.keep(Session(words="ttl security off;"))
    apply(lab, peer(spare, family, ttlSecurity=1))
    # It sends with a TTL of 1, so its OPEN is not heard.
    is_told_why(lab, "NotConnected", "NotificationSent")
    spare.keep(Session(words="ttl security on;"))
    stands(spare, family)
    # BIRD hears not even the end of that connection; it is over with the hold time.
    apply(lab, peer(spare, family))
    eventually(lambda: not spare.is_established(NODE, family), 15, "BIRD's side ends")
    is_told_why(lab, "NotConnected", "ConnectionClosed", "HoldTimerExpired", "NotificationSent")
    spare.keep(Session(words="ttl security off;"))
    stands(spare, family)


def test_a_router_behind_others_is_reached_with_as_many_hops_as_lie_between(lab: Lab, family: int) -> None:
    far = Session(nodes=(NODE,), words=f"multihop {ROUTERS_BETWEEN + 1};")
    with SpareRouter(lab, rack=1, session=far) as router:
        gateway = getattr(lab.topology.addresses("tor1"), f"v{family}")
        way_back = ["ip", "-n", router.namespace, f"-{family}", "route", "add", "default", "via", gateway]
        run_checked(way_back)
        apply(lab, peer(router, family, multihop=ROUTERS_BETWEEN))
        is_told_why(lab, "NotConnected")
        apply(lab, peer(router, family, multihop=ROUTERS_BETWEEN + 1))
        stands(router, family)
        for block in blocks(lab, NODE, family):
            eventually(lambda block=block: block in router.heard(NODE, family), 10, f"{block} is heard there")
        lab.kubectl("delete", "bgppeer", NAME)


def test_local_preference_is_told_within_one_as_and_to_nobody_else(lab: Lab, spare: SpareRouter, family: int) -> None:
    export = {"localPreference": 333}
    spare.keep(Session(asn=NODE_AS))
    apply(lab, peer(spare, family, asn=NODE_AS, export=export))
    stands(spare, family)
    eventually(lambda: "BGP.local_pref: 333" in spare.heard(NODE, family), 15, lambda: spare.heard(NODE, family))
    spare.keep(Session())
    apply(lab, peer(spare, family, export=export))
    stands(spare, family)
    eventually(lambda: "BGP.as_path: 64512" in spare.heard(NODE, family), 15, lambda: spare.heard(NODE, family))
    assert "local_pref: 333" not in spare.heard(NODE, family)


def test_blocks_of_the_pools_that_export_names_are_announced_and_no_others(
    lab: Lab, spare: SpareRouter, family: int
) -> None:
    own = blocks(lab, NODE, family)
    spare.keep(Session())
    apply(lab, peer(spare, family, export={"pools": [f"pods-v{family}"]}))
    stands(spare, family)
    for block in own:
        eventually(lambda block=block: block in spare.heard(NODE, family), 15, lambda: spare.heard(NODE, family))
    apply(lab, peer(spare, family, export={"pools": ["another"]}))
    eventually(
        lambda: not any(block in spare.heard(NODE, family) for block in own), 15, lambda: spare.heard(NODE, family)
    )
    assert spare.is_established(NODE, family)


def test_a_session_comes_from_the_source_address_that_is_named_if_the_node_has_it(
    lab: Lab, spare: SpareRouter, family: int
) -> None:
    pair = lab.topology.rack_subnet(0).host(77)
    source = pair.v4 if family == 4 else pair.v6
    link = ["ip", f"-{family}", "address", "{}", f"{source}/{24 if family == 4 else 64}", "dev", "eth0"]
    spare.keep(Session(sources={(NODE, family): source}))
    apply(lab, peer(spare, family, sourceAddress=source))
    is_told_why(lab, "LocalAddressMissing")
    lab.netns_exec(NODE, [word.format("add") for word in link] + (["nodad"] if family == 6 else []))
    try:
        stands(spare, family)
        eventually(
            lambda: f"BGP.next_hop: {source}" in spare.heard(NODE, family), 15, lambda: spare.heard(NODE, family)
        )
    finally:
        lab.kubectl("delete", "bgppeer", NAME)
        lab.netns_exec(NODE, [word.format("del") for word in link])
