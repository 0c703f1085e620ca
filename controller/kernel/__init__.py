"""The node's kernel: pure values in, effects out.

`values` says what a node's kernel should hold (routes, pod links, rules) and is pure: the plan imports it. The other
modules read and write: `netlink` is the packed transport, `routes`, `pods`, `rules` and `conntrack` apply, `watch`
tells of foreign changes, `surroundings` reads what the node is set to. The agent calls them on a worker thread;
`podroute check` calls the readers.

What is ours, and all that is ever listed for deletion: routes with protocol 179 and metric 179, the nft table
`podroute`, and veths named `podr` and eleven hexadecimal digits.
"""
