"""Records what ExaBGP tells the speaker's daemon, for `test_bgp_replay.py`: run as root, by hand, after a change of
ExaBGP's version: `PYTHONPATH=tests/kernel python tests/replay/record_speaker.py`. Writes tests/replay/bgp/*.jsonl.
"""

import json
import socket
from collections.abc import Callable
from pathlib import Path

from bgp_routers import (
    BIRD_AS,
    BIRD_STATICS,
    FRR_AS,
    SHARED_4,
    bird_at,
    bird_session,
    desired,
    frr_at,
    neighbour,
)
from bgp_world import Bird, Host, Speaker, World, wait_for

HERE = Path(__file__).resolve().parent
Scenario = Callable[[Host, Bird, Speaker], None]


def withdrawal(node: Host, bird: Bird, speaker: Speaker) -> None:
    """One of two equal routes is withdrawn; one refused route stays."""
    bird.configure(bird_session(bird.host, node.ipv4), BIRD_STATICS.replace(f"route {SHARED_4} blackhole;", ""))
    wait_for(lambda: len(speaker.observed().routes[SHARED_4].next_hops) == 1, "one next hop left")


def graceful_restart(node: Host, bird: Bird, speaker: Speaker) -> None:
    """BIRD is killed and comes back with one route less, then says end-of-RIB."""
    bird.kill()
    wait_for(lambda: speaker.session("bird").keep_until, "routes kept")
    bird.statics = BIRD_STATICS.replace(f"route {SHARED_4} blackhole;", "")
    bird.start(recover=True)
    speaker.wait_until_established("bird")
    wait_for(lambda: speaker.session("bird").end_of_rib_received == ("ipv4", "ipv6"), "end-of-RIB")


def notification(node: Host, bird: Bird, speaker: Speaker) -> None:
    """BIRD shuts the session down with a NOTIFICATION."""
    bird.ask("disable", "node")
    wait_for(lambda: speaker.session("bird").state == "connecting", "the session lost")


def hold_timer(node: Host, bird: Bird, speaker: Speaker) -> None:
    """BIRD is cut off."""
    bird.host.cut()
    wait_for(lambda: speaker.session("bird").state == "connecting", "the session lost")


def wrong_asn(node: Host, bird: Bird, speaker: Speaker) -> None:
    """The speaker expects another AS of BIRD."""
    frr = next(one for one in speaker_neighbours(node, bird) if one.name == "frr")
    speaker.sync(desired(node, neighbour(node, "bird", bird.host.ipv4, 65099), frr, generation=2))
    wait_for(lambda: speaker.session("bird").reason == "WrongASN", "the wrong AS noticed")


def speaker_neighbours(node: Host, bird: Bird) -> tuple:
    return (
        neighbour(node, "bird", bird.host.ipv4, BIRD_AS),
        neighbour(node, "frr", bird.host.ipv4[:-1] + "2", FRR_AS),
    )


def record(name: str, scenario: Scenario) -> None:
    """Runs one scenario and keeps its recording, without this machine's name."""
    world = World()
    try:
        node = world.host("node", 11)
        bird = bird_at(world.host("bird", 1), node.ipv4)
        frr_at(world.host("frr", 2), node.ipv4)
        recording = world.folder / "recording"
        recording.touch()
        recording.chmod(0o666)
        speaker = Speaker(node, {"PODROUTE_RECORD": str(recording)})
        speaker.sync(desired(node, *speaker_neighbours(node, bird)))
        speaker.wait_until_established("bird", "frr")
        wait_for(lambda: len(speaker.observed().routes) == 2, "both shared routes")
        wait_for(lambda: speaker.observed().settled == ("ipv4", "ipv6"), "both families settled", 60)
        scenario(node, bird, speaker)
        lines = [json.loads(line) for line in recording.read_text().splitlines()]
        start = lines[0]["at"]
        for line in lines:
            line["at"] = round(line["at"] - start, 3)
        text = "".join(json.dumps(line) + "\n" for line in lines).replace(socket.gethostname(), "node")
        (HERE / "bgp").mkdir(exist_ok=True)
        (HERE / "bgp" / f"{name}.jsonl").write_text(text)
    finally:
        world.close()


if __name__ == "__main__":
    for chosen in (withdrawal, graceful_restart, notification, hold_timer, wrong_asn):
        print(chosen.__name__, flush=True)
        record(chosen.__name__, chosen)
