"""`podroute check` as a pure function: each disagreement is found under its own name, and nothing else is."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from bgp.values import Detail, Observed, Sent, Session, SessionState
from controller.api import IPBlock, IPPool, Metadata, NodeNetwork
from controller.api.ipblock import IPBlockSpec, NodeReference, block_name
from controller.api.ippool import IPPoolSpec
from controller.api.nodenetwork import BlockGrant, NodeNetworkSpec
from controller.inspect.check import Finding, findings
from controller.inspect.gather import standing_findings
from controller.inspect.world import NodeFacts, PodOnNode, World
from controller.plan.node_report import NodeReport, Nuisance, PodProblem, ReportedPod, ReportedRoute

CIDRS = {"n0": "10.244.0.0/26", "n1": "fd00:10:244::/122"}
ADDRESSES = {"n0": "10.244.0.5", "n1": "fd00:10:244::5"}


def block(cidr: str, node: str) -> IPBlock:
    return IPBlock(
        metadata=Metadata(name=block_name(cidr)),
        spec=IPBlockSpec(cidr=cidr, pool="pods", node=NodeReference(name=node, uid=f"uid-{node}")),
    )


def network(node: str) -> NodeNetwork:
    grants = (BlockGrant(cidr=CIDRS[node], uid="b", pool="pods"),)
    return NodeNetwork(metadata=Metadata(name=node), spec=NodeNetworkSpec(node=NodeReference(name=node), blocks=grants))


def report(node: str) -> NodeReport:
    address, cidr = ADDRESSES[node], CIDRS[node]
    routes = (
        ReportedRoute(cidr, "unreachable"),
        ReportedRoute(f"{address}/{128 if ':' in address else 32}", "unicast", (("", "podr00000000001"),)),
    )
    session = Session(name="tor/10.0.0.1", address="10.0.0.1", state=SessionState.ESTABLISHED, since=1.0)
    return NodeReport(
        node=node,
        agent_answers=True,
        is_ready=True,
        wanted=routes,
        actual=routes,
        pods=(
            ReportedPod(
                link="podr00000000001",
                is_up=True,
                container_id="c",
                interface="eth0",
                pod_uid=f"pod-{node}",
                addresses=(address,),
            ),
        ),
        announcements={"tor/10.0.0.1": (cidr,)},
        speaker=Detail(
            observed=Observed(sessions=(session,)),
            sent=(Sent(session="tor/10.0.0.1", prefix=cidr, next_hop="10.0.0.2"),),
        ),
    )


def pod(node: str) -> PodOnNode:
    return PodOnNode("default", f"web-{node}", f"pod-{node}", node, (ADDRESSES[node],), "Running")


def good() -> World:
    return World(
        pools=(
            IPPool(metadata=Metadata(name="pods"), spec=IPPoolSpec(cidr="10.244.0.0/16")),
            IPPool(metadata=Metadata(name="pods6"), spec=IPPoolSpec(cidr="fd00:10:244::/56")),
        ),
        blocks=tuple(block(cidr, node) for node, cidr in CIDRS.items()),
        networks=tuple(network(node) for node in CIDRS),
        nodes=tuple(NodeFacts(node, f"uid-{node}", is_ready=True) for node in CIDRS),
        pods=tuple(pod(node) for node in CIDRS),
        reports={node: report(node) for node in CIDRS},
    )


def changed(world: World, node: str, **changes: object) -> World:
    """The world with a node's report changed."""
    return replace(world, reports={**world.reports, node: msgspec.structs.replace(world.reports[node], **changes)})


def veth(**changes: object) -> ReportedPod:
    return msgspec.structs.replace(report("n0").pods[0], **{"link": "podr00000000009", **changes})


def test_a_world_in_which_all_agrees_has_no_finding() -> None:
    assert findings(good()) == ()


def test_only_what_stands_in_a_second_look_is_a_finding_with_its_latest_values() -> None:
    routes = report("n0").actual
    worse = (ReportedRoute("10.244.0.5/32", "unicast", (("10.0.0.9", "eth0"),)),)
    looks = [
        # Of two things that disagree in the first look, one is right in the second, and another comes up.
        changed(changed(good(), "n0", actual=routes[:1]), "n1", agent_answers=False),
        changed(replace(good(), silent={"n2": "no answer"}), "n0", actual=(routes[0], *worse)),
    ]

    async def look() -> World:
        return looks.pop(0)

    (found,) = asyncio.run(standing_findings(look, seconds=0.0))
    assert (found.kind, found.object) == (Finding.ROUTE_MISSING, "node n0, route 10.244.0.5/32")
    assert "via 10.0.0.9" in found.message
    assert not looks


def test_where_nothing_disagrees_one_look_is_enough() -> None:
    looks = [good()]

    async def look() -> World:
        return looks.pop(0)

    assert asyncio.run(standing_findings(look, seconds=1000.0)) == ()


