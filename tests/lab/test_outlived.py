"""A Node is deleted and its machine lives on: it stops using its blocks before anybody else gets them, and then others do."""

import ipaddress
from collections.abc import Iterator

import msgspec
import pytest
from cni_calls import POOLS_ANNOTATION, Container
from faults import start_again
from oracle import block_routes, wrong
from refused_inputs import body
from router_tables import node_blocks
from test_node_changes import new_agent, node_uid, nodenetwork_uid
from test_power import held, is_ready
from workloads import apply, eventually

from controller.lab.cluster import Lab
from controller.lab.node import node_object
from controller.lab.podroute import ensure_plugin, processes_on

pytestmark = [pytest.mark.lab, pytest.mark.root]

LABEL = "podroute.test/only"
# A single block of each family: who has it not waits for it.
ONLY = {"only-v4": ("10.245.70.0/28", 28), "only-v6": ("fd00:10:245:70::/124", 124)}
GRACE_S, MARGIN_S = 5, 10


@pytest.fixture
def hasty_operator(lab: Lab) -> Iterator[None]:
    """One that trusts agents to hear sooner than a half-open watch may take; another one as before follows."""
    plane = lab.machine("cp")
    (spec,) = (each for each in processes_on("cp", plane.folder, str(ensure_plugin())) if each.name == "operator")
    plane.stop("operator")
    lab.start("cp", msgspec.structs.replace(spec, argv=(*spec.argv, f"--reclaim-margin-seconds={MARGIN_S}")))
    try:
        yield
    finally:
        plane.stop("operator")
        start_again(lab, "cp", "operator")


@pytest.fixture
def only_block(lab: Lab, hasty_operator: None) -> Iterator[None]:
    """The pools and a short grace; afterwards both are gone, and the node that was deleted is there again."""
    select = {"matchLabels": {LABEL: "yes"}}
    apply(
        lab,
        body("BGPConfiguration", "default", gracePeriods={"deletedNode": GRACE_S}),
        *(
            body("IPPool", name, cidr=cidr, blockSize=size, headroom=1, nodeSelector=select)
            for name, (cidr, size) in ONLY.items()
        ),
    )
    yield
    lab.kubectl("label", "nodes", "--all", f"{LABEL}-")
    lab.kubectl("delete", "ippool", *ONLY, "--wait=true", "--timeout=100s", seconds=120)
    lab.kubectl("delete", "bgpconfiguration", "default")


def owners(lab: Lab) -> dict[str, str]:
    """Who has the only blocks, by pool."""
    return {
        b["spec"]["pool"]: b["spec"]["node"]["name"] for b in lab.get("ipblocks")["items"] if b["spec"]["pool"] in ONLY
    }


def graces(lab: Lab, node: str) -> set[int]:
    """What the node's blocks remember."""
    return {b["spec"]["deletedNodeGrace"] for b in lab.get("ipblocks")["items"] if b["spec"]["node"]["name"] == node}


def test_a_machine_that_outlives_its_node_lets_go_first_and_then_another_node_gets_its_blocks(
    lab: Lab, only_block: None
) -> None:
    *_, other, victim = lab.topology.node_names
    lab.kubectl("label", "node", victim, f"{LABEL}=yes")
    eventually(lambda: owners(lab) == dict.fromkeys(ONLY, victim), 20, lambda: f"{owners(lab)}")
    lab.kubectl("label", "node", other, f"{LABEL}=yes")
    own = {cidr for cidr, owner in node_blocks(lab).items() if owner == victim}
    eventually(
        lambda: graces(lab, victim) == {GRACE_S}, 20, lambda: f"its agent has heard of the grace: {graces(lab, victim)}"
    )
    announced = own - {cidr for cidr, _ in ONLY.values()}
    assert announced
    assert announced <= held(lab)
    with Container(lab, victim, "outlives", {POOLS_ANNOTATION: ",".join(ONLY)}) as container:
        answer = container.call("ADD")
        assert answer.exit_code == 0, answer.said
        uid = node_uid(lab, victim)
        lab.kubectl("delete", "node", victim)
        eventually(lambda: nodenetwork_uid(lab, victim) == "", 30, "the NodeNetwork goes with its Node")
        # It hears of that itself, counts for itself, and nobody has its blocks meanwhile.
        eventually(lambda: not announced & held(lab), GRACE_S + 15, lambda: f"announced: {announced & held(lab)}")
        eventually(lambda: not own & block_routes(lab, victim), 10, lambda: f"{block_routes(lab, victim)}")
        assert own <= set(node_blocks(lab)), "withdrawn before any lock goes"
        assert owners(lab) == dict.fromkeys(ONLY, victim)
        eventually(lambda: owners(lab) == dict.fromkeys(ONLY, other), MARGIN_S + 60, lambda: f"{owners(lab)}")
        assert not own & block_routes(lab, victim)
        with Container(lab, other, "inherits", {POOLS_ANNOTATION: ",".join(ONLY)}) as heir:
            inherited = heir.call("ADD")
            assert inherited.exit_code == 0, inherited.said
            assert len(inherited.addresses) == 2
            assert all(any(in_pool(address, name) for name in ONLY) for address in inherited.addresses)
    apply(lab, node_object(victim, lab.topology, "podroute"))
    eventually(lambda: node_uid(lab, victim) not in ("", uid), 10, "another Node of the name is there")
    new_agent(lab, victim)
    eventually(lambda: is_ready(lab, victim), 60, f"{victim} is ready again")
    eventually(
        lambda: {c for c, n in node_blocks(lab).items() if n == victim} <= held(lab), 40, "its blocks are announced"
    )
    eventually(lambda: unexpected(lab) == set(), 30, lambda: f"{wrong(lab)}")


def in_pool(address: str, pool: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(ONLY[pool][0])


def unexpected(lab: Lab) -> set[tuple[str, str]]:
    """What the oracle finds; the lab's routers take prefixes of its own pools alone."""
    return {(kind, what) for kind, what in wrong(lab) if what not in {cidr for cidr, _ in ONLY.values()}}
