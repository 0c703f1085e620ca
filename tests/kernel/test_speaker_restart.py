"""Whatever part of the speaker is killed, the routers keep the routes and the speaker finds its way back alone."""

import os
import signal
from collections.abc import Callable

import msgspec
import pytest
from bgp_probe import RouteProbe
from bgp_routers import BIRD_AS, FRR_AS, OWN, OWN_4, SHARED_4, SHARED_6, bird_at, desired, frr_at, neighbour
from bgp_world import Bird, Frr, Host, Speaker, World, wait_for

from bgp.values import Desired

pytestmark = pytest.mark.root


class Site:
    """A node with a speaker between BIRD and FRR, up and settled."""

    def __init__(self, world: World) -> None:
        self.node: Host = world.host("node", 11)
        self.bird: Bird = bird_at(world.host("bird", 1), self.node.ipv4)
        self.frr: Frr = frr_at(world.host("frr", 2), self.node.ipv4)
        self.asked: Desired = desired(
            self.node,
            neighbour(self.node, "bird", self.bird.host.ipv4, BIRD_AS),
            neighbour(self.node, "frr", self.frr.host.ipv4, FRR_AS),
        )
        self.speaker = Speaker(self.node)
        self.speaker.sync(self.asked)
        self.wait_until_whole()

    def wait_until_whole(self) -> None:
        """Both sessions up, everything sent, everything learned, at both ends."""
        self.speaker.wait_until_established("bird", "frr")
        for name in ("bird", "frr"):
            wait_for(lambda name=name: set(self.speaker.session(name).sent) == OWN, f"all sent to {name}")
        wait_for(lambda: set(self.speaker.observed().routes) == {SHARED_4, SHARED_6}, "both shared routes")
        wait_for(lambda: len(self.speaker.observed().routes[SHARED_4].next_hops) == 2, "two next hops")
        wait_for(lambda: self.bird.prefixes("node") == OWN, "our blocks at BIRD")
        wait_for(lambda: self.frr.prefixes(self.node.ipv4) == OWN, "our blocks at FRR")

    def probes(self) -> tuple[RouteProbe, RouteProbe]:
        return (
            RouteProbe(lambda: self.bird.prefixes("node"), OWN),
            RouteProbe(lambda: self.frr.prefixes(self.node.ipv4), OWN),
        )

    def wait_for_another_run(self, started: float) -> None:
        wait_for(lambda: self.speaker.started() > started, "another run of the daemon at the socket")


@pytest.fixture
def site(segment: World) -> Site:
    return Site(segment)


@pytest.mark.parametrize("part", ["daemon", "exabgp", "entry"])
def test_a_killed_part_costs_no_route_at_any_router_and_all_is_back_within_seconds(site, part):
    speaker = site.speaker
    parts: dict[str, Callable[[], int]] = {
        "daemon": speaker.daemon,
        "exabgp": speaker.exabgp,
        "entry": lambda: speaker.entry,
    }
    started = speaker.observed().started
    before = {name: find() for name, find in parts.items()}
    at_bird, at_frr = site.probes()
    with at_bird, at_frr:
        os.kill(before[part], signal.SIGKILL)
        if part == "entry":
            speaker.stop(signal.SIGKILL)
            wait_for(lambda: not any(is_alive(pid) for pid in before.values()), "nothing left behind by the entry", 2)
            speaker.start()
        site.wait_for_another_run(started)
        site.wait_until_whole()
        looks = at_bird.looks, at_frr.looks
        wait_for(lambda: at_bird.looks > looks[0] + 20 and at_frr.looks > looks[1] + 20, "looks after all was back")
    assert (at_bird.missing, at_frr.missing) == ([], [])
    after = {name: find() for name, find in parts.items()}
    assert after["daemon"] != before["daemon"]
    assert after["exabgp"] != before["exabgp"]
    assert speaker.observed().generation == site.asked.generation


def test_a_unit_that_ends_again_and_again_is_started_later_each_time(site):
    speaker = site.speaker
    for _ in range(3):
        started = speaker.started()
        os.kill(speaker.exabgp(), signal.SIGKILL)
        site.wait_for_another_run(started)
    said = [line for line in speaker.log.read_text().splitlines() if "starting ExaBGP and its daemon anew" in line]
    assert [line.rpartition("anew")[2] for line in said] == ["", " in 0.5 s", " in 1 s"]
    site.wait_until_whole()


