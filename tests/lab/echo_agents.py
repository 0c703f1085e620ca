"""Agents without a node: each NodeNetwork gets the status that an agent of a node with no network would write.

For tests of the operator. Epochs are echoed, usage is what the test says, blocks asked back and unused are given back. `silent`
nodes say nothing, as if their agents were away.
"""

import asyncio
import threading
import time
from random import Random
from types import TracebackType
from typing import Any

from controller.api import NodeNetwork
from controller.api.nodenetwork import BlockClaim, BlockGrant, BlockUsage, NodeNetworkStatus, PoolDemand
from controller.kube.client import Api, connect
from controller.kube.errors import KubeError
from controller.kube.reflector import Reflector, exponential
from controller.kube.store import Store
from controller.kube.writer import Writer

# Thousands of nodes don't answer one after the other either.
AT_ONCE = 16
QUIET_SECONDS = 3.0


class EchoAgents:
    """All agents, in a thread. Tests set `in_use` (by CIDR), `waiting` (by node, pool), `silent`, `claims` (by node)."""

    def __init__(self, kubeconfig: str) -> None:
        self._kubeconfig = kubeconfig
        self.in_use: dict[str, int] = {}
        self.waiting: dict[tuple[str, str], int] = {}
        self.silent: set[str] = set()
        self.claims: dict[str, tuple[BlockClaim, ...]] = {}
        self._held: dict[str, dict[str, BlockGrant]] = {}
        # What was answered to last, by node: the object's version, and what the test said then.
        self._answered: dict[str, tuple[str, str]] = {}
        # Whether nothing has been left to say for a while.
        self.is_quiet = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="echo-agents")

    def __enter__(self) -> "EchoAgents":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        async with connect(self._kubeconfig) as api:
            store = Store([NodeNetwork])
            reflector = Reflector(
                api, store, NodeNetwork, backoff=exponential(Random(0), most=0.5), on_change=lambda _: None
            )
            task = asyncio.create_task(reflector.run())
            said_at = time.monotonic()
            while not self._stop.is_set():
                await asyncio.sleep(0.02)
                said = repr((self.in_use, self.waiting, self.silent, self.claims))
                news = [each for each in store.all(NodeNetwork) if not self._is_answered(each, said)]
                said_at = time.monotonic() if news else said_at
                self.is_quiet = time.monotonic() - said_at > QUIET_SECONDS
                for start in range(0, len(news), AT_ONCE):
                    await asyncio.gather(*(self._echo(api, each, said) for each in news[start : start + AT_ONCE]))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _is_answered(self, network: NodeNetwork, said: str) -> bool:
        return self._answered.get(network.metadata.name) == (network.metadata.resource_version, said)

    async def _echo(self, api: Api, network: NodeNetwork, said: str) -> None:
        name = network.metadata.name
        status = self._status(network)
        if name not in self.silent and status != network.status:
            try:
                await Writer(api).set_status(NodeNetwork, name, network.metadata.uid, status)
            except KubeError:
                return
        self._answered[name] = (network.metadata.resource_version, said)

    def _status(self, network: NodeNetwork) -> NodeNetworkStatus:
        usage: list[BlockUsage] = []
        demand: dict[str, list[int]] = {}
        for grant in network.spec.blocks:
            used = self.in_use.get(grant.cidr, 0)
            usage.append(BlockUsage(cidr=grant.cidr, in_use=used))
            demand.setdefault(grant.pool, [0, 0])[0] += used
        for (node, pool), waiting in self.waiting.items():
            if node == network.metadata.name:
                demand.setdefault(pool, [0, 0])[1] = waiting
        empty: Any = (g.uid for g in network.spec.blocks if g.state == "Releasing" and not self.in_use.get(g.cidr))
        return NodeNetworkStatus(
            epoch=network.spec.epoch,
            observed_generation=network.metadata.generation,
            demand=tuple(PoolDemand(pool=p, in_use=u, waiting=w) for p, (u, w) in sorted(demand.items())),
            usage=tuple(usage),
            released=tuple(empty),
            claims=(*self.claims.get(network.metadata.name, ()), *self._lost(network)),
        )

    def _lost(self, network: NodeNetwork) -> list[BlockClaim]:
        """Blocks that the node was granted, still uses, and finds in its spec no more."""
        listed = {grant.cidr: grant for grant in network.spec.blocks}
        held = self._held.setdefault(network.metadata.name, {})
        lost = [g for cidr, g in sorted(held.items()) if cidr not in listed and self.in_use.get(cidr)]
        self._held[network.metadata.name] = {**{g.cidr: g for g in lost}, **listed}
        return [BlockClaim(cidr=g.cidr, uid=g.uid, pool=g.pool) for g in lost]
