"""One end of the traffic probe, run in a pod's network namespace: numbered packets and a stream to a peer and back.

    traffic_endpoint.py OWN PEER PORT RATE

Prints one JSON line when it gets SIGTERM. Sequence numbers are one for each packet, so a single lost one is seen; the
stream carries 64-byte records, so a gap in it is seen to the record.
"""

import itertools
import json
import selectors
import signal
import socket
import struct
import sys
import threading
import time

NUMBER = struct.Struct("!Q")
RECORD = 64


class Endpoint:
    """Sends and receives until told to stop."""

    def __init__(self, own: str, peer: str, port: int, rate: float) -> None:
        self.own, self.peer, self.port, self.interval = own, peer, port, 1 / rate
        self.stopping = threading.Event()
        self.sent = 0
        self.begun = self.last = self.stopped = time.monotonic()
        self.sending = self.send_gap = 0.0
        self.received: list[tuple[int, float]] = []
        self.stream: list[float] = []
        self.stream_bytes = 0
        self.stream_errors: list[str] = []
        self.send_errors: list[str] = []
        family = socket.AF_INET6 if ":" in own else socket.AF_INET
        self.family = family
        self.udp = socket.socket(family, socket.SOCK_DGRAM)
        self.udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.udp.bind((own, port))

    def run(self) -> None:
        threads = [threading.Thread(target=work, daemon=True) for work in (self.send, self.receive, self.converse)]
        for thread in threads:
            thread.start()
        self.stopping.wait()
        # What came to a standstill has its gap at the end.
        self.stopped = time.monotonic()
        self.stream.append(self.stopped)
        self.pause(self.stopped)
        # What is under way still arrives.
        time.sleep(0.5)
        self.report()

    def send(self) -> None:
        """What a busy machine delayed is made up for; the longest pause is noted, as nothing is probed during it."""
        self.begun = self.last = due = time.monotonic()
        while not self.stopping.is_set():
            try:
                self.udp.sendto(NUMBER.pack(self.sent), (self.peer, self.port))
            except OSError as error:
                self.send_errors.append(str(error))
            self.sent += 1
            now = time.monotonic()
            self.pause(now)
            due += self.interval
            time.sleep(max(0.0, due - now))

    def pause(self, now: float) -> None:
        """Notes that up to now nothing was sent since the last time."""
        self.sending, self.send_gap, self.last = now - self.begun, max(self.send_gap, now - self.last), now

    def receive(self) -> None:
        while True:
            data, source = self.udp.recvfrom(2048)
            if source[0] != self.peer:
                self.send_errors.append(f"a packet from {source[0]} instead of {self.peer}")
            self.received.append((NUMBER.unpack(data[:8])[0], time.monotonic()))

    def converse(self) -> None:
        """The lower address waits; both sides send a record every 20 ms and read what comes."""
        connection = self.accepted() if self.own < self.peer else self.connected()
        if connection is None:
            return
        selector = selectors.DefaultSelector()
        selector.register(connection, selectors.EVENT_READ)
        try:
            while not self.stopping.is_set():
                self.exchange(connection, selector)
        except OSError as error:
            if not self.stopping.is_set():
                self.stream_errors.append(str(error))

    def exchange(self, connection: socket.socket, selector: selectors.BaseSelector) -> None:
        connection.sendall(b"x" * RECORD)
        if selector.select(0.02):
            data = connection.recv(1 << 16)
            if not data:
                raise ConnectionError("the peer closed the stream")
            self.stream_bytes += len(data)
            self.stream.append(time.monotonic())
        time.sleep(0.02)

    def accepted(self) -> socket.socket | None:
        listener = socket.socket(self.family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.own, self.port))
        listener.listen(1)
        return listener.accept()[0]

    def connected(self) -> socket.socket | None:
        until = time.monotonic() + 10
        while time.monotonic() < until and not self.stopping.is_set():
            try:
                return socket.create_connection((self.peer, self.port), 2)
            except OSError:
                time.sleep(0.05)
        self.stream_errors.append("no connection")
        return None

    def report(self) -> None:
        times = sorted([self.stopped, *((when for _, when in self.received) if self.received else [self.begun])])
        print(
            json.dumps(
                {
                    "sent": self.sent,
                    "sending": self.sending,
                    "send_gap": self.send_gap,
                    "received": sorted({number for number, _ in self.received}),
                    "gap": max((b - a for a, b in itertools.pairwise(times)), default=0.0),
                    "stream_bytes": self.stream_bytes,
                    "stream_gap": max((b - a for a, b in itertools.pairwise(sorted(self.stream))), default=0.0),
                    "errors": self.stream_errors + self.send_errors[:3],
                }
            ),
            flush=True,
        )


def main() -> None:
    endpoint = Endpoint(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
    signal.signal(signal.SIGTERM, lambda *_: endpoint.stopping.set())
    endpoint.run()


if __name__ == "__main__":
    main()
