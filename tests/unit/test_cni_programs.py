"""The plugin in C and its twin in Python print the same bytes, with the agent's end of the socket and without it."""

import asyncio
import json
import os
import resource
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import pytest

from controller.cni.build import build_shim
from controller.cni.protocol import LIMIT, Answer, Call, encoded_answer, encoded_call
from controller.cni.request import Command, Request
from controller.cni.result import CniError, ErrorCode, Success
from controller.cni.server import serve

pytestmark = pytest.mark.root

ENVIRONMENT = {
    "CNI_CONTAINERID": "c0ffee",
    "CNI_IFNAME": "eth0",
    "CNI_NETNS": "/proc/self/ns/net",
    "CNI_ARGS": "K8S_POD_NAME=web;K8S_POD_UID=ü",
}
CONFIGURATION = b'{"cniVersion": "1.1.0", "name": "podroute", "type": "podroute"}'
ADDRESSES = (ip_address("10.1.0.1"), ip_address("fd00:1::1"))
SUCCESS = Success("podr0", b"\x02" * 6, "eth0", b"\x06" * 6, "/n", 1500, ADDRESSES, ())


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [str(build_shim(tmp_path_factory.mktemp("shim")))]


TWIN = [sys.executable, "-m", "controller.cni.plugin"]


@dataclass
class Outcome:
    """What the runtime sees of one call."""

    exit_code: int
    stdout: bytes
    stderr: bytes


def call(program: list[str], folder: Path, command: str | None, stdin: bytes = CONFIGURATION, **more: str) -> Outcome:
    environment = {"PODROUTE_RUN": str(folder), "PATH": os.environ["PATH"], **ENVIRONMENT, **more}
    if command is not None:
        environment["CNI_COMMAND"] = command
    done = subprocess.run(program, input=stdin, capture_output=True, env=environment, timeout=30, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr)


def both(shim: list[str], folder: Path, command: str | None, stdin: bytes = CONFIGURATION, **more: str) -> Outcome:
    """The outcome of both programs, which is one."""
    in_c = call(shim, folder, command, stdin, **more)
    in_python = call(TWIN, folder, command, stdin, **more)
    assert in_c == in_python
    assert in_c.stderr == b""
    return in_c


@dataclass
class Agent:
    """The real end of the socket with a handler that notes what it was asked; ADD of container "slow" never ends by itself."""

    folder: Path
    requests: list[Request] = field(default_factory=list)
    namespaces: list[int] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)

    async def handle(self, request: Request) -> Success | None:
        self.requests.append(request)
        if request.netns_fd is not None:
            self.namespaces.append(os.fstat(request.netns_fd).st_ino)
        if request.container_id == "slow":
            self.begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
        if request.container_id == "full":
            raise CniError(ErrorCode.TRY_AGAIN, 'pool "blue" is exhausted', "wait")
        if request.container_id == "bug":
            raise RuntimeError("unexpected")
        return SUCCESS if request.command is Command.ADD else None

    def run(self, started: threading.Event, stop: list[object]) -> None:
        async def main() -> None:
            task = asyncio.ensure_future(serve(self.folder / "cni.sock", self.handle))
            stop.extend((asyncio.get_running_loop(), task))
            await asyncio.sleep(0)
            started.set()
            await asyncio.wait([task])

        asyncio.run(main())


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made, started, stop = Agent(tmp_path), threading.Event(), []
    thread = threading.Thread(target=made.run, args=(started, stop))
    thread.start()
    assert started.wait(5)
    before = len(os.listdir("/proc/self/fd"))
    yield made
    deadline = time.monotonic() + 5
    while len(os.listdir("/proc/self/fd")) > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(os.listdir("/proc/self/fd")) <= before, "a descriptor leaked"
    loop, task = stop
    loop.call_soon_threadsafe(task.cancel)
    thread.join(5)
    assert not thread.is_alive()
    assert not (tmp_path / "cni.sock").exists()


def test_an_addition_prints_the_agents_result(shim: list[str], agent: Agent) -> None:
    got = both(shim, agent.folder, "ADD")

    assert got.exit_code == 0
    document = json.loads(got.stdout)
    assert [entry["address"] for entry in document["ips"]] == ["10.1.0.1/32", "fd00:1::1/128"]
    one, two = agent.requests
    assert one.pod == two.pod
    assert one.pod.uid == "ü"
    assert (one.container_id, one.interface, one.netns) == ("c0ffee", "eth0", "/proc/self/ns/net")
    # The namespace itself came along, not its name.
    assert agent.namespaces == [os.stat("/proc/self/ns/net").st_ino] * 2


