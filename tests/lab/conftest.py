"""The lab that tests share: one for the whole session, or the running one that PODROUTE_LAB names.

PODROUTE_LAB=demo pytest tests/lab      uses lab demo and leaves it running
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from apiserver_world import server, world
from host_state import need_root
from sharing import ALabAtATime, place_of

from controller.lab.cluster import Lab
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
def newer_lab() -> Iterator[Lab]:
    """Two nodes in two racks with containerd 2 and podroute as processes. PODROUTE_NEWER_LAB names a running one."""
    need_root()
    if name := os.environ.get("PODROUTE_NEWER_LAB"):
        yield Lab.find(name)
        return
    lab = Lab.up(f"c{os.getpid()}", nodes=2, racks=2, containerd="2", processes=True, report=print)
    yield lab
    lab.down()


@pytest.fixture(scope="session")
def afterwards(lab: Lab) -> Iterator[ExitStack]:
    """What must be so before the shared lab ends and takes minutes to come about: other tests go on meanwhile."""
    with ExitStack() as stack:
        yield stack


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files in order of their names, but those with labs of their own last: what the shared lab is left with ends meanwhile."""
    items.sort(key=lambda item: place_of(item.path))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ALabAtATime | None:
    """With `--dist loadscope`: a process for the shared lab, and others for what has labs or namespaces of its own."""
    return ALabAtATime(config, log) if config.getvalue("dist") == "loadscope" else None


@pytest.fixture(scope="module")
def reference_lab() -> Iterator[Lab]:
    """Two nodes in two racks with the reference CNI plugins: what the lab does without podroute."""
    need_root()
    lab = Lab.up(f"r{os.getpid()}", nodes=2, racks=2, cni="reference", report=print)
    yield lab
    lab.down()
