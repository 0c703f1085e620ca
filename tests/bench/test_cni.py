"""CNI ADD and DEL through the whole path, from the runtime's process to the pod that answers, beside Go's ptp and host-local.

The calls are made by `cni_caller` inside a node: same caller, same node, same moment, one plugin after the other.
"""

import json
import signal
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from figures import Figures, Row, percentile
from refused_inputs import body
from test_announcing import settled_blocks
from workloads import eventually

from controller.cni.install import CONFLIST
from controller.lab.cluster import Lab
from controller.lab.node import CNI_CONFIGURATION
from controller.lab.podroute import ROOT, ROUTED_POOLS, SOURCES, python
from controller.lab.power import processes_of_node
from controller.lab.programs import CNI_PLUGINS, program_path

NODE, PROFILED_NODE = "n0", "n1"
GOALS = {"ADD": 0.4, "DEL": 0.2}
AT_ONCE, SINGLE_ROUNDS = 100, 60
CALLER = f"{SOURCES}/tests/bench/cni_caller.py"
ANNOTATIONS = "io.kubernetes.cri.pod-annotations"
Job = dict[str, dict[str, list[float]]]


def podroute(pool: str = "") -> dict[str, Any]:
    """The plugin as the agent installed it; `pool` confines pods to one pool, and so to one family."""
    annotations = {"podroute.dev/pools": pool} if pool else {}
    configuration = {"cniVersion": "1.0.0", "name": "podroute", "type": "podroute"}
    return {
        "name": "podroute",
        "program": "/opt/cni/bin/podroute",
        "path": "/opt/cni/bin",
        "configuration": {**configuration, "runtimeConfig": {ANNOTATIONS: annotations}},
    }


def reference(*subnets: str) -> dict[str, Any]:
    """ptp and host-local with addresses of their own; no masquerading, as pods are routed."""
    folders = {each.name: program_path(each).parent for each in CNI_PLUGINS}
    routes = [{"dst": "::/0" if ":" in subnet else "0.0.0.0/0"} for subnet in subnets]
    ipam = {"type": "host-local", "ranges": [[{"subnet": subnet}] for subnet in subnets], "routes": routes}
    return {
        "name": "ptp",
        "program": str(folders["ptp"] / "ptp"),
        "path": f"{folders['ptp']}:{folders['host-local']}",
        "configuration": {"cniVersion": "1.0.0", "name": "bench-ptp", "type": "ptp", "mtu": 1500, "ipam": ipam},
    }


V4, V6 = "10.245.0.0/24", "fd00:10:245::/64"


def call(lab: Lab, node: str, plugins: list[dict[str, Any]], rounds: int, at_once: int = 0, what: str = "ADD") -> Job:
    """One job for the caller, in the node."""
    job = {"plugins": plugins, "rounds": rounds, "warm_up": 3, "at_once": at_once, "what": what}
    answer: Job = json.loads(lab.node(node).run([python(), CALLER], json.dumps(job), 200))
    return answer


@pytest.fixture(scope="module")
def served(lab: Lab) -> Lab:
    """The lab with pools; its nodes have their blocks and the plugin is installed."""
    lab.kubectl("apply", "-f", str(ROOT / ROUTED_POOLS))
    eventually(lambda: settled_blocks(lab), 30, "all nodes have their blocks")
    for node in (NODE, PROFILED_NODE):
        there = ["sh", "-c", f"test -e {CNI_CONFIGURATION}/{CONFLIST} && echo there || true"]
        eventually(lambda n=node, a=there: lab.node(n).run(a), 30, f"the plugin is installed on {node}")
    return lab


