"""Process 1 of a machine: `python -m controller.lab.inside SPEC.json`, already in the machine's namespaces."""

import json
import socket
import sys
from pathlib import Path

from controller.lab.inside.mounts import make_file_system
from controller.lab.inside.supervisor import Supervisor


def main() -> None:
    """Make the file system, then serve; the socket appears only when the machine is complete."""
    folder = Path(sys.argv[1]).parent
    spec = json.loads(Path(sys.argv[1]).read_text())
    socket.sethostname(spec["hostname"])
    logs = folder / "log"
    logs.mkdir(exist_ok=True)
    make_file_system(spec, folder)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(folder / "machine.sock"))
    listener.listen(16)
    supervisor = Supervisor(listener, logs)
    for process in spec["processes"]:
        supervisor.add(process)
    supervisor.run()


main()
