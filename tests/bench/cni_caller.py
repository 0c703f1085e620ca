"""Calls CNI plugins as a container runtime does, and times them: a program that `test_cni` runs inside a lab's node.

A job comes as JSON on standard input, the figures go as JSON to standard output. Every call is a process with CNI_* variables and a
network namespace; its time runs from before the start of the process until its end is seen. One thing is measured at a time:
namespaces are made before, and pings and left-over kernel work are waited for outside the measured time.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GONE_SECONDS = 30.0
ANSWER_SECONDS = 5.0
INTERFACE = "eth0"


@dataclass(frozen=True)
class Plugin:
    """One way of networking: the program, the folders where it finds others, and its configuration."""

    name: str
    program: str
    path: str
    configuration: dict[str, Any]


@dataclass(frozen=True)
class Done:
    """A call that ended: seconds, and the result that was printed."""

    seconds: float
    result: dict[str, Any]

    @property
    def addresses(self) -> list[str]:
        return [entry["address"].partition("/")[0] for entry in self.result["ips"]]

    @property
    def host_interfaces(self) -> list[str]:
        return [entry["name"] for entry in self.result["interfaces"] if not entry.get("sandbox")]


class Caller:
    """Calls one plugin; `folder` takes what the calls print."""

    def __init__(self, plugin: Plugin, folder: Path) -> None:
        self.plugin, self.folder = plugin, folder
        self.stdin = folder / f"{plugin.name}.json"
        self.stdin.write_text(json.dumps(plugin.configuration))

    def all_at_once(self, command: str, containers: list[str]) -> list[Done]:
        """One call for each container, started as fast as it goes, in the order of the containers."""
        started = {}
        for container in containers:
            begun = time.perf_counter()
            started[self._start(command, container)] = (container, begun)
        done = {}
        while started:
            pid, status = os.waitpid(-1, 0)
            ended = time.perf_counter()
            container, begun = started.pop(pid)
            done[container] = self._done(command, container, os.waitstatus_to_exitcode(status), ended - begun)
        return [done[container] for container in containers]

    def one(self, command: str, container: str) -> Done:
        return self.all_at_once(command, [container])[0]

    def _start(self, command: str, container: str) -> int:
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": f"/run/netns/{container}",
            "CNI_IFNAME": INTERFACE,
            "CNI_PATH": self.plugin.path,
            "PATH": os.environ["PATH"],
        }
        answers = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        files = [
            (os.POSIX_SPAWN_OPEN, 0, str(self.stdin), os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(self.folder / container), answers, 0o600),
        ]
        return os.posix_spawn(self.plugin.program, [self.plugin.program], environment, file_actions=files)

    def _done(self, command: str, container: str, code: int, seconds: float) -> Done:
        said = (self.folder / container).read_text()
        if code:
            raise SystemExit(f"{self.plugin.name} {command} of {container} failed ({code}): {said}")
        return Done(seconds, json.loads(said) if said.strip() else {})


def ping(address: str) -> None:
    """Until the pod answers the node; the program ends with ping's words if it does not.

    The kernel turns a new link's carrier on in a worker of its own (linkwatch), so that a packet within the first
    millisecond may be dropped: only the first answer counts.
    """
    until = time.monotonic() + ANSWER_SECONDS
    while True:
        done = subprocess.run(
            ["ping", "-n", "-c", "1", "-W", "0.1", address], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return
        if time.monotonic() > until:
            raise SystemExit(f"the pod at {address} does not answer: {done.stdout}{done.stderr}")


def ping_all(done: list[Done]) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ping, [address for each in done for address in each.addresses]))


def wait_until_gone(interfaces: list[str]) -> None:
    """Until the kernel has none of the interfaces."""
    until = time.monotonic() + GONE_SECONDS
    while left := {name for _, name in socket.if_nameindex()} & set(interfaces):
        if time.monotonic() > until:
            raise SystemExit(f"interfaces are left after DEL: {', '.join(sorted(left))}")
        time.sleep(0.001)


def one_after_the_other(callers: list[Caller], rounds: int, warm_up: int) -> dict[str, dict[str, list[float]]]:
    """A B A B …: each round adds with every plugin, pings, and deletes with every plugin."""
    figures: dict[str, dict[str, list[float]]] = {c.plugin.name: {"ADD": [], "DEL": [], "gone": []} for c in callers}
    for number in range(warm_up + rounds):
        added = []
        for caller in callers:
            added.append(caller.one("ADD", _container(caller, number)))
            ping_all(added[-1:])
        for caller, add in zip(callers, added, strict=True):
            begun = time.perf_counter()
            delete = caller.one("DEL", _container(caller, number))
            wait_until_gone(add.host_interfaces)
            gone = time.perf_counter() - begun
            if number >= warm_up:
                row = figures[caller.plugin.name]
                row["ADD"].append(add.seconds)
                row["DEL"].append(delete.seconds)
                row["gone"].append(gone)
    return figures


def many_at_once(callers: list[Caller], rounds: int, count: int) -> dict[str, dict[str, list[float]]]:
    """A B A B …: each round adds `count` pods at once, pings all, and deletes them at once. `…slowest` is one call's time."""
    names = ("ADD", "ADD slowest", "DEL", "DEL slowest", "gone")
    figures: dict[str, dict[str, list[float]]] = {c.plugin.name: {name: [] for name in names} for c in callers}
    for number in range(rounds):
        for caller in callers:
            row = figures[caller.plugin.name]
            containers = [_container(caller, number * count + index) for index in range(count)]
            begun = time.perf_counter()
            added = caller.all_at_once("ADD", containers)
            row["ADD"].append(time.perf_counter() - begun)
            row["ADD slowest"].append(max(each.seconds for each in added))
            ping_all(added)
            begun = time.perf_counter()
            deleted = caller.all_at_once("DEL", containers)
            row["DEL"].append(time.perf_counter() - begun)
            row["DEL slowest"].append(max(each.seconds for each in deleted))
            wait_until_gone([name for each in added for name in each.host_interfaces])
            row["gone"].append(time.perf_counter() - begun)
    return figures


