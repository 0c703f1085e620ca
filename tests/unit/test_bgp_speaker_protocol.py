"""The speaker's answers on its socket: made little by little, read as one line."""

import asyncio

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bgp.decision import Attributes
from bgp.exabgp.events import SessionChange, UpdateMessage
from bgp.speaker.protocol import (
    ITEMS_PER_PIECE,
    Show,
    Shown,
    Snapshot,
    Stored,
    Watch,
    line_of,
    pieces_of_observed,
    pieces_of_shown,
    reply_of,
)
from bgp.speaker.server import Server
from bgp.speaker.state import SpeakerState
from bgp.speaker.view import detail_of, observed_of
from bgp.values import Desired, Detail, Neighbour, Observed, Path, Route, Sent

TOR = Neighbour(
    name="tor", address="192.0.2.1", local_address="192.0.2.11", asn=65001, local_asn=64512, accept=("10.0.0.0/8",)
)

counts = st.integers(0, 2 * ITEMS_PER_PIECE + 1)


def prefix(number):
    return f"10.{number >> 8}.{number & 255}.0/24"


def heard(numbers):
    announced = tuple((prefix(number), "192.0.2.1") for number in numbers)
    attributes = Attributes(as_path=(65001,), path_length=1, neighbour_as=65001)
    return UpdateMessage(address=TOR.address, sent=False, attributes=attributes, announced=announced, withdrawn=())


def state_with(count):
    state = SpeakerState(0.0)
    state.set_desired(Desired(router_id="192.0.2.11", neighbours=(TOR,), on_link=("192.0.2.0/24",)), 0.0)
    state.set_configured(state.neighbours_to_configure())
    state.on_event(SessionChange(TOR.address, "up", ""), 1.0)
    state.on_event(heard(range(count)), 1.0)
    state.decide(count)
    return state


@given(routes=counts, paths=counts, sent=counts, generation=st.integers(0, 3))
def test_a_line_made_in_pieces_says_what_one_made_at_once_says(routes, paths, sent, generation):
    table = {prefix(number): Route(("192.0.2.1",), ("tor",)) for number in range(routes)}
    observed = Observed(generation=generation, routes=table)
    all_paths = tuple(Path(session="tor", prefix=prefix(number), next_hop="192.0.2.1") for number in range(paths))
    all_sent = tuple(Sent(session="tor", prefix=prefix(number), next_hop="192.0.2.1") for number in range(sent))
    for message in (Stored(observed), Snapshot(observed)):
        assert reply_of(b"".join(pieces_of_observed(message))) == message
    shown = reply_of(b"".join(pieces_of_shown(observed, all_paths, all_sent)))
    assert shown == Shown(Detail(observed=observed, paths=all_paths, sent=all_sent))


def test_routes_that_change_while_everything_is_shown_harm_nothing():
    state = state_with(1000)
    pieces = pieces_of_shown(observed_of(state), state.rib.paths(), [])
    line = b"".join(next(pieces) for _ in range(10))
    state.on_event(heard(range(1000, 1100)), 2.0)
    state.on_event(msgspec.structs.replace(heard(()), withdrawn=(prefix(999),)), 2.0)
    shown = reply_of(line + b"".join(pieces))
    assert {path.prefix for path in shown.detail.paths} >= {prefix(number) for number in range(999)}
    assert len(detail_of(state).paths) == 1099


def test_the_loop_goes_round_many_times_while_a_long_answer_is_made(tmp_path):
    state = state_with(5000)

    async def rounds_while_asked(request):
        server = Server(state, lambda desired: None)
        rounds = 0

        async def count():
            nonlocal rounds
            while True:
                rounds += 1
                await asyncio.sleep(0)

        async with await asyncio.start_unix_server(server.serve, tmp_path / "s", limit=server.line_limit):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "s", limit=server.line_limit)
            writer.write(line_of(request))
            await writer.drain()
            counting = asyncio.create_task(count())
            reply = reply_of(await reader.readline())
            counting.cancel()
            writer.close()
        return reply, rounds

    reply, rounds = asyncio.run(rounds_while_asked(Show()))
    assert reply == Shown(detail_of(state))
    assert rounds > 2 * 5000 / ITEMS_PER_PIECE, "paths and routes"
    reply, rounds = asyncio.run(rounds_while_asked(Watch()))
    assert reply == Snapshot(observed_of(state))
    assert rounds > 5000 / ITEMS_PER_PIECE
