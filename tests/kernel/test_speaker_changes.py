"""Changes of the desired state: what is touched, what is left alone, and withdrawal before removal."""

import msgspec
import pytest
from bgp_probe import RouteProbe
from bgp_routers import BIRD_AS, FRR_AS, OWN, bird_at, desired, frr_at, neighbour
from bgp_world import Bird, Frr, Host, Speaker, World, run, wait_for

from bgp.reasons import SessionReason
from bgp.values import Family

pytestmark = pytest.mark.root


class Site:
    """A node with a speaker; BIRD is established, FRR is ready but unknown to the speaker."""

    def __init__(self, world: World) -> None:
        self.node: Host = world.host("node", 11)
        self.bird: Bird = bird_at(world.host("bird", 1), self.node.ipv4)
        self.frr: Frr = frr_at(world.host("frr", 2), self.node.ipv4)
        self.to_bird = neighbour(self.node, "bird", self.bird.host.ipv4, BIRD_AS)
        self.to_frr = neighbour(self.node, "frr", self.frr.host.ipv4, FRR_AS)
        self.speaker = Speaker(self.node)
        self.generation = 0
        self.ask(self.to_bird)
        self.speaker.wait_until_established("bird")

    def ask(self, *neighbours: object, **changes: object) -> None:
        self.generation += 1
        self.speaker.sync(desired(self.node, *neighbours, generation=self.generation, **changes))

    def wait_until_applied(self) -> None:
        wait_for(lambda: self.speaker.observed().applied, "the configuration applied")


@pytest.fixture
def site(segment: World) -> Site:
    return Site(segment)


def test_adding_changing_and_removing_a_neighbour_leaves_the_other_session_alone(site):
    speaker, since = site.speaker, site.speaker.session("bird").since
    with RouteProbe(lambda: site.bird.prefixes("node"), OWN) as at_bird:
        wait_for(lambda: at_bird.looks > 3, "the probe looking")
        at_bird.missing.clear()
        site.ask(site.to_bird, site.to_frr)
        speaker.wait_until_established("frr")
        wait_for(lambda: site.frr.prefixes(site.node.ipv4) == OWN, "our blocks at FRR")
        site.ask(site.to_bird, msgspec.structs.replace(site.to_frr, hold_time=12))
        wait_for(lambda: speaker.session("frr").hold_time == 9 and speaker.session("frr").restarts == 1, "FRR again")
        speaker.wait_until_established("frr")
        assert speaker.session("frr").last_reason is SessionReason.CONFIGURATION_CHANGED
        site.ask(site.to_bird)
        site.wait_until_applied()
        wait_for(lambda: len(speaker.observed().sessions) == 1, "FRR forgotten")
    assert at_bird.missing == []
    assert speaker.session("bird").since == since
    assert speaker.session("bird").restarts == 0


def test_a_removed_neighbour_hears_the_withdrawal_first(site):
    site.ask(site.to_bird, site.to_frr)
    wait_for(lambda: site.frr.prefixes(site.node.ipv4) == OWN, "our blocks at FRR")
    site.ask(site.to_bird)
    # FRR would keep routes of a session that merely ended for 120 s: graceful restart.
    wait_for(lambda: site.frr.prefixes(site.node.ipv4) == set(), "FRR without our blocks", 2)
    wait_for(lambda: site.frr.peer(site.node.ipv4)["bgpState"] != "Established", "the session removed")
    assert site.bird.prefixes("node") == OWN


def test_a_neighbour_that_is_removed_while_its_session_is_lost_does_not_keep_our_routes(site):
    site.ask(site.to_bird, site.to_frr)
    wait_for(lambda: site.frr.prefixes(site.node.ipv4) == OWN, "our blocks at FRR")
    wait_for(lambda: set(site.speaker.session("frr").end_of_rib_sent) == {*Family}, "our end-of-RIB")
    run(*site.node.command("ss", "-K", "dst", site.frr.host.ipv4))
    wait_for(lambda: site.speaker.session("frr").state == "connecting", "the session lost")
    site.ask(site.to_bird)
    assert site.frr.prefixes(site.node.ipv4) == OWN, "FRR keeps them for 120 s"
    wait_for(lambda: site.frr.prefixes(site.node.ipv4) == set(), "FRR without our blocks", 30)
    wait_for(lambda: len(site.speaker.observed().sessions) == 1, "FRR forgotten")
    assert site.bird.prefixes("node") == OWN


def test_a_neighbour_removed_and_asked_for_again_hears_everything_again(site):
    for _ in range(3):
        site.ask()
        site.ask(site.to_bird)
    site.wait_until_applied()
    site.speaker.wait_until_established("bird")
    wait_for(lambda: site.bird.prefixes("node") == OWN, "our blocks at BIRD")
    wait_for(lambda: set(site.speaker.session("bird").sent) == OWN, "both blocks reported as sent")


def test_with_no_neighbours_left_everything_is_withdrawn_and_the_speaker_stays(site):
    site.ask()
    wait_for(lambda: site.bird.prefixes("node") == set(), "nothing of ours at BIRD", 2)
    wait_for(lambda: site.speaker.observed().sessions == () and site.speaker.observed().applied, "no sessions")
    assert site.speaker.observed().routes == {}


def is_complete(session):
    """Both sides have said all that they have to say: nothing more changes by itself."""
    return {*session.end_of_rib_sent} == {*session.settled} == {*Family}


def test_the_same_order_twice_changes_nothing(site):
    site.wait_until_applied()
    wait_for(lambda: is_complete(site.speaker.session("bird")), "both sides' end-of-RIB")
    before = site.speaker.observed()
    log = site.speaker.log.read_text()
    site.speaker.sync(desired(site.node, site.to_bird, generation=site.generation))
    assert site.speaker.observed() == before
    assert site.speaker.log.read_text() == log


def test_a_new_router_id_restarts_the_sessions_and_loses_no_route(site):
    since = site.speaker.session("bird").since
    wait_for(lambda: site.bird.prefixes("node") == OWN, "our blocks at BIRD")
    with RouteProbe(lambda: site.bird.prefixes("node"), OWN) as at_bird:
        site.ask(site.to_bird, router_id="10.99.0.111")
        wait_for(lambda: site.speaker.session("bird").since != since, "the session restarting")
        site.speaker.wait_until_established("bird")
        looks = at_bird.looks
        wait_for(lambda: at_bird.looks > looks + 20, "looks after the session was back")
    assert at_bird.missing == []
    assert "10.99.0.111" in site.bird.ask("show", "protocols", "all", "node")


def test_many_orders_in_a_row_end_in_the_last_one(site):
    for number in range(20):
        with_frr = number % 2 == 1
        site.ask(*([site.to_bird, site.to_frr] if with_frr else [site.to_bird]))
    site.speaker.wait_until_established("bird", "frr")
    wait_for(lambda: site.frr.prefixes(site.node.ipv4) == OWN, "our blocks at FRR")
    site.wait_until_applied()
    assert site.speaker.observed().generation == site.generation
