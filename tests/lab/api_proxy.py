"""A proxy before the API server that is slow, refuses, or leaves its connections half open. Run by `ApiProxy` in the lab.

    python api_proxy.py LISTEN PORT TARGET CERTIFICATE KEY CONTROL

It ends TLS on both sides; CONTROL is a file with the behaviour of the moment: `pass`, `slow SECONDS`, `refuse STATUS`, or
`freeze`, in which connections that are open then carry nothing any more, in neither direction, and are not closed.
"""

import asyncio
import contextlib
import json
import re
import ssl
import sys
from pathlib import Path

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_CHUNK = 1 << 16


class Proxy:
    """What one run needs to know."""

    def __init__(self, target: str, control: Path) -> None:
        self.target, self.control = target, control
        self.frozen: set[int] = set()
        self.open: set[int] = set()
        self.count = 0

    @property
    def behaviour(self) -> list[str]:
        return self.control.read_text().split()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.count += 1
        number = self.count
        self.open.add(number)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        host, _, port = self.target.rpartition(":")
        # An end that goes while the other still sends is an end.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            theirs, upstream = await asyncio.open_connection(host, int(port), ssl=context)
            answers = asyncio.create_task(self.answers(number, theirs, writer))
            try:
                await self.requests(number, reader, upstream, writer)
            finally:
                await self.thawed(number)
                answers.cancel()
                upstream.close()
        self.open.discard(number)
        writer.close()

    async def requests(
        self, number: int, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter, back: asyncio.StreamWriter
    ) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            body = await reader.readexactly(int(length[1])) if length else b""
            kind, *values = self.behaviour
            await self.thawed(number)
            if kind == "refuse":
                back.write(refusal(int(values[0])))
                await back.drain()
            else:
                upstream.write(head + body)
                await upstream.drain()

    async def answers(self, number: int, theirs: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        """Each piece comes as late as the first: an answer of several is as slow as one."""
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        sending = asyncio.create_task(self.send_late(number, late, back))
        loop = asyncio.get_running_loop()
        try:
            while piece := await theirs.read(_CHUNK):
                kind, *values = self.behaviour
                late.put_nowait((loop.time() + (float(values[0]) if kind == "slow" else 0.0), piece))
            await late.join()
        finally:
            sending.cancel()
            await self.thawed(number)
            back.close()

    async def send_late(
        self, number: int, late: asyncio.Queue[tuple[float, bytes]], back: asyncio.StreamWriter
    ) -> None:
        while True:
            due, piece = await late.get()
            await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
            await self.thawed(number)
            back.write(piece)
            await back.drain()
            late.task_done()

    async def thawed(self, number: int) -> None:
        """Returns at once, unless this connection is frozen: then never."""
        if number in self.frozen:
            await asyncio.Event().wait()

    async def watch(self) -> None:
        """Freezes what is open when that is asked for."""
        was_frozen = False
        while True:
            is_frozen = self.behaviour[0] == "freeze"
            if is_frozen and not was_frozen:
                self.frozen |= self.open
            was_frozen = is_frozen
            await asyncio.sleep(0.05)


def refusal(status: int) -> bytes:
    """An answer as the API server gives it when it has too much to do, or failed."""
    reasons = {429: "TooManyRequests", 500: "InternalError"}
    body = json.dumps(
        {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "message": "refused by the test",
            "reason": reasons[status],
            "code": status,
        }
    ).encode()
    head = (
        f"HTTP/1.1 {status} {reasons[status]}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def main(listen: str, port: str, target: str, certificate: str, key: str, control: str) -> None:
    proxy = Proxy(target, Path(control))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(proxy.serve, listen, int(port), ssl=context, limit=1 << 24)
    async with server:
        await asyncio.gather(server.serve_forever(), proxy.watch())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
