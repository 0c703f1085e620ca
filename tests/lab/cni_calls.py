"""Calls of the installed CNI plugin on a lab's node, with real network namespaces made inside the node.

with Container(lab, "n0", "web") as container:
    answer = container.call("ADD")
"""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from controller.lab.cluster import Lab

PLUGIN = "/opt/cni/bin/podroute"
POOLS_ANNOTATION = "podroute.dev/pools"
ANNOTATIONS = "io.kubernetes.cri.pod-annotations"
CONFIGURATION = {"cniVersion": "1.1.0", "name": "podroute", "type": "podroute"}


@dataclass(frozen=True)
class Answer:
    """What the runtime sees: the exit code, and standard output as an object (empty if there is none)."""

    exit_code: int
    said: dict[str, Any]

    @property
    def addresses(self) -> list[str]:
        """The addresses in a result, without prefix length."""
        return [entry["address"].partition("/")[0] for entry in self.said["ips"]]

    @property
    def words(self) -> str:
        """Message and details of an error."""
        return f"{self.said['msg']} {self.said.get('details', '')}"


def call(lab: Lab, node: str, command: str, stdin: str | None = None, **variables: str) -> Answer:
    """One run of the plugin in the node; `variables` become CNI_ variables, empty ones are left out."""
    environment = {"CNI_COMMAND": command, "CNI_PATH": "/opt/cni/bin"}
    environment |= {f"CNI_{name.upper()}": value for name, value in variables.items() if value}
    argv = ["env", "-i", *(f"{name}={value}" for name, value in environment.items()), PLUGIN]
    done = subprocess.run(
        lab.node(node).enter(argv),
        input=json.dumps(CONFIGURATION) if stdin is None else stdin,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.stderr == "", "a plugin's standard error is nobody's to read"
    return Answer(done.returncode, json.loads(done.stdout) if done.stdout.strip() else {})


@dataclass
class Container:
    """A network namespace in a node, as a runtime would make one; leaving it deletes the attachment and the namespace."""

    lab: Lab
    node: str
    name: str
    annotations: Mapping[str, str] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self.lab.node(self.node).run(["ip", "netns", "add", self.name])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.call("DEL")
        self.lab.node(self.node).run(["ip", "netns", "del", self.name])

    def call(self, command: str, stdin: str | None = None, **changes: str) -> Answer:
        """One call about this container; `changes` replace variables, or take them away if empty."""
        variables = {"containerid": self.name, "ifname": "eth0", "netns": f"/run/netns/{self.name}", **changes}
        configuration = {**CONFIGURATION, "runtimeConfig": {ANNOTATIONS: dict(self.annotations)}}
        if command == "DEL" and "netns" not in changes:
            variables["netns"] = ""
        return call(self.lab, self.node, command, json.dumps(configuration) if stdin is None else stdin, **variables)

    def has_addresses(self, addresses: list[str]) -> bool:
        """Whether the interface inside carries them."""
        argv = ["ip", "-n", self.name, "-j", "address", "show", "eth0"]
        (link,) = json.loads(self.lab.node(self.node).run(argv))
        return set(addresses) <= {each["local"] for each in link["addr_info"]}


def address_from(lab: Lab, node: str, pool: str, name: str) -> list[str]:
    """The addresses that a pod gets which asks for the pool; it is gone again afterwards. Fails with the plugin's words."""
    with Container(lab, node, name, {POOLS_ANNOTATION: pool}) as container:
        answer = container.call("ADD")
        assert answer.exit_code == 0, answer.said
        assert container.has_addresses(answer.addresses)
        return answer.addresses
