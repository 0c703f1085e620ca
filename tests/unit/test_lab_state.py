"""A lab's state survives on disk, and one process at a time changes it."""

from pathlib import Path

import pytest

from controller.lab import state
from controller.lab.errors import LabError, Refusal
from controller.lab.state import LabState, exclusive, lab_names, read_state, write_state
from controller.lab.topology import make_topology


@pytest.fixture(autouse=True)
def labs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(state, "LABS", tmp_path / "labs")
    return tmp_path / "labs"


def some_state() -> LabState:
    return LabState(
        topology=make_topology("demo", 4, 2, ("frr", "bird")),
        cni="podroute",
        containerd="1",
        phase="running",
        created=1.5,
        programs={"kubectl": "/programs/kubectl"},
        namespaces={"n0": "demo-n0"},
        folders={"n0": "/labs/demo/n0"},
        kubeconfig="/labs/demo/cp/admin.kubeconfig",
    )


def test_what_was_written_is_read_again() -> None:
    write_state(some_state())
    assert read_state("demo") == some_state()
    assert lab_names() == ["demo"]


def test_a_lab_that_was_never_there_has_no_state() -> None:
    assert read_state("demo") is None
    assert lab_names() == []


def test_a_state_of_another_version_is_refused_with_the_remedy(labs: Path) -> None:
    write_state(some_state())
    (labs / "demo" / "state.json").write_text('{"topology": 1}')
    with pytest.raises(LabError, match="podroute lab down --name demo"):
        read_state("demo")


def test_a_second_process_is_told_at_once_that_the_lab_is_being_changed() -> None:
    with exclusive("demo"), pytest.raises(LabError, match="another process") as refused, exclusive("demo"):
        pass
    assert refused.value.reason is Refusal.NAME_TAKEN


def test_another_lab_may_be_changed_at_the_same_time_and_nothing_is_left(labs: Path) -> None:
    with exclusive("demo"), exclusive("other"):
        assert (labs / ".other.lock").exists()
    assert not labs.exists()
    with exclusive("demo"):
        assert (labs / ".demo.lock").exists()