@pytest.mark.parametrize(
    ("families", "ours", "theirs"),
    [
        ("dual stack beside IPv4 only", podroute(), reference(V4)),
        ("IPv4 only, both", podroute("pods-v4"), reference(V4)),
        ("dual stack, both", podroute(), reference(V4, V6)),
    ],
    ids=["dual-beside-v4", "v4", "dual"],
)
def test_a_single_pod_is_added_and_deleted_beside_ptp(
    served: Lab, figures: Figures, rounds: int, families: str, ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    # The reference waits for IPv6 duplicate address detection, seconds in each call: fewer runs say that, too.
    is_slow = families == "dual stack, both"
    took = call(served, NODE, [ours, theirs], max(2, rounds // 4) if is_slow else rounds)
    for verb in ("ADD", "DEL"):
        mine, other = took["podroute"][verb], took["ptp"][verb]
        figures.add(
            Row(
                "cni",
                f"CNI {verb}, {families}, p50",
                1000 * statistics.median(mine),
                "ms",
                reference=1000 * statistics.median(other),
                goal=None if is_slow else GOALS[verb],
                detail=f"p90 {1000 * percentile(mine, 90):.1f} and {1000 * percentile(other, 90):.1f} ms, {len(mine)} runs each"
                + (_gone(took) if verb == "DEL" else ""),
            )
        )


def _gone(took: Job) -> str:
    mine, other = (1000 * statistics.median(took[name]["gone"]) for name in ("podroute", "ptp"))
    return f"; until the interface is gone {mine:.1f} and {other:.1f} ms"


@pytest.fixture
def wide(served: Lab) -> Iterator[str]:
    """Pools of one large block each for the node: thousands of pods find addresses that do not rest. Gives the annotation."""
    pools = {"wide-v4": ("10.250.0.0/19", 20), "wide-v6": ("fd00:10:250::/108", 116)}
    bodies = [
        body(
            "IPPool",
            name,
            cidr=cidr,
            blockSize=size,
            headroom=2000,
            nodeSelector={"matchLabels": {"kubernetes.io/hostname": NODE}},
        )
        for name, (cidr, size) in pools.items()
    ]
    served.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": bodies}))

    def blocks() -> set[str]:
        return {each["spec"]["pool"] for each in served.get("ipblocks")["items"]} & pools.keys()

    eventually(lambda: blocks() == pools.keys(), 20, "the node has its large blocks")
    yield ",".join(pools)
    served.kubectl("delete", "ippool", *pools, "--wait=false")
    eventually(lambda: not blocks(), 120, "the large blocks are given back")


def test_a_hundred_pods_are_added_and_deleted_at_once_beside_ptp(
    served: Lab, figures: Figures, rounds: int, wide: str
) -> None:
    jobs = [call(served, NODE, [podroute(wide), reference(V4)], 3, AT_ONCE) for _ in range(10 if rounds >= 30 else 1)]
    figures.add(at_once_row("ADD", "", merged(jobs), GOALS["ADD"]), at_once_row("DEL", "", merged(jobs), None))


def test_a_hundred_pods_are_added_at_once_while_every_address_rests(served: Lab, figures: Figures, rounds: int) -> None:
    pressed: list[Job] = []
    for _ in range(3 if rounds >= 30 else 1):
        wait_until_rested(served, NODE)
        # The first hundred find free addresses; the third take over those of the first, which still rest.
        took = call(served, NODE, [podroute(), reference(V4)], 3, AT_ONCE)
        pressed.append({name: {what: [times[2]] for what, times in row.items()} for name, row in took.items()})
    figures.add(at_once_row("ADD", ", every address still at rest", merged(pressed), None))


def wait_until_rested(lab: Lab, node: str) -> None:
    """Until no address of a deleted pod rests any more: half a minute after the last one."""
    argv = ["cat", "/run/podroute/agent/resting"]
    eventually(lambda: not lab.node(node).run(argv), 60, lambda: f"rests are over: {lab.node(node).run(argv)}")


def merged(jobs: list[Job]) -> Job:
    return {name: {what: [t for job in jobs for t in job[name][what]] for what in row} for name, row in jobs[0].items()}


def at_once_row(verb: str, case: str, took: Job, goal: float | None) -> Row:
    mine, other = took["podroute"], took["ptp"]
    slowest = " and ".join(f"{1000 * statistics.median(each[f'{verb} slowest']):.0f}" for each in (mine, other))
    return Row(
        "cni",
        f"{AT_ONCE} CNI {verb} at once{case}, dual stack beside IPv4 only, until the last one, p50",
        1000 * statistics.median(mine[verb]),
        "ms",
        reference=1000 * statistics.median(other[verb]),
        goal=goal,
        detail=f"slowest call {slowest} ms, {len(mine[verb])} runs each" + (_gone(took) if verb == "DEL" else ""),
    )


@pytest.fixture
def sampled_agent(served: Lab) -> Iterator[Path]:
    """An agent that notes where its time goes runs in place of the node's; the file is the one for its counts."""
    machine = served.node(PROFILED_NODE)
    (agent,) = [each for each in processes_of_node(served.state, PROFILED_NODE) if each.name == "agent"]
    at = agent.argv.index("controller.cli.main")
    path = machine.folder / "samples.json"
    argv = (agent.argv[0], f"{SOURCES}/tests/bench/sampled_agent.py", str(path), *agent.argv[at + 1 :])
    sampled = msgspec.structs.replace(agent, name="sampled", argv=argv)
    machine.stop("agent")
    machine.start(sampled)
    try:
        socket = ["sh", "-c", "test -S /run/podroute/agent/cni.sock && echo there || true"]
        eventually(lambda: machine.run(socket), 20, "the sampled agent listens")
        yield path
    finally:
        machine.stop("sampled")
        machine.start(agent)


def test_samples_of_the_agent_say_where_the_time_of_additions_goes(
    served: Lab, figures: Figures, sampled_agent: Path
) -> None:
    call(served, PROFILED_NODE, [podroute()], 1)
    took = sampled(served, sampled_agent, 1, AT_ONCE)
    figures.explain(
        "cni",
        f"Where the time of {AT_ONCE} additions and deletions at once goes",
        f"Sampled in the agent every 2 ms over {AT_ONCE} ADDs ({1000 * took['ADD'][0]:.0f} ms), their pings, and {AT_ONCE} DELs "
        f"({1000 * took['DEL'][0]:.0f} ms): share of samples in which a thread was at that place.\n\n"
        + busiest(sampled_agent),
    )
    wait_until_rested(served, PROFILED_NODE)
    took = sampled(served, sampled_agent, SINGLE_ROUNDS)
    (asked,) = call(served, PROFILED_NODE, [podroute()], SINGLE_ROUNDS, what="VERSION").values()
    times = {verb: f"{1000 * statistics.median(each):.1f} ms" for verb, each in {**took, **asked}.items()}
    figures.explain(
        "cni",
        "Where the time of a single addition goes",
        f"ADD took {times['ADD']}; VERSION, the same way to the agent and back with nothing to do there, {times['VERSION']}. "
        f"Sampled over {SINGLE_ROUNDS} ADDs, pings and DELs, one after the other:\n\n" + busiest(sampled_agent),
    )


def sampled(lab: Lab, path: Path, rounds: int, at_once: int = 0) -> dict[str, list[float]]:
    """Calls while the agent notes what it does; the counts are in the file then."""
    path.unlink(missing_ok=True)
    lab.kill(PROFILED_NODE, "sampled", signal.SIGUSR1)
    took = call(lab, PROFILED_NODE, [podroute()], rounds, at_once)["podroute"]
    lab.kill(PROFILED_NODE, "sampled", signal.SIGUSR1)
    eventually(path.exists, 10, "the samples are written")
    return took


def busiest(path: Path) -> str:
    """The places where threads were most often, as a list."""
    counts = json.loads(path.read_text())
    taken = counts.pop("samples")
    assert taken > 10
    busy = {place: count for place, count in counts.items() if not place.endswith(": idle")}
    assert any("wire_pod" in place or "pods." in place for place in busy), busy
    top = sorted(busy.items(), key=lambda item: -item[1])[:14]
    return "\n".join(f"- {100 * count / taken:.1f} % {place}" for place, count in top)
