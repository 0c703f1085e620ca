"""What a pass of the reconciler leaves alone, and what it does in spite of a refusal (`controller.agent.reconciler`).

The kernel's effects are replaced at their boundary; races are played by changing the state between the steps of a pass.
"""

import asyncio
import dataclasses
import inspect
import ipaddress
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from bgp.speaker.client import SpeakerClient
from bgp.values import Family, Observed, Session, SessionState
from bgp.values import Route as Learned
from controller.agent import reconciler as module
from controller.agent.files import RunFolder
from controller.agent.reconciler import Reconciler
from controller.agent.speaker import Speaking
from controller.agent.state import State
from controller.api.clusternetwork import ClusterNetwork, ClusterNetworkSpec
from controller.api.ipblock import NodeReference
from controller.api.nodenetwork import BlockGrant, NodeNetwork, NodeNetworkSpec, SessionSpec
from controller.api.objects import Metadata
from controller.api.reasons import Reason
from controller.kernel.netlink import KernelError
from controller.kernel.surroundings import Uplink
from controller.kernel.values import (
    Attachment,
    Drift,
    NextHop,
    PodLink,
    Route,
    RouteChanges,
    RouteKind,
    Rules,
    host_interface_name,
    pod_routes,
)
from controller.plan.node import Snapshot
from controller.plan.returned import Return, Returns
from controller.plan.withdrawal import Keeping, Told

BLOCK = BlockGrant(cidr="10.244.0.0/26", uid="b", pool="p")
KEY = ("c1", "eth0")
NAME = host_interface_name(*KEY)
UPLINK = Uplink("eth0", 1500, (ipaddress.ip_address("10.0.0.2"),), (ipaddress.ip_network("10.0.0.0/24"),))


class Kernel:
    """What the kernel holds and was asked to change; `while_read` runs after routes and pods were read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.routes: list[Route] = []
        self.pods: list[PodLink] = []
        self.changes: list[RouteChanges] = []
        self.rules: list[Rules | None] = []
        self.repaired: list[set[tuple[str, int]]] = []
        self.while_read = lambda: None
        self.refuse = ""
        self.reads = 0
        monkeypatch.setattr(module.routes, "read_routes", lambda: list(self.routes))
        monkeypatch.setattr(module.pods, "read_pods", self.read_pods)
        monkeypatch.setattr(module.surroundings, "uplinks", lambda: (UPLINK,))
        monkeypatch.setattr(module.routes, "apply_routes", self.apply_routes)
        monkeypatch.setattr(module.pods, "repair_pods", self.repair_pods)
        monkeypatch.setattr(module.RuleTable, "apply", lambda _, rules: self.apply_rules(rules))

    def read_pods(self) -> list[PodLink]:
        found = list(self.pods)
        self.reads += 1
        self.while_read()
        return found

    def apply_routes(self, changes: RouteChanges) -> list[object]:
        self.changes.append(changes)
        return self.refused("routes")

    def repair_pods(self, wired: set[tuple[str, int]]) -> list[Drift]:
        self.repaired.append(wired)
        return self.refused("pods")

    def apply_rules(self, rules: Rules | None) -> list[Drift]:
        self.refused("rules")
        self.rules.append(rules)
        return []

    def refused(self, part: str) -> list:
        if self.refuse == part:
            raise KernelError(part, 22, "refused")
        return []


class Site:
    """A reconciler of a node with one block, and its kernel."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kernel = Kernel(monkeypatch)
        self.state = State("n0", RunFolder(folder), lambda: 100.0)
        spec = NodeNetworkSpec(node=NodeReference(name="n0"), addresses=("10.0.0.2",), blocks=(BLOCK,))
        self.state.snapshot = Snapshot(
            node=NodeNetwork(metadata=Metadata(name="n0"), spec=spec),
            cluster=ClusterNetwork(metadata=Metadata(name="default")),
        )
        self.reconciler = Reconciler(self.state, Speaking(self.state, SpeakerClient("/nowhere")), None)

    def assigned(self) -> PodLink:
        """Takes an address for a pod, as an addition does; returns the link that wiring would make."""
        taken = self.state.ledger.assign(KEY, (BLOCK,))
        return PodLink(NAME, 7, True, 1500, Attachment(*KEY, "uid", taken.addresses))

    def one_pass(self) -> list[str]:
        return asyncio.run(self.reconciler._pass())


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


