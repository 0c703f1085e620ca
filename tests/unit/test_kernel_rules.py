"""The nft table is rendered as the golden files say, which nft itself has accepted."""

import subprocess
from ipaddress import ip_network
from pathlib import Path

import pytest

from controller.kernel.rules import table_text
from controller.kernel.values import Guard, Rules

GOLDEN = Path(__file__).parents[1] / "golden" / "kernel"
POOLS = tuple(map(ip_network, ("10.1.0.0/16", "fd00:1::/64")))
NODES = tuple(map(ip_network, ("192.0.2.10/32", "192.0.2.11/32", "2001:db8:1::10/128")))

CASES = {
    "antispoofing": Rules(),
    "masquerade-both": Rules(POOLS, POOLS + NODES),
    "masquerade-v6": Rules(POOLS[1:], POOLS + NODES),
    "guarded-port": Rules(guards=(Guard("neighbours", (179,)),), pods=POOLS),
    "guarded-ports-but-for-some": Rules(
        guards=(
            Guard("neighbours", (179,), (ip_network("10.1.0.9/32"),)),
            Guard("metrics", (9478, 9479), (ip_network("10.1.9.0/24"), ip_network("fd00:1:0:0:9::/80"))),
        ),
        pods=POOLS,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_table_is_the_golden_one(name: str) -> None:
    assert table_text(CASES[name]) == (GOLDEN / f"{name}.nft").read_text()


@pytest.mark.root
@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.nft")), ids=lambda path: path.stem)
def test_nft_accepts_the_golden_file(path: Path) -> None:
    done = subprocess.run(["nft", "-c", "-f", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_golden_file_is_rendered_by_a_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.nft")} == set(CASES)


def test_prefixes_that_overlap_or_touch_are_merged() -> None:
    halves = tuple(map(ip_network, ("10.0.0.0/25", "10.0.0.128/25", "10.0.0.4/32", "10.0.0.4/32")))
    assert table_text(Rules(halves, halves)) == table_text(
        Rules((ip_network("10.0.0.0/24"),), (ip_network("10.0.0.0/24"),))
    )
