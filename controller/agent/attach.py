"""The CNI operations: what a call does to the ledger and the kernel, and what it answers.

Nothing here asks the API server. `controller.cni.server` calls `handle` for every request; a request whose plugin has gone
away is cancelled there, and what it had begun is undone here.
"""

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import Protocol

from controller.agent.checking import differences
from controller.agent.ledger import Assigned, Key
from controller.agent.state import Locks, State
from controller.api.clusternetwork import ClusterNetworkSpec
from controller.api.objects import Address
from controller.cni.previous import previous_of
from controller.cni.request import Command, Configuration, Request
from controller.cni.result import CniError, ErrorCode, Success
from controller.kernel.pod_state import PodEnd
from controller.kernel.values import (
    GATEWAY_V4,
    GATEWAY_V6,
    Attachment,
    PodLink,
    host_interface_name,
    mac_addresses,
    network_word,
)
from controller.plan.addresses import (
    POOLS_ANNOTATION,
    NoAddress,
    Offer,
    Refusal,
    eligible_pools,
    families_of,
    offers_of,
    selecting_pools,
    serving,
)

log = logging.getLogger(__name__)

# How long an addition waits for a block before the runtime is told to try again.
BLOCK_SECONDS = 20.0
# How long a node must have had blocks of one family alone before a pod goes without the other: two families' grants are two writes.
PARTIAL_SECONDS = 10.0

# For these no block will come.
_LASTING = (NoAddress.NO_POOL, NoAddress.RETIRING)
_REMEDIES = {
    NoAddress.NO_POOL: "create or enable an IPPool that serves the pod (kubectl get ippools)",
    NoAddress.NO_BLOCK: "see the IPPools' conditions (kubectl get ippools) and whether the operator runs",
    NoAddress.RETIRING: "install another network; the pod starts then",
    NoAddress.LEAVING: "see the agent's log: a veth that can't be removed keeps its addresses",
    NoAddress.EXHAUSTED: "wait for the operator to grant a block, or see the IPPools' conditions (kubectl get ippools)",
}


@dataclass(frozen=True, slots=True)
class _Partial:
    """The node has blocks of one family and is offered another of which it has none yet."""

    awaited: tuple[Offer, ...]

    @property
    def refusal(self) -> Refusal:
        """Why the pod is not started with what there is."""
        families = ", ".join(offer.family for offer in self.awaited)
        return Refusal(NoAddress.NO_BLOCK, f"the node has no {families} block yet, and a pod gets every family or none")


class PodKernel(Protocol):
    """The effects that an attachment needs; `controller.agent.pods` has the real ones."""

    async def wire(self, netns: int, attachment: Attachment, mtu: int) -> tuple[Address, ...]:
        """Makes the veth, both ends complete; returns gateways without default route. Raises CniError.

        What is left of one that failed, `remove_later` removes.
        """

    def remove_later(self, name: str) -> None:
        """Has the veth deleted after the reply: the kernel takes 40 ms for it. Then the ledger hears that it is gone."""

    async def forget(self, addresses: tuple[Address, ...]) -> None:
        """Deletes the conntrack entries of addresses that are used again before they have rested."""

    async def problems(self, netns: int, attachment: Attachment, mtu: int) -> list[str]:
        """What of the veth is not as `wire` made it."""

    async def pod_end(self, netns: int, interface: str) -> PodEnd | None:
        """The interface as the pod has it."""

    async def links(self) -> list[PodLink]:
        """All veths of ours."""


