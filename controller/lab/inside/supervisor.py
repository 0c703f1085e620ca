"""Process 1 of a machine: starts processes, restarts those that should run for ever, reaps every orphan, answers on a
socket.

One thread and one selector. A request is one JSON object on one line, the answer likewise; `controller.lab.machine` is
the client:

    {"do": "list"}                                      every process: pid (in the machine), starts, last exit
    {"do": "start", "process": {…}}                     adds and starts it; one of that name that runs stays as it is
    {"do": "stop", "name": …}                           SIGTERM, and no restart
    {"do": "kill", "name": …, "signal": 9}              as a fault: it is restarted if it was to be
"""

import json
import os
import selectors
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WAIT_STEP_S = 0.05


@dataclass
class Supervised:
    """One process: what to run (a ProcessSpec as a mapping), and how it goes."""

    spec: dict[str, Any]
    popen: subprocess.Popen[bytes] | None = None
    due: float = 0.0
    starts: int = 0
    last_exit: int | None = None
    wanted: bool = True

    def described(self) -> dict[str, Any]:
        """What the `list` request answers for it."""
        pid = self.popen.pid if self.popen else None
        return {"pid": pid, "starts": self.starts, "last_exit": self.last_exit, "wanted": self.wanted}


class Supervisor:
    """Runs until it is killed; with it, the kernel ends everything in the machine."""

    def __init__(self, listener: socket.socket, log_folder: Path) -> None:
        self.processes: dict[str, Supervised] = {}
        self._logs = log_folder
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)

    def run(self) -> None:
        """Serve for ever."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector.register(wake_read, selectors.EVENT_READ)
        while True:
            for key, _events in self._selector.select(self._start_due()):
                if key.fileobj is self._listener:
                    self._serve_one()
                else:
                    os.read(wake_read, 4096)
            self._reap()

    def add(self, spec: dict[str, Any]) -> None:
        """Take on a process; it starts on the next round, once the path it waits for exists."""
        known = self.processes.get(spec["name"])
        if known and known.wanted and known.popen:
            return
        self.processes[spec["name"]] = Supervised(spec)

    def _start_due(self) -> float | None:
        """Start what is due; the seconds until the next one is, or None."""
        now = time.monotonic()
        waits: list[float] = []
        for each in self.processes.values():
            if each.popen or not each.wanted:
                continue
            path = each.spec.get("wait_for")
            if each.due <= now and (not path or os.path.exists(path)):
                self._start(each)
            else:
                waits.append(max(each.due - now, WAIT_STEP_S))
        return min(waits, default=None)

    def _start(self, each: Supervised) -> None:
        spec = each.spec
        each.starts += 1
        with open(self._logs / f"{spec['name']}.log", "ab") as log:
            try:
                each.popen = subprocess.Popen(
                    spec["argv"],
                    env={**os.environ, **spec["env"]},
                    cwd=spec.get("folder") or "/",
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            except OSError as error:
                log.write(f"could not start {spec['argv'][0]}: {error}\n".encode())
                self._ended(each, 127)

    def _reap(self) -> None:
        """Collect every child that ended, ours and orphans alike."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for each in self.processes.values():
                if each.popen and each.popen.pid == pid:
                    each.popen.returncode = os.waitstatus_to_exitcode(status)
                    self._ended(each, each.popen.returncode)

    def _ended(self, each: Supervised, code: int) -> None:
        each.popen, each.last_exit = None, code
        each.wanted = each.wanted and each.spec["restart"]
        each.due = time.monotonic() + each.spec["backoff"]

    def _serve_one(self) -> None:
        connection, _address = self._listener.accept()
        with connection:
            # A client that says nothing must not hold up process 1.
            connection.settimeout(2.0)
            try:
                request = json.loads(connection.makefile("rb").readline())
                answer = self.answer(request)
            except (OSError, ValueError, KeyError, TypeError) as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            try:
                connection.sendall(json.dumps(answer).encode() + b"\n")
            except OSError:
                return

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what a request asks. An unknown process or verb is answered with `error`."""
        verb = request["do"]
        if verb == "start":
            self.add(request["process"])
        elif verb in ("stop", "kill"):
            each = self.processes.get(request["name"])
            if each is None:
                return {"error": f"no process {request['name']!r}; there are {', '.join(sorted(self.processes))}"}
            each.wanted = each.wanted and verb == "kill"
            if each.popen:
                os.kill(each.popen.pid, int(request.get("signal", signal.SIGTERM)))
        elif verb != "list":
            return {"error": f"unknown request {verb!r}"}
        return {"processes": {name: each.described() for name, each in self.processes.items()}}
