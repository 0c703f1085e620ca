"""The pages in docs/ are current, and what they name exists."""

import re
from pathlib import Path

import pytest

from controller.cli.reference import SECTIONS, rendered

DOCS = Path(__file__).resolve().parents[2] / "docs"
WORDS = [word for _, _, words in SECTIONS for word in words]


def test_the_table_of_reasons_is_current() -> None:
    assert (DOCS / "reasons.md").read_text() == rendered(), "run: make generate"


@pytest.mark.parametrize("word", WORDS, ids=lambda word: f"{type(word).__name__}-{word}")
def test_every_reason_says_what_it_means_in_one_line(word: object) -> None:
    row = next(line for line in rendered().splitlines() if line.startswith(f"| `{word}` | "))
    assert len(row.split("|")) == 5
    assert getattr(word, "meaning", "")


def test_every_reason_that_a_page_names_is_one() -> None:
    known = {str(word) for word in WORDS}
    # Words of other systems, and of fields and kinds.
    others = {
        "BGPPeer",
        "BGPConfiguration",
        "IPPool",
        "NodeNetwork",
        "ClusterNetwork",
        "InternalIP",
        "ContainerCreating",
        "NotReady",
    }
    for page in DOCS.glob("*.md"):
        named = set(re.findall(r"`([A-Z][a-z]+[A-Z][A-Za-z]+)`", page.read_text()))
        assert named <= known | others, page.name
