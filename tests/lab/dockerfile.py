"""Carries out a Dockerfile without a container engine: each stage is a folder that begins as a small Debian, entered by chroot.

Only what podroute's own Dockerfile uses is known; anything else is an error. Called by `test_dockerfile`.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

# How this machine reaches its packages: a stage has a network, but is set up by nobody.
REACH = ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf")
KEPT_VARIABLES = ("PIP_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
RUN_LIMIT_S = 600


def instructions(text: str) -> list[tuple[str, str]]:
    """Word and rest of each instruction: comments are gone, continued lines are one (Dockerfile reference, "Format")."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    whole = re.sub(r"\s*\\\s*\n\s*", " ", kept)
    return [(word, rest) for word, _, rest in (line.strip().partition(" ") for line in whole.splitlines()) if word]


@dataclass
class Stage:
    """A folder, and what later instructions go by."""

    root: Path
    folder: str = "/"
    entrypoint: list[str] = field(default_factory=list)

    def path(self, name: str) -> Path:
        """Where a path of the image is on this machine."""
        return self.root / os.path.normpath(os.path.join(self.folder, name)).lstrip("/")

    def run(self, *argv: str) -> str:
        """What a program in the stage prints; AssertionError with all that it said if it fails."""
        enter = ["unshare", "--mount", "--pid", "--fork", "--kill-child", f"--root={self.root}", "--mount-proc=/proc"]
        kept = {key: value for key, value in os.environ.items() if key.startswith(KEPT_VARIABLES)}
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **kept}
        done = subprocess.run(
            [*enter, f"--wd={self.folder}", *argv],
            capture_output=True,
            text=True,
            env=environment,
            timeout=RUN_LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(argv)}: {done.stdout}{done.stderr}"
        return done.stdout


class Build:
    """The stages of a Dockerfile in `scratch`, from the sources in `context`."""

    def __init__(self, context: Path, scratch: Path, base: Path) -> None:
        self.context, self.scratch, self.base = context, scratch, base
        self.stages: dict[str, Stage] = {}

    def make(self, text: str) -> Stage:
        """The last stage, with everything done."""
        stage = Stage(self.base)
        for word, rest in instructions(text):
            match word:
                case "FROM":
                    stage = self._begin(rest)
                case "RUN":
                    stage.run("/bin/sh", "-c", rest)
                case "COPY":
                    self._copy(stage, rest.split())
                case "WORKDIR":
                    stage.folder = rest
                    stage.path(".").mkdir(parents=True, exist_ok=True)
                case "ENTRYPOINT":
                    stage.entrypoint = json.loads(rest)
                case _:
                    raise AssertionError(f"{word} is not known here")
        return stage

    def _begin(self, rest: str) -> Stage:
        image, _, name = rest.partition(" AS ")
        assert image == "debian:12-slim"
        root = self.scratch / (name or "last")
        subprocess.run(["cp", "--archive", str(self.base), str(root)], check=True)
        self.stages[name] = Stage(root)
        return self.stages[name]

    def _copy(self, stage: Stage, words: Sequence[str]) -> None:
        """Of a folder its contents are copied (Dockerfile reference, "COPY")."""
        *sources, target = words
        origin = Stage(self.context)
        if sources[0].startswith("--from="):
            origin = self.stages[sources.pop(0).removeprefix("--from=")]
        into = stage.path(target)
        for source in map(origin.path, sources):
            if source.is_dir():
                shutil.copytree(source, into, symlinks=True, dirs_exist_ok=True)
                continue
            at = into / source.name if target.endswith("/") else into
            at.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, at)


def small_debian(root: Path) -> Path:
    """Debian 12 as small as it comes, which reaches the packages that this machine reaches."""
    subprocess.run(
        ["debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", str(root)],
        capture_output=True,
        timeout=RUN_LIMIT_S,
        check=True,
    )
    for name in REACH:
        if Path(name).is_file():
            shutil.copy(name, root / name.lstrip("/"))
    for settings in Path("/etc/apt/apt.conf.d").iterdir():
        if "Proxy" in settings.read_text():
            shutil.copy(settings, root / "etc/apt/apt.conf.d" / settings.name)
    return root


def ignored(text: str) -> list[str]:
    """The names that a .dockerignore keeps out of the context, as patterns of shutil."""
    return [line.removeprefix("**/") for line in text.splitlines() if line.strip()]
