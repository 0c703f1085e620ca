"""The API server, and nothing that podroute decides: connecting, reading, watching, writing.

`client` sends requests and maps what goes wrong to `errors`; `store` keeps typed objects and is fed by `reflector` (in the agent)
or by the operator's watches; `writer`, `events` and `lease` are the writes. Called by agent, operator, inspect, command line.
"""