class Attachments:
    """Handles CNI requests; owned by the agent's event loop."""

    def __init__(self, state: State, kernel: PodKernel) -> None:
        """Does nothing yet."""
        self._state, self._kernel = state, kernel
        self._locks = Locks()

    async def handle(self, request: Request) -> Success | None:
        """Carries out the request; a result for ADD, None for the others. Raises CniError."""
        match request.command:
            case Command.ADD:
                async with self._locks.of(_key(request)):
                    return await self._add(request)
            case Command.DEL:
                async with self._locks.of(_key(request)):
                    self._delete(_key(request))
            case Command.CHECK:
                await self._check(request)
            case Command.GC:
                await self._collect(request.configuration)
            case Command.STATUS:
                self._require_ready()
            case Command.VERSION:
                pass
        return None

    async def _add(self, request: Request) -> Success:
        key = _key(request)
        if self._state.ledger.is_known(key):
            raise CniError(
                ErrorCode.INTERFACE_EXISTS,
                f"container {key[0]} has interface {key[1]} already: ADD came twice",
                "call DEL before ADD",
            )
        if request.netns_fd is None:
            raise CniError(ErrorCode.INVALID_ENVIRONMENT, "CNI_NETNS is missing", "give the path of the namespace")
        mtu = self._state.mtu
        assigned = await self._addresses(request, key)
        network = network_word(request.configuration.name)
        attachment = Attachment(*key, request.pod.uid, assigned.addresses, network)
        try:
            if tired := tuple(choice.address for choice in assigned.choices if choice.yielded):
                await self._kernel.forget(tired)
            without_default = await self._kernel.wire(request.netns_fd, attachment, mtu)
        except BaseException:
            self._state.ledger.withdraw(key)
            self._kernel.remove_later(host_interface_name(*key))
            raise
        self._state.folder.note_used(attachment.addresses)
        self._state.report.ring()
        return replace(_success(request, attachment, mtu), without_default=without_default)

    async def _addresses(self, request: Request, key: Key) -> Assigned:
        """Waits up to 20 s for a block: the operator grants ahead of demand, so that is rare."""
        state = self._state
        deadline = state.clock() + BLOCK_SECONDS
        partial_since = float("inf")
        try:
            while True:
                now = state.clock()
                answer = self._try_assign(request, key)
                if isinstance(answer, Assigned):
                    return answer
                if isinstance(answer, _Partial):
                    partial_since = min(partial_since, now)
                if isinstance(answer, _Partial) and now >= max(deadline, partial_since + PARTIAL_SECONDS):
                    self._go_without(answer.awaited)
                    continue
                refusal = answer.refusal if isinstance(answer, _Partial) else answer
                if now >= deadline or refusal.reason in _LASTING:
                    raise CniError(ErrorCode.TRY_AGAIN, self._words(refusal, key), _REMEDIES[refusal.reason])
                await self._wait_for_blocks(deadline - now)
        finally:
            if state.waiting.pop(key, None) is not None:
                state.report.ring()

    def _go_without(self, offers: tuple[Offer, ...]) -> None:
        """The operator grants none of them here: the pools pass the node over, or have nothing left."""
        state = self._state
        families = {offer.family for offer in offers}
        state.unanswered = {offer for offer in state.unanswered if offer.family not in families} | set(offers)
        for offer in offers:
            names = ", ".join(sorted(offer.pools))
            log.warning(
                "node %s was granted no %s block of IPPool %s: pods go without", state.node, offer.family, names
            )

    def _words(self, answer: Refusal, key: Key) -> str:
        """The refusal with the node, and the pools that could have served: many nodes' messages end in one place."""
        pools = ", ".join(sorted(self._state.waiting.get(key, ())))
        where = f"node {self._state.node}, IPPool {pools}" if pools else f"node {self._state.node}"
        return f"{answer.reason}: {where}: {answer.message}"

    def _try_assign(self, request: Request, key: Key) -> "Assigned | _Partial | Refusal":
        state = self._state
        plan, cluster, node = state.plan, state.snapshot.cluster, state.snapshot.node
        if plan is None or cluster is None or node is None:
            return Refusal(NoAddress.NO_BLOCK, f"the agent of node {state.node} knows no blocks yet")
        if cluster.spec.retiring:
            return Refusal(NoAddress.RETIRING, "podroute is being uninstalled and starts no more pods")
        pools = _pools(cluster.spec, request)
        if isinstance(pools, Refusal):
            return pools
        granted = {block.cidr for block in node.spec.blocks}
        blocks = tuple(block for block in serving(plan.blocks, pools) if block.cidr in granted)
        families = families_of(blocks)
        if not families and not selecting_pools(node.spec, pools):
            names = ", ".join(sorted(pools))
            return Refusal(
                NoAddress.NO_POOL, f"of IPPool {names} none has a nodeSelector that matches node {state.node}"
            )
        # A family that is granted after all is waited for again, should its blocks go.
        state.unanswered = {offer for offer in state.unanswered if offer.family not in families}
        missing = (offer for offer in offers_of(cluster.spec, node.spec, pools) if offer.family not in families)
        awaited = tuple(offer for offer in missing if offer not in state.unanswered)
        if families and awaited:
            self._ask_for(key, frozenset[str]().union(*(offer.pools for offer in awaited)))
            return _Partial(awaited)
        answer = state.ledger.assign(key, blocks)
        # Addresses that are about to be free are no demand for another block.
        if isinstance(answer, Refusal) and answer.reason is not NoAddress.LEAVING:
            self._ask_for(key, pools)
        return answer

    def _ask_for(self, key: Key, pools: frozenset[str]) -> None:
        """Has the operator hear that a pod waits for a block of these pools."""
        if key not in self._state.waiting:
            self._state.waiting[key] = pools
            self._state.report.ring()

    async def _wait_for_blocks(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._state.blocks_changed.wait()
        except TimeoutError:
            return

    def _delete(self, key: Key) -> None:
        """Unknown attachments are deleted, too: DEL must succeed however often it comes."""
        state = self._state
        if addresses := state.ledger.release(key, state.clock()):
            # Before the veth goes: an agent that ends here finds the addresses in the kernel or in the file.
            state.folder.note_resting({address: state.ledger.resting[address] for address in addresses})
            state.report.ring()
        self._kernel.remove_later(host_interface_name(*key))

    async def _check(self, request: Request) -> None:
        key = _key(request)
        name = host_interface_name(*key)
        links = {link.name: link for link in await self._kernel.links()}
        attachment = links[name].attachment if name in links else None
        if attachment is None or request.netns_fd is None:
            raise CniError(
                ErrorCode.UNKNOWN_CONTAINER,
                f"container {key[0]} has no interface {key[1]} of podroute",
                "call ADD first; after a reboot the runtime makes its pods anew",
            )
        problems = await self._kernel.problems(request.netns_fd, attachment, links[name].mtu)
        if request.configuration.prev_result is not None:
            previous = previous_of(request.configuration.prev_result, key[1])
            end = await self._kernel.pod_end(request.netns_fd, key[1])
            problems += differences(previous, end, key[1], name)
        if problems:
            raise CniError(ErrorCode.CHECK_FAILED, "; ".join(problems), "delete the pod: it is made anew")

    async def _collect(self, configuration: Configuration) -> None:
        """Removes what the runtime no longer lists of this network; others have lists of their own.

        An addition that was not complete when it listed may be missing there.
        """
        valid = configuration.valid_attachments
        if valid is None:
            log.warning(
                "GC of network %s without a list of valid attachments: nothing is collected", configuration.name
            )
            return
        network = network_word(configuration.name)
        complete = dict(self._state.wired)
        for link in await self._kernel.links():
            if link.attachment is None or complete.get(link.name) != link.ifindex:
                continue
            key = (link.attachment.container_id, link.attachment.interface)
            if key in valid or link.attachment.network != network:
                continue
            async with self._locks.of(key):
                # Deleted and added again meanwhile: that one is newer than the list.
                if self._state.wired.get(link.name) == link.ifindex:
                    self._delete(key)

    def _require_ready(self) -> None:
        if not self._state.is_ready:
            raise CniError(
                ErrorCode.NOT_AVAILABLE,
                f"the agent of node {self._state.node} has no complete picture yet: "
                "it waits for its NodeNetwork and the ClusterNetwork",
                "see whether the operator runs, and the agent's log",
            )


def _key(request: Request) -> Key:
    return request.container_id, request.interface


def _pools(cluster: ClusterNetworkSpec, request: Request) -> frozenset[str] | Refusal:
    wanted = request.configuration.annotations.get(POOLS_ANNOTATION, "")
    return eligible_pools(cluster, request.pod.namespace, wanted)


def _success(request: Request, attachment: Attachment, mtu: int) -> Success:
    host_mac, pod_mac = mac_addresses(attachment.container_id, attachment.interface)
    return Success(
        host_interface=host_interface_name(attachment.container_id, attachment.interface),
        host_mac=host_mac,
        interface=attachment.interface,
        pod_mac=pod_mac,
        netns=request.netns,
        mtu=mtu,
        addresses=attachment.addresses,
        gateways=(GATEWAY_V4, GATEWAY_V6),
    )
