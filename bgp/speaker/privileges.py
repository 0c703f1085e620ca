"""Turns a freshly forked child into ExaBGP's unprivileged process. Standard library only; used by `supervision`.

The order is the kernel's: credentials first, since changing them clears the parent-death signal (prctl(2),
capabilities(7)). The child keeps one capability, CAP_NET_BIND_SERVICE, as an ambient one, so that it survives exec.
"""

import ctypes
import os
import signal
import struct

PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAP_NET_BIND_SERVICE = 10
_CAPABILITY_VERSION_3 = 0x20080522


def become(uid: int, gid: int) -> None:
    """Changes to the user, keeping only the capability to bind low ports. Does nothing if not started as root.

    Raises OSError if the kernel refuses.
    """
    if os.geteuid() != 0 or uid == 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    _prctl(libc, PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    mask = 1 << CAP_NET_BIND_SERVICE
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    # Two 32-bit halves of effective, permitted, inheritable: linux/capability.h.
    if libc.capset(header, struct.pack("=6I", mask, mask, mask, 0, 0, 0)) != 0:
        raise OSError(ctypes.get_errno(), "capset: " + os.strerror(ctypes.get_errno()))
    _prctl(libc, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE)
    _prctl(libc, PR_SET_NO_NEW_PRIVS, 1)


def die_with_parent(parent: int) -> None:
    """Asks the kernel for SIGKILL when the parent thread ends. Exits at once if `parent` has ended already: whoever
    started this process must say who that was, since an orphan can't tell its first parent from the one it has."""
    _prctl(ctypes.CDLL(None, use_errno=True), PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _prctl(libc: ctypes.CDLL, option: int, *arguments: int) -> None:
    values = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]]
    if libc.prctl(option, *values) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}: {os.strerror(ctypes.get_errno())}")
