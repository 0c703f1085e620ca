"""A whole cluster for the state machine of address safety: server, operators, nodes, time, and what goes wrong.

The steps are in `safety_steps` and `safety_stories`, what must hold in `safety_checks`. What the design takes as given is kept by
`wait`: a request is over within `LATEST_SECONDS`, an agent that is not cut off hears within the reclaim's margin, and after a
restored backup every node is Ready, and its agent speaks before the operator stops waiting for it. Of a machine that lives on
without its Node only its IPBlocks tell: nobody deletes these, too, or restores a backup, before it is off or back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from safety_agent import Agent, Machine
from safety_operator import Fate, Operator
from safety_server import Backup, Refused, Server

from controller.api import BGPConfiguration, IPBlock, IPPool, NodeNetwork
from controller.api.bgpconfiguration import BGPConfigurationSpec, GracePeriods
from controller.api.ippool import IPPoolSpec
from controller.api.kubernetes import Node, NodeAddress, NodeCondition, NodeStatus
from controller.api.objects import Address, Metadata
from controller.operator.inventory import WATCHED

NODES = ("n0", "n1", "n2")
IDLE_GRACE, DELETED_GRACE = 3, 60
LATEST_SECONDS = 10.0
# Half-open watches are given up after 75 s; the list that follows takes up to 10.
DEAF_SECONDS = 75.0
# An operator that hears nothing of a node grants after 60 s.
UNSURE_SECONDS = 50.0
MOST_PODS = 6


@dataclass(frozen=True, slots=True)
class Pools:
    """Ranges of one family: four blocks of two addresses; the same range with larger blocks for a second, younger pool."""

    cidr: str
    block_size: int


V4, V6 = Pools("10.244.0.0/29", 31), Pools("fd00:10:244::/125", 127)


def configuration(deleted: int) -> BGPConfigurationSpec:
    graces = GracePeriods(idle_block=IDLE_GRACE, deleted_node=deleted)
    return BGPConfigurationSpec(node_mesh="Disabled", grace_periods=graces)


class World:
    """Three nodes, two operators of which one holds the Lease, one pool."""

    def __init__(self, pools: Pools) -> None:
        self.pools, self.now, self._serial = pools, 1000.0, 0
        self.server = Server()
        self.agents: dict[str, Agent] = {}
        self.operators = [self._operator(0), self._operator(1)]
        self.flying: list[Callable[[], Any]] = []
        self.backups: list[Backup] = []
        # Names whose Node was deleted on purpose.
        self.deleted: set[str] = set()
        self.freed: dict[Address, tuple[str, float]] = {}
        self.unsure_since: float | None = None
        self.server.create(BGPConfiguration(metadata=Metadata(name="default"), spec=configuration(DELETED_GRACE)))
        for name in NODES:
            self.add_node(name)
        self.add_pool("v", pools.block_size)
        for _ in range(4):
            self.flow()

    def serial(self) -> int:
        self._serial += 1
        return self._serial

    def _operator(self, number: int) -> Operator:
        return Operator(self.server, f"op{number}-{self.serial()}", self.now, lambda: f"e{self.serial()}")

    def add_node(self, name: str) -> None:
        families = (
            NodeAddress("InternalIP", f"10.10.0.1{name[1]}"),
            NodeAddress("InternalIP", f"fd00:10:10::1{name[1]}"),
        )
        status = NodeStatus(families, (NodeCondition("Ready", "True"),), {"pods": str(MOST_PODS)})
        self.server.create(Node(metadata=Metadata(name=name), status=status))
        self.deleted.discard(name)
        if name not in self.agents or self.agents[name].is_given_up(self.now):
            # Its pods went with the Node: after the grace period what is left of them is ended before it returns. What it gave back
            # it has forgotten, so that no backup of before is restored any more.
            self.backups.clear()
            self.agents[name] = Agent(self.server, name, Machine(), self.now)

    def set_ready(self, name: str, ready: str) -> None:
        """What the node controller writes of a kubelet that it hears, or hears no more."""
        if (node := self.server.get(Node, name)) is not None:
            status = msgspec.structs.replace(node.status, conditions=(NodeCondition("Ready", ready),))
            self.server.replace_status(msgspec.structs.replace(node, status=status))

    def add_pool(self, name: str, block_size: int, headroom: int = 0) -> None:
        spec = IPPoolSpec(cidr=self.pools.cidr, block_size=block_size, headroom=headroom)
        self.server.create(IPPool(metadata=Metadata(name=name), spec=spec))

    def set_grace(self, seconds: int) -> None:
        """After which a deleted Node's blocks go to others."""
        for each in self.server.all(BGPConfiguration):
            self.server.replace(msgspec.structs.replace(each, spec=configuration(seconds)))

    def set_headroom(self, count: int) -> None:
        for pool in self.server.all(IPPool):
            self.server.replace(msgspec.structs.replace(pool, spec=msgspec.structs.replace(pool.spec, headroom=count)))

    # What goes well.

    def flow(self) -> None:
        """Everybody hears, decides and writes once, and nothing goes wrong."""
        self.server.collect_garbage()
        for agent in self.agents.values():
            self.agent_works(agent)
        for operator in self.operators:
            self.operator_works(operator)

    def agent_works(self, agent: Agent) -> None:
        agent.hear(self.now)
        agent.act(self.now)
        agent.say()

    def operator_works(self, operator: Operator) -> None:
        operator.watch_again()
        for kind in WATCHED:
            operator.hear(kind)
        operator.renew(self.now)
        for _ in range(3):
            # As the reconciler: until a look has nothing to write.
            operator.look(self.now)
            if not operator.pending:
                break
            while operator.pending:
                operator.send(self.now)
        if operator.may_write(self.now) and operator.memory.is_settled and not operator.relist:
            self.unsure_since = None

    def wait(self, seconds: float) -> None:
        if self.unsure_since is not None and self.now + seconds > self.unsure_since + UNSURE_SECONDS:
            return
        if seconds > LATEST_SECONDS:
            self.land_all()
        until = self.now + seconds
        while self.now < until:
            # Small enough for the agents' margins, and for the Lease.
            self.now = min(until, self.now + 5.0)
            for operator in self.operators:
                if operator.may_write(self.now) and not operator.is_paused:
                    operator.renew(self.now)
            self._let_agents_keep_time()

    def _let_agents_keep_time(self) -> None:
        for agent in self.agents.values():
            if self.now - agent.heard_at > DEAF_SECONDS:
                self.server.collect_garbage()
                agent.hear(self.now)
                agent.act(self.now)
            elif agent.is_given_up(self.now):
                agent.act(self.now)

    def land_all(self) -> None:
        while self.flying:
            self.land(0)

    def land(self, number: int) -> None:
        if self.flying:
            request = self.flying.pop(number % len(self.flying))
            try:
                request()
            except Refused:
                return

    def send(self, operator: Operator, count: int, fate: Fate) -> None:
        """The next `count` writes of its plan."""
        for _ in range(count):
            left = operator.send(self.now, fate)
            if left is not None:
                self.flying.append(left)
                if fate is Fate.UNHEARD:
                    self.land(len(self.flying) - 1)

    def restart_operator(self, number: int) -> None:
        self.operators[number] = self._operator(number)

    def delete_node(self, name: str, *, is_off: bool) -> None:
        if self.server.get(Node, name) is None or (not is_off and not self.is_locked(name)):
            return
        self.server.delete(Node, name)
        self.deleted.add(name)
        if is_off:
            self.agents.pop(name, None)
            # What its pods were still sent ends at a machine that is off.
            self.freed = {address: of for address, of in self.freed.items() if of[0] != name}

    def is_locked(self, name: str) -> bool:
        """Whether every block that the node holds has its IPBlock, and its agent has heard the backup that was restored, if any.

        An agent that has just started holds what the last one did.
        """
        agent = self.agents.get(name)
        locked = {block.spec.cidr for block in self.server.all(IPBlock) if block.spec.node.name == name}
        return agent is None or (
            {block.cidr for block in agent.snapshot.held} <= locked and agent.heard_era == self.server.era
        )

    def is_back(self, name: str) -> bool:
        """Whether a node was not deleted, or all is as before: its agent has heard its Node's own NodeNetwork."""
        agent, node, network = self.agents.get(name), self.server.get(Node, name), self.server.get(NodeNetwork, name)
        if name in self.deleted or agent is None:
            return name not in self.deleted
        if node is None or network is None or agent.snapshot.node is None:
            return False
        is_own = any(owner.uid == node.metadata.uid for owner in network.metadata.owner_references)
        has_heard = agent.snapshot.node.metadata.uid == network.metadata.uid and agent.snapshot.missing_since is None
        return is_own and has_heard

    def lose_block(self, number: int) -> None:
        """Somebody deletes an IPBlock by hand."""
        blocks = [block for block in self.server.all(IPBlock) if self.is_back(block.spec.node.name)]
        if blocks:
            self.server.delete(IPBlock, blocks[number % len(blocks)].metadata.name)

    def restore(self, number: int) -> None:
        if self.backups and self.deleted.isdisjoint(self.agents):
            self.server.restore(self.backups[number % len(self.backups)], self.now)
            self.unsure_since = self.now
            for name in self.agents:
                # Its kubelet registers it anew (Kubernetes, "Restoring an etcd cluster": components are to be restarted).
                if self.server.get(Node, name) is None:
                    self.add_node(name)
                self.set_ready(name, "True")

    # Pods.

    def new_key(self) -> tuple[str, str]:
        return f"c{self.serial()}", "eth0"

    def fill(self, agent: Agent, most: int = MOST_PODS) -> None:
        while len(agent.machine.pods) < most and agent.add(key := next(iter(agent.waiting), self.new_key())):
            agent.wire(key)

    def delete_pods(self, agent: Agent, most: int = 100) -> None:
        """Pods end, the oldest first; no more wait."""
        agent.waiting.clear()
        for key in [*agent.flight, *agent.machine.pods][:most]:
            if key in agent.machine.doomed:
                continue
            freed = set(agent.machine.pods.get(key, ()))
            agent.delete(key, self.now)
            if agent.is_given_up(self.now):
                continue
            self.freed.update((address, (agent.name, self.now)) for address in freed)

    def move(self, agent: Agent, number: int, rest: float = 31.0) -> None:
        """A node's pods go, and with them, step by step, its blocks; cut off after `number` steps."""
        steps: list[Callable[[], None]] = [
            lambda: self.delete_pods(agent),
            agent.unlink,
            lambda: self.wait(rest),
            lambda: agent.sweep(self.now),
            self.flow,
            lambda: self.wait(IDLE_GRACE + 1.0),
            self.flow,
            self.flow,
            self.flow,
        ]
        for step in steps[: 4 + number]:
            step()
