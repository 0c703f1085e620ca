"""The `podroute` command, also installed as `kubectl-podroute`: `main` starts a daemon, or loads `app` for people.

Nothing imports this room.
"""
