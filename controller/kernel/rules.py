"""The nft table `podroute`: refusing forged sources of pods, keeping pods from the node's own ports, and masquerading pods of pools
that ask for it.

The agent calls `RuleTable.apply` with what the plan wants, and again when `watch` tells of a change. The table is
rendered by a pure function, listed back and compared, and replaced in one transaction only if it differs; no other
table is ever named.
"""

import json
import subprocess
from collections.abc import Iterable
from errno import EIO, ENOENT
from ipaddress import IPv4Network, IPv6Network, collapse_addresses

from controller.kernel.netlink import KernelError
from controller.kernel.values import TABLE, VETH_PREFIX, Drift, DriftKind, Prefix, Rules

_TIMEOUT_SECONDS = 10.0
_MISSING = "No such file or directory"
_REFUSING_CHAIN = "anti-spoofing"
_FAMILIES: tuple[tuple[str, str, str, type[Prefix]], ...] = (
    ("ip", "v4", "ipv4_addr", IPv4Network),
    ("ip6", "v6", "ipv6_addr", IPv6Network),
)


def table_text(rules: Rules) -> str:
    """The table in the words of `nft`, ready for `nft -f`. Pure; prefixes that overlap or touch are merged."""
    # Sets before chains, as nft lists them.
    sets: list[str] = []
    masquerades: list[str] = []
    refusals: list[str] = []
    for word, suffix, elements, family in _FAMILIES:
        if outgoing := _merged(rules.nat_outgoing, family):
            routed = _merged(rules.routed, family)
            sets += [_set(f"nat-outgoing-{suffix}", elements, outgoing), _set(f"routed-{suffix}", elements, routed)]
            match = f"{word} saddr @nat-outgoing-{suffix} {word} daddr != @routed-{suffix}"
            masquerades.append(f"{match} counter masquerade fully-random")
        pods = _merged(rules.pods, family) if rules.guards else []
        if pods:
            sets.append(_set(f"pods-{suffix}", elements, pods))
        for guard in rules.guards:
            sets.append(_set(f"{guard.name}-{suffix}", elements, _merged(guard.allowed, family)))
            # An answer to a connection of the node's own may come to a port of any number.
            refused = (
                f"{word} saddr != @{guard.name}-{suffix} tcp dport {_ports(guard.ports)} ct state new counter drop"
            )
            # By interface, as a pod may ask from its link-local address, too; by source, pods of other nodes.
            refusals.append(f'iifname "{VETH_PREFIX}*" {refused}')
            if pods:
                refusals.append(f"{word} saddr @pods-{suffix} {refused}")
    # A packet from a pod needs a source whose route leads back to that pod. A link-local one has it, being on the link;
    # duplicate address detection, which asks from the unspecified address, is let through by the kernel
    # (nft_fib_ipv6.c).
    forged = f'iifname "{VETH_PREFIX}*" fib saddr . iif oif missing counter drop'
    chains = [_chain(_REFUSING_CHAIN, "filter hook prerouting priority raw", [forged])]
    if refusals:
        chains.append(_chain("guarded-ports", "filter hook input priority filter", refusals))
    if masquerades:
        chains.append(_chain("nat-outgoing", "nat hook postrouting priority srcnat", masquerades))
    return f"table inet {TABLE} {{\n" + "\n".join((*sets, *chains)) + "}\n"


def _ports(numbers: tuple[int, ...]) -> str:
    # In order, as nft lists them.
    return str(numbers[0]) if len(numbers) == 1 else f"{{ {', '.join(map(str, sorted(numbers)))} }}"


def _merged(prefixes: Iterable[Prefix], family: type[Prefix]) -> list[Prefix]:
    if family is IPv4Network:
        return list(collapse_addresses(prefix for prefix in prefixes if isinstance(prefix, IPv4Network)))
    return list(collapse_addresses(prefix for prefix in prefixes if isinstance(prefix, IPv6Network)))


def _set(name: str, elements: str, prefixes: list[Prefix]) -> str:
    lines = [f"type {elements}", "flags interval"]
    if prefixes:
        lines.append(f"elements = {{ {', '.join(map(_element, prefixes))} }}")
    return _block("set", name, lines)


