"""ExaBGP configuration against golden files, each of which ExaBGP's own parser accepts."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bgp.exabgp import validation
from bgp.exabgp.configuration import configuration_text
from bgp.exabgp.process import process_section
from bgp.speaker.reload import Reloader, ValidationFailed
from bgp.values import Announcement, Desired, Family, Neighbour

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "bgp"
RUN = ("/bin/true", "run-dir")
BOTH = (Family.IPV4, Family.IPV6)

TOR = Neighbour(
    name="tor",
    address="192.0.2.1",
    local_address="192.0.2.11",
    asn=65001,
    local_asn=64512,
    families=BOTH,
    announcements=(Announcement(prefix="10.244.1.0/26", next_hop="192.0.2.11"),),
)
ACTIVE_6 = Neighbour(
    name="mesh-6",
    address="2001:db8::12",
    local_address="2001:db8::11",
    asn=64512,
    local_asn=64512,
    port=1790,
    hold_time=90,
    families=(Family.IPV6,),
    graceful_restart=0,
)
PASSIVE = Neighbour(
    name="mesh",
    address="192.0.2.13",
    local_address="192.0.2.11",
    asn=64512,
    local_asn=64512,
    passive=True,
    families=BOTH,
)
SECURED = Neighbour(
    name="secured",
    address="192.0.2.14",
    local_address="192.0.2.11",
    asn=4200000000,
    local_asn=64512,
    password='p;a}s"s #é',
    ttl_security=2,
)
FAR = Neighbour(
    name="far", address="198.51.100.1", local_address="192.0.2.11", asn=65009, local_asn=64512, multihop=5, hold_time=0
)
CASES = {
    "empty": (),
    "tor": (TOR,),
    "mesh": (ACTIVE_6, PASSIVE),
    "secured": (SECURED, FAR),
}


def text_of(name):
    return configuration_text(RUN, Desired(router_id="192.0.2.11", listen_port=1790), CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_the_rendered_configuration_is_the_golden_one(name):
    golden = GOLDEN / f"{name}.conf"
    if os.environ.get("PODROUTE_WRITE_GOLDEN"):
        golden.write_text(text_of(name))
    assert text_of(name) == golden.read_text()


def verdicts(*paths):
    program = [sys.executable, "-I", validation.__file__, *map(str, paths)]
    return subprocess.run(program, check=True, capture_output=True, text=True).stdout.split("\n")[:-1]


def test_exabgp_accepts_every_golden_file():
    files = sorted(GOLDEN.glob("*.conf"))
    assert {file.stem for file in files} == set(CASES)
    assert verdicts(*files) == [""] * len(files)


def test_exabgp_refuses_what_is_wrong_says_why_and_keeps_the_password_to_itself(tmp_path):
    wrong = {"hold": "hold-time 2", "twice": "", "word": "no-such-word 1"}
    for name, line in wrong.items():
        text = text_of("secured")
        text = text + text[text.index("neighbor") :] if name == "twice" else text.replace("hold-time 0", line)
        (tmp_path / name).write_text(text)
    answers = dict(zip(wrong, verdicts(*[tmp_path / name for name in wrong]), strict=True))
    assert "holdtime must be zero or at least 3" in answers["hold"]
    assert "duplicate peer" in answers["twice"]
    assert "no-such-word" in answers["word"]
    assert not any("md5" in answer for answer in answers.values())


def test_of_several_neighbours_the_one_the_parser_refuses_is_found(tmp_path):
    bad = msgspec.structs.replace(FAR, hold_time=2)
    asked = Desired(router_id="192.0.2.11")
    reloader = Reloader(tmp_path, RUN)
    assert asyncio.run(reloader.refusals(asked, [TOR, FAR])) == {}
    refused = asyncio.run(reloader.refusals(asked, [TOR, bad, SECURED]))
    assert set(refused) == {bad}
    assert "holdtime" in refused[bad]
    assert list(tmp_path.iterdir()) == []


def test_neighbours_that_are_only_refused_together_are_blamed_on_nobody(tmp_path):
    with pytest.raises(ValidationFailed, match="together"):
        asyncio.run(Reloader(tmp_path, RUN).refusals(Desired(router_id="192.0.2.11"), [TOR, TOR]))


def test_a_password_is_never_written_in_clear():
    assert "p;a" not in text_of("secured")
    assert msgspec.structs.replace(SECURED, password="").password == ""


def test_announcements_do_not_change_the_configuration():
    silent = msgspec.structs.replace(TOR, announcements=())
    assert configuration_text(RUN, Desired(router_id="192.0.2.11", listen_port=1790), (silent,)) == text_of("tor")


@pytest.mark.parametrize("word", ["", "/opt/my tools/python", "/opt/x;y", "/opt/{x}", "/opt/é", "/opt/a,b"])
def test_a_path_that_cannot_be_written_is_refused(word):
    with pytest.raises(ValueError, match="plain characters"):
        process_section([word])
    assert "/opt/my-tools/python" in process_section(["/opt/my-tools/python"])
