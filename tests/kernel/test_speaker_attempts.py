"""How the speaker connects to a router that refuses or does not answer, on a real network."""

import json

import msgspec
import pytest
from bgp_routers import BIRD_AS, BIRD_STATICS, bird_session, desired, neighbour
from bgp_world import Bird, Host, Speaker, World, run, wait_for

from bgp.reasons import SessionReason

pytestmark = pytest.mark.root

CLOSED_PORT = 1790


class Pair:
    """A node with a speaker, and a router that only answers; attempts to connect to it are counted."""

    def __init__(self, world: World) -> None:
        self.node, self.router = world.host("node", 11), world.host("bird", 1)
        self.speaker = Speaker(self.node)
        # Repetitions of one attempt have one source port.
        note = "tcp flags & (syn | ack) == syn add @attempts { tcp sport }"
        chain = f"chain input {{ type filter hook input priority 0; {note}; }}"
        self.nft(f"table inet seen {{ set attempts {{ type inet_service; flags dynamic; }}; {chain}; }}")

    def nft(self, words: str) -> str:
        return run(*self.router.command("nft", "-j", words))

    def attempts(self) -> int:
        answer = json.loads(self.nft("list set inet seen attempts"))["nftables"]
        (ports,) = [each["set"].get("elem", []) for each in answer if "set" in each]
        return len(ports)

    def address(self, host: Host, family: int) -> str:
        return host.ipv4 if family == 4 else host.ipv6


@pytest.fixture
def pair(segment: World) -> Pair:
    return Pair(segment)


def answering(pair: Pair, family: int) -> Bird:
    node, router = (pair.address(host, family) for host in (pair.node, pair.router))
    return Bird(pair.router, BIRD_AS, bird_session(pair.router, node, extra="passive;", local=router), BIRD_STATICS)


@pytest.mark.parametrize("family", [4, 6])
def test_a_router_that_does_not_listen_is_not_said_to_accept(pair: Pair, family: int) -> None:
    good = neighbour(pair.node, "bird", pair.address(pair.router, family), BIRD_AS)
    pair.speaker.sync(desired(pair.node, msgspec.structs.replace(good, port=CLOSED_PORT)))
    wait_for(lambda: pair.attempts() >= 3, "three attempts were refused")
    session = pair.speaker.session("bird")
    assert session.reason is SessionReason.NOT_CONNECTED
    assert f"port {CLOSED_PORT}: unreachable or not listening" in session.message
    answering(pair, family)
    pair.speaker.sync(desired(pair.node, good, generation=2))
    pair.speaker.wait_until_established("bird")


@pytest.mark.parametrize("family", [4, 6])
def test_a_router_whose_answers_were_dropped_for_long_is_asked_anew_within_seconds(pair: Pair, family: int) -> None:
    answering(pair, family)
    silence = "table inet silence { chain output { type filter hook output priority 0; tcp sport 179 drop; }; }"
    pair.nft(silence)
    pair.speaker.sync(desired(pair.node, neighbour(pair.node, "bird", pair.address(pair.router, family), BIRD_AS)))
    # The kernel alone keeps one attempt up for two minutes (tcp_syn_retries), with pauses of up to a minute between its SYNs.
    wait_for(lambda: pair.attempts() >= 3, "a third attempt", 40)
    assert pair.speaker.session("bird").reason is SessionReason.NOT_CONNECTED
    pair.nft("delete table inet silence")
    pair.speaker.wait_until_established("bird")
