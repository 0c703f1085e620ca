"""`podroute uninstall`: asks once more, says what stays, and carries the removal out."""

import ipaddress
import sys
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer

from controller.api.objects import Network
from controller.cli import reach
from controller.cli.output import said
from controller.cli.removal import NotRemoved, Removal, blocks_of_ours, is_installed
from controller.kube.client import Api
from controller.kube.resources import PODS

Pods = dict[str, list[str]]


def uninstall(
    kubeconfig: Annotated[str, typer.Option(help="Absent: KUBECONFIG, ~/.kube/config.")] = "",
    lab: Annotated[str, typer.Option("--lab", help="A lab of this machine; absent: the only one.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and what stays.")] = False,
    without: Annotated[
        list[str] | None, typer.Option(help="Do not wait for this node, whose machine is gone; may be repeated.")
    ] = None,
    wait: Annotated[
        float, typer.Option(min=1, help="Seconds for each step: a router that is cut off may take 130.")
    ] = 300,
) -> None:
    """Remove podroute: from the routers, then from the nodes, then from the API server.

    No new pods start from its first step on. Every node tells its routers first, waits until they have heard, and only then removes
    routes, rules, plugin and files. Pods that run keep their veths until they end. Broken off, it goes on where it stopped; before
    the agents are removed `kubectl scale -n podroute-system deployment/podroute-operator --replicas=1` takes it back.
    """
    where = reach.cluster(kubeconfig, lab)
    pods = reach.run(where, _pods)
    if pods is None:
        said("podroute is not installed here")
        return
    for line in what_stays(pods):
        said(line)
    if dry_run:
        return
    if not yes:
        if not sys.stdin.isatty():
            reach.fail("give --yes to remove podroute without being asked", code=2)
        typer.confirm("Remove podroute from this cluster?", abort=True)

    async def remove(api: Api) -> None:
        await Removal(api, said, wait, frozenset(without or ())).run(uuid.uuid4().hex)

    try:
        reach.run(where, remove)
    except NotRemoved as error:
        reach.fail(f"{error}. The same command goes on from here.")
    said("podroute is removed")


def what_stays(pods: Mapping[str, Iterable[str]]) -> list[str]:
    """What is to be told before: which pods of which node stay as they are, and what becomes of them. Pure."""
    if not any(pods.values()):
        return ["no pod has an address of podroute"]
    lines = [f"node {node}: {', '.join(sorted(names))}" for node, names in sorted(pods.items())]
    head = (
        "these pods keep their veths and addresses, but no router will know the way to them; once they are deleted they end "
        "when another network is installed"
    )
    return [head, *lines]


async def _pods(api: Api) -> Pods | None:
    """Pods with a network of their own, by node; None if podroute is not installed."""
    if not await is_installed(api):
        return None
    found: Pods = defaultdict(list)
    blocks = [ipaddress.ip_network(raw["spec"]["cidr"]) for raw in await blocks_of_ours(api)]
    for raw in (await api.list(PODS)).items:
        if _has_address(raw, blocks):
            found[raw["spec"]["nodeName"]].append(f"{raw['metadata']['namespace']}/{raw['metadata']['name']}")
    return found


def _has_address(raw: Mapping[str, Any], blocks: Iterable[Network]) -> bool:
    """Whether the pod runs with an address of podroute: another network may serve pods beside it."""
    status = raw.get("status") or {}
    if not raw["spec"].get("nodeName") or status.get("phase") not in ("Pending", "Running"):
        return False
    addresses = [ipaddress.ip_address(each["ip"]) for each in status.get("podIPs") or []]
    return any(address in block for block in blocks for address in addresses)
