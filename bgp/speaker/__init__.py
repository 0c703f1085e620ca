"""The speaker as it runs on a node: `entry` starts it, `supervision` keeps ExaBGP and the `daemon` running, `client`
talks to it.

The command line calls `entry.main`, the agent uses `client.SpeakerClient`, readers of nodes use `client.observe`.
"""
