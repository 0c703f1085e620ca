"""What runs as process 1 of every machine in the lab: it makes the machine's file system, then supervises its
processes.

Standard library only, and started in namespaces of its own by `controller.lab.machine`, which also holds the client of
its socket.
"""
