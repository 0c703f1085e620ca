"""What the routers hear and what the speaker learns, between real BIRD and FRR, for both families."""

import msgspec
import pytest
from bgp_routers import (
    BIRD_AS,
    FRR_AS,
    OWN,
    OWN_4,
    OWN_6,
    SHARED_4,
    SHARED_6,
    bird_at,
    bird_session,
    desired,
    frr_at,
    neighbour,
)
from bgp_world import Speaker, wait_for

from bgp.reasons import ImportReason
from bgp.values import Announcement, Route

pytestmark = pytest.mark.root


def test_both_routers_hear_the_blocks_and_equal_routes_are_learned_together(segment):
    node = segment.host("node", 11)
    bird, frr = bird_at(segment.host("bird", 1), node.ipv4), frr_at(segment.host("frr", 2), node.ipv4)
    speaker = Speaker(node)
    asked = desired(
        node, neighbour(node, "bird", bird.host.ipv4, BIRD_AS), neighbour(node, "frr", frr.host.ipv4, FRR_AS)
    )
    observed = speaker.sync(asked)
    assert observed.generation == 1
    speaker.wait_until_established("bird", "frr")
    wait_for(lambda: bird.prefixes("node") == OWN, "exactly our blocks at BIRD")
    wait_for(lambda: frr.prefixes(node.ipv4) == OWN, "exactly our blocks at FRR")
    both = {
        SHARED_4: Route((bird.host.ipv4, frr.host.ipv4), ("bird", "frr")),
        SHARED_6: Route((bird.host.ipv6, frr.host.ipv6), ("bird", "frr")),
    }
    wait_for(lambda: speaker.observed().routes == both, "the shared routes with both next hops")
    seen = speaker.detail()
    assert seen.observed.applied
    assert seen.observed.problems == ()
    for session in seen.observed.sessions:
        assert set(session.sent) == OWN
        assert session.end_of_rib_sent == ("ipv4", "ipv6")
        assert session.hold_time == 9
    refused = {(path.session, path.prefix): path.refused for path in seen.paths if path.refused}
    assert refused.pop(("bird", "192.0.2.0/24")) is ImportReason.NOT_ACCEPTED
    # FRR sends our own blocks back: ExaBGP itself checks no loop.
    assert refused == {("frr", OWN_4): ImportReason.OWN_AS, ("frr", OWN_6): ImportReason.OWN_AS}
    bird.configure(bird_session(bird.host, node.ipv4), "")
    only_frr = {
        SHARED_4: Route((frr.host.ipv4,), ("frr",)),
        SHARED_6: Route((frr.host.ipv6,), ("frr",)),
    }
    wait_for(lambda: speaker.observed().routes == only_frr, "BIRD's routes withdrawn")


def test_every_attribute_arrives_exactly_as_asked(segment):
    node = segment.host("node", 11)
    bird = bird_at(segment.host("bird", 1), node.ipv4)
    speaker = Speaker(node)
    attributes = {
        "communities": ("65001:100", "65535:0"),
        "large_communities": ("64512:1:4294967295",),
        "med": 77,
        "prepend": 2,
    }
    full = (
        Announcement(prefix=OWN_4, next_hop=node.ipv4, **attributes),
        Announcement(prefix=OWN_6, next_hop=node.ipv6, **attributes),
    )
    tor = neighbour(node, "bird", bird.host.ipv4, BIRD_AS, announcements=full)
    speaker.sync(desired(node, tor))
    speaker.wait_until_established("bird")
    for prefix, next_hop in ((OWN_4, node.ipv4), (OWN_6, node.ipv6)):
        wait_for(lambda prefix=prefix: prefix in bird.prefixes("node"), f"{prefix} at BIRD")
        heard = bird.attributes(prefix, "node")
        assert "BGP.as_path: 64512 64512 64512\n" in heard
        assert "BGP.med: 77\n" in heard
        assert "BGP.community: (65001,100) (65535,0)\n" in heard
        assert "BGP.large_community: (64512, 1, 4294967295)\n" in heard
        assert f"BGP.next_hop: {next_hop}" in heard
    since = speaker.session("bird").since
    plain = msgspec.structs.replace(tor, announcements=(Announcement(prefix=OWN_4, next_hop=node.ipv4),))
    speaker.sync(desired(node, plain, generation=2))
    wait_for(lambda: bird.prefixes("node") == {OWN_4}, "the IPv6 block withdrawn")
    wait_for(lambda: "BGP.med" not in bird.attributes(OWN_4, "node"), "the attributes gone")
    assert speaker.session("bird").since == since, "a change of announcements must not touch the session"
    sent = speaker.detail().sent
    assert [(one.prefix, one.as_path, one.med) for one in sent] == [(OWN_4, (64512,), None)]


