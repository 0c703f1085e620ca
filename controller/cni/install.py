"""Puts the plugin and its configuration list where the container runtime looks, and takes them away again.

The agent installs once it can serve pods: from then on the runtime counts the node's network as ready. Written to a
temporary name and renamed, so that the runtime never sees half a file; what is right already is not written.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from controller.cni.request import ANNOTATIONS_CAPABILITY
from controller.cni.result import SUPPORTED_VERSIONS

PLUGIN = "podroute"
# Runtimes take the first list by name: ahead of 10-…, where other networks' lists stand.
CONFLIST = "05-podroute.conflist"
# What the kubelet expects of a network beyond addresses: hostPort, and bandwidth annotations.
CHAINED = {"portmap": "portMappings", "bandwidth": "bandwidth"}

_PLUGIN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Installed:
    """Whether a file was written, which chained plugins are missing, and the versions that the whole chain speaks."""

    changed: bool
    missing: tuple[str, ...]
    versions: tuple[str, ...]


def conflist_text(chained: Sequence[str], versions: Sequence[str]) -> str:
    """The configuration list: ours first, then the chained plugins. Pure.

    `versions` are those that every plugin of the chain speaks, oldest first. A runtime of specification 1.1 takes the
    newest that it knows of `cniVersions`; an older one reads `cniVersion` alone, so the newest that such a runtime may
    know stands there.
    """
    plugins: list[dict[str, object]] = [{"type": PLUGIN, "capabilities": {ANNOTATIONS_CAPABILITY: True}}]
    plugins += [{"type": name, "capabilities": {CHAINED[name]: True}} for name in chained]
    before_the_choice = [version for version in versions if version != "1.1.0"]
    version = before_the_choice[-1] if before_the_choice else versions[-1]
    document = {"cniVersion": version, "cniVersions": list(versions), "name": PLUGIN, "plugins": plugins}
    return json.dumps(document, indent=2) + "\n"


def install(bin_dir: Path, conf_dir: Path, program: Path | None) -> Installed:
    """Install `program` (None: the Python twin, run by this interpreter) and the list.

    Raises OSError that names the file.
    """
    changed = install_plugin(bin_dir, program)
    chained = [name for name in CHAINED if os.access(bin_dir / name, os.X_OK)]
    versions = list(SUPPORTED_VERSIONS)
    for name in chained:
        spoken = supported_versions(bin_dir / name)
        versions = [version for version in versions if version in spoken] or versions
    changed |= _put(conf_dir / CONFLIST, conflist_text(chained, versions).encode(), 0o644)
    missing = tuple(name for name in CHAINED if name not in chained)
    return Installed(changed, missing, tuple(versions))


def install_plugin(bin_dir: Path, program: Path | None) -> bool:
    """Install the plugin alone, which no runtime calls without the list; whether it was written. Raises OSError."""
    return _put(bin_dir / PLUGIN, program.read_bytes() if program else twin_text().encode(), 0o755)


def uninstall(bin_dir: Path, conf_dir: Path) -> bool:
    """Remove the list, then the plugin; whether there was anything. Raises OSError that names the file."""
    found = [path for path in (conf_dir / CONFLIST, bin_dir / PLUGIN) if path.exists()]
    for path in found:
        path.unlink(missing_ok=True)
    return bool(found)


def twin_text() -> str:
    """The Python twin as a program: run by this interpreter, which has this package.

    Pure but for the interpreter's path.
    """
    return f"#!{sys.executable}\nimport sys\n\nfrom controller.cni.plugin import main\n\nsys.exit(main())\n"


def supported_versions(plugin: Path) -> tuple[str, ...]:
    """The specification versions that an installed plugin says it speaks; none if it does not say."""
    environment = {**os.environ, "CNI_COMMAND": "VERSION"}
    try:
        done = subprocess.run(
            [plugin],
            input=b'{"cniVersion":"1.0.0"}',
            capture_output=True,
            env=environment,
            timeout=_PLUGIN_SECONDS,
            check=False,
        )
        return tuple(json.loads(done.stdout)["supportedVersions"])
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError):
        return ()


def _put(path: Path, content: bytes, mode: int) -> bool:
    """Have a file with this content and mode; False if it is so already."""
    if path.is_file() and path.read_bytes() == content and path.stat().st_mode & 0o777 == mode:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, as a rename can't cross file systems; runtimes ignore names with other endings.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        temporary.write_bytes(content)
        temporary.chmod(mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return True
