"""Prefixes and addresses as numbers: quick enough for a hundred thousand received routes.

`ipaddress` costs several microseconds a prefix; the policy asks a handful of "is it inside" questions of each one.
Used by `bgp.checking` and `bgp.decision`.
"""

import socket
from collections.abc import Iterable
from typing import NamedTuple

from bgp.values import Family

_BITS = {Family.IPV4: 32, Family.IPV6: 128}
_SOCKET_FAMILY = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}


class Prefix(NamedTuple):
    """A prefix: its family, its network part as an integer (host bits shifted out), its length."""

    family: Family
    network: int
    length: int

    def covers(self, other: "Prefix") -> bool:
        """Whether `other` is this prefix or lies inside it."""
        longer = other.length - self.length
        return self.family is other.family and longer >= 0 and other.network >> longer == self.network


def family_of(text: str) -> Family:
    """The family of an address or prefix, told by its colon."""
    return Family.IPV6 if ":" in text else Family.IPV4


def parsed_prefix(text: str) -> Prefix:
    """The prefix written as address/length. Raises ValueError if it is malformed or has host bits set."""
    address, slash, length_text = text.partition("/")
    family = family_of(address)
    bits = _BITS[family]
    length = int(length_text) if slash and length_text.isascii() and length_text.isdigit() else -1
    if not 0 <= length <= bits:
        raise ValueError(f"{text!r} is not a prefix: write address/length, e.g. 10.0.0.0/16")
    value = parsed_address(address)
    network = value >> (bits - length)
    if network << (bits - length) != value:
        raise ValueError(f"{text!r} has host bits set: write the network address")
    return Prefix(family, network, length)


def parsed_address(text: str) -> int:
    """The address as an integer. Raises ValueError if it is malformed."""
    try:
        return int.from_bytes(socket.inet_pton(_SOCKET_FAMILY[family_of(text)], text))
    except OSError:
        raise ValueError(f"{text!r} is not an IPv4 or IPv6 address") from None


def host_prefix(text: str) -> Prefix:
    """An address as the prefix that holds it alone. Raises ValueError if it is malformed."""
    family = family_of(text)
    return Prefix(family, parsed_address(text), _BITS[family])


def canonical(text: str) -> str:
    """An address or prefix in the text form of RFC 5952 and dotted quads. Raises ValueError if it is malformed."""
    address, slash, length = text.partition("/")
    family = _SOCKET_FAMILY[family_of(address)]
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, address)) + slash + length
    except OSError:
        raise ValueError(f"{text!r} is not an IPv4 or IPv6 address") from None


class PrefixSet:
    """Prefixes to ask `covers` of: one dictionary probe for each distinct length of the family."""

    def __init__(self, prefixes: Iterable[str]) -> None:
        """Raises ValueError for a malformed prefix."""
        self._networks: dict[Family, dict[int, set[int]]] = {Family.IPV4: {}, Family.IPV6: {}}
        for text in prefixes:
            prefix = parsed_prefix(text)
            self._networks[prefix.family].setdefault(prefix.length, set()).add(prefix.network)

    def covers(self, prefix: Prefix) -> bool:
        """Whether some prefix of the set is `prefix` or contains it."""
        for length, networks in self._networks[prefix.family].items():
            longer = prefix.length - length
            if longer >= 0 and prefix.network >> longer in networks:
                return True
        return False
