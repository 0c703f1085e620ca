"""The lab that tests share: one for the whole session, or the running one that PODROUTE_LAB names.

PODROUTE_LAB=demo pytest tests/lab      uses lab demo and leaves it running
"""

import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from apiserver_world import server, world
from host_state import need_root

from controller.lab.cluster import Lab
from controller.lab.errors import LabError
from controller.lab.teardown import tear_down

# An API server without nodes, for the tests of kinds, reflector and operator.
__all__ = ["server", "world"]


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Four nodes in two racks, FRR and BIRD ToRs, podroute as processes from the tree, each of which a test may break."""
    need_root()
    if name := os.environ.get("PODROUTE_LAB"):
        yield Lab.find(name)
        return
    lab = Lab.up(f"t{os.getpid()}", processes=True, report=print)
    yield lab
    lab.down()


@pytest.fixture(scope="session")
def installed_lab() -> Iterator[Lab]:
    """A lab as `make lab` brings it up: podroute by its manifests, and a few pods. PODROUTE_INSTALLED_LAB names a running one."""
    need_root()
    if name := os.environ.get("PODROUTE_INSTALLED_LAB"):
        yield Lab.find(name)
        return
    name = f"i{os.getpid()}"
    program = Path(sys.executable).with_name("podroute")
    try:
        subprocess.run([program, "lab", "up", "--name", name], check=True, timeout=300)
        yield Lab.find(name)
    finally:
        tear_down(name)


@pytest.fixture(scope="session")
def afterwards(lab: Lab) -> Iterator[ExitStack]:
    """What must be so before the shared lab ends and takes minutes to come about: other tests go on meanwhile."""
    with ExitStack() as stack:
        yield stack


# Tests that leave the shared lab busy for a while, and those that do not need it.
LEAVING_IT_BUSY = "test_bad_input_nodes"
WITH_LABS_OF_THEIR_OWN = (
    "test_lab_itself",
    "test_lab_routers",
    "test_node_mesh",
    "test_containerd_2",
    "test_moving",
    "test_installed",
    "test_installed_power",
    "test_chaos",
    "test_metrics",
    "test_upgrade",
    "test_lab_commands",
    "test_drained",
    # The last one of the installed lab: podroute comes back there without its demo.
    "test_uninstall",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules in order of their names, but those with labs of their own last: what the shared lab is left with ends meanwhile."""
    names = (LEAVING_IT_BUSY, *WITH_LABS_OF_THEIR_OWN)
    items.sort(key=lambda item: names.index(item.path.stem) if item.path.stem in names else -1)


@pytest.fixture(scope="module")
def reference_lab() -> Iterator[Lab]:
    """Two nodes in two racks with the reference CNI plugins: what the lab does without podroute."""
    need_root()
    lab = Lab.up(f"r{os.getpid()}", nodes=2, racks=2, cni="reference", report=print)
    yield lab
    lab.down()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that failed shows what its labs' operators said last: the labs and their logs are gone when somebody reads it."""
    report = yield
    if report.failed:
        labs = {value.name: value for value in getattr(item, "funcargs", {}).values() if isinstance(value, Lab)}
        report.sections.extend((f"operator of lab {name}", operator_said(lab)) for name, lab in labs.items())
    return report


def operator_said(lab: Lab) -> str:
    """The operator's last lines, whether it runs as a process or in a pod."""
    log = lab.log("cp", "operator")
    if log.exists():
        return log.read_text(errors="replace")[-6000:]
    try:
        return lab.kubectl("-n", "podroute-system", "logs", "deployment/podroute-operator", "--tail=50")
    except LabError as error:
        return str(error)
