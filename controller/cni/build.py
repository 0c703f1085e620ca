"""Compiles the plugin `shim.c` into a static program. For the image's build, for the lab, and for tests."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
_FLAGS = ("-O2", "-static", "-Wall", "-Wextra", "-Werror")
_TIMEOUT_SECONDS = 120.0


class BuildError(Exception):
    """The shim can't be compiled here: there is no compiler, or it failed; with its words."""


def build_shim(cache: Path) -> Path:
    """The compiled shim in the folder `cache`; compiled only if this source has not been yet. Raises BuildError."""
    digest = hashlib.sha256(SOURCE.read_bytes() + " ".join(_FLAGS).encode()).hexdigest()[:16]
    program = cache / f"podroute-cni-{digest}"
    if program.exists():
        return program
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise BuildError("no C compiler: install gcc and libc6-dev, or have the Python twin installed")
    cache.mkdir(parents=True, exist_ok=True)
    # Two builds at once must not run half-written programs.
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        result = Path(folder, "shim")
        command = [compiler, *_FLAGS, "-o", str(result), str(SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
        if done.returncode:
            raise BuildError(f"{' '.join(command)}: {done.stderr.strip()}")
        os.replace(result, program)
    return program