def only_asked(callers: list[Caller], rounds: int, warm_up: int) -> dict[str, dict[str, list[float]]]:
    """VERSION with every plugin in turn: the process and the way to the agent and back, without any work."""
    figures: dict[str, dict[str, list[float]]] = {c.plugin.name: {"VERSION": []} for c in callers}
    for number in range(warm_up + rounds):
        for caller in callers:
            asked = caller.one("VERSION", _container(caller, number))
            if number >= warm_up:
                figures[caller.plugin.name]["VERSION"].append(asked.seconds)
    return figures


def _container(caller: Caller, number: int) -> str:
    return f"bench-{caller.plugin.name}-{number}"


def main() -> None:
    job = json.load(sys.stdin)
    plugins = [Plugin(**each) for each in job["plugins"]]
    rounds, warm_up, at_once = job["rounds"], job["warm_up"], job["at_once"]
    folder = Path("/run/bench-cni")
    folder.mkdir()
    callers = [Caller(plugin, folder) for plugin in plugins]
    count = rounds * at_once if at_once else rounds + warm_up
    containers = [_container(caller, number) for caller in callers for number in range(count)]
    batch = folder / "batch"
    try:
        batch.write_text("".join(f"netns add {container}\n" for container in containers))
        subprocess.run(["ip", "-batch", batch], check=True)
        if job["what"] == "VERSION":
            figures = only_asked(callers, rounds, warm_up)
        elif at_once:
            figures = many_at_once(callers, rounds, at_once)
        else:
            figures = one_after_the_other(callers, rounds, warm_up)
    finally:
        batch.write_text("".join(f"netns del {container}\n" for container in containers))
        subprocess.run(["ip", "-force", "-batch", batch], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(folder)
    json.dump(figures, sys.stdout)


if __name__ == "__main__":
    main()
