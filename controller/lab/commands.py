"""`podroute lab`: up, down, status, shell, image. The command line mounts `app`; `python -m controller.lab` runs it alone."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn, cast

import msgspec
import typer
from rich.console import Console
from rich.status import Status as Spinner
from rich.table import Table

from controller.lab.bringup import Wanted
from controller.lab.cluster import Lab
from controller.lab.demo import start_demo
from controller.lab.errors import LabError, Refusal
from controller.lab.images import OWN_IMAGE, ensure_own_image
from controller.lab.packages import ensure_packages
from controller.lab.podroute import SOURCES
from controller.lab.state import CNI_KINDS, Cni, lab_names
from controller.lab.status import MachineStatus, Status, lab_status, picture
from controller.lab.teardown import require_root, tear_down

app = typer.Typer(
    no_args_is_help=True,
    help="A whole Kubernetes cluster with its routers on this machine, in namespaces. Needs Linux and root.",
)
WRONG_USE = (Refusal.BAD_TOPOLOGY,)
console = Console(stderr=True, highlight=False)
Name = Annotated[str, typer.Option("--name", help="The lab's name; several labs run side by side.")]
Output = Annotated[str, typer.Option("-o", "--output", help="table or json.")]


@app.command()
def up(
    name: Name = "lab",
    nodes: Annotated[int, typer.Option(help="Nodes, spread over the racks.")] = 4,
    racks: Annotated[int, typer.Option(help="Racks, each one L2 segment behind its own ToR.")] = 2,
    tor: Annotated[str, typer.Option(help="ToR of each rack in turn: frr, bird; none for one segment.")] = "frr,bird",
    cni: Annotated[str, typer.Option(help="podroute, reference (ptp + host-local), or none.")] = "podroute",
    containerd: Annotated[
        str, typer.Option(help="1: the distribution's; 2: version 2.3, built from its Go module.")
    ] = "1",
    bare: Annotated[
        bool, typer.Option("--bare", help="Install nothing of podroute: nodes wait for `kubectl apply -k manifests/`.")
    ] = False,
    processes: Annotated[
        bool,
        typer.Option(
            "--processes", help="Run podroute as processes from the tree, not by its manifests: quicker to change."
        ),
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave a start that failed as it is, for inspection.")] = False,
    output: Output = "table",
) -> None:
    """Bring a lab up. A second run finds it running and changes nothing."""
    _one_of("cni", cni, CNI_KINDS)
    _one_of("containerd", containerd, ("1", "2"))
    _one_of("output", output, ("table", "json"))
    tors = tuple(tor.split(","))
    wanted = Wanted(
        name=name,
        nodes=nodes,
        racks=racks,
        tors=tors,
        cni=cast(Cni, cni),
        containerd=containerd,
        bare=bare,
        processes=processes,
        keep=keep,
    )
    with _errors(), _terminated_as_interrupted(), _progress() as report:
        lab = Lab.up(wanted=wanted, report=report)
        if cni == "podroute" and not wanted.bare:
            start_demo(lab, report)
    _show(lab, output, hints=True)


@app.command()
def down(
    name: Name = "lab",
    every: Annotated[bool, typer.Option("--all", help="Remove every lab on this machine.")] = False,
) -> None:
    """Remove a lab and everything it made. Does nothing if there is none."""
    with _errors():
        for each in lab_names() if every else [name]:
            started = time.monotonic()
            if tear_down(each):
                console.print(f"lab {each} removed in {time.monotonic() - started:.1f} s")
            else:
                console.print(f"there is no lab {each}")


@app.command()
def image(
    path: Annotated[Path, typer.Argument(help="Where the archive goes; docker load and ctr images import read it.")],
) -> None:
    """Make podroute's container image, without a container engine, from this Debian 12 machine."""
    with _errors(), _progress() as report:
        require_root()
        ensure_packages(report)
        shutil.copy(ensure_own_image(report), path)
    console.print(f"image {OWN_IMAGE} is in {path}")


@app.command()
def status(name: Name = "lab", output: Output = "table") -> None:
    """Show a lab's machines, nodes and sessions. Exits with 1 if something that should run does not."""
    _one_of("output", output, ("table", "json"))
    with _errors():
        good = _show(Lab.find(name), output, hints=False)
    raise typer.Exit(0 if good else 1)


