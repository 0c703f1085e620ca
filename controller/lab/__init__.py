"""A whole cluster on one Linux machine: real Kubernetes, real routers, in namespaces, without a container engine.

`podroute lab` (the command-line room mounts `commands.app`) and the tests (`cluster.Lab`) bring it up. Data runs one
way: `topology` says what there is, `network`, `frr`, `bird`, `controlplane`, `node`, `routers` turn it into text and
specifications without touching anything, `bringup` applies them, `teardown` undoes them, `state` remembers. `inside`
runs as process 1 of every machine.
"""