CASES: dict[str, tuple[Finding, Callable[[World], World], tuple[str, ...]]] = {
    "a pod whose wiring was changed": (
        Finding.POD_LINK_WRONG,
        lambda w: changed(w, "n0", pod_problems=(PodProblem(link="podr00000000001", what="eth0 is down"),)),
        ("node n0, interface podr00000000001", "eth0 is down"),
    ),
    "a block of no node": (
        Finding.BLOCK_WITHOUT_NODE,
        lambda w: replace(w, blocks=(*w.blocks, block("10.244.9.0/26", "ghost"))),
        ("10-244-9-0-26", "ghost"),
    ),
    "a block inside another": (
        Finding.BLOCKS_OVERLAP,
        lambda w: replace(
            w,
            blocks=(*w.blocks, block("10.244.0.0/28", "n1")),
            networks=(
                w.networks[0],
                msgspec.structs.replace(
                    w.networks[1],
                    spec=msgspec.structs.replace(
                        w.networks[1].spec,
                        blocks=(*w.networks[1].spec.blocks, BlockGrant(cidr="10.244.0.0/28", uid="x", pool="pods")),
                    ),
                ),
            ),
        ),
        ("10.244.0.0/28", "10.244.0.0/26"),
    ),
    "a block that its node was not told of": (
        Finding.BLOCK_NOT_GRANTED,
        lambda w: replace(w, blocks=(*w.blocks, block("10.244.9.0/26", "n0"))),
        ("10.244.9.0/26", "n0"),
    ),
    "a veth of no pod": (
        Finding.VETH_WITHOUT_POD,
        lambda w: changed(w, "n0", pods=(*w.reports["n0"].pods, veth(pod_uid="dead", addresses=("10.244.0.9",)))),
        ("podr00000000009", "10.244.0.9"),
    ),
    "a veth without alias": (
        Finding.VETH_WITHOUT_ALIAS,
        lambda w: changed(w, "n0", pods=(*w.reports["n0"].pods, ReportedPod(link="podr00000000009", is_up=True))),
        ("podr00000000009",),
    ),
    "a pod without veth": (
        Finding.POD_WITHOUT_VETH,
        lambda w: replace(w, pods=(*w.pods, PodOnNode("a", "b", "new", "n0", ("10.244.0.7",), "Running"))),
        ("a/b", "10.244.0.7", "n0"),
    ),
    "a pod with another address than its veth": (
        Finding.ADDRESS_MISMATCH,
        lambda w: replace(w, pods=(replace(w.pods[0], addresses=("10.244.0.6",)), w.pods[1])),
        ("10.244.0.6", "10.244.0.5"),
    ),
    "one address on two veths": (
        Finding.ADDRESS_TWICE,
        lambda w: changed(w, "n0", pods=(*w.reports["n0"].pods, veth())),
        ("10.244.0.5", "n0/podr00000000001", "n0/podr00000000009"),
    ),
    "a route that is missing": (
        Finding.ROUTE_MISSING,
        lambda w: changed(w, "n1", actual=w.reports["n1"].actual[:1]),
        ("fd00:10:244::5/128", "none"),
    ),
    "a route of no veth": (
        Finding.ROUTE_SURPLUS,
        lambda w: changed(
            w, "n0", actual=(*w.reports["n0"].actual, ReportedRoute("10.244.0.9/32", "unicast", (("", "lo"),)))
        ),
        ("10.244.0.9/32", "dev lo"),
    ),
    "somebody else's route": (
        Finding.ROUTE_FOREIGN,
        lambda w: changed(w, "n0", foreign=("10.244.0.0/26 protocol 4 metric 0",)),
        ("10.244.0.0/26", "protocol 4"),
    ),
    "an announcement of no block": (
        Finding.ANNOUNCEMENT_WITHOUT_BLOCK,
        lambda w: changed(
            w,
            "n0",
            speaker=msgspec.structs.replace(
                w.reports["n0"].speaker,
                sent=(*w.reports["n0"].speaker.sent, Sent(session="tor/10.0.0.1", prefix="10.1.0.0/26", next_hop="x")),
            ),
        ),
        ("10.1.0.0/26", "tor/10.0.0.1"),
    ),
    "a block that was not announced": (
        Finding.ANNOUNCEMENT_MISSING,
        lambda w: changed(w, "n0", speaker=msgspec.structs.replace(w.reports["n0"].speaker, sent=())),
        ("10.244.0.0/26", "tor/10.0.0.1"),
    ),
    "a session that the speaker does not know": (
        Finding.SESSION_DOWN,
        lambda w: changed(w, "n0", announcements={**w.reports["n0"].announcements, "new/10.0.0.9": ()}),
        ("new/10.0.0.9",),
    ),
    "an agent that is away": (Finding.AGENT_AWAY, lambda w: changed(w, "n0", agent_answers=False), ("n0",)),
    "a speaker that is away": (Finding.SPEAKER_AWAY, lambda w: changed(w, "n0", speaker=None), ("n0",)),
    "a node that does not answer": (
        Finding.NODE_SILENT,
        lambda w: replace(w, silent={"n0": "off"}, reports={"n1": w.reports["n1"]}),
        ("n0", "off"),
    ),
    "a hostile setting": (
        Finding.HOSTILE,
        lambda w: changed(w, "n0", nuisances=(Nuisance(reason="ForwardingOff", message="it is 0", remedy="sysctl"),)),
        ("ForwardingOff", "it is 0"),
    ),
    "rules that differ": (
        Finding.RULES_WRONG,
        lambda w: changed(w, "n0", rules_problem="table is missing"),
        ("n0", "missing"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_disagrees_is_found_by_its_name_and_nothing_else(case: str) -> None:
    kind, spoil, words = CASES[case]
    found = findings(spoil(good()))
    assert {each.kind for each in found} == {kind}
    text = " ".join(f"{each.object} {each.message}" for each in found)
    assert all(word in text for word in words), text
    assert all(each.remedy for each in found)


def test_a_pod_that_is_leaving_or_not_yet_running_is_no_finding() -> None:
    world = good()
    for pods in (
        (*world.pods, PodOnNode("a", "b", "new", "n0", ("10.244.0.7",), "Pending")),
        (*world.pods, PodOnNode("a", "b", "new", "n0", ("10.244.0.7",), "Running", is_leaving=True)),
        (*world.pods, PodOnNode("a", "host", "new", "n0", ("192.0.2.1",), "Running")),
    ):
        assert findings(replace(world, pods=pods)) == ()
