"""What the node is set to: its uplinks, and settings that work against pod traffic.

The plan needs the uplinks (addresses, networks on the link, MTU). `podroute check` shows hostile settings; nothing here changes
any.
"""

import json
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from errno import EIO
from ipaddress import ip_address, ip_interface
from pathlib import Path

from controller.kernel import pod_messages as messages
from controller.kernel.netlink import KernelError, Netlink, attribute, attributes
from controller.kernel.values import VETH_PREFIX, Address, Prefix, is_our_name

_WORD = struct.Struct("=I")
_IFA_LOCAL = 2
_IFA_FLAGS = 8
_SCOPE_UNIVERSE = 0
# linux/if_addr.h: IFA_F_TEMPORARY (privacy addresses, which go after a day), IFA_F_DADFAILED, IFA_F_TENTATIVE.
_UNSTEADY = {socket.AF_INET: 0, socket.AF_INET6: 0x01 | 0x08 | 0x40}
_LOOPBACK = 0x8
_STRICT = 1
_PROGRAM_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Uplink:
    """An interface of the node with addresses of global scope; `networks` are on the link, `mtu` counts bytes.

    The loopback interface is one if it has such an address; it has no networks.
    """

    name: str
    mtu: int
    addresses: tuple[Address, ...]
    networks: tuple[Prefix, ...]


class HostileReason(StrEnum):
    """Settings of a node that work against pod traffic."""

    FORWARDING_OFF = "ForwardingOff"
    STRICT_REVERSE_PATH = "StrictReversePath"
    FORWARD_POLICY_DROP = "ForwardPolicyDrop"
    NETWORK_MANAGER = "NetworkManagerRemovesRoutes"
    DEAD_LINKS_USED = "DeadLinksUsed"
    FLOWS_NOT_SPREAD = "FlowsNotSpread"


@dataclass(frozen=True, slots=True)
class HostileSetting:
    """One such setting: what it is, what follows from it, and what to do."""

    reason: HostileReason
    message: str
    remedy: str


def uplinks() -> tuple[Uplink, ...]:
    """The node's interfaces that are up and have addresses of global scope; never a pod's veth. Raises KernelError."""
    with Netlink() as netlink:
        mask = attribute(messages.IFLA_EXT_MASK, _WORD.pack(messages.RTEXT_FILTER_SKIP_STATS))
        links = netlink.dump(messages.RTM_GETLINK, messages.IFINFOMSG.pack(0, 0, 0, 0, 0) + mask, "links")
        listed = netlink.dump(messages.RTM_GETADDR, messages.IFADDRMSG.pack(0, 0, 0, 0, 0), "addresses")
    assigned: dict[int, list[tuple[Address, Prefix]]] = {}
    for body in listed:
        index, address, network = _assigned(body)
        if address is not None and network is not None:
            assigned.setdefault(index, []).append((address, network))
    found = []
    for body in links:
        _, _, index, flags, _ = messages.IFINFOMSG.unpack_from(body)
        parts = attributes(body, messages.IFINFOMSG.size)
        name = parts[messages.IFLA_IFNAME].rstrip(b"\0").decode(errors="replace")
        if not flags & messages.IFF_UP or is_our_name(name) or index not in assigned:
            continue
        pairs = assigned[index]
        networks = [] if flags & _LOOPBACK else [net for _, net in pairs if net.prefixlen < net.max_prefixlen]
        mtu = _WORD.unpack(parts[messages.IFLA_MTU])[0]
        found.append(Uplink(name, mtu, tuple(address for address, _ in pairs), tuple(dict.fromkeys(networks))))
    return tuple(found)


def _assigned(body: bytes) -> tuple[int, Address | None, Prefix | None]:
    family, length, short_flags, scope, index = messages.IFADDRMSG.unpack_from(body)
    parts = attributes(body, messages.IFADDRMSG.size)
    flags = _WORD.unpack(parts[_IFA_FLAGS])[0] if _IFA_FLAGS in parts else short_flags
    far = parts.get(messages.IFA_ADDRESS)
    if scope != _SCOPE_UNIVERSE or far is None or flags & _UNSTEADY.get(family, 0):
        return index, None, None
    # On a point-to-point link IFA_ADDRESS is the other end, elsewhere the same as IFA_LOCAL.
    own = ip_address(parts.get(_IFA_LOCAL, far))
    return index, own, ip_interface((far, length)).network


def hostile_settings(root: Path = Path("/")) -> tuple[HostileSetting, ...]:
    """What works against pod traffic on this node. `root` is where the node's file system is seen.

    Raises KernelError.
    """
    # With one uplink there is nothing to choose between, and nothing that could come in by the other.
    several = [uplink for uplink in uplinks() if uplink.networks]
    found = _forwarding_off()
    if len(several) > 1:
        found += _multipath(several)
    return (*found, *_forward_policy(), *_network_managers(root))


def _forwarding_settings() -> list[str]:
    return ["net.ipv4.conf.all.forwarding", "net.ipv6.conf.all.forwarding"]


def _forwarding_off() -> list[HostileSetting]:
    return [
        HostileSetting(
            HostileReason.FORWARDING_OFF,
            f"{setting} is 0: the node drops packets to and from pods",
            f"sysctl -w {setting}=1, and in /etc/sysctl.d to keep it",
        )
        for setting in _forwarding_settings()
        if _sysctl(setting) == "0"
    ]


