"""Pods' veths for the agent's event loop: kernel work on a worker thread, removals after the reply.

Implements `controller.agent.attach.PodKernel`. One thread suffices: wiring takes about a millisecond, and the kernel serialises it
behind one lock (RTNL) anyway. Removals wait for the kernel's grace periods, so they have a thread of their own.
"""

import asyncio
import functools
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from controller.agent.state import State
from controller.api.objects import Address
from controller.cni.result import CniError, ErrorCode
from controller.kernel import conntrack, pods
from controller.kernel.netlink import KernelError
from controller.kernel.pod_state import PodEnd
from controller.kernel.values import Attachment, PodLink, host_interface_name
from controller.plan.addresses import REST_SECONDS

log = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds between two looks for rests that are over and for veths that nobody holds.
SWEEP_SECONDS = 5.0


class PodEffects:
    """The real effects; `close` ends its threads."""

    def __init__(self, state: State) -> None:
        """Starts no thread before the first use."""
        self._state = state
        self._wiring = ThreadPoolExecutor(1, "wiring")
        self._removing = ThreadPoolExecutor(4, "removing")
        self._to_forget: set[Address] = set()
        self._forgetting = asyncio.Lock()
        # Removals under way, by the link's name: an addition of the same container gets a link of the same name.
        self._leaving: dict[str, Future[bool]] = {}

    def close(self) -> None:
        """Waits for what was begun."""
        self._wiring.shutdown()
        self._removing.shutdown()

    async def adopt(self) -> None:
        """At start: takes over the pods that the kernel has, and the rests that a former agent left in its files.

        Addresses of pods that went while no agent ran rest from now on.
        """
        state = self._state
        links = await self.links()
        until = state.clock() + REST_SECONDS
        # An address that was given out before it had rested is in both: its last pod counts.
        rests = {**state.folder.load_resting(), **dict.fromkeys(state.folder.load_used(), until)}
        state.ledger.adopt(links, rests)
        state.folder.store_resting(state.ledger.resting)
        self._note_used()
        state.wired = {link.name: link.ifindex for link in links if link.attachment is not None}

    def _note_used(self) -> None:
        used = frozenset(self._state.ledger.used)
        # Additions are noted one by one: the file is asked, or what came and went between two looks would stay in it.
        if used != self._state.folder.load_used():
            self._state.folder.store_used(used)

    async def sweep(self) -> None:
        """The task that ends rests and removes veths that belong to nobody; runs until cancelled."""
        suspects: set[str] = set()
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                self._note_used()
                await self._end_rests()
                # Deletions add lines; here the file gets to be what there is.
                self._state.folder.store_resting(self._state.ledger.resting)
                suspects = await self._remove_strays(suspects)
            except (KernelError, OSError) as error:
                log.error("the sweep failed: %s", error)

    async def _end_rests(self) -> None:
        state = self._state
        now = state.clock()
        rested = state.ledger.rested(now)
        if not rested:
            return
        await self.forget(rested)
        state.ledger.end_rest(rested, now)
        state.blocks_changed.ring()
        # An empty block may be given back now.
        state.reconcile.ring()

    async def _remove_strays(self, suspects: set[str]) -> set[str]:
        """Removes veths of ours that no addition and no pod in the ledger holds; returns those seen for the first time.

        Twice in a row: an addition that began while the links were read is no stray.
        """
        links = await self.links()
        known = {host_interface_name(*key) for key in self._state.ledger.used.values()}
        self._leaving = {name: removal for name, removal in self._leaving.items() if not removal.done()}
        present = {link.name for link in links}
        # One that could not be removed may have gone with its namespace since.
        for name in self._state.ledger.linked - present - self._leaving.keys():
            self._unlinked(name)
        strays = present - known - self._leaving.keys()
        for name in strays & suspects:
            log.warning("interface %s belongs to no pod that was added: removed", name)
            self.remove_later(name)
        return strays - suspects

    async def wire(self, netns: int, attachment: Attachment, mtu: int) -> tuple[Address, ...]:
        """See `PodKernel.wire`."""
        name = host_interface_name(attachment.container_id, attachment.interface)
        if name in self._leaving:
            await asyncio.shield(asyncio.wrap_future(self._leaving[name]))
        work = asyncio.ensure_future(self._on(self._wiring, lambda: pods.wire_pod(netns, attachment, mtu)))
        try:
            # The thread can't be stopped: a cancelled addition waits for it and takes the veth away again.
            wired = await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            raise
        except pods.InterfaceExists as error:
            raise CniError(
                ErrorCode.INTERFACE_EXISTS,
                f"container {attachment.container_id}, interface {attachment.interface}: {error}",
                "call DEL first, or use another interface name",
            ) from error
        except (KernelError, ValueError, OSError) as error:
            raise CniError(
                ErrorCode.KERNEL,
                f"container {attachment.container_id}, interface {attachment.interface}: {error}",
                "see the agent's log; the runtime tries again",
            ) from error
        self._state.wired[name] = wired.link.ifindex
        return wired.without_default

    def remove_later(self, name: str) -> None:
        """See `PodKernel.remove_later`."""
        self._state.wired.pop(name, None)
        under_way = self._leaving.get(name)
        # DEL comes often: a second removal that is overtaken would take a later link of that name.
        if under_way is not None and not under_way.done():
            return
        loop = asyncio.get_running_loop()
        self._leaving[name] = removal = self._removing.submit(_removed, name)
        removal.add_done_callback(lambda done: loop.call_soon_threadsafe(self._on_removed, name, done))

    def _on_removed(self, name: str, removal: Future[bool]) -> None:
        if removal.cancelled() or not removal.result():
            return
        if self._leaving.get(name) is removal:
            del self._leaving[name]
        self._unlinked(name)

    def _unlinked(self, name: str) -> None:
        """From here on a pod that waits may have the addresses of the veth, if there are no others."""
        if self._state.ledger.unlinked(name):
            self._state.blocks_changed.ring()

    async def forget(self, addresses: tuple[Address, ...]) -> None:
        """See `PodKernel.forget`. Those who ask while one pass is under way share the next: each reads the whole table."""
        self._to_forget.update(addresses)
        async with self._forgetting:
            if self._to_forget.isdisjoint(addresses):
                return
            batch, self._to_forget = tuple(self._to_forget), set()
            work = asyncio.ensure_future(self._on(self._removing, functools.partial(_forget, batch)))
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError:
                # The thread can't be stopped, and others wait for what it forgets.
                await asyncio.wait([work])
                raise

    async def problems(self, netns: int, attachment: Attachment, mtu: int) -> list[str]:
        """See `PodKernel.problems`."""
        name = host_interface_name(attachment.container_id, attachment.interface)
        (link,) = [link for link in await self.links() if link.name == name] or [
            PodLink(name, 0, False, mtu, attachment)
        ]
        drifts = await self._on(self._wiring, lambda: pods.pod_problems(netns, link))
        return [f"{drift.kind}: {drift.what}" for drift in drifts]

    async def pod_end(self, netns: int, interface: str) -> PodEnd | None:
        """See `PodKernel.pod_end`."""
        return await self._on(self._wiring, lambda: pods.read_pod(netns, interface))

    async def links(self) -> list[PodLink]:
        """See `PodKernel.links`."""
        return await self._on(self._wiring, pods.read_pods)

    async def _on(self, executor: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(executor, work)


def _removed(name: str) -> bool:
    """Whether the kernel has no such veth any more."""
    try:
        pods.unwire_pod(name)
    except (KernelError, OSError) as error:
        # The sweep finds what is left.
        log.error("interface %s was not removed: %s", name, error)
        return False
    return True


def _forget(addresses: tuple[Address, ...]) -> None:
    try:
        conntrack.forget(addresses)
    except KernelError as error:
        log.error("conntrack entries of released addresses stay: %s", error)
