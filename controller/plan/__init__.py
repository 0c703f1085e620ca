"""Pure decisions: which blocks nodes get, which addresses pods get, what a node routes, announces and reports.

No I/O, no clock, no randomness: everything is an argument. `controller.operator` asks `operator`, `controller.agent` asks `node`,
`speaking`, `learned`, `addresses` and `report`, `controller.inspect` compares with the same plans.
"""
