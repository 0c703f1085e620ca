"""A real etcd and kube-apiserver in a network namespace of their own, for tests that need the server's own answers.

`World` enters the namespace with the calling thread, so that the test, the threads and the programs that it starts are inside;
leaving it ends every process, removes the namespace and the files. The server can be killed and started again, keeping its data.
"""

import ctypes
import json
import os
import secrets
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.lab import programs

SERVER = "10.0.0.10"
PORT = 6443
NEEDED = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
CLONE_NEWNET = 0x40000000
REPOSITORY = Path(__file__).parents[2]
_numbers = iter(range(1000000))


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 20.0, pause: float = 0.03) -> Any:
    """The first true answer of `condition`, asked after each `pause`; fails with `what` was missing and the last answer."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}; last answer: {answer!r}")
        time.sleep(pause)


def _setns(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def program_paths(report: Callable[[str], None] = print) -> dict[str, Path]:
    """Where the programs are; builds what is missing (minutes, once)."""
    return programs.ensure_programs([p for p in programs.CLUSTER if p.name in NEEDED], report)


class World:
    """An API server with nothing in it. `kubectl` runs kubectl as the administrator; `kubeconfig` is the administrator's."""

    def __init__(self) -> None:
        self._paths = program_paths()
        self.name = f"opr-{os.getpid()}-{next(_numbers)}"
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        self.kubeconfig = self.folder / "admin.kubeconfig"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._outside = -1
        self.token = secrets.token_hex(16)

    def __enter__(self) -> "World":
        assert threading.current_thread() is threading.main_thread(), "namespaces belong to threads"
        try:
            self._enter_namespace()
            self._prepare_files()
            self.start_etcd()
            self.start_server()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in tuple(self._processes):
            self._kill(name)
        if self._outside >= 0:
            _setns(self._outside)
            os.close(self._outside)
            self._outside = -1
            subprocess.run(["ip", "netns", "del", self.name], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _enter_namespace(self) -> None:
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self._outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        inside = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        _setns(inside)
        os.close(inside)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        subprocess.run(["ip", "address", "add", f"{SERVER}/32", "dev", "lo"], check=True)

    def _prepare_files(self) -> None:
        (self.folder / "log").mkdir()
        key = self.folder / "sa.key"
        subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
        (self.folder / "tokens.csv").write_text(f"{self.token},admin,admin,system:masters\n")
        self.kubeconfig.write_text(self.kubeconfig_for(self.token))

    def kubeconfig_for(self, token: str, port: int = PORT) -> str:
        """The text of a kubeconfig with that token; `port` leads elsewhere, e.g. to a proxy of the test."""
        cluster = {
            "server": f"https://{SERVER}:{port}",
            "certificate-authority": str(self.folder / "certs" / "apiserver.crt"),
        }
        return yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": cluster}],
                "users": [{"name": "u", "user": {"token": token}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )

    def _start(self, name: str, *arguments: str) -> None:
        log = (self.folder / "log" / f"{name}.log").open("ab")
        # The programs end with the test, however it ends.
        command = ["setpriv", "--pdeathsig", "KILL", str(self._paths[name]), *arguments]
        self._processes[name] = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        log.close()

    def _kill(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            process.kill()
            process.wait()

    def start_etcd(self) -> None:
        """Starts etcd on the data that is there."""
        client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
        self._start(
            "etcd",
            "--data-dir=etcd",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            "--unsafe-no-fsync",
        )

    def start_server(self) -> None:
        """Starts the API server and waits until it is ready."""
        self._start(
            "kube-apiserver",
            "--etcd-servers=http://127.0.0.1:2379",
            "--cert-dir=certs",
            f"--advertise-address={SERVER}",
            f"--secure-port={PORT}",
            "--token-auth-file=tokens.csv",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-account-key-file=sa.key",
            "--service-account-signing-key-file=sa.key",
            "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112",
            "--allow-privileged=true",
            "--enable-priority-and-fairness=false",
            "--profiling=false",
            "--shutdown-delay-duration=0s",
        )
        wait_for(self._is_ready, f"the API server is ready; see {self.folder}/log", 40.0)

    def _is_ready(self) -> bool:
        assert self._processes["kube-apiserver"].poll() is None, self.log("kube-apiserver")
        command = [str(self._paths["kubectl"]), f"--kubeconfig={self.kubeconfig}", "get", "--raw=/readyz"]
        ready = subprocess.run(command, capture_output=True, check=False).returncode == 0
        return ready and self.attempt("get", "serviceaccounts", "-n", "default").returncode == 0

    def program(self, name: str) -> Path:
        """Where a program is."""
        return self._paths[name]

    def kill_server(self) -> None:
        """kill -9."""
        self._kill("kube-apiserver")

    def save(self, name: str) -> None:
        """Keeps a copy of everything that is stored; server and etcd are restarted for it."""
        self._swap(lambda: shutil.copytree(self.folder / "etcd", self.folder / name))

    def restore(self, name: str) -> None:
        """Goes back to a copy, as after a restored backup: resourceVersions go backwards."""

        def put_back() -> None:
            shutil.rmtree(self.folder / "etcd")
            shutil.copytree(self.folder / name, self.folder / "etcd")

        self._swap(put_back)

    def _swap(self, change: Callable[[], object]) -> None:
        self._kill("kube-apiserver")
        self._kill("etcd")
        change()
        self.start_etcd()
        self.start_server()

    def log(self, name: str) -> str:
        """The end of a program's log."""
        return (self.folder / "log" / f"{name}.log").read_text()[-4000:]

    def start_controllers(self, *names: str) -> None:
        """Starts some of Kubernetes' controllers. The garbage collector looks for new kinds every 30 s: install CRDs before."""
        self._start(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig}",
            "--leader-elect=false",
            "--secure-port=0",
            f"--controllers={','.join(names)}",
        )

    def attempt(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """Runs kubectl, as the administrator unless a `--kubeconfig=` is among the arguments."""
        named = (
            () if any(word.startswith("--kubeconfig=") for word in arguments) else (f"--kubeconfig={self.kubeconfig}",)
        )
        command = [str(self._paths["kubectl"]), *named, *arguments]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False)

    def kubectl(self, *arguments: str, text: str = "") -> str:
        """What kubectl says; fails with its own words if it fails."""
        done = self.attempt(*arguments, text=text)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def refused(self, *arguments: str, text: str = "") -> str:
        """What kubectl says when it fails; fails if it does not."""
        done = self.attempt(*arguments, text=text)
        assert done.returncode != 0, f"kubectl {' '.join(arguments)} went through: {done.stdout}"
        return done.stderr

    def apply(self, *objects: dict[str, Any]) -> str:
        """kubectl apply."""
        return self.kubectl("apply", "-f", "-", text=yaml.safe_dump_all(objects))

    def apply_refused(self, *objects: dict[str, Any]) -> str:
        """kubectl apply, which must be refused."""
        return self.refused("apply", "-f", "-", text=yaml.safe_dump_all(objects))

    def get(self, *arguments: str) -> Any:
        """kubectl get, as JSON."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def items(self, *arguments: str) -> list[dict[str, Any]]:
        """The items of a kubectl get."""
        items: list[dict[str, Any]] = self.get(*arguments)["items"]
        return items

    def install_crds(self) -> None:
        """Applies our CRDs and waits until they are served."""
        self.kubectl("apply", "-k", str(REPOSITORY / "manifests" / "crds"))
        self.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=20s")

    def delete_all(self) -> None:
        """Removes every object of ours, and every Node: what a test leaves, the next one does not see."""
        for item in self.items("ippools"):
            if item["metadata"].get("finalizers"):
                name = item["metadata"]["name"]
                self.kubectl("patch", "ippool", name, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
        ours = "ipblocks,ippools,bgppeers,bgpconfigurations,nodenetworks,clusternetworks,ipreservations"
        self.kubectl("delete", ours, "--all", "--wait=false")
        self.kubectl("delete", "nodes", "--all")
        self.kubectl("delete", "leases", "--all", "-n", "default")


@pytest.fixture(scope="module")
def server() -> Iterator[World]:
    """A server with our CRDs, for all tests of a module."""
    with World() as world:
        world.install_crds()
        yield world


@pytest.fixture
def world(server: World) -> Iterator[World]:
    """The module's server, with none of our objects and no Nodes."""
    yield server
    server.delete_all()
