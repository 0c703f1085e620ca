"""A wall clock that is stepped ends no session and delays no reconnect; ExaBGP's own clock would do both."""

import itertools
import sys

import pytest
from bgp_routers import BIRD_AS, FRR_AS, OWN, bird_at, desired, frr_at, neighbour
from bgp_world import Speaker, wait_for
from stepped_clock import SteppedClock

from bgp.exabgp.configuration import configuration_text
from bgp.exabgp.process import exabgp_environment

pytestmark = pytest.mark.root


@pytest.mark.parametrize("step", [3600, -3600])
def test_a_stepped_clock_ends_no_session_and_a_session_cut_afterwards_is_back_within_ten_seconds(segment, step):
    node = segment.host("node", 11)
    bird, frr = bird_at(segment.host("bird", 1), node.ipv4), frr_at(segment.host("frr", 2), node.ipv4)
    clock = SteppedClock(segment.folder)
    speaker = Speaker(node, clock.environment)
    speaker.sync(
        desired(node, neighbour(node, "bird", bird.host.ipv4, BIRD_AS), neighbour(node, "frr", frr.host.ipv4, FRR_AS))
    )
    speaker.wait_until_established("bird", "frr")
    assert all(map(clock.rules, (speaker.entry, speaker.exabgp(), speaker.daemon())))
    since = {name: speaker.session(name).since for name in ("bird", "frr")}
    clock.step(step)

    def keepalives() -> int:
        return frr.peer(node.ipv4)["messageStats"]["keepalivesRecv"]

    started = keepalives()
    wait_for(lambda: keepalives() >= started + 6, "keepalives for two hold times at FRR", 30)
    assert {name: speaker.session(name).since for name in since} == since
    assert bird.prefixes("node") == OWN
    assert frr.prefixes(node.ipv4) == OWN
    bird.host.cut()
    wait_for(lambda: speaker.session("bird").state == "connecting", "the cut session lost", 30)
    bird.host.mend()
    speaker.wait_until_established("bird", seconds=10)
    wait_for(lambda: bird.prefixes("node") == OWN, "our blocks back at BIRD")
    assert speaker.session("frr").since == since["frr"]


def test_the_same_step_ends_the_session_of_an_exabgp_with_its_own_clock(segment):
    node = segment.host("node", 11)
    bird = bird_at(segment.host("bird", 1), node.ipv4)
    clock = SteppedClock(segment.folder)
    to_bird = neighbour(node, "bird", bird.host.ipv4, BIRD_AS)
    configuration = segment.folder / "plain.conf"
    configuration.write_text(configuration_text(["/bin/sleep", "1000"], desired(node, to_bird), [to_bird]))
    settings = exabgp_environment(user="root", speed="1", settings_file="/dev/null")
    command = node.command(sys.executable, "-m", "exabgp", "server", str(configuration))
    segment.start(command, segment.folder / "plain.log", {**settings, **clock.environment})

    def is_established() -> bool:
        return "Established" in bird.ask("show", "protocols", "node")

    wait_for(is_established, "plain ExaBGP established with BIRD")
    hours = itertools.count(1)

    def is_lost_after_another_hour() -> bool:
        # A message that arrives at the very moment of a step hides that one from ExaBGP.
        clock.step(3600 * next(hours))
        return not is_established()

    wait_for(is_lost_after_another_hour, "plain ExaBGP losing its session")
    assert "Hold timer expired" in bird.ask("show", "protocols", "node")
