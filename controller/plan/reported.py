"""What nodes report, as far as it can be worked with. Pure; called by `controller.plan.operator` before anything is decided.

A NodeNetwork's status is an agent's word: one of another version, or a hand, may have written anything that the CRD lets pass.
Only the entry that is wrong is passed over, and an Event on the Node says so: nothing else waits for it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import msgspec

from controller.api.fields import MOST_ADDRESSES
from controller.api.ippool import SHORTEST_BLOCK
from controller.api.nodenetwork import NodeNetwork
from controller.api.objects import Network, family_of
from controller.plan.cidrs import REMEMBERED, valid_network


@dataclass(frozen=True, slots=True)
class Misreport:
    """What a node's NodeNetwork says that is passed over."""

    node: str
    field: str
    value: str


@lru_cache(maxsize=REMEMBERED)
def block_network(cidr: str) -> Network | None:
    """The network, if it may be a block of some pool; None if the text is none, or it is larger than any block."""
    network = valid_network(cidr)
    return network if network is not None and network.prefixlen >= SHORTEST_BLOCK[family_of(cidr)] else None


def heard(networks: Iterable[NodeNetwork]) -> tuple[tuple[NodeNetwork, ...], tuple[Misreport, ...]]:
    """The NodeNetworks without what is wrong in their statuses, and what that was.

    Their specs are left as they are, to be compared with what they should be; who reads a grant there asks `block_network`.
    """
    kept: list[NodeNetwork] = []
    wrong: list[Misreport] = []
    for network in networks:
        found = _wrong_in(network)
        wrong += found
        kept.append(_without_wrong(network) if found else network)
    return tuple(kept), tuple(wrong)


def _wrong_in(network: NodeNetwork) -> list[Misreport]:
    status, name = network.status, network.metadata.name
    fields = (
        ("spec.blocks", (grant.cidr for grant in network.spec.blocks)),
        ("status.claims", (claim.cidr for claim in status.claims)),
        ("status.usage", (usage.cidr for usage in status.usage)),
    )
    found = [Misreport(name, field, cidr) for field, cidrs in fields for cidr in cidrs if block_network(cidr) is None]
    counts = [each.in_use for each in status.usage]
    counts += [count for each in status.demand for count in (each.in_use, each.waiting)]
    found += [Misreport(name, "status, a count", str(count)) for count in counts if count != _bounded(count)]
    return found


def _bounded(count: int) -> int:
    return min(max(count, 0), MOST_ADDRESSES)


def _without_wrong(network: NodeNetwork) -> NodeNetwork:
    status = network.status
    cleaned = msgspec.structs.replace(
        status,
        claims=tuple(each for each in status.claims if block_network(each.cidr) is not None),
        usage=tuple(
            msgspec.structs.replace(each, in_use=_bounded(each.in_use))
            for each in status.usage
            if block_network(each.cidr) is not None
        ),
        demand=tuple(
            msgspec.structs.replace(each, in_use=_bounded(each.in_use), waiting=_bounded(each.waiting))
            for each in status.demand
        ),
    )
    return msgspec.structs.replace(network, status=cleaned)
