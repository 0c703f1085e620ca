"""What a lab could leave behind on this machine, as comparable values. Used by the tests of the lab itself."""

import os
import re
import subprocess
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from controller.lab.cgroups import ROOT

# Settings of the whole host that kubelet, kube-proxy or a container runtime would like to change.
SYSCTLS = re.compile(
    r"^(vm\.|kernel\.panic|kernel\.keys|fs\.inotify|net\.ipv[46]\.conf\.all|net\.ipv4\.ip_forward|net\.netfilter)"
)


@dataclass(frozen=True)
class HostState:
    """Everything that `down` must have put back. Network namespaces, mounts, cgroups and processes are those of one lab name."""

    namespaces: frozenset[str]
    mounts: frozenset[str]
    cgroups: frozenset[str]
    processes: frozenset[str]
    folders: frozenset[str]
    run: frozenset[str]
    links: frozenset[str]
    nft: str
    sysctls: tuple[str, ...]


def host_state(name: str) -> HostState:
    """The state of this machine as far as lab `name` could have touched it."""
    netns = Path("/run/netns")
    return HostState(
        namespaces=frozenset(path.name for path in netns.glob(f"{name}-*")) if netns.is_dir() else frozenset(),
        mounts=frozenset(line.split()[4] for line in lines("/proc/self/mountinfo") if belongs(name, line)),
        cgroups=frozenset(str(path) for path in Path("/sys/fs/cgroup").glob(f"**/{ROOT}/{name}")),
        processes=frozenset(processes(name)),
        folders=frozenset(str(path) for path in Path("/run/podroute-lab").glob(f"*{name}*")),
        run=frozenset(str(path) for path in Path("/run").rglob("*") if belongs_to_labs(path)),
        links=frozenset(os.listdir("/sys/class/net")),
        nft=output("nft", "list", "ruleset"),
        sysctls=tuple(line for line in output("sysctl", "-a").splitlines() if SYSCTLS.match(line)),
    )


def differences(before: HostState, after: HostState) -> dict[str, tuple[object, object]]:
    """The fields that are not as before."""
    pairs = {each.name: (getattr(before, each.name), getattr(after, each.name)) for each in fields(HostState)}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def belongs_to_labs(path: Path) -> bool:
    """Whether something in /run may be a lab's doing: nothing else on this machine should come or go there meanwhile."""
    return not path.is_relative_to("/run/podroute-lab") and not path.is_relative_to("/run/netns")


def belongs(name: str, text: str) -> bool:
    """Whether a text names the lab's folder, one of its namespaces or one of its cgroups."""
    return f"podroute-lab/{name}" in text or f"netns/{name}-" in text


def processes(name: str) -> list[str]:
    """Command lines of processes in the lab's cgroups, or that name its folder."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            member = belongs(name, (folder / "cgroup").read_text())
        except OSError:
            continue
        if member or belongs(name, command):
            found.append(f"{folder.name} {command}")
    return found


def lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def output(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout


def need_root() -> None:
    """Skip where no lab can be made."""
    if os.geteuid() != 0:
        pytest.skip("a lab needs root")
