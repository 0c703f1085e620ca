"""The operator: one process a cluster that turns what users write into what each node is to do.

`feed` (kopf) and lists fill the Store, `reconciler` asks `controller.plan.operator` what follows, `applying` writes the difference,
`term` holds the Lease, `health` answers probes. Started by `controller.cli` as `podroute operator`.
"""
