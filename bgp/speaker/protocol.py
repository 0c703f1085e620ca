"""The speaker's socket: one JSON value a line, both ways (shared by `client` and `daemon`).

A client writes `Sync`, `Watch` or `Show`. `Sync` is answered by `Stored` (or `Failed`) once the desired state is on
disk; `Watch` by a `Snapshot` and then a `Delta` for each batch of changes, until the client closes; `Show` by `Shown`.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

import msgspec

from bgp.values import Desired, Detail, Observed, Path, Route, Sent

_T = TypeVar("_T")

# A snapshot of 100,000 routes is about 12 MB on one line.
LINE_LIMIT = 256 * 1024 * 1024
ITEMS_PER_PIECE = 200  # a few milliseconds of work: the daemon reads ExaBGP's events between two pieces


class Sync(msgspec.Struct, frozen=True, tag=True):
    """Make this the desired state."""

    desired: Desired


class Watch(msgspec.Struct, frozen=True, tag=True):
    """Send the whole observed state, then its changes."""


class Show(msgspec.Struct, frozen=True, tag=True):
    """Send everything once."""


class Stored(msgspec.Struct, frozen=True, tag=True):
    """The desired state is stored; this is what is observed now."""

    observed: Observed


class Snapshot(msgspec.Struct, frozen=True, tag=True):
    """The whole observed state."""

    observed: Observed


class Delta(msgspec.Struct, frozen=True, tag=True):
    """What changed: `head` is the observed state without routes, `routes` the changed ones (None: gone)."""

    head: Observed
    routes: dict[str, Route | None]


class Shown(msgspec.Struct, frozen=True, tag=True):
    """Answer to `Show`."""

    detail: Detail


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The request was not carried out; nothing changed."""

    message: str


Request = Sync | Watch | Show
Reply = Stored | Snapshot | Delta | Shown | Failed

_encoder = msgspec.json.Encoder()
_requests: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_replies: msgspec.json.Decoder[Reply] = msgspec.json.Decoder(Reply)


def line_of(message: Request | Reply) -> bytes:
    """The message as one line, newline included."""
    return _encoder.encode(message) + b"\n"


def request_of(line: bytes) -> Request:
    """The request on a line. Raises msgspec.DecodeError or its subclass ValidationError."""
    return _requests.decode(line)


def reply_of(line: bytes) -> Reply:
    """The reply on a line. Raises msgspec.DecodeError or its subclass ValidationError."""
    return _replies.decode(line)


def pieces_of_observed(message: Stored | Snapshot) -> Iterator[bytes]:
    """The same line as `line_of`, little by little."""
    yield b'{"type":"%s","observed":' % type(message).__name__.encode()
    yield from _observed(message.observed)
    yield b"}\n"


def pieces_of_shown(observed: Observed, paths: Iterable[Path], sent: Iterable[Sent]) -> Iterator[bytes]:
    """The line of a `Shown`, little by little; paths and sent are asked for as the line grows."""
    yield b'{"type":"Shown","detail":{"observed":'
    yield from _observed(observed)
    for field, items in ((b"paths", paths), (b"sent", sent)):
        yield b',"%s":[' % field
        yield from _joined(_encoder.encode(chunk)[1:-1] for chunk in _chunks(items))
        yield b"]"
    yield b"}}\n"


def _observed(observed: Observed) -> Iterator[bytes]:
    head = _encoder.encode(msgspec.structs.replace(observed, routes={}))
    yield head[:-1] + (b"," if len(head) > 2 else b"") + b'"routes":{'
    yield from _joined(_encoder.encode(dict(chunk))[1:-1] for chunk in _chunks(observed.routes.items()))
    yield b"}}"


def _joined(encoded: Iterable[bytes]) -> Iterator[bytes]:
    separator = b""
    for piece in encoded:
        yield separator + piece
        separator = b","


def _chunks(items: Iterable[_T]) -> Iterator[list[_T]]:
    remaining = iter(items)
    while chunk := list(islice(remaining, ITEMS_PER_PIECE)):
        yield chunk
