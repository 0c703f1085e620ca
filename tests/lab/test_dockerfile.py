"""The Dockerfile, carried out word for word on a small Debian 12: it makes the image that the lab runs."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from dockerfile import Build, Stage, ignored, instructions, small_debian
from host_state import need_root

from controller.lab.programs import cache_folder
from controller.lab.rootfs import ACCOUNTS, COMMANDS, PACKAGES, PLUGIN, ROOT, stage

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.soak, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The last stage."""
    need_root()
    scratch = tmp_path_factory.mktemp("image")
    patterns = ignored((ROOT / ".dockerignore").read_text())
    context = shutil.copytree(ROOT, scratch / "context", ignore=shutil.ignore_patterns(*patterns), symlinks=True)
    yield Build(context, scratch, small_debian(scratch / "debian")).make((ROOT / "Dockerfile").read_text())
    shutil.rmtree(scratch)


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the lab makes."""
    root = tmp_path_factory.mktemp("staged")
    stage(root, cache_folder() / "programs")
    yield root
    shutil.rmtree(root)


def sources(root: Path) -> dict[str, bytes]:
    """The packages' own files: pip's records of them differ, and say nothing of what runs."""
    folder = root / PACKAGES
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".dist-info" not in str(path) and "__pycache__" not in path.parts
    }


def test_comments_and_continued_lines_are_read_as_docker_reads_them() -> None:
    text = "# one\nFROM a AS b\nRUN x \\\n    # two\n    && y\n\nCOPY c d\n"
    assert instructions(text) == [("FROM", "a AS b"), ("RUN", "x && y"), ("COPY", "c d")]


def test_it_has_the_packages_of_the_labs_image_file_for_file(built: Stage, staged: Path) -> None:
    made, known = sources(built.root), sources(staged)
    assert sorted(made) == sorted(known)
    assert [name for name in known if made[name] != known[name]] == []


def test_it_starts_podroute_and_has_what_a_node_needs(built: Stage, staged: Path) -> None:
    assert "speaker" in built.run(*built.entrypoint, "--help")
    assert "nftables" in built.run("nft", "--version")
    for command in COMMANDS:
        assert (built.root / "usr/local/bin" / command).read_text() == (staged / "usr/local/bin" / command).read_text()
    line = ACCOUNTS["etc/passwd"].splitlines()[1]
    assert line in (built.root / "etc/passwd").read_text().splitlines()
    ask = f"""echo '{{"cniVersion": "1.1.0"}}' | CNI_COMMAND=VERSION /{PLUGIN}"""
    assert "1.1.0" in json.loads(built.run("/bin/sh", "-c", ask))["supportedVersions"]
    listed = subprocess.run(["ldd", built.root / PLUGIN], capture_output=True, text=True, check=False)
    assert "ld-linux" not in listed.stdout, "a host's C library may be another"