@app.command(context_settings={"ignore_unknown_options": True})
def shell(
    machine: Annotated[str, typer.Argument(help="A node (n0), a ToR (tor0), spine, outside or cp.")] = "cp",
    command: Annotated[list[str] | None, typer.Argument(help="After --: a command instead of a shell.")] = None,
    name: Name = "lab",
) -> None:
    """Enter a machine of the lab; in cp, kubectl is ready to use, and the folder is podroute's own."""
    with _errors():
        lab = Lab.find(name)
        # In cp, where the tree is: its manifests and examples are what one applies there.
        place = ["env", f"--chdir={SOURCES}"] if machine == "cp" else []
        argv = lab.machine(machine).enter([*place, *(command or ["bash", "--norc"])])
        environment = {**os.environ, **lab.environment(machine), "PS1": f"{name}-{machine}# "}
    os.execvpe(argv[0], argv, environment)


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise typer.BadParameter(f"{value!r}: use one of {', '.join(allowed)}", param_hint=f"--{option}")


def _show(lab: Lab, output: str, hints: bool) -> bool:
    found = lab_status(lab)
    if output == "json":
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(found), indent=1).decode() + "\n")
        return found.good
    out = Console(highlight=False)
    out.print(_table(found))
    out.print(picture(lab.topology), markup=False)
    if hints:
        named = "" if found.name == "lab" else f" --name {found.name}"
        router = lab.topology.router_names[-1] if lab.topology.routed else "n0"
        out.print("\nTry:")
        for words in (f"shell{named} cp -- kubectl get pods -A -o wide", _question(lab, router, named), f"down{named}"):
            out.print(f"  {_own_name()} lab {words}", markup=False, soft_wrap=True)
    return found.good


def _own_name() -> str:
    """What to type to start this program here: its name if the shell finds it by that, its path otherwise."""
    started, found = Path(sys.argv[0]), shutil.which("podroute")
    if started.name != "podroute" or (found and Path(found).samefile(started)):
        return "podroute"
    return os.path.relpath(started)


def _question(lab: Lab, router: str, named: str) -> str:
    if router not in lab.topology.router_names:
        question = "ip route"
    else:
        question = "birdc show route" if lab.is_bird(router) else "vtysh -c 'show bgp ipv4 unicast'"
    return f"shell{named} {router} -- {question}"


def _table(found: Status) -> Table:
    table = Table(
        title=f"lab {found.name}: {found.phase}, CNI {found.cni}, files in {found.folder}", title_justify="left"
    )
    for heading in ("machine", "role", "addresses", "state", "pods", "sessions"):
        table.add_column(heading)
    for each in found.machines:
        pods = "" if each.pods is None else str(each.pods)
        table.add_row(each.name, each.role, "\n".join(each.addresses), _state(each), pods, each.sessions)
    return table


def _state(machine: MachineStatus) -> str:
    if not machine.running:
        return "[red]off[/red]"
    if machine.down:
        return f"[red]down: {', '.join(machine.down)}[/red]"
    return "[yellow]NotReady[/yellow]" if machine.ready is False else "[green]Ready[/green]" if machine.ready else "up"


class _Progress:
    """Called with each step; tells how long the one before took."""

    def __init__(self) -> None:
        self._step, self._since, self._spinner = "", time.monotonic(), Spinner("", console=console)

    def __call__(self, line: str) -> None:
        self._told()
        self._step, self._since = line, time.monotonic()
        if console.is_terminal:
            self._spinner.update(line)
            self._spinner.start()

    def end(self) -> None:
        self._spinner.stop()
        self._told()
        self._step = ""

    def _told(self) -> None:
        if self._step:
            console.print(f"{time.monotonic() - self._since:6.1f} s  {self._step}", markup=False)


@contextmanager
def _progress() -> Iterator[_Progress]:
    """A spinner with the present step where somebody watches, a line for each step otherwise."""
    progress = _Progress()
    try:
        yield progress
    finally:
        progress.end()


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM undoes a start as Ctrl-C does."""

    def interrupt(_number: int, _frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _errors() -> Iterator[None]:
    """What cannot be done is one line on standard error and an exit code: 2 for wrong use, 1 otherwise."""
    try:
        yield
    except LabError as error:
        console.print(f"podroute lab: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(2 if error.reason in WRONG_USE else 1) from error
    except KeyboardInterrupt as interrupted:
        console.print("interrupted", markup=False)
        raise typer.Exit(130) from interrupted
