"""Whose address a packet carries when it arrives: sent from one place, received at another."""

import subprocess
import sys

from traffic import Place

from controller.lab.cluster import Lab
from controller.lab.execute import run_checked

_PORT = "7777"
_LISTEN = """
import socket, sys
address, port = sys.argv[1:]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as sock:
    sock.bind((address, int(port)))
    sock.settimeout(10)
    print("listening", flush=True)
    print(sock.recvfrom(64)[1][0], flush=True)
"""
_SEND = """
import socket, sys
address, port = sys.argv[1:]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as sock:
    for _ in range(3):
        sock.sendto(b"hello", (address, int(port)))
"""


def place_of(lab: Lab, machine: str) -> Place:
    """A machine of the lab as an end."""
    enter = ("nsenter", f"--net={lab.netns(machine)}", "--")
    return Place(machine, enter, tuple(lab.topology.addresses(machine)))


def source_seen(sender: Place, receiver: Place, family: int) -> str:
    """The source address of a packet as its receiver sees it."""
    at = receiver.address(family)
    listen = [*receiver.enter, sys.executable, "-c", _LISTEN, at, _PORT]
    with subprocess.Popen(listen, stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "listening\n"
        run_checked([*sender.enter, sys.executable, "-c", _SEND, at, _PORT])
        return listener.stdout.readline().strip()
