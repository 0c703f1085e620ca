"""What a node's containerd knows when the node starts: the lab's images, imported and unpacked once, kept as one
archive.

Importing costs each node two seconds of a processor, just while everything else starts, and a pod that comes before its
image waits ten seconds for the next try. Unpacking the archive costs a tenth. `bringup` has it made; process 1 of a
node unpacks it.
"""

import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from controller.lab.errors import LabError, Refusal
from controller.lab.execute import run_checked, wait_until
from controller.lab.images import keep_newest
from controller.lab.node import runtime_path, runtime_program
from controller.lab.programs import Report, cache_folder
from controller.lab.state import LABS

START_LIMIT_S = 20.0
IMPORT_LIMIT_S = 120.0
NAMESPACE = "k8s.io"
# One without podroute's image, one with it, for each of two versions of containerd, and as many of before.
KEPT_SEEDS = 8


def ensure_seed(programs: Mapping[str, Path], images: Sequence[Path], report: Report) -> Path:
    """Give the archive of /var/lib/containerd with these images, making it if need be. Raises LabError with
    containerd's words.
    """
    version = run_checked([runtime_program(programs, "containerd"), "--version"])
    digest = hashlib.sha256("\n".join((version, *(path.name for path in images))).encode()).hexdigest()[:12]
    archive = cache_folder() / "images" / f"containerd-{digest}.tar"
    if archive.exists():
        return archive
    report("unpacking the images for containerd")
    with tempfile.TemporaryDirectory(prefix="podroute-seed-") as scratch:
        root, socket = Path(scratch) / "root", f"{scratch}/containerd.sock"
        with _containerd(programs, Path(scratch)):
            ctr = [runtime_program(programs, "ctr"), "--address", socket, "--namespace", NAMESPACE]
            wait_until(lambda: run_checked([*ctr, "version"]), START_LIMIT_S, "containerd answers")
            for image in images:
                run_checked([*ctr, "images", "import", str(image)], seconds=IMPORT_LIMIT_S)
        partial = archive.with_suffix(f".{os.getpid()}")
        try:
            run_checked(["tar", "--create", "--file", str(partial), "--directory", str(root), "."])
            partial.rename(archive)
        finally:
            partial.unlink(missing_ok=True)
    keep_newest(archive.parent, "containerd-*.tar", KEPT_SEEDS, _in_use())
    return archive


def _in_use() -> set[str]:
    """Archives from which nodes of labs that run were made, and are made anew after a loss of power."""
    return {
        Path(word).name
        for path in LABS.glob("*/*/spec.json")
        for word in re.findall(r"[^\"]*/containerd-[0-9a-f]+\.tar", path.read_text())
    }


@contextmanager
def _containerd(programs: Mapping[str, Path], scratch: Path) -> Iterator[None]:
    """containerd alone, with folders of its own, in a mount namespace of its own: nothing it mounts is seen or stays."""
    config = scratch / "config.toml"
    config.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
    folders = ["--root", str(scratch / "root"), "--state", str(scratch / "state")]
    argv = [runtime_program(programs, "containerd"), "--config", str(config), *folders]
    with (scratch / "log").open("wb") as log:
        command = [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            *argv,
            "--address",
            str(scratch / "containerd.sock"),
        ]
        daemon = subprocess.Popen(command, env={**os.environ, **runtime_path(programs)}, stdout=log, stderr=log)
        try:
            yield
        except LabError as error:
            said = (scratch / "log").read_text(errors="replace")[-1500:]
            raise LabError(Refusal.PROCESS_ENDED, f"{error}\ncontainerd said: {said}") from error
        finally:
            daemon.terminate()
            daemon.wait(START_LIMIT_S)