def test_the_route_of_an_addition_under_way_is_not_taken_for_surplus(site: Site) -> None:
    link = site.assigned()
    site.kernel.routes = pod_routes([link])
    assert site.one_pass() == []
    assert site.kernel.changes[0].delete == ()


def test_the_route_of_no_addition_is_surplus(site: Site) -> None:
    link = PodLink(NAME, 7, True, 1500, Attachment(*KEY, "uid", (ipaddress.ip_address("10.244.0.9"),)))
    site.kernel.routes = pod_routes([link])
    site.one_pass()
    assert site.kernel.changes[0].delete == tuple(pod_routes([link]))


def test_a_pod_that_is_completed_while_the_kernel_is_read_keeps_its_addresses(site: Site) -> None:
    site.assigned()
    site.kernel.while_read = lambda: site.state.wired.update({NAME: 7})
    site.one_pass()
    assert site.state.ledger.is_known(KEY)


def test_a_pod_whose_link_is_gone_gives_its_addresses_to_rest(site: Site) -> None:
    link = site.assigned()
    site.state.wired[NAME] = 7
    site.kernel.pods = [link]
    site.one_pass()
    assert site.state.ledger.is_known(KEY)
    site.kernel.pods = []
    site.one_pass()
    assert not site.state.ledger.is_known(KEY)
    assert set(site.state.ledger.resting) == set(link.attachment.addresses if link.attachment else ())


def test_a_veth_that_somebody_made_anew_under_a_pods_name_is_not_the_pods(site: Site) -> None:
    link = site.assigned()
    site.state.wired[NAME] = 7
    site.kernel.pods = [dataclasses.replace(link, ifindex=8, attachment=None)]
    site.one_pass()
    assert not site.state.ledger.is_known(KEY)
    assert NAME not in site.state.wired


def test_a_pod_that_is_added_anew_while_its_former_veth_is_missed_keeps_its_addresses(site: Site) -> None:
    site.assigned()
    site.state.wired[NAME] = 7

    def added_anew() -> None:
        site.state.ledger.release(KEY, 100.0)
        site.state.ledger.assign(KEY, (BLOCK,))
        site.state.wired[NAME] = 8

    site.kernel.while_read = added_anew
    site.one_pass()
    assert site.state.ledger.is_known(KEY)
    assert site.state.wired == {NAME: 8}


