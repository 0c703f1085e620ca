"""The figures of one run, and the table they make. Pure but for `surroundings`; `conftest` keeps and writes them."""

import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from controller.lab.programs import CNI_PLUGINS, KUBERNETES

ROOT = Path(__file__).resolve().parents[2]
# The sections of each table, named as its file: each is written whole, in one run, or not at all.
TABLES = {
    "bench": ("lab", "pool to routers", "cni", "routes", "upkeep"),
    "bench-scale": ("operator at scale", "pods at scale"),
}


@dataclass(frozen=True)
class Row:
    """One measured thing. `reference` is the same thing done by the other.

    `goal` bounds the ratio, or the value if there is no reference.
    """

    section: str
    what: str
    value: float
    unit: str
    reference: float | None = None
    goal: float | None = None
    detail: str = ""

    @property
    def ratio(self) -> float | None:
        return self.value / self.reference if self.reference else None

    @property
    def verdict(self) -> str:
        if self.goal is None:
            return ""
        measured = self.value if self.ratio is None else self.ratio
        return (
            f"{'met' if measured <= self.goal else 'MISSED'} (≤ {self.goal:g}{'' if self.ratio else ' ' + self.unit})"
        )


@dataclass
class Figures:
    """All rows of a run, and paragraphs that explain some of them: section, title and text."""

    rows: list[Row] = field(default_factory=list)
    notes: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, *rows: Row) -> None:
        """Also prints them: a run takes minutes."""
        self.rows += rows
        for row in rows:
            print("\n" + _line(row), end="", flush=True)

    def explain(self, section: str, title: str, text: str) -> None:
        """Adds a paragraph below the table."""
        self.notes.append((section, title, text))

    @property
    def complete(self) -> list[str]:
        """The tables of which every section was measured."""
        taken = {row.section for row in self.rows}
        return [table for table, sections in TABLES.items() if taken.issuperset(sections)]

    def of_table(self, table: str) -> "Figures":
        """What belongs to one table."""
        sections = TABLES[table]
        return Figures(
            [row for row in self.rows if row.section in sections], [note for note in self.notes if note[0] in sections]
        )

    def as_text(self, around: dict[str, str]) -> str:
        """Markdown."""
        head = ["| what | podroute | reference | ratio | goal | |", "|---|---|---|---|---|---|"]
        parts = [
            "# What podroute costs",
            "",
            "Written by `make bench`: everything in one run, the references interleaved.",
            "",
        ]
        parts += [f"- {name}: {text}" for name, text in around.items()]
        parts += ["", *head, *map(_line, self.rows)]
        for _, title, text in self.notes:
            parts += ["", f"## {title}", "", text]
        return "\n".join(parts) + "\n"

    def as_object(self, around: dict[str, str]) -> dict[str, Any]:
        """JSON."""
        rows = [{**asdict(row), "ratio": row.ratio, "verdict": row.verdict} for row in self.rows]
        return {"surroundings": around, "rows": rows, "notes": {title: text for _, title, text in self.notes}}


def _line(row: Row) -> str:
    reference = "" if row.reference is None else f"{_number(row.reference)} {row.unit}"
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    return f"| {row.what} | {_number(row.value)} {row.unit} | {reference} | {ratio} | {row.verdict} | {row.detail} |"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that `percent` of the values do not exceed."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]


def surroundings() -> dict[str, str]:
    """Machine, versions, date."""
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "?")
    memory = int(next(line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal"))) / 2**20
    commit = _first_line("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")
    changed = _first_line("git", "-C", str(ROOT), "status", "--porcelain", "--", "bgp", "controller", "manifests")
    versions = {
        "Kubernetes": KUBERNETES,
        "FRR": _first_line("/usr/lib/frr/bgpd", "--version").split()[-1],
        "BIRD": _first_line("bird", "--version").split()[-1],
        "Go ptp and host-local": next(each.version for each in CNI_PLUGINS if each.name == "ptp"),
        "iproute2": _first_line("ip", "-V").split(",")[1].strip().removeprefix("iproute2-"),
        "Python": platform.python_version(),
        "ExaBGP": version("exabgp"),
        "podroute": f"{version('podroute')}, commit {commit}{' with changes' if changed else ''}",
    }
    return {
        "machine": f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}",
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, load average before {os.getloadavg()[0]:.1f}",
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _first_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return next(iter((done.stdout or done.stderr).splitlines()), "?" if done.returncode else "")
