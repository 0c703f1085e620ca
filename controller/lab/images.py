"""Container images without a registry: archives made from programs of this machine, imported into each node's
containerd.

`ensure_images` makes them once for each version of their contents and keeps them in the cache; `node` imports them.
They are small on purpose: importing is the larger half of a node's start.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from controller.lab import rootfs
from controller.lab.errors import LabError, Refusal
from controller.lab.programs import PAUSE, Report, cache_folder

PAUSE_IMAGE = "registry.k8s.io/pause:3.10"
TOOLS_IMAGE = "podroute.dev/tools:1"
OWN_IMAGE = f"podroute.dev/podroute:{rootfs.VERSION}"
KEPT_ARCHIVES = 3
COREDNS_IMAGE = "registry.k8s.io/coredns/coredns:v1.14.7"
FOLDERS = ("etc", "tmp", "proc", "sys", "dev", "bin", "root", "run", "var")
# Programs of the host, beside busybox, for probes in pods. Busybox's own versions of these lack what tests ask.
HOST_PROGRAMS = ("ip", "ss", "ping", "curl", "dig", "nc", "tcpdump", "iperf3", "bash")
NAME_SERVICE_MODULES = ("libnss_dns.so.2", "libnss_files.so.2")


@dataclass(frozen=True)
class Image:
    """What goes into an archive: contents by path in the image (bytes, or a file of this machine), symbolic links,
    first process.
    """

    name: str
    entrypoint: tuple[str, ...]
    files: Mapping[str, bytes | Path]
    links: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()


def ensure_images(programs: Mapping[str, Path], report: Report, *, own: bool) -> list[Path]:
    """Give the archives of pause, tools and CoreDNS, making those whose contents changed; the two small ones first.

    `own`: podroute's, too.
    """
    folder = cache_folder() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    images = (
        Image(PAUSE_IMAGE, ("/pause",), {"pause": programs[PAUSE.name]}),
        tools_image(),
        Image(COREDNS_IMAGE, ("/coredns",), {"coredns": programs["coredns"]}),
    )
    paths = []
    for image in images:
        path = folder / f"{image.name.rpartition('/')[2].replace(':', '-')}-{_fingerprint(image)}.tar"
        if not path.exists():
            report(f"making image {image.name}")
            scratch = path.with_suffix(f".{os.getpid()}")
            write_archive(image, scratch)
            scratch.rename(path)
        paths.append(path)
    return [*paths, ensure_own_image(report)] if own else paths


def ensure_own_image(report: Report) -> Path:
    """Give the archive of podroute's image, making it if the sources changed; older ones are removed but for a few."""
    folder = cache_folder() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"podroute-{rootfs.VERSION}-{rootfs.fingerprint()}.tar"
    if not path.exists():
        report(f"making image {OWN_IMAGE}")
        with tempfile.TemporaryDirectory(prefix="podroute-image-") as scratch:
            rootfs.stage(Path(scratch), cache_folder() / "programs")
            partial = path.with_suffix(f".{os.getpid()}")
            try:
                write_archive(_staged_image(Path(scratch)), partial)
                partial.rename(path)
            finally:
                partial.unlink(missing_ok=True)
    keep_newest(folder, "podroute-*.tar", KEPT_ARCHIVES)
    return path


def _staged_image(root: Path) -> Image:
    files: dict[str, bytes | Path] = {}
    links: dict[str, str] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            links[name] = os.readlink(path)
        elif path.is_file():
            files[name] = path
    return Image(OWN_IMAGE, ("/usr/local/bin/podroute",), files, links)


def keep_newest(folder: Path, pattern: str, count: int, used: Collection[str] = ()) -> None:
    """Removes the oldest files of a pattern but for `count` and those `used`: every change of a source makes another archive."""
    dated = []
    for path in folder.glob(pattern):
        # Another lab that starts now may have removed it.
        with contextlib.suppress(FileNotFoundError):
            dated.append((path.stat().st_mtime, path))
    for _, old in sorted(dated)[:-count]:
        if old.name not in used:
            old.unlink(missing_ok=True)


def tools_image() -> Image:
    """Busybox, and the host's own network programs with the libraries they load."""
    busybox = _program("busybox")
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, timeout=10, check=True).stdout
    files: dict[str, bytes | Path] = {
        "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n",
        "etc/group": b"root:x:0:\n",
        "etc/nsswitch.conf": b"hosts: files dns\n",
        "bin/busybox": busybox,
    }
    for name in HOST_PROGRAMS:
        program = _program(name)
        files[f"bin/{name}"] = program
        files.update(_libraries(program))
    for module in NAME_SERVICE_MODULES:
        files.update({str(path).lstrip("/"): path for path in Path("/lib").glob(f"*/{module}")})
    applets = {f"bin/{applet}": "busybox" for applet in listed.split() if f"bin/{applet}" not in files}
    return Image(TOOLS_IMAGE, ("/bin/busybox",), files, applets, ("sleep", "1000000"))


def write_archive(image: Image, path: Path) -> None:
    """Write an image in the layout of `docker save`, which containerd imports."""
    layer = _layer(image)
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine),
        "os": "linux",
        "config": {
            "Entrypoint": list(image.entrypoint),
            "Cmd": list(image.command),
            "WorkingDir": "/",
            "Env": ["PATH=/usr/local/bin:/bin:/usr/bin:/sbin:/usr/sbin"],
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        "history": [{"created_by": "podroute lab"}],
    }
    text = json.dumps(config).encode()
    name = f"{hashlib.sha256(text).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [image.name], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as archive:
        _add(archive, name, text, 0o644)
        _add(archive, "layer.tar", layer, 0o644)
        _add(archive, "manifest.json", json.dumps(manifest).encode(), 0o644)


def _layer(image: Image) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for folder in _folders(image.files):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            layer.addfile(entry)
        for name, content in image.files.items():
            _add(layer, name, content if isinstance(content, bytes) else content.read_bytes(), 0o755)
        for name, target in image.links.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            layer.addfile(entry)
    return buffer.getvalue()


def _folders(files: Mapping[str, bytes | Path]) -> Sequence[str]:
    """Every folder the image has, parents before children."""
    needed = {str(parent) for name in files for parent in Path(name).parents if str(parent) != "."}
    return sorted(needed.union(FOLDERS))


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.size = mode, len(data)
    archive.addfile(entry, io.BytesIO(data))


def _libraries(program: Path) -> dict[str, bytes | Path]:
    """The shared libraries that a program loads, each at the path where the loader looks."""
    listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True, timeout=10, check=False).stdout
    return {found.lstrip("/"): Path(found).resolve() for found in re.findall(r"(/\S+) \(0x", listed)}


def _program(name: str) -> Path:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        raise LabError(Refusal.NO_PACKAGE, f"{name} is not on PATH, though the package that holds it is installed")
    return Path(found).resolve()


def _fingerprint(image: Image) -> str:
    """Changes when a file's path, size or date does."""
    parts = [f"{image.name} {image.entrypoint} {image.command} {sorted(image.links.items())}"]
    for name, content in sorted(image.files.items()):
        if isinstance(content, bytes):
            parts.append(f"{name} {content!r}")
        else:
            status = content.stat()
            parts.append(f"{name} {content} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
