"""An API server that is slow, that refuses, or whose connections are half open: nothing that runs is hurt, and all comes right."""

import base64
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml
from faults import undisturbed
from refused_inputs import body
from told import findings
from workloads import Pod, apply, await_no_other_pools, eventually, pods_on

from controller.lab.cluster import Lab
from controller.lab.controlplane import API_PORT
from controller.lab.podroute import kubeconfig_path

pytestmark = [pytest.mark.lab, pytest.mark.root]

NODE, PORT = "n0", 6500
PROXY = Path(__file__).with_name("api_proxy.py")
PATIENCE_S = 60.0


class ApiProxy:
    """The proxy, in the control plane's network; operator and one agent reach the API server through it."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.control = lab, folder / "control"
        self.certificate, self.key = folder / "proxy.crt", folder / "proxy.key"
        self.address = lab.topology.addresses("cp").v4

    def behave(self, words: str) -> None:
        fresh = self.control.with_suffix(".new")
        fresh.write_text(words)
        fresh.rename(self.control)

    @contextmanager
    def running(self) -> Iterator[None]:
        self.behave("pass")
        made = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=proxy", "-addext"]
        files = ["-keyout", str(self.key), "-out", str(self.certificate)]
        argv = ["openssl", "req", "-x509", *made, f"subjectAltName=IP:{self.address}", *files]
        subprocess.run(argv, check=True, capture_output=True)
        target = f"{self.address}:{API_PORT}"
        words = [self.address, str(PORT), target, str(self.certificate), str(self.key), str(self.control)]
        argv = ["nsenter", f"--net={self.lab.netns('cp')}", sys.executable, str(PROXY), *words]
        process = subprocess.Popen(argv)
        try:
            listens = ["ss", "-Hltn", "sport", "=", f":{PORT}"]
            eventually(lambda: self.lab.netns_exec("cp", listens), 10, "the proxy listens")
            yield
        finally:
            process.terminate()
            process.wait(10)

    @contextmanager
    def used_by(self, machine: str, process: str) -> Iterator[None]:
        """The process starts anew with the proxy in its kubeconfig, and without it at the end."""
        path = kubeconfig_path(self.lab.machine(machine).folder, process)
        before = path.read_text()
        config = yaml.safe_load(before)
        cluster = config["clusters"][0]["cluster"]
        cluster["server"] = f"https://{self.address}:{PORT}"
        cluster["certificate-authority-data"] = base64.b64encode(self.certificate.read_bytes()).decode()
        path.write_text(yaml.safe_dump(config))
        self.restart(machine, process)
        try:
            yield
        finally:
            path.write_text(before)
            self.restart(machine, process)

    def restart(self, machine: str, process: str) -> None:
        old = self.lab.pid(machine, process)
        self.lab.kill(machine, process)
        eventually(lambda: self.lab.pid(machine, process) not in (None, old), 20, f"{process} runs again")


@pytest.fixture(scope="module")
def proxy(lab: Lab, tmp_path_factory: pytest.TempPathFactory, afterwards: ExitStack) -> Iterator[ApiProxy]:
    found = ApiProxy(lab, tmp_path_factory.mktemp("proxy"))
    with found.running(), found.used_by("cp", "operator"), found.used_by(NODE, "agent"):
        yield found
    afterwards.callback(await_no_other_pools, lab)


@pytest.fixture(scope="module")
def across(lab: Lab, proxy: ApiProxy) -> Iterator[list[Pod]]:
    """Two pods in different racks; their agents answer before."""
    eventually(lambda: findings(lab) == [], PATIENCE_S, lambda: f"{findings(lab)}")
    with pods_on(lab, [NODE, lab.topology.node_names[-1]], "trouble") as found:
        yield found


@pytest.fixture
def passing(proxy: ApiProxy, lab: Lab) -> Iterator[ApiProxy]:
    """Nothing is wrong before a test, nor after it."""
    eventually(lambda: findings(lab) == [], PATIENCE_S, lambda: f"{findings(lab)}")
    yield proxy
    proxy.behave("pass")
    eventually(lambda: findings(lab) == [], PATIENCE_S, lambda: f"{findings(lab)}")


def granted(lab: Lab, name: str) -> bool:
    """Whether every node's agent tells of a block of the pool: operator and agents have heard, written, and heard again."""
    for node in lab.topology.node_names:
        network = lab.get("nodenetwork", node)
        held = {block["cidr"] for block in network["spec"].get("blocks", []) if block["pool"] == name}
        if not held & {usage["cidr"] for usage in network.get("status", {}).get("usage", [])}:
            return False
    return True


@contextmanager
def new_pool(lab: Lab, number: int) -> Iterator[str]:
    """A pool that did not exist when the trouble began, or is just being made in it."""
    name = f"trouble-{number}"
    apply(lab, body("IPPool", name, cidr=f"10.245.{70 + number}.0/24", headroom=8))
    yield name
    lab.kubectl("delete", "ippool", name, "--wait=false")


def test_answers_that_take_two_seconds_make_everything_later_and_nothing_else(
    lab: Lab, passing: ApiProxy, across: list[Pod]
) -> None:
    passing.behave("slow 2")
    with undisturbed(lab, across), new_pool(lab, 0) as name:
        # Otherwise it would be granted by then; here it takes three such answers at least.
        time.sleep(3)
        assert not granted(lab, name)
        with pods_on(lab, [NODE], "slowly") as (pod,):
            assert len(pod.addresses) == 2
        # A dozen answers one after the other.
        eventually(lambda: granted(lab, name), 2 * PATIENCE_S, lambda: lab.kubectl("get", "ipblocks", "-o", "wide"))


@pytest.mark.parametrize("status", [429, 500])
def test_a_server_that_refuses_everything_stops_no_pod_and_is_asked_again(
    lab: Lab, passing: ApiProxy, across: list[Pod], status: int
) -> None:
    passing.behave(f"refuse {status}")
    with undisturbed(lab, across), new_pool(lab, 1 + (status == 500)) as name:
        with pods_on(lab, [NODE], f"refused-{status}") as (pod,):
            assert len(pod.addresses) == 2
        assert not granted(lab, name)
        passing.behave("pass")
        eventually(lambda: granted(lab, name), PATIENCE_S, lambda: lab.kubectl("get", "ipblocks", "-o", "wide"))


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_watch_that_is_half_open_is_given_up_and_what_was_missed_is_noticed(
    lab: Lab, passing: ApiProxy, across: list[Pod]
) -> None:
    passing.behave("freeze")
    with undisturbed(lab, across), new_pool(lab, 3) as name:
        since = time.monotonic()
        # A watch is silent for a minute at most between two bookmarks; operator and agent notice one after the other.
        eventually(lambda: granted(lab, name), 240, lambda: lab.kubectl("get", "ipblocks,nodenetworks", "-o", "wide"))
        assert time.monotonic() - since > 10, "nobody was deaf"