def _element(prefix: Prefix) -> str:
    return str(prefix.network_address if prefix.prefixlen == prefix.max_prefixlen else prefix)


def _chain(name: str, place: str, rules: list[str]) -> str:
    return _block("chain", name, [f"type {place}; policy accept;", *rules])


def _block(kind: str, name: str, lines: list[str]) -> str:
    return f"\t{kind} {name} {{\n" + "".join(f"\t\t{line}\n" for line in lines) + "\t}\n"


class RuleTable:
    """Keeps the table as wanted. Not for several threads at once."""

    def __init__(self) -> None:
        self._applied: Rules | None = None
        # How this nft lists what was applied, should it use other words than ours: then the words are compared with
        # these.
        self._listing: list[str] = []

    def apply(self, rules: Rules | None) -> list[Drift]:
        """Replace the table if it differs; None: remove it. Returns the drift if these very rules had been applied before.

        Raises KernelError with nft's own words if nft is missing or refuses; then the table is what it was.
        """
        actual = read_table()
        if rules is None:
            self._applied = None
            if actual is not None:
                remove_table()
            return []
        expected = self._listing if rules == self._applied else _words(table_text(rules))
        if actual is not None and _words(actual) == expected:
            self._applied, self._listing = rules, expected
            return []
        drifted = rules == self._applied
        # To name the table first makes its removal right whether it was there or not.
        _nft(["-f", "-"], f"table inet {TABLE}\ndelete table inet {TABLE}\n" + table_text(rules))
        self._applied, self._listing = rules, _words(read_table() or "")
        if not drifted:
            return []
        what = "is missing" if actual is None else "was changed"
        return [Drift(DriftKind.RULE, f"table inet {TABLE} {what}")]


def rule_problems(rules: Rules | None) -> list[Drift]:
    """Whether the table is there and says what is wanted (None: there is to be none); changes nothing.

    For `podroute check`. Raises KernelError.
    """
    actual = read_table()
    if rules is None:
        return [] if actual is None else [Drift(DriftKind.RULE, f"table inet {TABLE} is there, and none is wanted")]
    if actual is None:
        return [Drift(DriftKind.RULE, f"table inet {TABLE} is missing")]
    if _words(actual) != _words(table_text(rules)):
        return [Drift(DriftKind.RULE, f"table inet {TABLE} differs from what is wanted")]
    return []


def read_table() -> str | None:
    """The table as nft lists it, without counts; None if there is none. Raises KernelError."""
    try:
        return _nft(["--stateless", "list", "table", "inet", TABLE])
    except KernelError as error:
        if _MISSING in error.detail:
            return None
        raise


def read_refused_packets() -> int:
    """How many packets of pods were dropped for a forged source since the table was last written; 0 without a table."""
    try:
        listing = json.loads(_nft(["--json", "list", "chain", "inet", TABLE, _REFUSING_CHAIN]))
    except KernelError as error:
        if _MISSING in error.detail:
            return 0
        raise
    rules = [entry["rule"] for entry in listing["nftables"] if "rule" in entry]
    counters = [step["counter"] for rule in rules for step in rule["expr"] if "counter" in step]
    return sum(int(counter["packets"]) for counter in counters)


def remove_table() -> None:
    """Remove the table, as an uninstall does; without a table nothing happens. Raises KernelError."""
    _nft(["-f", "-"], f"table inet {TABLE}\ndelete table inet {TABLE}\n")


def _words(text: str) -> list[str]:
    """nft breaks long lines at places of its own choice."""
    return text.split()


def _nft(arguments: list[str], text: str = "") -> str:
    try:
        done = subprocess.run(
            ["nft", *arguments], input=text, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except FileNotFoundError:
        raise KernelError("nft", ENOENT, "the program nft is missing: install nftables") from None
    except subprocess.TimeoutExpired:
        raise KernelError("nft", EIO, f"gave no answer within {_TIMEOUT_SECONDS:.0f} s") from None
    if done.returncode:
        raise KernelError(f"nft table {TABLE}", EIO, done.stderr.strip())
    return done.stdout
