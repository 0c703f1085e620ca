"""`podroute install-plugin`: puts the CNI plugin where the runtime looks, before the agent runs. Called by the command line.

In a cluster the agent's init container calls it. The configuration list, by which the runtime begins to use the plugin, is the
agent's to install once it can serve pods.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from controller.cni.install import PLUGIN, install_plugin


def main(arguments: Sequence[str]) -> int:
    """Exit code 0 if the plugin is there, 1 with the file's name and the problem if it can't be written."""
    parser = argparse.ArgumentParser(
        prog="podroute install-plugin",
        description="Puts the CNI plugin where the container runtime looks. It does nothing until the agent installs the network's "
        "configuration; a second run changes nothing.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--bin-dir", type=Path, default=Path("/opt/cni/bin"), help="the runtime's folder for plugins")
    parser.add_argument("--shim", type=Path, default=None, help="the static program; absent: its Python twin")
    given = parser.parse_args(list(arguments))
    try:
        changed = install_plugin(given.bin_dir, given.shim)
    except OSError as error:
        print(f"podroute install-plugin: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    print(f"{given.bin_dir / PLUGIN} {'installed' if changed else 'is as it should be'}")
    return 0
