"""Which addresses are taken on this node: by pods, by additions under way, and by rest after use.

The kernel is the database: at start the ledger is filled from the veths' aliases. It belongs to the agent's event loop, and
nothing else changes it. The choice itself is pure: `controller.plan.addresses`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from controller.api.nodenetwork import BlockGrant
from controller.api.objects import Address, family_of
from controller.kernel.values import PodLink, host_interface_name
from controller.plan.addresses import REST_SECONDS, Choice, NoAddress, Occupied, Refusal, choose, families_of

Key = tuple[str, str]  # container id and interface: the CNI specification's key of an attachment


@dataclass(frozen=True, slots=True)
class Assigned:
    """The addresses that a pod was given, one a family, IPv4 first."""

    choices: tuple[Choice, ...]

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The addresses alone."""
        return tuple(choice.address for choice in self.choices)


class Ledger:
    """Addresses in use, in flight and at rest. Times are seconds on CLOCK_MONOTONIC, given by the caller."""

    def __init__(self) -> None:
        """Starts empty: call `adopt` with what the kernel holds before the first `assign`."""
        self._used: dict[Address, Key] = {}
        self._by_key: dict[Key, tuple[Address, ...]] = {}
        self._resting: dict[Address, float] = {}
        # Addresses of pods that are gone, by the veth that has them until its removal is done.
        self._linked: dict[Address, str] = {}
        # Addresses that additions in flight were given before they had rested, and until when they should have.
        self._tired: dict[Key, dict[Address, float]] = {}
        self._last: dict[str, Address] = {}
        self.yielded = 0

    def adopt(self, pods: Iterable[PodLink], resting: Mapping[Address, float]) -> None:
        """Takes over what a former agent left: the pods' addresses from their aliases, and those at rest."""
        for pod in pods:
            if pod.attachment is not None:
                self._take((pod.attachment.container_id, pod.attachment.interface), pod.attachment.addresses)
        self._resting.update((a, until) for a, until in resting.items() if a not in self._used)

    def assign(self, key: Key, blocks: tuple[BlockGrant, ...]) -> Assigned | Refusal:
        """One address of every family that `blocks` hold, or a refusal and nothing is taken."""
        if key in self._by_key:
            raise ValueError(f"{key[0]}/{key[1]} has addresses already")
        occupied = Occupied(self._used.keys(), self._resting, self._linked.keys())
        choices = []
        for family in families_of(blocks):
            of_family = [block for block in blocks if family_of(block.cidr) == family]
            choice = choose(of_family, occupied, self._last)
            if isinstance(choice, Refusal):
                return Refusal(choice.reason, f"{family}: {choice.message}")
            choices.append(choice)
        if not choices:
            return Refusal(NoAddress.NO_BLOCK, "the node has no block that serves this pod")
        for choice in choices:
            self._last[choice.block] = choice.address
            self.yielded += choice.yielded
        tired = {choice.address: self._resting[choice.address] for choice in choices if choice.yielded}
        if tired:
            self._tired[key] = tired
        self._take(key, tuple(choice.address for choice in choices))
        return Assigned(tuple(choices))

    def release(self, key: Key, now: float) -> tuple[Address, ...]:
        """The pod is gone: its addresses rest from `now` on. Returns them; none if the key is unknown.

        Nobody gets them before `unlinked` has said that their veth is gone, too.
        """
        self._tired.pop(key, None)
        addresses = self._leave(key)
        self._resting.update((address, now + REST_SECONDS) for address in addresses)
        return addresses

    def withdraw(self, key: Key) -> None:
        """The addition failed before any packet was sent: its addresses are free as soon as its veth is gone.

        One that had not rested in full goes on resting: its former pod's connections may not be forgotten yet.
        """
        tired = self._tired.pop(key, {})
        self._resting.update((address, tired[address]) for address in self._leave(key) if address in tired)

    def unlinked(self, link: str) -> bool:
        """The kernel has no veth of that name any more; whether addresses were waited for."""
        gone = [address for address, name in self._linked.items() if name == link]
        for address in gone:
            del self._linked[address]
        return bool(gone)

    @property
    def linked(self) -> frozenset[str]:
        """Veths whose pods are gone and that are not known to be removed yet."""
        return frozenset(self._linked.values())

    def _leave(self, key: Key) -> tuple[Address, ...]:
        addresses = tuple(a for a in self._by_key.pop(key, ()) if self._used.get(a) == key)
        for address in addresses:
            del self._used[address]
            self._linked[address] = host_interface_name(*key)
        return addresses

    def rested(self, now: float) -> tuple[Address, ...]:
        """Addresses whose time of rest is over; they stay at rest until `end_rest`, so that their connections go first."""
        return tuple(address for address, until in self._resting.items() if until <= now)

    def end_rest(self, addresses: Iterable[Address], now: float) -> None:
        """Makes those of the addresses free that had rested at `now`: one that was used meanwhile rests anew."""
        for address in addresses:
            if self._resting.get(address, now) <= now:
                self._resting.pop(address, None)

    def is_known(self, key: Key) -> bool:
        """Whether the attachment has addresses."""
        return key in self._by_key

    @property
    def used(self) -> Mapping[Address, Key]:
        """Addresses of pods and of additions in flight, and whose they are."""
        return self._used

    @property
    def resting(self) -> Mapping[Address, float]:
        """Addresses at rest, and until when."""
        return self._resting

    @property
    def occupied(self) -> frozenset[Address]:
        """All that can't be given to a pod without need."""
        return frozenset(self._used) | frozenset(self._resting) | frozenset(self._linked)

    def _take(self, key: Key, addresses: tuple[Address, ...]) -> None:
        self._by_key[key] = addresses
        for address in addresses:
            self._used[address] = key
            self._resting.pop(address, None)
            self._linked.pop(address, None)
