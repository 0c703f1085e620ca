"""What the lab tells its routers is kept here word for word, and each router's own parser accepts it.

After a wanted change: UPDATE_GOLDEN=1 pytest tests/golden/test_lab_router_configurations.py, then read the difference.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from controller.lab.bird import spine_configuration, tor_configuration
from controller.lab.frr import bgpd_configuration, zebra_configuration
from controller.lab.topology import make_topology

FOLDER = Path(__file__).parent / "lab"
TOPOLOGY = make_topology("demo", 4, 2, ("frr", "bird"))
RENDERED = {
    "tor0-bgpd.conf": bgpd_configuration(TOPOLOGY, "tor0"),
    "tor0-zebra.conf": zebra_configuration("tor0"),
    "tor1-bird.conf": tor_configuration(TOPOLOGY, "tor1"),
    "spine-bird.conf": spine_configuration(TOPOLOGY),
}
CHECKERS = {"bird": ["bird", "-p", "-c"], "bgpd": ["vtysh", "-C", "-f"], "zebra": ["vtysh", "-C", "-f"]}


def verdict(checker: str, path: Path) -> subprocess.CompletedProcess[str]:
    """What the router's own parser says of a file."""
    argv = CHECKERS[checker]
    program = shutil.which(argv[0], path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if program is None and os.environ.get("PODROUTE_QUICK"):
        pytest.skip(f"{argv[0]} is not installed")
    assert program, f"{argv[0]} is not installed: make prepare"
    return subprocess.run([program, *argv[1:], str(path)], capture_output=True, text=True, timeout=20, check=False)


@pytest.mark.parametrize("name", RENDERED)
def test_a_router_is_told_exactly_what_the_golden_file_says(name: str) -> None:
    path = FOLDER / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(RENDERED[name])
    assert RENDERED[name] == path.read_text()


@pytest.mark.parametrize("name", RENDERED)
def test_the_router_itself_accepts_the_golden_file(name: str) -> None:
    said = verdict(name.partition("-")[2].removesuffix(".conf"), FOLDER / name)
    assert said.returncode == 0, said.stdout + said.stderr


@pytest.mark.parametrize("name", [name for name in RENDERED if "zebra" not in name])
def test_the_router_itself_refuses_the_file_with_one_word_misspelt(name: str, tmp_path: Path) -> None:
    broken = tmp_path / name
    broken.write_text((FOLDER / name).read_text().replace("passive", "pasive").replace("hold time", "holt time"))
    assert verdict(name.partition("-")[2].removesuffix(".conf"), broken).returncode != 0


def test_every_node_is_a_neighbour_of_its_own_in_both_families() -> None:
    for tor, name in (("tor0", "tor0-bgpd.conf"), ("tor1", "tor1-bird.conf")):
        for node in TOPOLOGY.nodes_in(int(tor[3:])):
            for address in TOPOLOGY.addresses(node):
                assert f"neighbor {address} " in RENDERED[name]