def test_an_ipv6_session_carries_both_families(segment):
    node = segment.host("node", 11)
    bird_host = segment.host("bird", 1)
    bird = bird_at(bird_host, node.ipv4)
    ipv4_over_ipv6 = f"ipv4 {{ import all; export none; next hop address {bird_host.ipv4}; }};"
    session = bird_session(bird_host, node.ipv6, local=bird_host.ipv6)
    bird.configure(
        session.replace("ipv4 { import all; export where source = RTS_STATIC; next hop self; };", ipv4_over_ipv6)
    )
    speaker = Speaker(node)
    speaker.sync(desired(node, neighbour(node, "bird", bird_host.ipv6, BIRD_AS)))
    speaker.wait_until_established("bird")
    wait_for(lambda: bird.prefixes("node") == OWN, "both blocks over the IPv6 session")
    assert f"BGP.next_hop: {node.ipv4}" in bird.attributes(OWN_4, "node")


def test_many_announcements_all_arrive_and_all_go(segment):
    node = segment.host("node", 11)
    bird = bird_at(segment.host("bird", 1), node.ipv4, "")
    speaker = Speaker(node)
    many = tuple(
        Announcement(prefix=f"10.244.{number >> 2}.{(number & 3) * 64}/26", next_hop=node.ipv4)
        for number in range(1000)
    )
    tor = neighbour(node, "bird", bird.host.ipv4, BIRD_AS, announcements=many)
    speaker.sync(desired(node, tor))
    speaker.wait_until_established("bird")
    wait_for(lambda: len(bird.prefixes("node")) == 1000, "1,000 prefixes at BIRD")
    wait_for(lambda: len(speaker.session("bird").sent) == 1000, "1,000 prefixes reported as sent")
    speaker.sync(desired(node, msgspec.structs.replace(tor, announcements=many[:7]), generation=2))
    wait_for(lambda: len(bird.prefixes("node")) == 7, "seven prefixes left at BIRD")
    wait_for(lambda: len(speaker.session("bird").sent) == 7, "seven prefixes left as sent")


def test_above_max_prefixes_the_excess_is_refused_and_the_session_stays(segment):
    node = segment.host("node", 11)
    routes = "".join(f"route 10.244.{100 + number}.0/26 blackhole; " for number in range(5))
    bird = bird_at(segment.host("bird", 1), node.ipv4, f"protocol static {{ ipv4; {routes} }}")
    speaker = Speaker(node)
    tor = neighbour(node, "bird", bird.host.ipv4, BIRD_AS, max_prefixes=3)
    speaker.sync(desired(node, tor))
    speaker.wait_until_established("bird")
    wait_for(lambda: speaker.session("bird").received == 5, "five routes received")
    session = speaker.session("bird")
    assert (session.accepted, session.refused) == (3, {ImportReason.ABOVE_MAX_PREFIXES: 2})
    assert len(speaker.observed().routes) == 3
    speaker.sync(desired(node, msgspec.structs.replace(tor, max_prefixes=5), generation=2))
    wait_for(lambda: len(speaker.observed().routes) == 5, "all five learned with a higher limit")
    assert speaker.session("bird").since == session.since


def test_routes_refused_beyond_those_kept_are_learned_again_when_the_policy_widens(segment):
    node = segment.host("node", 11)
    routes = "".join(f"route 10.{245 + (n >> 10)}.{n >> 2 & 255}.{(n & 3) * 64}/26 blackhole; " for n in range(1200))
    bird = bird_at(segment.host("bird", 1), node.ipv4, f"protocol static {{ ipv4; {routes} }}")
    speaker = Speaker(node)
    tor = neighbour(node, "bird", bird.host.ipv4, BIRD_AS)
    speaker.sync(desired(node, tor))
    speaker.wait_until_established("bird")
    wait_for(lambda: speaker.session("bird").received == 1200, "1,200 routes received")
    assert speaker.session("bird").refused == {ImportReason.NOT_ACCEPTED: 1200}
    assert len(speaker.detail().paths) == 1000
    wider = msgspec.structs.replace(tor, accept=("10.240.0.0/12",))
    speaker.sync(desired(node, wider, generation=2))
    wait_for(lambda: len(speaker.observed().routes) == 1200, "all 1,200 routes learned")
    assert OWN_4 in bird.prefixes("node")


def test_a_higher_limit_brings_back_routes_that_came_above_the_old_one_and_are_no_longer_known(segment):
    node = segment.host("node", 11)
    routes = "".join(f"route 10.244.{n >> 2 & 255}.{(n & 3) * 64}/26 blackhole; " for n in range(8, 1022))
    bird = bird_at(segment.host("bird", 1), node.ipv4, f"protocol static {{ ipv4; {routes} }}")
    speaker = Speaker(node)
    tor = neighbour(node, "bird", bird.host.ipv4, BIRD_AS, max_prefixes=4)
    speaker.sync(desired(node, tor))
    speaker.wait_until_established("bird")
    wait_for(lambda: speaker.session("bird").received == 1014, "all routes received")
    assert (speaker.session("bird").accepted, speaker.session("bird").forgotten) == (4, 10)
    speaker.sync(desired(node, msgspec.structs.replace(tor, max_prefixes=2000), generation=2))
    wait_for(lambda: len(speaker.observed().routes) == 1014, "all routes learned")
    assert speaker.session("bird").forgotten == 0
