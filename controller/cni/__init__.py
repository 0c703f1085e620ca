"""The CNI plugin that the container runtime calls, and its protocol with the agent on the node.

`protocol` frames a call and its answer, `request` and `result` are the specification's words as typed values (all
pure). `server` is the agent's end of the socket. `shim.c` is the program that the runtime runs, `plugin` its twin in
Python: the readable reference, and the fallback where no C compiler was at hand. `build` compiles the shim, `install`
puts the program and its configuration list where the runtime looks for them.

Specification: https://www.cni.dev/docs/spec/ (1.1.0).
"""
