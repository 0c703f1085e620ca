"""When the agent takes the speaker to follow what it wants (`controller.agent.speaker`)."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from bgp.speaker.client import Change
from bgp.values import Desired, Observed, Route, Session, SessionState
from controller.agent.files import RunFolder
from controller.agent.speaker import Speaking
from controller.agent.state import State

ONE, TWO = Desired(router_id="10.0.0.1"), Desired(router_id="10.0.0.2")


class Client:
    """A speaker that stores what it is told once `may_answer` is set, and shows the changes that it is given."""

    connected = True

    def __init__(self, *changes: Change) -> None:
        self.may_answer = asyncio.Event()
        self.told: asyncio.Queue[Desired] = asyncio.Queue()
        self._changes = changes

    async def sync(self, desired: Desired) -> None:
        await self.told.put(msgspec.structs.replace(desired, generation=0))
        await self.may_answer.wait()

    async def changes(self) -> AsyncIterator[Change]:
        for change in self._changes:
            yield change


def test_a_state_that_was_wanted_again_before_another_was_told_counts_as_followed(tmp_path: Path) -> None:
    async def story() -> None:
        client, state = Client(), State("n0", RunFolder(tmp_path), lambda: 0.0)
        speaking = Speaking(state, client)
        task = asyncio.create_task(speaking.say())
        client.may_answer.set()
        speaking.want(ONE)
        assert await client.told.get() == ONE
        await state.report.wait(5)
        state.observed = Observed(generation=state.said_generation or 0)
        speaking.want(TWO)
        speaking.want(ONE)
        assert state.said_generation is None
        assert await state.report.wait(5), "the speaker follows still"
        assert state.said_generation == state.observed.generation
        assert client.told.empty()
        task.cancel()

    asyncio.run(asyncio.wait_for(story(), 10))


def test_a_speaker_that_is_just_being_told_something_older_does_not_follow(tmp_path: Path) -> None:
    async def story() -> None:
        client, state = Client(), State("n0", RunFolder(tmp_path), lambda: 0.0)
        speaking = Speaking(state, client)
        task = asyncio.create_task(speaking.say())
        speaking.want(TWO)
        assert await client.told.get() == TWO
        speaking.want(ONE)
        client.may_answer.set()
        client.may_answer = asyncio.Event()
        assert await client.told.get() == ONE
        assert state.said_generation is None
        client.may_answer.set()
        assert await state.report.wait(5)
        assert state.said_generation == 2
        task.cancel()

    asyncio.run(asyncio.wait_for(story(), 10))


def test_a_speaker_to_which_somebody_else_spoke_is_told_again(tmp_path: Path) -> None:
    async def story() -> None:
        client, state = Client(), State("n0", RunFolder(tmp_path), lambda: 0.0)
        speaking = Speaking(state, client)
        client.may_answer.set()
        task = asyncio.create_task(speaking.say())
        speaking.want(ONE)
        await client.told.get()
        assert await state.report.wait(5)
        state.observed = Observed(generation=7)
        # Noticed by the timer.
        assert await client.told.get() == ONE
        assert await state.report.wait(5)
        assert state.said_generation == 8
        task.cancel()

    asyncio.run(asyncio.wait_for(story(), 10))


def test_the_reconciler_hears_which_prefixes_changed_and_everything_when_that_is_not_known(tmp_path: Path) -> None:
    routes = {"10.244.1.0/26": Route(("10.0.0.3",), ("s",))}
    session = Session(name="s", address="10.0.0.3", state=SessionState.ESTABLISHED, since=1.0)
    story = [
        (Change(observed=Observed(routes=routes), prefixes=None), None),
        (Change(observed=Observed(routes=routes), prefixes=frozenset(routes)), frozenset(routes)),
        (Change(observed=Observed(routes=routes, settled=("ipv4",)), prefixes=frozenset(routes)), None),
    ]
    for position, (change, expected) in enumerate(story):
        state = State("n0", RunFolder(tmp_path), lambda: 0.0)
        state.observed = story[max(0, position - 1)][0].observed
        asyncio.run(Speaking(state, Client(change)).listen())
        assert asyncio.run(state.reconcile.wait(0.0))
        assert state.reconcile.take() == expected
    # A session's counters are the reporter's business.
    state = State("n0", RunFolder(tmp_path), lambda: 0.0)
    change = Change(observed=Observed(sessions=(session,)), prefixes=frozenset())
    asyncio.run(Speaking(state, Client(change)).listen())
    assert not asyncio.run(state.reconcile.wait(0.0))
    assert asyncio.run(state.report.wait(0.0))
