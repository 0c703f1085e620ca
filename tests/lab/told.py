"""What podroute's own commands say about a lab, as objects."""

import json
import subprocess
import sys
from typing import Any

from controller.lab.cluster import Lab
from controller.lab.podroute import SOURCES, python


def told_on(lab: Lab, node: str, what: str) -> Any:
    """What `podroute node WHAT -o json` prints on a node."""
    argv = ["env", f"PYTHONPATH={SOURCES}", python(), "-m", "controller.cli.main", "node", what, "-o", "json"]
    return json.loads(lab.machine(node).run(argv))


def findings(lab: Lab) -> list[dict[str, str]]:
    """What `podroute check -o json` prints; its exit code says whether that is anything."""
    argv = [sys.executable, "-m", "controller.cli.main", "check", "--lab", lab.name, "-o", "json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, 1), done.stderr
    found: list[dict[str, str]] = json.loads(done.stdout)
    assert done.returncode == bool(found)
    return found
