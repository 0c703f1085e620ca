"""What the benchmarks share: one lab for the whole run, and the figures that are written when all were measured.

Modules run in the order of their names: a lab's start is measured alone, the pool test needs a lab without pods, the CNI test
leaves pools behind, and what the processes take is measured after they have worked.

PODROUTE_BENCH_ROUNDS=2 pytest tests/bench      a quick look; nothing is written
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from figures import ROOT, Figures, surroundings

from controller.lab.cluster import Lab
from controller.lab.podroute import peers_for

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))

from host_state import need_root

ROUNDS = int(os.environ.get("PODROUTE_BENCH_ROUNDS", "40"))


@pytest.fixture(scope="session")
def rounds() -> int:
    """How often single things are measured; few of them are a quick look only."""
    return ROUNDS


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest) -> Iterator[Figures]:
    """Takes the figures; each table of which all were taken is written."""
    around = surroundings()
    taken = Figures()
    yield taken
    written = taken.complete if ROUNDS >= 30 and not request.session.testsfailed else []
    for table in written:
        part = taken.of_table(table)
        (ROOT / f"{table}.md").write_text(part.as_text(around))
        (ROOT / f"{table}.json").write_text(json.dumps(part.as_object(around), indent=1, ensure_ascii=False) + "\n")
        print(f"\nwritten: {table}.md, {table}.json")
    if not written:
        print("\nnot written, since not everything was measured well:\n" + taken.as_text(around))


@pytest.fixture(scope="session")
def lab(figures: Figures) -> Iterator[Lab]:
    """Four nodes in two racks that peer with their ToRs; no pools and no pods yet."""
    need_root()
    lab = Lab.up(f"b{os.getpid()}", bare=True, processes=True, report=print)
    try:
        lab.kubectl("scale", "deployment", "coredns", "-n", "kube-system", "--replicas=0")
        lab.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": peers_for(lab.topology)}))
        yield lab
    finally:
        lab.down()
