"""The Debian packages a lab needs: named here, installed when missing, none of their daemons started.

`ensure_packages` is called by `podroute lab up` before anything else. Where there is no apt, the programs themselves
must be there.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from controller.lab.errors import LabError, Refusal
from controller.lab.programs import Report

# Package, and a program or file of it that the lab needs: what is there already needs no package.
PACKAGES = {
    "bind9-dnsutils": "dig",
    "bird2": "bird",
    "busybox-static": "busybox",
    "conntrack": "conntrack",
    "containerd": "containerd",
    "curl": "curl",
    "debootstrap": "debootstrap",
    "frr": "/usr/lib/frr/bgpd",
    "gcc": "gcc",
    "iperf3": "iperf3",
    "iproute2": "ip",
    "iputils-ping": "ping",
    "libc6-dev": "/usr/include/stdio.h",
    "mount": "mount",
    "netcat-openbsd": "nc",
    "nftables": "nft",
    "openssl": "openssl",
    "procps": "sysctl",
    "runc": "runc",
    "tcpdump": "tcpdump",
    "util-linux": "unshare",
}
POLICY = Path("/usr/sbin/policy-rc.d")
INSTALL_LIMIT_S = 900.0


def missing_packages() -> list[str]:
    """The packages whose program or file is not there."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return [
        package
        for package, needed in PACKAGES.items()
        if not (Path(needed).is_file() or shutil.which(needed, path=path))
    ]


def ensure_packages(report: Report) -> None:
    """Install what is missing; does nothing on a second run. Raises LabError with apt's words."""
    missing = missing_packages()
    if not missing:
        return
    if not shutil.which("apt-get"):
        programs = ", ".join(PACKAGES[package] for package in missing)
        raise LabError(
            Refusal.NO_PACKAGE, f"these programs are missing and there is no apt-get to install them: {programs}"
        )
    report(f"installing {' '.join(missing)}")
    with _no_daemons():
        _apt(["update", "--quiet"])
        _apt(["install", "--yes", "--quiet", "--no-install-recommends", *missing])
    if still := missing_packages():
        raise LabError(Refusal.NO_PACKAGE, f"installed, but what they should bring is not there: {' '.join(still)}")


def _apt(arguments: list[str]) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        ["apt-get", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=INSTALL_LIMIT_S,
        check=False,
    )
    if done.returncode:
        raise LabError(Refusal.NO_PACKAGE, f"apt-get {arguments[0]}: {(done.stderr or done.stdout).strip()[-1500:]}")


@contextmanager
def _no_daemons() -> Iterator[None]:
    """While this lasts, Debian's package scripts start nothing (policy-rc.d, exit 101: the action is forbidden)."""
    before = POLICY.read_text() if POLICY.exists() else None
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        if before is None:
            POLICY.unlink(missing_ok=True)
        else:
            POLICY.write_text(before)
