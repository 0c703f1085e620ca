"""What the processes take while nothing happens: memory of agent, speaker and operator, and processor time over half a minute."""

import os
import time
from pathlib import Path

from figures import Figures, Row

from controller.lab.cluster import Lab
from controller.lab.machine import children

SECONDS = 30.0
GOAL_MIB = 110.0
GOAL_PERCENT = 3.0


def tree(pid: int) -> list[int]:
    """The process and all that it started."""
    return [pid, *(each for child in children(pid) for each in tree(child))]


def mebibytes(pids: list[int], field: str) -> float:
    """Sum of a field of smaps_rollup (proc(5)): Pss, Rss, Private_Dirty …"""
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
    return total / 1024


def processor_seconds(pids: list[int]) -> float:
    """User and system time so far, of proc(5)'s stat."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def processes(lab: Lab, machine: str, name: str) -> list[int]:
    pid = lab.pid(machine, name)
    assert pid is not None, f"{name} runs on {machine}"
    return tree(pid)


def test_agent_and_speaker_take_little_while_nothing_happens(lab: Lab, figures: Figures) -> None:
    nodes = lab.topology.node_names
    agents = {node: processes(lab, node, "agent") for node in nodes}
    speakers = {node: processes(lab, node, "speaker") for node in nodes}
    assert all(len(pids) == 3 for pids in speakers.values()), "entry, ExaBGP and daemon"
    operator = processes(lab, "cp", "operator")
    watched = {"operator": operator} | {node: agents[node] + speakers[node] for node in nodes}
    before = {name: processor_seconds(pids) for name, pids in watched.items()}
    begun = time.monotonic()
    # The measured span itself, not a wait for anything.
    time.sleep(SECONDS)
    span = time.monotonic() - begun
    percent = {name: 100 * (processor_seconds(pids) - before[name]) / span for name, pids in watched.items()}
    both = {node: mebibytes(watched[node], "Pss") for node in nodes}
    worst = max(both, key=lambda node: both[node])
    parts = ", ".join(
        f"{name} {mebibytes(pids, 'Pss'):.0f}"
        for name, pids in zip(
            ("agent", "entry", "ExaBGP", "daemon"), [agents[worst], *([p] for p in speakers[worst])], strict=True
        )
    )
    busiest = max(nodes, key=lambda node: percent[node])
    figures.add(
        Row(
            "upkeep",
            "memory of agent and speaker, the largest of 4 nodes (PSS)",
            both[worst],
            "MiB",
            goal=GOAL_MIB,
            detail=f"{parts}; RSS, with shared pages counted in each process, {mebibytes(watched[worst], 'Rss'):.0f}",
        ),
        Row(
            "upkeep",
            f"idle CPU of agent and speaker over {SECONDS:.0f} s, the busiest of 4 nodes",
            percent[busiest],
            "% of a core",
            goal=GOAL_PERCENT,
            detail=", ".join(f"{node} {percent[node]:.2f}" for node in nodes),
        ),
        Row("upkeep", "memory of the operator (RSS)", mebibytes(operator, "Rss"), "MiB"),
        Row("upkeep", f"idle CPU of the operator over {SECONDS:.0f} s", percent["operator"], "% of a core"),
    )
