"""A lab as tests and commands see it: machines by name, kubectl, the routers' own shells.

    lab = Lab.up("demo", nodes=4, racks=2)
    lab.kubectl("get", "nodes")
    lab.node("n0").run(["ip", "route"])
    lab.vtysh("tor0", "show bgp ipv4 unicast json")
    lab.down()

Everything here asks the running lab afresh. `bringup` and `teardown` do the work of `up` and `down`.
"""

import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from controller.lab import answers, bringup, power, teardown
from controller.lab.errors import LabError, Refusal
from controller.lab.execute import run_checked
from controller.lab.machine import Machine, MachineSpec, ProcessSpec, read_spec
from controller.lab.network import NAMESPACES
from controller.lab.routers import is_bird
from controller.lab.state import LabState, lab_folder, lab_names, read_state
from controller.lab.topology import Topology

Report = Callable[[str], None]


def _silent(_line: str) -> None:
    return None


class Lab:
    """A lab that exists; made by `Lab.up` or found by `Lab.find`."""

    def __init__(self, state: LabState) -> None:
        self.state = state

    @classmethod
    def up(
        cls, name: str = "lab", *, wanted: bringup.Wanted | None = None, report: Report = _silent, **shape: Any
    ) -> Self:
        """Bring a lab up, or find it as it is wanted already. `shape` are the fields of `bringup.Wanted` (nodes, racks,
        tors, cni).
        """
        return cls(bringup.bring_up(wanted or bringup.Wanted(name=name, **shape), report))

    @classmethod
    def find(cls, name: str) -> Self:
        """A lab that was brought up before. Raises LabError naming the labs there are."""
        state = read_state(name)
        if state is None:
            there = f"; there are {', '.join(names)}" if (names := lab_names()) else ""
            raise LabError(Refusal.NOT_FOUND, f"no lab {name!r}{there}; start it with: podroute lab up --name {name}")
        return cls(state)

    def down(self) -> None:
        """Remove everything the lab made."""
        teardown.tear_down(self.name)

    @property
    def name(self) -> str:
        """The lab's name."""
        return self.state.topology.name

    @property
    def topology(self) -> Topology:
        """Its shape and addresses."""
        return self.state.topology

    @property
    def folder(self) -> Path:
        """Its folder on the host."""
        return lab_folder(self.name)

    def machine(self, name: str) -> Machine:
        """A node, router, `cp` or `outside`. Raises LabError naming those there are."""
        if name not in self.topology.machine_names:
            there = ", ".join(self.topology.machine_names)
            raise LabError(Refusal.NOT_FOUND, f"no machine {name!r} in lab {self.name}; there are {there}")
        return Machine(self.name, name, self.folder / name)

    def machine_spec(self, name: str) -> MachineSpec:
        """What a machine was started with; a node's later processes are `power.processes_of_node`."""
        return read_spec(self.machine(name))

    def node(self, name: str) -> Machine:
        """The same as `machine`, for reading."""
        return self.machine(name)

    def netns(self, place: str) -> Path:
        """The file of a place's network namespace, segments (`rack0`) included."""
        return NAMESPACES / self.topology.namespace(place)

    def netns_exec(self, place: str, argv: Sequence[str], text: str = "", seconds: float = 60.0) -> str:
        """Run a program of the host in a place's network namespace only, and give its output."""
        return run_checked(["nsenter", f"--net={self.netns(place)}", "--", *argv], text, seconds)

    def kubectl(self, *arguments: str, text: str = "", seconds: float = 60.0) -> str:
        """kubectl as cluster administrator; its output. LabError with its words if it fails."""
        return run_checked([*self.kubectl_command(), *arguments], text, seconds)

    def kubectl_command(self) -> list[str]:
        """The start of a kubectl command line, for whoever runs it himself."""
        return bringup.kubectl_command(self.state)

    def environment(self, machine: str) -> dict[str, str]:
        """What a shell in a machine is given: the programs of the cluster and `podroute` on PATH, and in `cp` the
        administrator's kubeconfig.
        """
        folders = dict.fromkeys(str(Path(path).parent) for path in self.state.programs.values())
        usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        # `podroute` is installed beside this interpreter; last, so that it hides no program of the host.
        path = ":".join((*folders, usual, str(Path(sys.executable).parent)))
        own = {"KUBECONFIG": self.state.kubeconfig, "KUBECACHEDIR": "/run/kubectl-cache"} if machine == "cp" else {}
        return {"PATH": path, **own}

    def get(self, *arguments: str) -> Any:
        """`kubectl get … -o json`, decoded."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def apply(self, manifest: str) -> str:
        """`kubectl apply` of YAML or JSON text."""
        return self.kubectl("apply", "-f", "-", text=manifest)

    def vtysh(self, router: str, command: str) -> Any:
        """Ask an FRR router; decoded if the command ends in `json`, text otherwise."""
        output = self.machine(router).run(["vtysh", "-c", command])
        return json.loads(output) if command.endswith("json") else output

    def birdc(self, router: str, command: str) -> str:
        """Ask a BIRD router."""
        return self.machine(router).run(["birdc", *command.split()])

    def is_bird(self, router: str) -> bool:
        """Whether to use `birdc` rather than `vtysh`."""
        return is_bird(self.topology, router)

    def sessions(self, router: str) -> dict[str, str]:
        """A router's BGP sessions: neighbour address → state; `Established` is up."""
        if self.is_bird(router):
            return answers.bird_sessions(self.birdc(router, "show protocols all"))
        return answers.frr_sessions(self.vtysh(router, "show bgp summary json"))

    def bgp_routes(self, router: str) -> dict[str, tuple[str, ...]]:
        """A router's selected routes of both families: prefix → next hops (FRR shows link-local ones for IPv6)."""
        if self.is_bird(router):
            return answers.bird_routes(self.birdc(router, "show route primary"))
        tables = (self.vtysh(router, f"show bgp {family} unicast json") for family in ("ipv4", "ipv6"))
        return {prefix: hops for table in tables for prefix, hops in answers.frr_routes(table).items()}

    def start(self, machine: str, process: ProcessSpec) -> None:
        """Start a supervised process in a machine."""
        self.machine(machine).start(process)

    def kill(self, machine: str, process: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a supervised process."""
        self.machine(machine).kill(process, number)

    def pid(self, machine: str, process: str) -> int | None:
        """The host's pid of a supervised process; None while it is down."""
        return self.machine(machine).pid(process)

    def power_off(self, node: str) -> None:
        """A node loses its power: nobody is told, everything on it ends."""
        power.power_off(self.state, node)

    def power_on(self, node: str) -> None:
        """The node starts again, as if installed anew."""
        power.power_on(self.state, node)

    def reboot(self, node: str) -> None:
        """A node's process 1 ends, with it all that runs there, and the node starts again, as if installed anew."""
        power.reboot(self.state, node)

    def log(self, machine: str, process: str) -> Path:
        """A process's log file."""
        return self.machine(machine).log_folder / f"{process}.log"
