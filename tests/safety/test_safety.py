"""Address safety, whatever comes between any two effects.

No address is on two pods, no block on two nodes; what is given back has rested and is used by nobody;
a pod's address lies in a block that its node holds.
When the faults stop, everybody gets what there is, and at the end nothing is left. Without any one of the rules this is not so.
"""

import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safety_mutations import MUTATIONS

STARTS = (1, 2)
MACHINE = Path(__file__).with_name("safety_machine.py")


def machine(*arguments: object, order: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONHASHSEED": str(order)}
    argv = [sys.executable, str(MACHINE), *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)


def run_machine(*arguments: object, order: int = 0) -> str:
    """What it says; AssertionError with that if something came about that must not be."""
    done = machine(*arguments, order=order)
    assert done.returncode == 0, f"{done.stdout}{done.stderr[-6000:]}"
    return done.stdout


@pytest.mark.timeout(900)
@pytest.mark.parametrize("start", STARTS)
def test_no_address_has_two_pods_and_no_block_two_nodes_in_fifty_thousand_steps(start: int) -> None:
    assert int(run_machine(50_000, start).split()[0]) >= 50_000


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_no_address_has_two_pods_and_no_block_two_nodes_in_a_million_steps() -> None:
    """In two halves, since two cores are what there is."""
    halves = [[random.SystemRandom().randrange(1 << 31) for _ in range(2)] for _ in range(2)]
    for start, order in halves:
        print(f"PYTHONHASHSEED={order} python {MACHINE} 500000 {start}")
    with ThreadPoolExecutor() as threads:
        said = list(threads.map(lambda half: run_machine(500_000, half[0], order=half[1]), halves))
    assert sum(int(each.split()[0]) for each in said) >= 1_000_000


@pytest.mark.parametrize("name", [mutation.__name__ for mutation in MUTATIONS])
def test_without_a_rule_it_is_noticed(name: str) -> None:
    # From one of the starts that find nothing with all the rules. What it found is printed, and it ends well then.
    runs = (machine(40_000, start, name) for start in STARTS)
    assert any(run.returncode == 0 and run.stdout.strip() for run in runs), (
        f"python {MACHINE} 40000 START {name} says more"
    )