def _multipath(several: Iterable[Uplink]) -> list[HostileSetting]:
    found = []
    everywhere = int(_sysctl("net.ipv4.conf.all.rp_filter") or 0)
    strict = [
        uplink.name
        for uplink in several
        if max(everywhere, int(_sysctl(f"net.ipv4.conf.{uplink.name}.rp_filter") or 0)) == _STRICT
    ]
    if strict:
        found.append(
            HostileSetting(
                HostileReason.STRICT_REVERSE_PATH,
                f"rp_filter is strict on {', '.join(strict)}: what comes in by another uplink than the way back is dropped",
                'sysctl -w net.ipv4.conf.INTERFACE.rp_filter=2 (loose) for each, or 0; the one of "all" no stricter',
            )
        )
    for family in ("ipv4", "ipv6"):
        setting = f"net.{family}.conf.all.ignore_routes_with_linkdown"
        if _sysctl(setting) == "0":
            found.append(
                HostileSetting(
                    HostileReason.DEAD_LINKS_USED,
                    f"{setting} is 0: flows go on into an uplink without carrier until its session times out",
                    f"sysctl -w {setting}=1",
                )
            )
        setting = f"net.{family}.fib_multipath_hash_policy"
        if _sysctl(setting) == "0":
            found.append(
                HostileSetting(
                    HostileReason.FLOWS_NOT_SPREAD,
                    f"{setting} is 0: all flows between two addresses take one uplink",
                    f"sysctl -w {setting}=1 (addresses and ports)",
                )
            )
    return found


def _forward_policy() -> list[HostileSetting]:
    tables = [f"{chain['family']} {chain['table']} {chain['name']}" for chain in _dropping_chains()]
    legacy = [
        program for program in ("iptables-legacy", "ip6tables-legacy") if "-P FORWARD DROP" in _output(program, "-S")
    ]
    return [
        HostileSetting(
            HostileReason.FORWARD_POLICY_DROP,
            f"the policy of {place} is drop: packets to and from pods pass only where a rule accepts them",
            "set the policy to accept, or accept the pools' prefixes there",
        )
        for place in (
            *(f"the nft chain {table}" for table in tables),
            *(f"the chain FORWARD of {name}" for name in legacy),
        )
    ]


def _dropping_chains() -> list[dict[str, str]]:
    listing = _output("nft", "--json", "list", "chains")
    entries = json.loads(listing)["nftables"] if listing else []
    chains = [entry["chain"] for entry in entries if "chain" in entry]
    return [chain for chain in chains if chain.get("hook") == "forward" and chain.get("policy") == "drop"]


def _network_managers(root: Path) -> list[HostileSetting]:
    found = []
    if any(_entries(root / "run/systemd/netif/links")) and not _says(
        root, "systemd/networkd.conf", r"^\s*ManageForeignRoutes\s*=\s*(no|false|off|0)\s*$"
    ):
        found.append(
            HostileSetting(
                HostileReason.NETWORK_MANAGER,
                "systemd-networkd runs and manages foreign routes: it removes ours when it reconfigures an interface",
                "put ManageForeignRoutes=no under [Network] into /etc/systemd/networkd.conf.d/podroute.conf and restart it",
            )
        )
    if any(_entries(root / "run/NetworkManager/devices")) and not _says(
        root, "NetworkManager/NetworkManager.conf", rf"^\s*unmanaged-devices\s*=.*interface-name:{VETH_PREFIX}\*"
    ):
        found.append(
            HostileSetting(
                HostileReason.NETWORK_MANAGER,
                "NetworkManager runs and manages the pods' interfaces",
                f"put unmanaged-devices=interface-name:{VETH_PREFIX}* under [keyfile] into "
                "/etc/NetworkManager/conf.d/podroute.conf and reload it",
            )
        )
    return found


def _says(root: Path, configuration: str, pattern: str) -> bool:
    """Whether a configuration file, or one beside it in its drop-in folder, has a line of this pattern."""
    texts = []
    for place in ("usr/lib", "etc", "run"):
        file = root / place / configuration
        folders = (Path(f"{file}.d"), file.parent / "conf.d")
        candidates = [file, *(entry for folder in folders for entry in _entries(folder) if entry.suffix == ".conf")]
        texts += [path.read_text(errors="replace") for path in candidates if path.is_file()]
    return any(re.search(pattern, text, re.MULTILINE | re.IGNORECASE) for text in texts)


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _path(setting: str) -> Path:
    # Only the interface's part of a name may have dots of its own, and then they stay.
    head, *rest = re.split(r"\.(?=conf\.)|(?<=conf)\.", setting, maxsplit=2)
    if not rest:
        return Path("/proc/sys", *setting.split("."))
    interface, _, name = rest[1].rpartition(".")
    return Path("/proc/sys", *head.split("."), "conf", interface, name)


def _sysctl(setting: str) -> str:
    """The setting in the thread's network namespace; empty if this kernel has none."""
    path = _path(setting)
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise KernelError(setting, error.errno or EIO) from error


def _output(*command: str) -> str:
    """What a program prints; empty if it is not installed or fails, as it does where its kernel part is missing."""
    if not shutil.which(command[0]):
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROGRAM_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout if done.returncode == 0 else ""
