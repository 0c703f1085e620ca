"""Bad pools, reservations and configurations: who refuses them, and that the nearest good one gives addresses to pods."""

import ipaddress
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from bad_input import Row, delete, found, hold, others_undisturbed, refused_by, removed_after
from bad_input_table import TABLE, held_against
from cni_calls import POOLS_ANNOTATION, Container, address_from
from refused_inputs import Body, body
from workloads import apply, await_no_other_pools, eventually

from controller.lab.cluster import Lab
from controller.lab.errors import LabError

pytestmark = [pytest.mark.lab, pytest.mark.root]

ON_N0 = {"matchLabels": {"kubernetes.io/hostname": "n0"}}
SIZE = {4: 26, 6: 122}


def pool(name: str, cidr: str, **spec: object) -> Body:
    """A pool for n0 with a few free addresses."""
    return body("IPPool", name, cidr=cidr, nodeSelector=ON_N0, headroom=8, **spec)


def cidr(family: int, number: int, length: int = 0) -> str:
    """A range that is no other row's."""
    return f"10.245.{number}.0/{length or 24}" if family == 4 else f"fd00:10:245:{number}::/{length or 64}"


def gives_addresses(name: str) -> Callable[[Lab], bool]:
    """Whether a pod that asks for the pool gets an address in it."""

    def served(lab: Lab) -> bool:
        there = found(lab, body("IPPool", name))
        blocks = [b for b in lab.get("ipblocks")["items"] if b["spec"]["pool"] == name]
        if not blocks:
            return False
        (address,) = address_from(lab, "n0", name, f"bad-{name}"[:40])
        return ipaddress.ip_address(address) in ipaddress.ip_network(there["spec"]["cidr"])

    return served


def rows(family: int) -> dict[str, Row]:
    """The rows about one pool and its nearest good one."""
    v4, size, other = family == 4, SIZE[family], SIZE[10 - family]
    f = f"v{family}"
    small, fits = ("10.245.3.0/27", 28) if v4 else ("fd00:10:245:3::/123", 124)
    nodes, free = ("10.10.0.0/24", "10.10.50.0/24") if v4 else ("fd00:10:10::/64", "fd00:10:10:50::/64")
    services, off = ("10.96.0.0/24", "10.97.0.0/24") if v4 else ("fd00:10:96::/112", "fd00:10:97::/112")
    inputs = {
        "CIDR with host bits": (
            pool(f"bits-{f}", "10.245.1.1/24" if v4 else "fd00:10:245:1::1/64"),
            pool(f"bits-{f}", cidr(family, 1)),
        ),
        "block size of the other family": (
            pool(f"size-{f}", cidr(family, 2), blockSize=other),
            pool(f"size-{f}", cidr(family, 2), blockSize=size),
        ),
        "block size outside the CIDR": (pool(f"small-{f}", small), pool(f"small-{f}", small, blockSize=fits)),
        "overlap with an older pool": (
            pool(f"over-{f}", "10.244.128.0/24" if v4 else "fd00:10:244:80::/64"),
            pool(f"beside-{f}", cidr(family, 4)),
        ),
        "overlap with a node's address": (pool(f"nodes-{f}", nodes), pool(f"free-{f}", free)),
        "overlap with the services": (pool(f"services-{f}", services), pool(f"off-{f}", off)),
    }
    return {
        f"{name}, {f}": Row(bad, TABLE[f"{name}, {f}"], good, gives_addresses(good["metadata"]["name"]))
        for name, (bad, good) in inputs.items()
    }


ROWS = {**rows(4), **rows(6)}


@pytest.fixture(scope="module", autouse=True)
def nothing_left(lab: Lab, afterwards: ExitStack) -> Iterator[None]:
    """When the addresses have rested, every pool of these tests is gone with its blocks."""
    yield
    afterwards.callback(await_no_other_pools, lab)


@pytest.mark.parametrize("name", ROWS)
def test_a_bad_pool_is_refused_and_the_nearest_good_one_gives_addresses(lab: Lab, name: str) -> None:
    hold(lab, ROWS[name])


@pytest.mark.parametrize("family", [4, 6])
def test_an_immutable_field_stays_and_so_does_what_the_pool_serves(lab: Lab, family: int) -> None:
    name = f"fixed-v{family}"
    there = pool(name, cidr(family, 5), blockSize=SIZE[family])
    served = gives_addresses(name)
    with others_undisturbed(lab), removed_after(lab, there):
        apply(lab, there)
        eventually(lambda: served(lab), 20, f"{name} is served")
        for row, field, value in (
            ("changed cidr", "cidr", cidr(family, 6)),
            ("changed blockSize", "blockSize", SIZE[family] + 1),
        ):
            with pytest.raises(LabError) as refusal:
                apply(lab, {**there, "spec": {**there["spec"], field: value}})
            held_against(str(refusal.value), f"{row}, v{family}")
            assert served(lab)
        # What may change does: the pool grows ahead of a larger headroom.
        apply(lab, {**there, "spec": {**there["spec"], "headroom": 100}})
        eventually(lambda: blocks_of(lab, name) == 2, 15, f"{name} has two blocks")


