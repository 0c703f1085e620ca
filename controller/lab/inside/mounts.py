"""The file system of one machine, made inside its own mount namespace; called once by process 1.

A machine sees the host's programs, and nothing that it writes leaves it: /run is empty, /etc, /var, /opt are overlays
whose upper layer is in memory. So all paths are the default ones, and real DaemonSet manifests work.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_SHARED = 0x1, 0x20, 0x1000, 0x4000, 0x100000
CGROUPS = Path("/sys/fs/cgroup")
NAMED = "systemd"
LAYERS = Path("/run/.layers")
_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str | Path, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2); OSError names the target."""
    arguments = (source.encode(), str(target).encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    if _libc.mount(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"mount {source} ({kind or 'bind'}): {os.strerror(number)}", str(target))


def bind(source: str | Path, target: str | Path, read_only: bool = False) -> None:
    """Bind-mount a file or folder; a read-only bind takes two steps."""
    mount(str(source), target, flags=MS_BIND | MS_REC)
    if read_only:
        mount(str(source), target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def make_file_system(spec: Mapping[str, Any], own_folder: Path) -> None:
    """Make everything that `spec` (see controller.lab.machine.MachineSpec) asks for."""
    folder = os.open(own_folder, os.O_PATH)
    mount("tmpfs", "/run", "tmpfs", options=f"mode=755,size={spec['memory']}")
    for name in ("netns", "lock", ".layers"):
        (Path("/run") / name).mkdir()
    # The host's /run is hidden now, but logs and the control plane's certificates must be seen from outside.
    own_folder.mkdir(parents=True)
    bind(f"/proc/self/fd/{folder}", own_folder)
    os.close(folder)
    mount("sysfs", "/sys", "sysfs")
    if spec["cgroups"]:
        _mount_cgroups()
    for path in spec["overlays"]:
        _overlay(Path(path))
    for path in spec["fresh"]:
        _fresh(Path(path))
    for source, target in spec["read_only"]:
        Path(target).mkdir(parents=True, exist_ok=True)
        bind(source, target, read_only=True)
    for source, target in spec["archives"]:
        subprocess.run(["tar", "--extract", "--file", source, "--directory", target], check=True)
    for source, target in spec["copies"]:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    for path, text in spec["masked"].items():
        _masked(path, text)
    for path, text in spec["files"].items():
        write_file(Path(path), text)
    mount("none", "/", flags=MS_REC | MS_SHARED)


def write_file(path: Path, text: str) -> None:
    """Write a file in place of whatever is there, a symbolic link included. A script (`#!`) becomes executable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.touch(0o755 if text.startswith("#!") else 0o644)
    path.write_text(text)


def _mount_cgroups() -> None:
    """The cgroup hierarchies as seen from the machine's cgroup namespace: version 1 if the host has its controllers
    there.
    """
    if not is_v1():
        mount("cgroup2", CGROUPS, "cgroup2")
        _delegate_v2()
        return
    mount("tmpfs", CGROUPS, "tmpfs", options="mode=755")
    for name in v1_hierarchies():
        options = name if name != NAMED else f"none,name={NAMED}"
        (CGROUPS / name).mkdir()
        mount("cgroup", CGROUPS / name, "cgroup", options=options)
        for alias in name.split(",") if "," in name else ():
            (CGROUPS / alias).symlink_to(name)


def v1_hierarchies() -> list[str]:
    """The version 1 hierarchies of this host by the name of their folder, such as `memory`, `cpu,cpuacct`, `systemd`.

    Mounted again, a hierarchy must be named with exactly the controllers it has.
    """
    lines = (line.split(":") for line in Path("/proc/self/cgroup").read_text().splitlines())
    names = [controllers for _number, controllers, *_path in lines if controllers]
    return [name.removeprefix("name=") for name in names if not name.startswith("name=") or name == f"name={NAMED}"]


def is_v1() -> bool:
    """Whether the kernel's memory controller is on a version 1 hierarchy."""
    lines = (line.split(":") for line in Path("/proc/self/cgroup").read_text().splitlines())
    return any("memory" in controllers.split(",") for _number, controllers, *_path in lines)


def _delegate_v2() -> None:
    """Version 2 lets a cgroup have processes or controllers below, not both: move ours down, then hand the controllers
    on.
    """
    leaf = CGROUPS / "init"
    leaf.mkdir(exist_ok=True)
    for pid in (CGROUPS / "cgroup.procs").read_text().split():
        (leaf / "cgroup.procs").write_text(pid)
    for name in (CGROUPS / "cgroup.controllers").read_text().split():
        (CGROUPS / "cgroup.subtree_control").write_text(f"+{name}")


def _overlay(path: Path) -> None:
    if not path.is_dir():
        return
    upper, work = (LAYERS / part / path.relative_to("/") for part in ("upper", "work"))
    upper.mkdir(parents=True)
    work.mkdir(parents=True)
    mount("overlay", path, "overlay", options=f"lowerdir={path},upperdir={upper},workdir={work}")


def _fresh(path: Path) -> None:
    """An empty folder in memory: for what must not be an overlay (a container runtime's own layers) or not show the
    host's.
    """
    source = LAYERS / "fresh" / path.relative_to("/")
    source.mkdir(parents=True)
    path.mkdir(parents=True, exist_ok=True)
    bind(source, path)


def _masked(path: str, text: str) -> None:
    """A small file over a kernel setting of the whole host, so that a machine's kubelet does not change it."""
    source = LAYERS / "masked" / path.strip("/").replace("/", "_")
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(text + "\n")
    if Path(path).exists():
        bind(source, path)
