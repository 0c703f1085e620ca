"""The API server and the agents of a small cluster as plain values, for tests of what the operator decides.

`Simulation.look` plans and applies once, exactly as the reconciler does; `settle` goes on until nothing is left to write. Agents
answer at once (`answer`): they echo epochs, report usage and give back what is asked back and empty.
"""

from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from controller.api import IPBlock, IPPool, NodeNetwork
from controller.api.bgpconfiguration import BGPConfiguration
from controller.api.bgppeer import BGPPeer
from controller.api.clusternetwork import ClusterNetwork
from controller.api.ippool import IPPoolSpec
from controller.api.ipreservation import IPReservation, IPReservationSpec
from controller.api.kubernetes import Namespace, Node, NodeAddress, NodeCondition, NodeStatus, ServiceCIDR
from controller.api.nodenetwork import BlockClaim, BlockUsage, NodeNetworkStatus, PoolDemand
from controller.api.objects import Metadata, Resource
from controller.plan.inventory import Inventory, Memory, Moment
from controller.plan.operator import OperatorPlan, operator_plan

R = TypeVar("R", bound=Resource)


def with_metadata(body: R, **changes: Any) -> R:
    return msgspec.structs.replace(body, metadata=msgspec.structs.replace(body.metadata, **changes))


class Simulation:
    """Objects by kind and name; `now` is monotonic seconds. `in_use` (by CIDR) and `waiting` (by node, pool) are the pods.

    Objects in `unread` are there and do not decode, as to an operator that has just started.
    """

    def __init__(self) -> None:
        self.objects: dict[tuple[type[Resource], str], Any] = {}
        self.now = 1000.0
        self.memory = Memory(epoch="e1", unsettled_since=self.now)
        self.in_use: dict[str, int] = {}
        self.waiting: dict[tuple[str, str], int] = {}
        self.silent: set[str] = set()
        # Blocks that a node's pods are in, whoever owns them: 1 address in each.
        self.pods_in: dict[str, set[str]] = {}
        # UIDs of blocks that a node has given back for good.
        self.given_back: dict[str, set[str]] = {}
        self.unread: set[tuple[type[Resource], str]] = set()
        # Objects that do not decode any more, and are served as they were before.
        self.spoiled: set[tuple[type[Resource], str]] = set()
        self.deleted_blocks: list[IPBlock] = []
        self._serial = 0

    def put(self, body: R) -> R:
        """Creates or updates, as the server does: UID, creation time, versions, generations."""
        key = (type(body), body.metadata.name)
        self._serial += 1
        old = self.objects.get(key)
        changes: dict[str, Any] = {"resource_version": str(self._serial)}
        if old is None:
            stamp = f"2026-01-01T00:{self._serial // 60:02}:{self._serial % 60:02}Z"
            changes |= {"uid": f"uid-{self._serial}", "creation_timestamp": stamp, "generation": 1}
        elif getattr(old, "spec", None) != getattr(body, "spec", None):
            changes["generation"] = old.metadata.generation + 1
        body = with_metadata(body, **changes)
        self.objects[key] = body
        return body

    def all(self, kind: type[R]) -> list[R]:
        return [body for (k, _), body in self.objects.items() if k is kind]

    def get(self, kind: type[R], name: str) -> R:
        found: R = self.objects[kind, name]
        return found

    def remove(self, kind: type[Resource], name: str) -> None:
        del self.objects[kind, name]

    def _read(self, kind: type[R]) -> tuple[R, ...]:
        return tuple(body for body in self.all(kind) if (kind, body.metadata.name) not in self.unread)

    def inventory(self) -> Inventory:
        return Inventory(
            nodes=self._read(Node),
            pools=self._read(IPPool),
            blocks=self._read(IPBlock),
            peers=self._read(BGPPeer),
            configurations=self._read(BGPConfiguration),
            networks=self._read(NodeNetwork),
            clusters=self._read(ClusterNetwork),
            reservations=self._read(IPReservation),
            namespaces=self._read(Namespace),
            services=self._read(ServiceCIDR),
            invalid=frozenset(self.unread | self.spoiled),
            unknown=frozenset(self.unread),
        )

    def look(self) -> OperatorPlan:
        """One plan, applied."""
        plan = operator_plan(self.inventory(), self.memory, Moment(self.now, "2026-01-01T01:00:00Z"))
        self.memory = plan.memory
        if plan.to_verify:
            self.memory = replace(self.memory, verified=self.memory.verified | plan.to_verify)
            return plan
        for status in plan.statuses:
            self.put(msgspec.structs.replace(self.get(type(status), status.metadata.name), status=status.status))  # type: ignore[attr-defined]
        for pool in plan.finalizers:
            self._finalize(pool)
        for body in plan.creates:
            assert (type(body), body.metadata.name) not in self.objects, f"{body.metadata.name} exists"
            self.put(body)
        for body in plan.updates:
            self.put(body)
        for body in plan.deletes:
            self.remove(type(body), body.metadata.name)
            if isinstance(body, IPBlock):
                self.deleted_blocks.append(body)
        return plan

    def _finalize(self, pool: IPPool) -> None:
        current = self.get(IPPool, pool.metadata.name)
        if current.metadata.deletion_timestamp and not pool.metadata.finalizers:
            self.remove(IPPool, pool.metadata.name)
        else:
            self.put(with_metadata(current, finalizers=pool.metadata.finalizers))

    def answer(self) -> None:
        """What every agent writes."""
        for network in self.all(NodeNetwork):
            if network.metadata.name not in self.silent:
                self.put(msgspec.structs.replace(network, status=self._status(network)))

    def _status(self, network: NodeNetwork) -> NodeNetworkStatus:
        pods_in = self.pods_in.get(network.metadata.name, set())
        given_back = self.given_back.get(network.metadata.name, set())
        usage = {g.cidr: max(self.in_use.get(g.cidr, 0), g.cidr in pods_in) for g in network.spec.blocks}
        claims = tuple(BlockClaim(cidr=cidr) for cidr in sorted(pods_in - usage.keys()))
        pools = {grant.pool for grant in network.spec.blocks}
        pools |= {pool for node, pool in self.waiting if node == network.metadata.name}
        demand = [
            PoolDemand(
                pool=pool,
                in_use=sum(usage[g.cidr] for g in network.spec.blocks if g.pool == pool),
                waiting=self.waiting.get((network.metadata.name, pool), 0),
            )
            for pool in sorted(pools)
        ]
        return NodeNetworkStatus(
            epoch=network.spec.epoch,
            observed_generation=network.metadata.generation,
            demand=tuple(demand),
            usage=tuple(BlockUsage(cidr=cidr, in_use=count) for cidr, count in usage.items()),
            claims=claims,
            released=tuple(
                g.uid
                for g in network.spec.blocks
                if not usage[g.cidr] and (g.state == "Releasing" or g.uid in given_back)
            ),
        )

    def settle(self, rounds: int = 30) -> OperatorPlan:
        """Looks and answers until a look writes nothing."""
        for _ in range(rounds):
            self.answer()
            plan = self.look()
            if plan.is_empty and not plan.to_verify:
                return plan
        raise AssertionError(f"still writing after {rounds} looks: {plan}")

    def add_node(self, name: str, number: int, *, pods: int = 110, families: str = "46", **labels: str) -> Node:
        addresses = [NodeAddress("InternalIP", f"10.10.0.{number}")] * ("4" in families)
        addresses += [NodeAddress("InternalIP", f"fd00:10:10::{number}")] * ("6" in families)
        status = NodeStatus(tuple(addresses), (NodeCondition("Ready", "True"),), {"pods": str(pods)})
        return self.put(Node(metadata=Metadata(name=name, labels=labels), status=status))

    def remove_node(self, name: str) -> None:
        """Deletes a Node; its NodeNetwork is collected with it."""
        self.remove(Node, name)
        self.objects.pop((NodeNetwork, name), None)

    def add_pool(self, name: str, cidr: str, **spec: Any) -> IPPool:
        return self.put(IPPool(metadata=Metadata(name=name), spec=IPPoolSpec(cidr=cidr, **spec)))

    def delete_pool(self, name: str) -> None:
        pool = self.get(IPPool, name)
        if pool.metadata.finalizers:
            self.put(with_metadata(pool, deletion_timestamp="2026-01-01T02:00:00Z"))
        else:
            self.remove(IPPool, name)

    def reserve(self, name: str, *cidrs: str) -> None:
        self.put(IPReservation(metadata=Metadata(name=name), spec=IPReservationSpec(cidrs=cidrs)))

    def blocks(self, node: str = "", pool: str = "", state: str = "") -> list[str]:
        """CIDRs of blocks."""
        return sorted(
            b.spec.cidr
            for b in self.all(IPBlock)
            if node in ("", b.spec.node.name) and pool in ("", b.spec.pool) and state in ("", b.spec.state)
        )

    def condition(self, kind: type[Resource], name: str, type_: str) -> tuple[str, str, str]:
        """Status, reason and message."""
        conditions = self.objects[kind, name].status.conditions
        found = next(c for c in conditions if c.type == type_)
        return found.status, str(found.reason), found.message


def cluster(nodes: int = 2, **pool: Any) -> Simulation:
    """Nodes n0, n1, … and the pool v4, nothing written yet."""
    sim = Simulation()
    for number in range(nodes):
        sim.add_node(f"n{number}", 11 + number)
    sim.add_pool("v4", "10.244.0.0/16", **pool)
    return sim
