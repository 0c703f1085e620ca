"""Keeps the speaker as planned and hears what it observes. Two tasks of the agent: one says, one listens.

An agent that ends closes its connections and nothing else happens: the speaker goes on with what it was told last.
"""

import msgspec

from bgp.speaker.client import SpeakerClient, SpeakerError
from bgp.values import Desired
from controller.agent.bell import Bell
from controller.agent.state import State, Trouble
from controller.api.reasons import Reason

_ABOUT = "speaker"
RETRY_SECONDS = 1.0


class Speaking:
    """Says `desired` whenever it changed, until the speaker has stored it."""

    def __init__(self, state: State, client: SpeakerClient) -> None:
        """Says nothing before the first `want`."""
        self._state, self._client = state, client
        self._bell = Bell()
        self._wanted: Desired | None = None
        self._said: Desired | None = None
        self._generation = 0

    def want(self, desired: Desired) -> None:
        """Makes this the desired state; nothing is sent if it is what was said last."""
        if desired != self._wanted:
            self._wanted = desired
            self._state.said_generation = None
            self._bell.ring()

    async def say(self) -> None:
        """The task that says it."""
        while True:
            await self._bell.wait(RETRY_SECONDS)
            if self._state.said_generation not in (None, self._state.observed.generation) and self._client.connected:
                # Somebody else spoke to it, or an older order overtook: it is told again.
                self._said = self._state.said_generation = None
            if self._wanted is not None and self._wanted != self._said:
                await self._say(self._wanted)
            elif not self._client.connected:
                self._state.set_trouble(_ABOUT, Trouble(Reason.SPEAKER_AWAY, "its socket does not answer"))
            else:
                # What was wanted first is wanted again: there is nothing to say.
                self._note_said()
                self._state.set_trouble(_ABOUT, None)

    async def _say(self, desired: Desired) -> None:
        self._generation = max(self._generation, self._state.observed.generation) + 1
        try:
            await self._client.sync(msgspec.structs.replace(desired, generation=self._generation))
        except SpeakerError as error:
            # It may yet hear this order: what was said before is no longer what it follows.
            self._said = None
            self._state.set_trouble(_ABOUT, Trouble(Reason.SPEAKER_AWAY, str(error)))
            return
        self._said = desired
        self._note_said()

    def _note_said(self) -> None:
        """From here on the speaker follows, unless another state became wanted while this one was told."""
        if self._said == self._wanted and self._state.said_generation is None:
            self._state.said_generation = self._generation
            self._state.report.ring()

    async def listen(self) -> None:
        """The task that hears what the speaker observes."""
        state = self._state
        async for change in self._client.changes():
            before, state.observed = state.observed, change.observed
            if change.prefixes is None or before.settled != state.observed.settled:
                state.reconcile.ring()
            elif change.prefixes:
                state.reconcile.ring_for(change.prefixes)
            if before.sessions != state.observed.sessions or before.generation != state.observed.generation:
                # What is sent decides which blocks are released.
                state.report.ring()
