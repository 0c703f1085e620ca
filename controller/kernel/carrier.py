"""A link's new carrier, dealt with at once. `pods` asks for it before an addition is answered.

The end of a veth that is raised first gets its carrier when the other one is raised. Until a work queue of the kernel (linkwatch)
has dealt with that, the link's queues have the discipline `noop` and drop what is sent over them: the pod's first packets. Asking
for the link's state by ethtool does that work first (net/ethtool/ioctl.c: ethtool_op_get_link calls linkwatch_sync_dev).
"""

import ctypes
import fcntl
import socket
import struct

from controller.kernel.netlink import KernelError

_SIOCETHTOOL = 0x8946  # linux/sockios.h
_ETHTOOL_GLINK = 0x0000000A  # linux/ethtool.h
_VALUE = struct.Struct("=II")
_IFREQ = struct.Struct("=16sQ16x")  # linux/if.h: name, pointer


def has_carrier(name: str) -> bool:
    """Whether the link of the thread's network namespace has a carrier; if so, it carries packets from now on.

    Raises KernelError if there is no such link.
    """
    value = ctypes.create_string_buffer(_VALUE.pack(_ETHTOOL_GLINK, 0), _VALUE.size)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            fcntl.ioctl(sock, _SIOCETHTOOL, _IFREQ.pack(name.encode(), ctypes.addressof(value)))
        except OSError as error:
            raise KernelError(f"link {name}", error.errno or 0, "ethtool does not tell its state") from error
    return bool(_VALUE.unpack(value.raw)[1])