def test_the_probe_notices_a_withdrawal_made_on_purpose(site):
    less = [msgspec.structs.replace(one, announcements=one.announcements[1:]) for one in site.asked.neighbours]
    at_bird, at_frr = site.probes()
    with at_bird, at_frr:
        site.speaker.sync(msgspec.structs.replace(site.asked, generation=2, neighbours=tuple(less)))
        wait_for(lambda: at_bird.missing and at_frr.missing, "both probes noticing")
        site.speaker.sync(msgspec.structs.replace(site.asked, generation=3))
        site.wait_until_whole()
    assert at_bird.missing[0] == at_frr.missing[0] == {OWN_4}


def test_sigterm_neither_withdraws_nor_notifies_and_ends_everything(site):
    parts = [site.speaker.entry, site.speaker.exabgp(), site.speaker.daemon()]
    at_bird, at_frr = site.probes()
    with at_bird, at_frr:
        site.speaker.stop(signal.SIGTERM)
        assert site.speaker.process.returncode == 0
        wait_for(lambda: not any(is_alive(pid) for pid in parts), "all processes gone", 2)
        wait_for(lambda: "Established" not in site.bird.ask("show", "protocols", "node"), "BIRD noticing")
        wait_for(lambda: site.frr.peer(site.node.ipv4)["bgpState"] != "Established", "FRR noticing")
        looks = at_bird.looks, at_frr.looks
        wait_for(lambda: at_bird.looks > looks[0] + 20 and at_frr.looks > looks[1] + 20, "looks without a speaker")
        site.speaker.start()
        wait_for(site.speaker.is_answering, "the speaker answering")
        site.wait_until_whole()
    assert (at_bird.missing, at_frr.missing) == ([], [])
    assert "Cease" not in site.bird.ask("show", "protocols", "all", "node")
    last = site.frr.peer(site.node.ipv4)
    assert "lastNotificationReason" not in last, last


def test_the_stored_order_is_readable_by_the_speaker_only_and_is_what_it_starts_from(site):
    stored = site.speaker.folder / "desired.json"
    assert stored.stat().st_mode & 0o777 == 0o600
    assert stored.stat().st_uid == 65534
    # The folder is the speaker's and the agent's, by root's group; what is stored in it, the speaker's alone.
    folder = site.speaker.folder.stat()
    assert (folder.st_uid, folder.st_gid, folder.st_mode & 0o7777) == (65534, 0, 0o2770)
    assert msgspec.json.decode(stored.read_bytes(), type=Desired) == site.asked
    for path in site.speaker.folder.iterdir():
        if path.is_file():
            assert path.stat().st_mode & 0o077 == 0, path


def test_a_damaged_store_is_reported_and_the_next_order_is_followed(site):
    stored = site.speaker.folder / "desired.json"
    site.speaker.stop(signal.SIGKILL)
    stored.write_text('{"router_id": 7')
    site.speaker.start()
    wait_for(lambda: "can't be read" in site.speaker.log.read_text(), "the damage in the log")
    observed = site.speaker.sync(site.asked)
    assert observed.generation == site.asked.generation
    site.wait_until_whole()


def test_a_peer_that_restarts_gracefully_keeps_its_routes_until_it_is_back(site):
    site.bird.kill()
    wait_for(lambda: site.speaker.session("bird").keep_until is not None, "BIRD's routes kept")
    routes = site.speaker.observed().routes
    assert routes[SHARED_4].sessions == ("frr",), "a kept route is not used beside a live one"
    site.frr.kill()
    wait_for(lambda: site.speaker.session("frr").keep_until is not None, "FRR's routes kept")
    kept = site.speaker.observed().routes[SHARED_4]
    assert kept.stale
    assert len(kept.next_hops) == 2
    site.bird.start(recover=True)
    wait_for(lambda: site.speaker.session("bird").state == "established", "BIRD back")
    wait_for(lambda: site.speaker.session("bird").end_of_rib_received == ("ipv4", "ipv6"), "BIRD's end-of-RIB")
    again = site.speaker.observed().routes[SHARED_4]
    assert (again.stale, again.sessions) == (False, ("bird",))
    assert site.speaker.session("bird").keep_until is None


def is_alive(pid: int) -> bool:
    """Whether the process still runs: a zombie that waits to be collected does not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
