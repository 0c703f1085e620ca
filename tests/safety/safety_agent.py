"""A node: its kernel, its /run, and the agent's process on it, one effect at a time; for the state machine of address safety.

The plan, the ledger, the choice of addresses and the status are the real ones. What is here is the order of the effects between
them (keeper, reconciler, attachments, reporter), so that a crash can come between any two.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
from safety_server import Server

from bgp.values import Observed
from controller.agent.ledger import Assigned, Key, Ledger
from controller.api import ClusterNetwork, NodeNetwork
from controller.api.nodenetwork import BlockGrant, NodeNetworkStatus
from controller.api.objects import Address
from controller.kernel.values import Attachment, PodLink, host_interface_name
from controller.kube.store import Store
from controller.plan.addresses import REST_SECONDS, NoAddress, eligible_pools, serving
from controller.plan.node import Local, NodePlan, Snapshot, is_given_up, plan_node, returns_after
from controller.plan.report import Seen, node_status
from controller.plan.returned import Return, after_giving_back, after_hearing
from controller.plan.speaking import Surroundings
from controller.plan.withdrawal import after_telling

NONE = Surroundings()


@dataclass
class Machine:
    """What outlives the agent. `pods` are veths with an alias, `doomed` are those of pods that are gone, until their removal.

    `words` counts the statuses that were sent, `heard_word` is the last of them that the server took. `given_up` are addresses
    of pods whose blocks it gave up, its NodeNetwork being away for the whole grace, and has had none for since.
    """

    pods: dict[Key, tuple[Address, ...]] = field(default_factory=dict)
    doomed: set[Key] = field(default_factory=set)
    snapshot: Snapshot = field(default_factory=Snapshot)
    resting: dict[Address, float] = field(default_factory=dict)
    used: set[Address] = field(default_factory=set)
    words: int = 0
    heard_word: int = 0
    given_up: set[Address] = field(default_factory=set)


class Agent:
    """The process. `plan` is the last one that was applied."""

    def __init__(self, server: Server, name: str, machine: Machine, now: float) -> None:
        self.server, self.name, self.machine = server, name, machine
        self.store = Store((NodeNetwork, ClusterNetwork))
        self.snapshot = machine.snapshot
        self.plan: NodePlan | None = None
        self.ledger = Ledger()
        self.waiting: dict[Key, frozenset[str]] = {}
        self.flight: dict[Key, Attachment] = {}
        # When the API server last showed what there is, and how many backups had been restored then.
        self.heard_at, self.heard_era = now, server.era
        rests = {**machine.resting, **dict.fromkeys(machine.used, now + REST_SECONDS)}
        self.ledger.adopt(self._links(machine.pods), rests)
        machine.resting, machine.used = dict(self.ledger.resting), set(self.ledger.used)

    @property
    def usable(self) -> tuple[BlockGrant, ...]:
        """The blocks that pods get addresses of now: what an addition reads."""
        node = self.snapshot.node
        if self.plan is None or node is None:
            return ()
        granted = {block.cidr for block in node.spec.blocks}
        return tuple(b for b in self.plan.blocks if b.cidr in granted and b.state == "Active")

    @property
    def held(self) -> set[Address]:
        """Addresses of pods and of additions under way."""
        return {a for of_pod in self.machine.pods.values() for a in of_pod} | set(self.ledger.used)

    def is_given_up(self, now: float) -> bool:
        return is_given_up(self.snapshot, now)

    def hear(self, now: float) -> None:
        """A list of its two objects."""
        for kind, name in ((NodeNetwork, self.name), (ClusterNetwork, "default")):
            kept = self.server.objects.get((kind, name))
            raws = [] if kept is None else [kept.raw]
            self.store.replace(kind, raws, str(self.server.version), self.store.highest(kind))
        self.heard_at, self.heard_era = now, self.server.era
        found, node = self.store.get(NodeNetwork, self.name), self.snapshot.node
        node = found or node
        missing_since = None
        if found is None and self.snapshot.node is not None:
            missing_since = now if self.snapshot.missing_since is None else self.snapshot.missing_since
        returns = self.snapshot.returns if node is None else after_hearing(self.snapshot.returns, node.spec.epoch, now)
        self._keep(
            node=node,
            cluster=self.store.get(ClusterNetwork, "default") or self.snapshot.cluster,
            missing_since=missing_since,
            returns=returns,
        )

    def _keep(self, **changes: Any) -> None:
        self.snapshot = self.machine.snapshot = msgspec.structs.replace(self.snapshot, **changes)

    def act(self, now: float) -> None:
        """One pass: plans, remembers, applies."""
        links = self._links(self.machine.pods)
        plan = plan_node(self.snapshot, Local(tuple(links), self.ledger.occupied, NONE, now))
        if plan is None:
            return
        self._keep(
            held=plan.blocks,
            returns=returns_after(self.snapshot, plan, now),
            told=after_telling(
                self.snapshot.told, plan.desired.neighbours, Observed(), now, has_blocks=bool(plan.blocks)
            ),
        )
        self.plan = plan
        if self.is_given_up(now):
            self.machine.given_up.update(a for of_pod in self.machine.pods.values() for a in of_pod)

    def report(self) -> Callable[[], Any] | None:
        """Remembers what it is about to say; gives the write."""
        node, plan = self.snapshot.node, self.plan
        if node is None or plan is None:
            return None
        seen = Seen(
            pods=len(self.machine.pods),
            occupied=self.ledger.occupied,
            observed=Observed(),
            speaker_follows=True,
            waiting=tuple(self.waiting.values()),
        )
        status = node_status(node, plan, {}, seen, "2026-01-01T01:00:00Z")
        answer = Return(plan.object_uid, status.observed_generation, status.epoch)
        self._keep(returns=after_giving_back(self.snapshot.returns, status.released, answer))
        self.machine.words += 1
        return partial(self._put, self.machine.words, node.metadata.uid, status)

    def _put(self, number: int, uid: str, status: NodeNetworkStatus) -> None:
        """Over whatever the operator has written by then, as long as the object is the same.

        Not over a later word, before which the object's version was read (`Writer.set_status`): the server refuses the earlier one.
        """
        known = self.server.get(NodeNetwork, self.name)
        if known is not None and known.metadata.uid == uid and number > self.machine.heard_word:
            self.machine.heard_word = number
            self.server.replace_status(msgspec.structs.replace(known, status=status))

    def say(self) -> None:
        """Reports, and the write arrives."""
        if (write := self.report()) is not None:
            write()

    def add(self, key: Key) -> bool:
        """The first half of an ADD: addresses; whether there were any."""
        cluster = self.snapshot.cluster
        if cluster is None or self.ledger.is_known(key):
            return False
        pools = eligible_pools(cluster.spec, "default")
        if not isinstance(pools, frozenset):
            return False
        answer = self.ledger.assign(key, serving(self.usable, pools))
        if not isinstance(answer, Assigned):
            if answer.reason is not NoAddress.LEAVING:
                self.waiting[key] = pools
            return False
        self.waiting.pop(key, None)
        self.flight[key] = Attachment(key[0], key[1], "pod", answer.addresses)
        return True

    def wire(self, key: Key) -> None:
        """The second half: the veth with its alias."""
        attachment = self.flight.pop(key)
        self.machine.pods[key] = attachment.addresses
        self.machine.used |= set(attachment.addresses)

    def delete(self, key: Key, now: float) -> None:
        """DEL: the addresses rest; the veth goes later."""
        self.waiting.pop(key, None)
        if self.flight.pop(key, None) is not None:
            self.ledger.withdraw(key)
            self.ledger.unlinked(host_interface_name(*key))
            return
        released = self.ledger.release(key, now)
        self.machine.resting.update({address: self.ledger.resting[address] for address in released})
        self.machine.doomed.add(key)

    def unlink(self) -> None:
        """The kernel has removed what was to go."""
        for key in self.machine.doomed:
            self.machine.pods.pop(key, None)
            self.ledger.unlinked(host_interface_name(*key))
        self.machine.doomed.clear()

    def sweep(self, now: float) -> None:
        """Ends rests."""
        self.ledger.end_rest(self.ledger.rested(now), now)
        self.machine.used, self.machine.resting = set(self.ledger.used), dict(self.ledger.resting)

    def restarted(self, now: float) -> "Agent":
        """Another process on the same machine: what was only in this one's memory is lost."""
        for key in self.machine.doomed:
            # A veth that a former agent was to remove has its pod no more: its namespace goes.
            self.machine.pods.pop(key, None)
        self.machine.doomed.clear()
        agent = Agent(self.server, self.name, self.machine, now)
        agent.heard_at, agent.heard_era = self.heard_at, self.heard_era
        return agent

    def _links(self, pods: dict[Key, tuple[Address, ...]]) -> list[PodLink]:
        return [
            PodLink(host_interface_name(*key), index, True, 1500, Attachment(*key, "pod", addresses))
            for index, (key, addresses) in enumerate(pods.items(), 10)
            if key not in self.machine.doomed
        ]