@pytest.mark.parametrize(
    ("command", "more", "code"),
    [
        ("ADD", {"CNI_CONTAINERID": "full"}, ErrorCode.TRY_AGAIN),
        ("ADD", {"CNI_CONTAINERID": "bug"}, ErrorCode.INTERNAL),
        ("ADD", {"CNI_CONTAINERID": ""}, ErrorCode.INVALID_ENVIRONMENT),
        ("ADD", {"CNI_IFNAME": ""}, ErrorCode.INVALID_ENVIRONMENT),
        ("ADD", {"CNI_NETNS": "/nowhere"}, ErrorCode.INVALID_ENVIRONMENT),
        ("NONE", {}, ErrorCode.INVALID_ENVIRONMENT),
        (None, {}, ErrorCode.INVALID_ENVIRONMENT),
        ("CHECK", {}, ErrorCode.INVALID_CONFIGURATION),
        ("UPDATE", {}, ErrorCode.INVALID_ENVIRONMENT),
    ],
)
def test_the_agents_error_is_printed_and_the_exit_code_is_one(
    shim: list[str], agent: Agent, command: str | None, more: dict[str, str], code: ErrorCode
) -> None:
    got = both(shim, agent.folder, command, **more)
    assert (got.exit_code, json.loads(got.stdout)["code"]) == (1, code)


@pytest.mark.parametrize("stdin", [b"", b"{", b"[]", b"\0\0", b'{"cniVersion": "7.0.0"}', b"x" * (LIMIT - 500)])
def test_broken_input_reaches_the_agent_and_is_answered(shim: list[str], agent: Agent, stdin: bytes) -> None:
    got = both(shim, agent.folder, "ADD", stdin)
    assert got.exit_code == 1
    assert json.loads(got.stdout)["code"] in (ErrorCode.DECODE_FAILURE, ErrorCode.INCOMPATIBLE_VERSION)


@pytest.mark.parametrize("command", ["DEL", "STATUS"])
def test_an_operation_without_result_prints_nothing(shim: list[str], agent: Agent, command: str) -> None:
    assert both(shim, agent.folder, command) == Outcome(0, b"", b"")
    assert [request.command for request in agent.requests] == [Command(command)] * 2


def test_a_deletion_goes_through_without_its_namespace(shim: list[str], agent: Agent) -> None:
    assert both(shim, agent.folder, "DEL", CNI_NETNS="/gone").exit_code == 0
    assert [request.netns_fd for request in agent.requests] == [None, None]


@pytest.mark.parametrize("program", ["shim", "twin"])
def test_a_plugin_that_goes_away_cancels_its_addition(shim: list[str], agent: Agent, program: str) -> None:
    environment = {"PODROUTE_RUN": str(agent.folder), **ENVIRONMENT, "CNI_COMMAND": "ADD", "CNI_CONTAINERID": "slow"}
    with subprocess.Popen(
        shim if program == "shim" else TWIN, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdin
        process.stdin.write(CONFIGURATION)
        process.stdin.close()
        assert agent.begun.wait(10)
        assert not agent.cancelled.is_set()
        process.kill()
    assert agent.cancelled.wait(5)


def test_an_agent_that_ends_cancels_calls_and_their_plugins_say_try_again(shim: list[str], tmp_path: Path) -> None:
    agent, started, stop = Agent(tmp_path), threading.Event(), []
    thread = threading.Thread(target=agent.run, args=(started, stop))
    thread.start()
    assert started.wait(5)
    outcomes: list[Outcome] = []
    caller = threading.Thread(target=lambda: outcomes.append(call(shim, tmp_path, "ADD", CNI_CONTAINERID="slow")))
    caller.start()
    assert agent.begun.wait(10)
    stop[0].call_soon_threadsafe(stop[1].cancel)
    thread.join(5)
    caller.join(5)
    assert agent.cancelled.is_set()
    assert json.loads(outcomes[0].stdout)["code"] == ErrorCode.TRY_AGAIN


def test_only_root_reaches_the_socket(agent: Agent) -> None:
    assert stat.S_IMODE((agent.folder / "cni.sock").stat().st_mode) == 0o600


@pytest.mark.parametrize("garbage", [b"", b"\xff\xff\xff\xff", b"\0\0\0\5ab", b"\0\0\0\3abc", b"\0\0\0\1\0more"])
def test_garbage_on_the_socket_stops_nothing(shim: list[str], agent: Agent, garbage: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(agent.folder / "cni.sock"))
        connection.sendall(garbage)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b""
    assert both(shim, agent.folder, "ADD").exit_code == 0


def test_a_hundred_calls_at_once_are_all_answered(shim: list[str], agent: Agent) -> None:
    environment = {"PODROUTE_RUN": str(agent.folder), **ENVIRONMENT, "CNI_COMMAND": "ADD"}
    running = [
        subprocess.Popen(shim, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) for _ in range(100)
    ]
    assert all(json.loads(process.communicate(CONFIGURATION, timeout=30)[0])["ips"] for process in running)
    assert len(agent.requests) == 100


AWAY = [
    ("ADD", CONFIGURATION, 1, ErrorCode.TRY_AGAIN),
    ("CHECK", CONFIGURATION, 1, ErrorCode.TRY_AGAIN),
    ("GC", CONFIGURATION, 1, ErrorCode.TRY_AGAIN),
    ("ADD", b"{broken", 1, ErrorCode.TRY_AGAIN),
    (None, CONFIGURATION, 1, ErrorCode.TRY_AGAIN),
    ("STATUS", CONFIGURATION, 1, ErrorCode.NOT_AVAILABLE),
    ("ADD", b"x" * (LIMIT + 5), 1, ErrorCode.DECODE_FAILURE),
]


@pytest.mark.parametrize(("command", "stdin", "exit_code", "code"), AWAY, ids=[f"{c[0]}-{c[3].name}" for c in AWAY])
@pytest.mark.parametrize("left_over", [False, True], ids=["no socket", "dead socket"])
def test_without_an_agent_the_plugin_answers_by_itself(
    shim: list[str], tmp_path: Path, command: str | None, stdin: bytes, exit_code: int, code: ErrorCode, left_over: bool
) -> None:
    if left_over:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(tmp_path / "cni.sock"))
    got = both(shim, tmp_path, command, stdin)
    document = json.loads(got.stdout)
    assert (got.exit_code, document["code"], document["cniVersion"]) == (exit_code, code, "1.1.0")
    assert document["msg"]
    assert document["details"]