def blocks_of(lab: Lab, name: str) -> int:
    return sum(block["spec"]["pool"] == name for block in lab.get("ipblocks")["items"])


def test_an_exhausted_pool_names_the_node_that_waits_and_its_pod_is_told_to_try_again(lab: Lab) -> None:
    last = lab.topology.node_names[-1]
    # Room for one node of two, in either family; n0 has its block before the other node is selected.
    single = {4: "10.245.7.0/26", 6: "fd00:10:245:7::/122"}
    names = {family: f"scarce-v{family}" for family in single}
    both = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n0", last]}]}
    bodies = [pool(names[family], single[family]) for family in single]
    more = [body("IPPool", f"more-v{f}", cidr=cidr(f, 8), nodeSelector=both, headroom=8) for f in single]
    with others_undisturbed(lab), removed_after(lab, *bodies, *more):
        apply(lab, *bodies)
        eventually(lambda: all(blocks_of(lab, name) == 1 for name in names.values()), 15, "n0 has the only blocks")
        apply(lab, *({**each, "spec": {**each["spec"], "nodeSelector": both}} for each in bodies))
        for family, name in names.items():
            row = TABLE[f"pool exhausted, v{family}"]
            message = refused_by(lab, body("IPPool", name), row.by, row.words)
            assert f"{last} (1 blocks)" in message
            eventually(
                lambda name=name: events(lab, last, "PoolExhausted", name), 15, f"an Event on Node {last} for {name}"
            )
        with Container(lab, last, "bad-scarce", {POOLS_ANNOTATION: ",".join(names.values())}) as container:
            refused = container.call("ADD")
            assert refused.exit_code == 1
            held_against(f"code {refused.said['code']} {refused.words}", "ADD from an exhausted pool")
            assert f"NoBlock: node {last}, IPPool" in refused.words
        # Those who have a block are served, and so is the node that waits once there is another pool.
        for name in names.values():
            assert gives_addresses(name)(lab)
        apply(lab, *more)
        eventually(
            lambda: blocks_of(lab, "more-v4") >= 2 and blocks_of(lab, "more-v6") >= 2, 15, "both nodes have more"
        )
        with Container(lab, last, "bad-plenty", {POOLS_ANNOTATION: "more-v4,more-v6"}) as container:
            assert len(container.call("ADD").addresses) == 2


def events(lab: Lab, node: str, reason: str, word: str) -> bool:
    there = lab.get("events", "-A", "--field-selector", f"involvedObject.kind=Node,involvedObject.name={node}")["items"]
    return any(each["reason"] == reason and word in each["message"] for each in there)


@pytest.mark.parametrize("family", [4, 6])
def test_a_reservation_outside_all_pools_says_so_and_one_inside_is_never_given_out(lab: Lab, family: int) -> None:
    name = f"keep-v{family}"
    within = pool(f"kept-v{family}", cidr(family, 9))
    outside = "198.51.100.0/28" if family == 4 else "2001:db8::/124"
    with removed_after(lab, within):
        apply(lab, within)
        eventually(lambda: blocks_of(lab, within["metadata"]["name"]), 15, "the pool is granted from")
        blocks = [b["spec"] for b in lab.get("ipblocks")["items"]]
        (block,) = (each["cidr"] for each in blocks if each["pool"] == within["metadata"]["name"])
        # The lowest sixteen addresses of the node's block: the next pod would get one of them.
        reserved = next(ipaddress.ip_network(block).subnets(new_prefix=28 if family == 4 else 124))
        host_bits = f"{reserved[1]}/{reserved.prefixlen}"

        def served(lab: Lab) -> bool:
            grants = lab.get("nodenetwork", "n0")["spec"]["blocks"]
            if not any(str(reserved) in grant.get("reserved", []) for grant in grants):
                return False
            (address,) = address_from(lab, "n0", within["metadata"]["name"], "bad-kept")
            return ipaddress.ip_address(address) not in reserved

        good = body("IPReservation", name, cidrs=[str(reserved)])
        for bad, row in ((host_bits, "reservation with host bits"), (outside, "reservation outside all pools")):
            refusal = TABLE[f"{row}, v{family}"]
            assert refusal.value in bad
            hold(lab, Row(body("IPReservation", name, cidrs=[bad]), refusal, good, served))


def test_only_the_configuration_named_default_is_taken(lab: Lab) -> None:
    good = body("BGPConfiguration", "default", nodeMesh="Auto")

    def served(lab: Lab) -> bool:
        return found(lab, good).get("status", {}).get("conditions", [{}])[0].get("status") == "True"

    try:
        hold(lab, Row(body("BGPConfiguration", "others"), TABLE["configuration of another name"], good, served))
    finally:
        delete(lab, good)
