"""Everything that knows how ExaBGP 5.0.15 is spoken to: its configuration, commands, events, settings and clock.

Called by `bgp.speaker`. Only `run` and `validation`, which are programs of their own, import ExaBGP.
"""
