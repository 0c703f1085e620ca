"""The node's own process: gives pods addresses and wires them, brings kernel and speaker to what the plan says, and reports.

Started as `podroute agent` by `controller.cli.main`; one a node, as root. `main` has the tasks, `state` what they share.
"""