def test_without_an_agent_a_deletion_succeeds(shim: list[str], tmp_path: Path) -> None:
    assert both(shim, tmp_path, "DEL") == Outcome(0, b"", b"")


def test_without_an_agent_the_marker_answers_status(shim: list[str], tmp_path: Path) -> None:
    assert both(shim, tmp_path, "STATUS").exit_code == 1
    (tmp_path / "ready").touch()
    assert both(shim, tmp_path, "STATUS") == Outcome(0, b"", b"")


@pytest.mark.parametrize(
    ("stdin", "version"),
    [
        (b'{"cniVersion": "1.0.0"}', "1.0.0"),
        (b'{"cniVersion"\n:\t"0.4.0', "1.1.0"),
        (b'{"cniVersion":"11111111111111.0"}', "1.1.0"),
        (b'{"cniVersion":"1.1.1.1.1.1.1.1"}', "1.1.1.1.1.1.1.1"),
        (b'"cniVersion""cniVersion" : "3.0"', "3.0"),
        (b'\0{"cniVersion":"0.3.1"}', "0.3.1"),
        (b"", "1.1.0"),
        (b'"cniVersion"', "1.1.0"),
        (b'"cniVersion":', "1.1.0"),
    ],
)
def test_version_is_answered_without_an_agent(shim: list[str], tmp_path: Path, stdin: bytes, version: str) -> None:
    got = both(shim, tmp_path, "VERSION", stdin)
    assert got.exit_code == 0
    assert json.loads(got.stdout) == {
        "cniVersion": version,
        "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"],
    }


@pytest.mark.parametrize("answer", [b"", b"\0\0", b"\0\0\0\0", b"\0\0\0\x09\0abc", b"\xff\xff\xff\xffx"])
def test_an_agent_that_answers_half_counts_as_away(shim: list[str], tmp_path: Path, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "cni.sock"))
        listener.listen()

        def half() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        thread = threading.Thread(target=half)
        thread.start()
        assert json.loads(both(shim, tmp_path, "ADD").stdout)["code"] == ErrorCode.TRY_AGAIN
        thread.join(5)


def test_the_shim_is_static_and_short(shim: list[str]) -> None:
    described = subprocess.run(["ldd", *shim], capture_output=True, text=True, check=False)
    assert "not a dynamic executable" in described.stderr + described.stdout
    source = Path(__file__).parents[2] / "controller" / "cni" / "shim.c"
    assert len(source.read_text().splitlines()) <= 200


def test_a_call_that_comes_while_no_descriptor_is_left_is_answered_when_there_is_one(
    agent: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX) as plugin:
        plugin.settimeout(5)
        free = os.dup(plugin.fileno())
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            plugin.connect(str(agent.folder / "cni.sock"))
            deadline = time.monotonic() + 5
            while "could not be accepted" not in caplog.text:
                assert time.monotonic() < deadline, "the agent tried to accept"
                time.sleep(0.01)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        plugin.sendall(encoded_call(Call({**ENVIRONMENT, "CNI_COMMAND": "STATUS"}, CONFIGURATION)))
        assert plugin.recv(100) == encoded_answer(Answer(0, b""))
