"""Answers on the node what only the running agent knows: one JSON line a connection, over a socket that only root reaches.

`controller.agent.survey` asks, on behalf of `podroute node` and `podroute check`.
"""

import asyncio
import contextlib
import os

import msgspec

from controller.agent.state import State
from controller.plan.node_report import AgentSelf


async def serve(state: State) -> None:
    """The task: answers until cancelled."""
    path = state.folder.node_socket
    path.unlink(missing_ok=True)

    async def on_connection(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(msgspec.json.encode(_self(state)) + b"\n")
            await writer.drain()
        writer.close()

    # The socket must not be open to others for the moment before a chmod.
    old = os.umask(0o177)
    try:
        server = await asyncio.start_unix_server(on_connection, path)
    finally:
        os.umask(old)
    async with server:
        await server.serve_forever()


def _self(state: State) -> AgentSelf:
    return AgentSelf(
        node=state.node,
        is_ready=state.is_ready,
        waiting=len(state.waiting),
        troubles=tuple(f"{trouble.reason}: {trouble.message}" for trouble in state.troubles.values()),
        drift={str(kind): count for kind, count in state.drift.items()},
    )
