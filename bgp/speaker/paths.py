"""Where the speaker's files lie. Standard library only: the entry and the lean supervision read it too."""

DEFAULT_RUN_DIR = "/run/podroute/speaker"
SOCKET_NAME = "speaker.sock"
DEFAULT_SOCKET = f"{DEFAULT_RUN_DIR}/{SOCKET_NAME}"
LOG_SOCKET_NAME = "log.sock"
CONFIGURATION_NAME = "exabgp.conf"
STORE_NAME = "desired.json"
SETTINGS_NAME = "exabgp.env"
