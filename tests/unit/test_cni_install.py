"""The plugin and its configuration list are put in place atomically, kept, and taken away."""

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from controller.cni.build import BuildError, build_shim
from controller.cni.install import CONFLIST, PLUGIN, conflist_text, install, supported_versions, uninstall

GOLDEN = Path(__file__).parents[1] / "golden" / "cni"
ALL_VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")


def chained_plugin(folder: Path, name: str, versions: tuple[str, ...]) -> None:
    folder.mkdir(exist_ok=True)
    answer = json.dumps({"cniVersion": "1.0.0", "supportedVersions": versions})
    (folder / name).write_text(f"#!/bin/sh\n[ $CNI_COMMAND = VERSION ] && echo '{answer}'\n")
    (folder / name).chmod(0o755)


def test_the_list_is_the_golden_one() -> None:
    assert conflist_text(["portmap", "bandwidth"], ALL_VERSIONS) == (GOLDEN / CONFLIST).read_text()


def test_the_newest_version_that_an_old_runtime_may_know_stands_alone() -> None:
    document = json.loads(conflist_text([], ("0.4.0", "1.0.0", "1.1.0")))
    assert (document["cniVersion"], document["cniVersions"]) == ("1.0.0", ["0.4.0", "1.0.0", "1.1.0"])


def test_installing_twice_writes_once(tmp_path: Path) -> None:
    program = tmp_path / "shim"
    program.write_bytes(b"\x7fELF")
    bins, confs = tmp_path / "bin", tmp_path / "net.d"
    for name in ("portmap", "bandwidth"):
        chained_plugin(bins, name, ALL_VERSIONS)

    first = install(bins, confs, program)
    assert (first.changed, first.missing, first.versions) == (True, (), ALL_VERSIONS)
    assert (bins / PLUGIN).read_bytes() == b"\x7fELF"
    assert stat.S_IMODE((bins / PLUGIN).stat().st_mode) == 0o755
    assert (confs / CONFLIST).read_text() == conflist_text(["portmap", "bandwidth"], ALL_VERSIONS)
    written = [path.stat().st_mtime_ns for path in (bins / PLUGIN, confs / CONFLIST)]

    assert not install(bins, confs, program).changed
    assert [path.stat().st_mtime_ns for path in (bins / PLUGIN, confs / CONFLIST)] == written
    assert sorted(os.listdir(confs)) == [CONFLIST]
    (confs / CONFLIST).write_text("{}")
    assert install(bins, confs, program).changed


def test_a_program_in_use_is_replaced_whole(tmp_path: Path) -> None:
    bins, confs = tmp_path / "bin", tmp_path / "net.d"
    sleep = Path("/bin/sleep")
    install(bins, confs, sleep)
    with subprocess.Popen([bins / PLUGIN, "30"]) as running:
        assert install(bins, confs, None).changed
        running.kill()


def test_missing_chained_plugins_are_left_out_and_named(tmp_path: Path) -> None:
    chained_plugin(tmp_path, "portmap", ALL_VERSIONS)
    installed = install(tmp_path, tmp_path, None)
    assert installed.missing == ("bandwidth",)
    assert [plugin["type"] for plugin in json.loads((tmp_path / CONFLIST).read_text())["plugins"]] == [
        PLUGIN,
        "portmap",
    ]


def test_the_list_offers_only_versions_that_every_plugin_speaks(tmp_path: Path) -> None:
    chained_plugin(tmp_path, "portmap", ("0.3.0", "0.3.1", "0.4.0", "1.0.0"))
    chained_plugin(tmp_path, "bandwidth", ALL_VERSIONS)
    assert install(tmp_path, tmp_path, None).versions == ("0.3.1", "0.4.0", "1.0.0")


def test_a_program_that_does_not_say_what_it_speaks_speaks_nothing(tmp_path: Path) -> None:
    chained_plugin(tmp_path, "portmap", ("1.0.0",))
    assert supported_versions(tmp_path / "portmap") == ("1.0.0",)
    assert supported_versions(Path("/bin/false")) == ()
    assert supported_versions(Path("/nowhere")) == ()


def test_removal_takes_what_is_ours_and_the_second_time_finds_nothing(tmp_path: Path) -> None:
    (tmp_path / "10-other.conflist").write_text("{}")
    install(tmp_path, tmp_path, None)
    assert uninstall(tmp_path, tmp_path)
    assert not uninstall(tmp_path, tmp_path)
    assert os.listdir(tmp_path) == ["10-other.conflist"]


def test_the_installed_twin_runs(tmp_path: Path) -> None:
    install(tmp_path, tmp_path, None)
    assert supported_versions(tmp_path / PLUGIN) == ALL_VERSIONS


def test_the_shim_is_compiled_once(tmp_path: Path) -> None:
    program = build_shim(tmp_path)
    compiled = program.stat().st_mtime_ns
    assert build_shim(tmp_path) == program
    assert program.stat().st_mtime_ns == compiled
    assert os.listdir(tmp_path) == [program.name]


def test_without_a_compiler_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BuildError, match="install gcc"):
        build_shim(tmp_path)
