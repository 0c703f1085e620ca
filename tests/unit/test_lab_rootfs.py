"""What goes into podroute's own image (`controller.lab.rootfs`)."""

import os
from pathlib import Path

from controller.lab.images import keep_newest
from controller.lab.rootfs import runtime_packages


def test_the_image_has_what_podroute_runs_with_and_nothing_of_its_tests() -> None:
    packages = runtime_packages("podroute")
    assert {"podroute", "exabgp", "kopf", "lightkube", "msgspec", "pyroute2", "aiohttp"} <= packages
    # Of httpx2's extras, which lightkube asks for, and none that nobody asks for.
    assert {"h2", "wsproto"} <= packages
    assert packages.isdisjoint({"socksio", "trio", "jinja2"})
    assert packages.isdisjoint({"pytest", "mypy", "ruff", "hypothesis", "import-linter"})


def test_of_many_archives_the_newest_are_kept(tmp_path: Path) -> None:
    for number in range(5):
        path = tmp_path / f"podroute-{number}.tar"
        path.touch()
        os.utime(path, (number, number))
    (tmp_path / "tools.tar").touch()
    keep_newest(tmp_path, "podroute-*.tar", 2)
    assert {path.name for path in tmp_path.iterdir()} == {"podroute-3.tar", "podroute-4.tar", "tools.tar"}
    keep_newest(tmp_path, "podroute-*.tar", 2)
    assert len(list(tmp_path.iterdir())) == 3
