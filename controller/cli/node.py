"""`podroute node …`: what one node knows, asked on the node itself (as root, beside the agent)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from bgp.speaker.paths import DEFAULT_SOCKET
from bgp.values import Session
from controller.agent.survey import survey
from controller.cli.output import Output, print_rows, print_value
from controller.cli.reach import fail
from controller.cni.protocol import RUN_DIRECTORY
from controller.kernel.netlink import KernelError
from controller.plan.node_report import NodeReport

app = typer.Typer(no_args_is_help=True, help="What this node knows: run it on the node, as root.")

RunDir = Annotated[Path, typer.Option(help="The agent's run folder.")]
Socket = Annotated[str, typer.Option(help="The speaker's socket.")]
_RUN_DIR = Path(RUN_DIRECTORY)


class PodRow(msgspec.Struct, frozen=True):
    """A pod's veth."""

    link: str
    interface: str
    addresses: tuple[str, ...]
    pod_uid: str
    container: str
    up: bool


class BlockRow(msgspec.Struct, frozen=True):
    """A block that the node holds."""

    block: str
    pool: str
    state: str
    announced: bool
    reserved: tuple[str, ...]


class RouteRow(msgspec.Struct, frozen=True):
    """A route of ours: wanted, there, or both."""

    prefix: str
    kind: str
    next_hops: tuple[str, ...]
    state: str


class SessionRow(msgspec.Struct, frozen=True):
    """A BGP session as the speaker sees it."""

    session: str
    address: str
    state: str
    reason: str
    message: str
    sent: int
    accepted: int
    refused: str


class PathRow(msgspec.Struct, frozen=True):
    """A received route and what became of it."""

    prefix: str
    session: str
    next_hop: str
    as_path: str
    verdict: str


def _report(run_dir: Path, socket: str) -> NodeReport:
    try:
        return survey(run_dir, socket)
    except KernelError as error:
        fail(str(error))
    except PermissionError as error:
        fail(f"{error.filename}: {error.strerror}; run this as root on the node")


@app.command()
def report(run_dir: RunDir = _RUN_DIR, socket: Socket = DEFAULT_SOCKET, output: Output = "json") -> None:
    """Everything, for programs: what is wanted beside what kernel and speaker say."""
    found = _report(run_dir, socket)
    if output == "json":
        print_value(found)
    else:
        print_rows("Blocks", _blocks(found))
        print_rows("Pods", _pods(found))
        print_rows("Sessions", session_rows(found))
        print_rows("Routes", _routes(found))


@app.command()
def pods(run_dir: RunDir = _RUN_DIR, socket: Socket = DEFAULT_SOCKET, output: Output = "table") -> None:
    """The pods' veths and addresses, as the kernel has them."""
    _show("Pods", _pods(_report(run_dir, socket)), output)


@app.command()
def blocks(run_dir: RunDir = _RUN_DIR, socket: Socket = DEFAULT_SOCKET, output: Output = "table") -> None:
    """The blocks that the node holds, and whether they are announced."""
    _show("Blocks", _blocks(_report(run_dir, socket)), output)


@app.command()
def routes(run_dir: RunDir = _RUN_DIR, socket: Socket = DEFAULT_SOCKET, output: Output = "table") -> None:
    """podroute's routes: wanted and there, missing, or surplus."""
    _show("Routes", _routes(_report(run_dir, socket)), output)


@app.command()
def sessions(run_dir: RunDir = _RUN_DIR, socket: Socket = DEFAULT_SOCKET, output: Output = "table") -> None:
    """BGP sessions, and why one is not established."""
    _show("Sessions", session_rows(_report(run_dir, socket)), output)


@app.command()
def learned(run_dir: RunDir = _RUN_DIR, socket: Socket = DEFAULT_SOCKET, output: Output = "table") -> None:
    """Every received route, and why it is used, refused, or not the best."""
    _show("Received routes", _paths(_report(run_dir, socket)), output)


def _show(title: str, rows: list[msgspec.Struct], output: str) -> None:
    print_value(rows) if output == "json" else print_rows(title, rows)


def _pods(found: NodeReport) -> list[msgspec.Struct]:
    return [PodRow(p.link, p.interface, p.addresses, p.pod_uid, p.container_id[:13], p.is_up) for p in found.pods]


def _blocks(found: NodeReport) -> list[msgspec.Struct]:
    return [BlockRow(b.cidr, b.pool, b.state, b.cidr not in found.withdrawn, b.reserved) for b in found.blocks]


def _routes(found: NodeReport) -> list[msgspec.Struct]:
    return list(_route_rows(found))


def _route_rows(found: NodeReport) -> Iterator[RouteRow]:
    actual = {route.prefix: route for route in found.actual}
    wanted = {route.prefix: route for route in found.wanted}
    for prefix, route in sorted({**actual, **wanted}.items()):
        state = "surplus" if prefix not in wanted else "there" if actual.get(prefix) == route else "missing or wrong"
        hops = tuple(f"via {via} dev {dev}" if via else f"dev {dev}" for via, dev in route.next_hops)
        yield RouteRow(prefix, route.kind, hops, state)


def session_rows(found: NodeReport) -> list[msgspec.Struct]:
    """A row for each BGP session; none while the speaker does not answer."""
    if found.speaker is None:
        return []
    return [
        SessionRow(
            s.name,
            s.address,
            s.state,
            s.reason or s.last_reason or "",
            s.message,
            len(s.sent),
            s.accepted,
            _refused_words(s),
        )
        for s in found.speaker.observed.sessions
    ]


def _refused_words(session: Session) -> str:
    """How many routes were refused and why, and how many of these only a new session can bring back."""
    words = ", ".join(f"{reason} {count}" for reason, count in session.refused.items())
    return f"{words} ({session.forgotten} forgotten)" if session.forgotten else words


def _paths(found: NodeReport) -> list[msgspec.Struct]:
    if found.speaker is None:
        return []
    return [
        PathRow(
            p.prefix,
            p.session,
            p.next_hop,
            " ".join(map(str, p.as_path)),
            f"refused: {p.refused}" if p.refused else f"not best: {p.lost}" if p.lost else "best",
        )
        for p in found.speaker.paths
    ]
