"""Which Go builds the lab's programs."""

from pathlib import Path

import pytest

from controller.lab import programs


def _executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder into which the Go wheel is unpacked, as the wheel leaves it: with a script that does not run from there."""
    monkeypatch.setenv("PODROUTE_CACHE", str(tmp_path))
    folder = tmp_path / programs.GO_WHEEL.replace("==", "-")
    _executable(folder / "bin" / "go", "#!/nowhere/python3\nfrom go import main\n")
    return folder


def _says(version: str) -> str:
    return f"#!/bin/sh\necho go version {version} linux/amd64\n"


def test_the_wheels_own_go_is_taken_and_not_the_script_beside_it(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = _executable(wheel / "go" / "bin" / "go", _says("go1.26.6"))
    monkeypatch.setenv("PATH", "/nowhere")

    assert programs.ensure_go(print) == str(real)


def test_a_new_enough_go_on_path_comes_first_and_an_old_one_is_passed_over(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = _executable(wheel / "go" / "bin" / "go", _says("go1.26.6"))
    installed = _executable(tmp_path / "path" / "go", _says("go1.26.0"))
    monkeypatch.setenv("PATH", str(installed.parent))
    assert programs.ensure_go(print) == str(installed)

    installed.write_text(_says("go1.19.8"))
    assert programs.ensure_go(print) == str(real)
