"""Reads a cluster and its nodes and says how they are (`overview`) and what disagrees (`check`). Changes nothing.

`gather` has the effects, everything else is pure. Called by `controller.cli`.
"""
