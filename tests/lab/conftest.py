"""The lab that tests share: one for the whole session, or the running one that PODROUTE_LAB names.

PODROUTE_LAB=demo pytest tests/lab      uses lab demo and leaves it running
"""

import os
from collections.abc import Iterator

import pytest
from apiserver_world import server, world
from host_state import need_root

from controller.lab.cluster import Lab

# An API server without nodes, for the tests of kinds, reflector and operator.
__all__ = ["server", "world"]


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Four nodes in two racks, FRR and BIRD ToRs, podroute."""
    need_root()
    if name := os.environ.get("PODROUTE_LAB"):
        yield Lab.find(name)
        return
    lab = Lab.up(f"t{os.getpid()}", report=print)
    yield lab
    lab.down()


@pytest.fixture(scope="module")
def reference_lab() -> Iterator[Lab]:
    """Two nodes in two racks with the reference CNI plugins: what the lab does without podroute."""
    need_root()
    lab = Lab.up(f"r{os.getpid()}", nodes=2, racks=2, cni="reference", report=print)
    yield lab
    lab.down()
