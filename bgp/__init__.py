"""The speaker: keeps BGP sessions with ExaBGP and decides what is learned.

Knows no Kubernetes and programs no routes. The agent (`controller.agent`) talks to it through `bgp.speaker.client`;
`podroute speaker` starts it.
"""
