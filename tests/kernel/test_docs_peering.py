"""docs/peering.md: both routers run with the page's very words, learn the blocks, and keep them while the speaker restarts."""

import os
import re
import signal

import pytest
from bgp_routers import NODE_AS, desired, neighbour
from bgp_world import TREE, Bird, Frr, Host, Speaker, World, wait_for

from bgp.values import Announcement, Family

pytestmark = pytest.mark.root

PAGE = (TREE / "docs" / "peering.md").read_text()
ROUTER_AS = 65001
BLOCKS = {Family.IPV4: "10.244.1.0/26", Family.IPV6: "fd00:10:244::40/122"}


def words_for(router: str, at: Host, node: Host) -> str:
    """The page's configuration with the addresses of this test."""
    (text,) = re.findall(rf"```{router}\n(.*?)```", PAGE, re.DOTALL)
    for written, used in (
        ("fd00:10:10::11", node.ipv6),
        ("fd00:10:10::1", at.ipv6),
        ("10.10.0.11", node.ipv4),
        ("10.10.0.1", at.ipv4),
    ):
        text = re.sub(rf"{re.escape(written)}(?![0-9a-f:])", used, text)
    return str(text)


@pytest.mark.parametrize("router", ["frr", "bird"])
def test_a_router_with_the_pages_words_learns_the_blocks_and_keeps_them_over_a_restart(
    segment: World, router: str
) -> None:
    node, at = segment.host("node", 11), segment.host("tor", 1)
    text = words_for(router, at, node)
    speaker = Speaker(node)
    sessions = [
        neighbour(
            node,
            f"tor-{family}",
            address,
            ROUTER_AS,
            families=(family,),
            announcements=(Announcement(prefix=BLOCKS[family], next_hop=own),),
        )
        for family, address, own in ((Family.IPV4, at.ipv4, node.ipv4), (Family.IPV6, at.ipv6, node.ipv6))
    ]
    assert all(session.local_asn == NODE_AS for session in sessions)
    if router == "frr":
        frr = Frr(at, text)

        def learned() -> set[str]:
            return frr.prefixes(node.ipv4) | frr.prefixes(node.ipv6)
    else:
        bird = Bird(at, ROUTER_AS, text)

        def learned() -> set[str]:
            return bird.prefixes("n0_v4") | bird.prefixes("n0_v6")

    speaker.sync(desired(node, *sessions))
    wait_for(lambda: learned() == set(BLOCKS.values()), "exactly the blocks at the router", 30)
    killed = speaker.exabgp()
    os.kill(killed, signal.SIGKILL)
    missing = []

    def is_back() -> bool:
        missing.append(set(BLOCKS.values()) - learned())
        return speaker.is_answering() and are_established(speaker)

    wait_for(lambda: speaker.exabgp() != killed, "another ExaBGP")
    wait_for(is_back, "both sessions anew", 30)
    assert not any(missing)


def are_established(speaker: Speaker) -> bool:
    sessions = speaker.observed().sessions
    return len(sessions) == len(BLOCKS) and all(session.state == "established" for session in sessions)
