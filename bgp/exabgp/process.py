"""How ExaBGP itself is set up: its environment, and the section that makes it start the daemon.

Standard library only: `bgp.speaker.entry` and the child of `bgp.speaker.supervision` use it beside
`bgp.exabgp.configuration`.
"""

from collections.abc import Sequence

PROCESS_NAME = "podroute"


def process_section(run: Sequence[str]) -> str:
    """The section that makes ExaBGP start the daemon; `run` is its command line. Raises ValueError if unspeakable."""
    for word in run:
        if not word or not word.isascii() or any(character in word for character in " \t\n\"'\\#;{},[]"):
            raise ValueError(f"{word!r} can't be written into ExaBGP's configuration: use a path of plain characters")
    return f"process {PROCESS_NAME} {{\n    run {' '.join(run)};\n    encoder json;\n    respawn false;\n}}\n"


# Seconds after which a router that accepts a connection and says nothing (its packets are lost, or it has just gone) is asked anew.
# ExaBGP's own number is 60; RFC 4271 section 8.2.2 suggests four minutes, for peers that are many and far.
OPEN_SECONDS = 10


def exabgp_environment(*, user: str, speed: str, settings_file: str) -> dict[str, str]:
    """ExaBGP's settings.

    `user` is the one ExaBGP would change to if it were started as root; it is that user already, or meant to stay
    root. `speed` is `exabgp_reactor_speed`: hundredths of a second slept between idle rounds. `settings_file` is an empty
    file; without one ExaBGP asks for it in its log.
    """
    return {
        "exabgp_api_ack": "true",
        "exabgp_api_cli": "false",
        "exabgp_api_compact": "true",
        "exabgp_api_respawn": "false",
        "exabgp_bgp_openwait": str(OPEN_SECONDS),
        "exabgp_daemon_daemonize": "false",
        "exabgp_daemon_user": user,
        "exabgp_daemon_umask": "0177",
        "exabgp_log_destination": "stderr",
        "exabgp_log_level": "INFO",
        "exabgp_log_processes": "false",
        "exabgp_log_short": "true",
        "exabgp_log_statistics": "false",
        "exabgp_reactor_speed": speed,
        "exabgp_tcp_bind": "",
        "EXABGP_ENVFILE": settings_file,
    }