def test_learned_routes_stay_if_the_speaker_settles_while_a_pass_that_knew_none_writes(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned = Route(
        ipaddress.ip_network("10.244.1.0/26"), next_hops=(NextHop(ipaddress.ip_address("10.0.0.3"), "eth0"),)
    )
    site.kernel.routes = [learned]
    compared = module.route_changes

    def settled_meanwhile(*arguments: object) -> RouteChanges:
        site.state.observed = Observed(settled=("ipv4", "ipv6"))
        return compared(*arguments)

    monkeypatch.setattr(module, "route_changes", settled_meanwhile)
    site.one_pass()
    assert site.kernel.changes[0].delete == ()
    # The next pass knows that there is nothing to come any more.
    site.one_pass()
    assert site.kernel.changes[1].delete == (learned,)


def test_a_learned_route_is_installed_by_the_link_of_its_next_hop(site: Site) -> None:
    site.state.observed = Observed(routes={"10.244.1.0/26": Learned(("10.0.0.3",), ("s",))})
    site.one_pass()
    hops = {route.prefix: route.next_hops for route in site.kernel.changes[0].create}
    assert hops[ipaddress.ip_network("10.244.1.0/26")] == (NextHop(ipaddress.ip_address("10.0.0.3"), "eth0"),)


@pytest.mark.parametrize("part", ["routes", "pods", "rules"])
def test_one_part_that_is_refused_does_not_stop_the_others(site: Site, part: str) -> None:
    site.kernel.refuse = part
    (refusal,) = site.one_pass()
    assert part in refusal
    assert site.state.is_ready
    assert len(site.kernel.changes) == 1
    assert len(site.kernel.repaired) == 1
    assert len(site.kernel.rules) == (part != "rules")


def test_rules_that_were_refused_once_are_written_by_the_next_pass(site: Site) -> None:
    site.kernel.refuse = "rules"
    site.one_pass()
    site.kernel.refuse = ""
    assert site.one_pass() == []
    assert len(site.kernel.rules) == 1
    site.one_pass()
    assert len(site.kernel.rules) == 1


def test_a_block_that_was_given_back_is_left_alone_and_told_until_it_is_granted_anew(site: Site) -> None:
    returns = Returns(blocks={"b": Return("", 10, "")}, epochs=("",), since=0.0)
    site.state.snapshot = msgspec.structs.replace(site.state.snapshot, returns=returns)
    assert site.one_pass() == []
    assert ipaddress.ip_network(BLOCK.cidr) not in {route.prefix for route in site.kernel.changes[0].create}
    (trouble,) = site.state.troubles.values()
    assert trouble.reason is Reason.BLOCK_RETURNED
    assert BLOCK.cidr in trouble.message
    assert site.state.folder.load_snapshot().returns == returns
    node = site.state.snapshot.node
    assert node is not None
    later = msgspec.structs.replace(node, metadata=msgspec.structs.replace(node.metadata, generation=11))
    site.state.snapshot = msgspec.structs.replace(site.state.snapshot, node=later)
    assert site.one_pass() == []
    assert ipaddress.ip_network(BLOCK.cidr) in {route.prefix for route in site.kernel.changes[1].create}
    assert site.state.troubles == {}
    # It is the node's own again: an object of whatever age that lists it says nothing new.
    assert site.state.folder.load_snapshot().returns.blocks == {}


def test_sessions_that_the_speaker_is_to_drop_are_remembered_in_the_file_before_it_hears_of_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told(sessions={"tor": Keeping((Family.IPV4,), 129.0)})
    site.state.snapshot = msgspec.structs.replace(site.state.snapshot, told=told)
    remembered: list[Told] = []
    monkeypatch.setattr(Speaking, "want", lambda *_: remembered.append(site.state.folder.load_snapshot().told))
    site.one_pass()
    assert remembered == [Told(until={Family.IPV4: 229.0})]


@pytest.mark.parametrize(("blocks", "speaker"), [((), 50.0), ((BLOCK,), 0.0)])
def test_a_session_is_known_for_new_only_if_the_node_had_no_block_when_the_speaker_was_told(
    site: Site, blocks: tuple[BlockGrant, ...], speaker: float
) -> None:
    node = site.state.snapshot.node
    assert node is not None
    session = SessionSpec(peer="tor", address="10.0.0.1", asn=65001, local_asn=64512, local_address="10.0.0.2")
    spec = msgspec.structs.replace(node.spec, sessions=(session,), blocks=blocks, router_id="10.0.0.2")
    site.state.snapshot = msgspec.structs.replace(site.state.snapshot, node=msgspec.structs.replace(node, spec=spec))
    site.state.observed = Observed(started=50.0)
    site.one_pass()
    (keeping,) = site.state.snapshot.told.sessions.values()
    assert keeping.speaker == speaker


def retire(site: Site, name: str = "one") -> None:
    cluster = ClusterNetwork(metadata=Metadata(name="default"), spec=ClusterNetworkSpec(retiring=name))
    site.state.snapshot = msgspec.structs.replace(site.state.snapshot, cluster=cluster)


def test_in_an_uninstall_routes_and_rules_go_once_the_speaker_has_no_session_left(site: Site) -> None:
    site.one_pass()
    block = Route(ipaddress.ip_network(BLOCK.cidr), RouteKind.UNREACHABLE)
    site.kernel.routes = [block]
    session = Session(name="tor", address="10.0.0.1", state=SessionState.ESTABLISHED, since=1.0)
    retire(site)
    for observed in (Observed(generation=2, sessions=(session,)), Observed(generation=1)):
        # With a session, or of an order before: nothing is withdrawn yet.
        site.state.observed = observed
        site.one_pass()
        site.state.said_generation = 2
        assert (site.kernel.changes[-1].delete, site.kernel.rules[-1] is None) == ((), False)
    site.state.observed = Observed(generation=2)
    # A router that was cut off when it was dropped may still have the routes.
    told = Told(until={Family.IPV4: 101.0})
    site.state.snapshot = msgspec.structs.replace(site.state.snapshot, told=told)
    site.one_pass()
    assert site.kernel.changes[-1].delete == ()
    site.state.snapshot = msgspec.structs.replace(site.state.snapshot, told=Told())
    site.one_pass()
    assert (site.kernel.changes[-1].delete, site.kernel.rules[-1]) == ((block,), None)
    # A new agent does not ask the speaker, which may be gone.
    assert site.state.folder.load_snapshot().retired
    site.kernel.routes = []
    retire(site, "")
    site.one_pass()
    assert (site.kernel.changes[-1].create, site.kernel.rules[-1] is None) == ((block,), False)
    assert not site.state.folder.load_snapshot().retired


def test_without_a_stored_order_the_speaker_is_not_asked_whether_it_has_withdrawn(site: Site, tmp_path: Path) -> None:
    site.state.speaker_store = tmp_path / "desired.json"
    site.state.speaker_store.touch()
    retire(site)
    for _ in range(2):
        site.one_pass()
        assert site.state.done is not None
        assert site.state.done.retirement is Reason.RETIRING
    site.state.speaker_store.unlink()
    site.one_pass()
    assert site.state.done.retirement is Reason.RETIRED


def running(site: Site, story: Callable[[], Awaitable[None]]) -> None:
    """Tells the story while the reconciler runs."""

    async def both() -> None:
        task = asyncio.create_task(site.reconciler.run())
        await story()
        task.cancel()

    asyncio.run(asyncio.wait_for(both(), 10))


async def until(condition: Callable[[], object]) -> None:
    """Waits for what another task does."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"not within 5 s: {inspect.getsource(condition).strip()}")


def test_a_learned_route_that_changes_is_written_without_a_look_at_the_whole_kernel(site: Site) -> None:
    async def story() -> None:
        site.state.reconcile.ring()
        await until(lambda: site.state.done is not None)
        reads = site.kernel.reads
        learned = {"10.244.1.0/26": Learned(("10.0.0.3",), ("s",))}
        site.state.observed = Observed(routes=learned, settled=("ipv4", "ipv6"))
        site.state.reconcile.ring_for(learned)
        await until(lambda: site.state.learned_installed == 1)
        learned.clear()
        site.state.reconcile.ring_for(["10.244.1.0/26"])
        await until(lambda: site.state.learned_installed == 0)
        assert site.kernel.reads == reads

    running(site, story)
    _, made, deleted = site.kernel.changes
    assert made.create == deleted.delete
    assert [str(route.prefix) for route in made.create] == ["10.244.1.0/26"]


def test_while_a_trouble_lasts_everything_is_looked_at_whatever_is_learned(site: Site) -> None:
    async def story() -> None:
        site.kernel.refuse = "rules"
        site.state.reconcile.ring()
        await until(lambda: "kernel" in site.state.troubles)
        site.kernel.refuse = ""
        reads = site.kernel.reads
        site.state.reconcile.ring_for(["10.244.1.0/26"])
        await until(lambda: "kernel" not in site.state.troubles)
        assert site.kernel.reads > reads

    running(site, story)


def test_a_router_that_always_has_something_to_say_does_not_put_off_the_full_comparison(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = site.state.reconcile.take

    def taken() -> frozenset[str] | None:
        found = take()
        site.state.reconcile.ring_for(["10.244.1.0/26"])
        return found

    async def story() -> None:
        site.state.reconcile.ring()
        await until(lambda: site.state.done is not None)
        monkeypatch.setattr(site.state.reconcile, "take", taken)
        site.state.reconcile.ring_for(["10.244.1.0/26"])
        reads = site.kernel.reads
        site.reconciler._resync = 60.0
        site.reconciler._whole_at = site.state.clock() - 60.0
        await until(lambda: site.kernel.reads > reads)

    running(site, story)
