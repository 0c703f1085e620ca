"""The root file system of podroute's own image, without a container engine: what the Dockerfile makes, from this machine's Python.

`stage` lays it out in a folder: the interpreter and its library, podroute and the packages that it runs with (not those of its
tests), the compiled CNI plugin, and `nft`. Called by `controller.lab.images`. The machine must be of the kind that the Dockerfile
begins with, Debian 12, as the programs and libraries are the machine's own.
"""

import hashlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

import controller
from controller.cni.build import BuildError, build_shim
from controller.lab.errors import LabError, Refusal

ROOT = Path(controller.__file__).resolve().parents[1]
VERSION = importlib.metadata.version("podroute")
# The speaker's user: ExaBGP and the daemon run as it. The number is of a range that no distribution gives to its users (systemd's
# UIDS-GIDS: 60578 to 61183), as the node may know it by another name.
SPEAKER_USER, SPEAKER_ID = "podroute", 61179
PLUGIN = "usr/local/bin/podroute-cni"
COMMANDS = ("podroute", "kubectl-podroute")
PYTHON = "python3.11"
PACKAGES = f"usr/local/lib/{PYTHON}/dist-packages"
# Of the library, what nothing here imports.
UNUSED = {"test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "pydoc_data", "__pycache__"}
SOURCES = ("bgp", "controller")
COMPILE_LIMIT_S = 300.0
ACCOUNTS = {
    "etc/passwd": f"root:x:0:0:root:/root:/usr/sbin/nologin\n{SPEAKER_USER}:x:{SPEAKER_ID}:{SPEAKER_ID}::/:/usr/sbin/nologin\n",
    "etc/group": f"root:x:0:\n{SPEAKER_USER}:x:{SPEAKER_ID}:\n",
}
_START = f"#!/usr/bin/{PYTHON}\nimport sys\n\nfrom controller.cli.main import main\n\nsys.exit(main())\n"


def fingerprint() -> str:
    """Changes with podroute's sources, the pinned packages and this machine's Python."""
    known = hashlib.sha256(f"{sys.version} {VERSION}".encode())
    for path in (ROOT / "constraints.txt", ROOT / "pyproject.toml", *_sources()):
        known.update(f"{path.relative_to(ROOT)} {path.stat().st_size} {path.stat().st_mtime_ns}\n".encode())
    return known.hexdigest()[:12]


def stage(root: Path, cache: Path) -> None:
    """Lays everything out under `root`; the compiled plugin is kept in `cache`. Raises LabError."""
    interpreter = Path("/usr/bin", PYTHON)
    if sys.base_prefix != "/usr" or not interpreter.exists():
        message = f"the image is made from Debian 12's own {PYTHON}, and podroute runs with {sys.executable} of {sys.base_prefix}"
        raise LabError(Refusal.BUILD_FAILED, f"{message}; run `make clean prepare` with PYTHON=/usr/bin/{PYTHON}")
    _put(root, interpreter)
    (root / "usr/bin/python3").symlink_to(interpreter.name)
    library = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(library, root / str(library).lstrip("/"), ignore=_unused, symlinks=False)
    for name in sorted(runtime_packages("podroute") - {"podroute"}):
        _install(importlib.metadata.distribution(name), root / PACKAGES)
    for path in _sources():
        _copy(path, root / PACKAGES / path.relative_to(ROOT))
    _copy(Path(_distribution_info("podroute")), root / PACKAGES / f"podroute-{VERSION}.dist-info/METADATA")
    _copy(compiled_plugin(cache), root / PLUGIN)
    nft = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin")
    if nft is None:
        raise LabError(Refusal.NO_PACKAGE, "nft is not on this machine: install nftables")
    _put(root, Path(nft))
    _write_texts(root)
    _add_libraries(root)
    _compile(root)


def compiled_plugin(cache: Path) -> Path:
    """The compiled CNI plugin, in the cache; LabError with the compiler's words if there is none."""
    try:
        return build_shim(cache)
    except BuildError as error:
        raise LabError(Refusal.BUILD_FAILED, str(error)) from error


def runtime_packages(name: str) -> set[str]:
    """The distributions that one needs to run, itself included, by their normal names. Raises LabError if one is not installed."""
    found: set[tuple[str, str]] = set()
    # Each with one of the extras that are asked for, or none.
    waiting = [(name, "")]
    while waiting:
        known, extra = waiting.pop()
        one = re.sub(r"[-_.]+", "-", known).lower()
        if (one, extra) in found:
            continue
        found.add((one, extra))
        for requirement in importlib.metadata.requires(one) or ():
            needed, _, marker = requirement.partition(";")
            other = re.match(r"([A-Za-z0-9._-]+)\s*(?:\[([^]]*)\])?", needed)
            if other is None or ("extra" in marker and not _asks_for(extra, marker)):
                continue
            # A requirement with a condition counts if it holds here: then pip has installed it.
            if marker and not _is_installed(other[1]):
                continue
            if not _is_installed(other[1]):
                raise LabError(
                    Refusal.NO_PACKAGE, f"Python package {other[1]} of {one} is not installed: run make prepare"
                )
            waiting += [(other[1], each.strip()) for each in ("", *(other[2] or "").split(","))]
    return {one for one, _ in found}


def _asks_for(extra: str, marker: str) -> bool:
    """Whether a requirement's condition is an extra that is wanted."""
    return bool(extra) and re.search(rf"""extra\s*==\s*['"]{re.escape(extra)}['"]""", marker) is not None


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _distribution_info(name: str) -> str:
    files = importlib.metadata.files(name) or ()
    (metadata,) = [str(each.locate()) for each in files if each.name == "METADATA"]
    return metadata


def _sources() -> list[Path]:
    """podroute's own files, the data beside the code included."""
    return sorted(
        path
        for folder in SOURCES
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )


def _unused(folder: str, names: Sequence[str]) -> set[str]:
    return {name for name in names if name in UNUSED or name.startswith("config-") or name == "dist-packages"}


def _install(package: importlib.metadata.Distribution, target: Path) -> None:
    """Copies what pip put into site-packages; scripts beside it are left out."""
    for each in package.files or ():
        if ".." not in each.parts and "__pycache__" not in each.parts:
            _copy(Path(str(each.locate())), target / str(each))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def _put(root: Path, program: Path) -> None:
    """A program at its own path."""
    _copy(program, root / str(program).lstrip("/"))


def _write_texts(root: Path) -> None:
    for name, text in ACCOUNTS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for command in COMMANDS:
        path = root / "usr/local/bin" / command
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_START)
        path.chmod(0o755)


def _add_libraries(root: Path) -> None:
    """The shared libraries of everything in `root`, each at the path where the loader looks."""
    programs = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink() and _is_elf(path)]
    listed = subprocess.run(
        ["ldd", *map(str, programs)], capture_output=True, text=True, timeout=60, check=False
    ).stdout
    for found in _libraries(listed):
        if not (root / found.lstrip("/")).exists():
            _copy(Path(found), root / found.lstrip("/"))


def _libraries(listed: str) -> Iterator[str]:
    """From what ldd prints, the libraries outside the staged folder."""
    for found in sorted(set(re.findall(r"(/\S+) \(0x", listed))):
        if found.startswith(("/lib", "/usr/lib")):
            yield found


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _compile(root: Path) -> None:
    """Byte code beside the sources, as a container's file system is not written to; without dates, which layers do not keep."""
    argv = [sys.executable, "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash"]
    folders = [str(root / "usr/lib"), str(root / PACKAGES)]
    try:
        subprocess.run([*argv, "-s", str(root), "-p", "/", *folders], check=True, timeout=COMPILE_LIMIT_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise LabError(Refusal.BUILD_FAILED, f"byte code of the image: {error}") from error
