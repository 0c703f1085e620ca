"""The command line for people: `podroute status`, `pools`, `check`, `node …`, `lab …`. Loaded by `controller.cli.main` on demand.

Exit codes: 0 good, 1 what was asked is not so, 2 wrong use. Every table has `-o json` beside it.
"""

import importlib.metadata
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from controller.cli import node, reach
from controller.cli.output import Output, print_rows, print_value, said
from controller.cli.uninstall import uninstall
from controller.inspect.gather import gather, standing_findings
from controller.inspect.overview import node_rows, peer_rows, pool_rows
from controller.inspect.world import World
from controller.lab.commands import app as lab_app

app = typer.Typer(
    name="podroute",
    no_args_is_help=True,
    add_completion=False,
    help="Routed pod networking for Kubernetes: every pod has a real address, and the routers learn it by BGP. "
    "Works against the cluster of the usual kubeconfig rules, or a lab of this machine (--lab). "
    "The daemons are started with: podroute operator | agent | speaker (each has --help).",
)
app.add_typer(lab_app, name="lab")
app.add_typer(node.app, name="node")
app.command()(uninstall)


def _say_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"podroute {importlib.metadata.version('podroute')}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", help="Say which version this is.", callback=_say_version, is_eager=True)
    ] = False,
) -> None:
    """What every command takes; the words of --help stand with `app`."""


Kubeconfig = Annotated[str, typer.Option(help="Absent: KUBECONFIG, the pod's service account, ~/.kube/config.")]
LabName = Annotated[
    str, typer.Option("--lab", help="A lab of this machine; absent: the only one, if no cluster is named.")
]


@app.command()
def status(kubeconfig: Kubeconfig = "", lab: LabName = "", output: Output = "table") -> None:
    """Nodes, pools and BGP peers at a glance. Exits with 1 if a node is not as planned."""
    world = _world(kubeconfig, lab)
    nodes = node_rows(world)
    if output == "json":
        print_value({"nodes": nodes, "pools": pool_rows(world), "peers": peer_rows(world)})
    else:
        print_rows("Nodes", nodes)
        print_rows("Pools", pool_rows(world))
        print_rows("BGP peers", peer_rows(world))
    raise typer.Exit(0 if nodes and all(row.synced == "True" for row in nodes) else 1)


@app.command()
def pools(kubeconfig: Kubeconfig = "", lab: LabName = "", output: Output = "table") -> None:
    """How full each pool is, and why it is not accepted if it is not. Exits with 1 if one is not."""
    rows = pool_rows(_world(kubeconfig, lab))
    print_value(rows) if output == "json" else print_rows("Pools", rows)
    raise typer.Exit(0 if all(row.accepted == "True" for row in rows) else 1)


@app.command()
def check(kubeconfig: Kubeconfig = "", lab: LabName = "", output: Output = "table") -> None:
    """Compare blocks with nodes, addresses with pods, kernels with plans, and what was sent with what should be.

    Changes nothing. What disagrees is looked at once more, and only what stands counts. Exits with 1 if anything disagrees, or if a
    node works against pod traffic by its settings.
    """
    where = reach.cluster(kubeconfig, lab)
    found = reach.run(where, lambda api: standing_findings(lambda: gather(api, where.run_on_node)))
    if output == "json":
        print_value(found)
    elif found:
        print_rows("Findings", list(found))
    else:
        said("nothing disagrees")
    raise typer.Exit(1 if found else 0)


def _world(kubeconfig: str, lab: str) -> World:
    """The API server's objects; the nodes themselves are not asked."""
    return reach.run(reach.cluster(kubeconfig, lab), lambda api: gather(api, None))


def run(words: Sequence[str]) -> int:
    """Runs a command and returns its exit code."""
    try:
        app(list(words), standalone_mode=True)
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
