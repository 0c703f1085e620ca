"""Installs the CNI plugin and its configuration once the node can serve pods, and keeps them installed. One task of the agent.

From then on the runtime calls the node's network ready, and the kubelet the node. While podroute is being uninstalled it takes both
away instead.
"""

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from controller.agent.state import State, Trouble
from controller.api.reasons import Reason
from controller.cni.install import install, uninstall

log = logging.getLogger(__name__)

# Between two looks whether somebody took the files away.
LOOK_SECONDS = 30.0
_ABOUT = "installation"


@dataclass(frozen=True, slots=True)
class Places:
    """Where the runtime looks for plugins and configurations, and the static plugin (None: the Python twin is installed)."""

    bin_dir: Path
    conf_dir: Path
    shim: Path | None


async def keep_installed(state: State, places: Places) -> None:
    """The task: looks when the node gets ready or retires, and now and then; runs until cancelled."""
    while True:
        try:
            if state.is_retiring:
                await _remove(state, places)
            elif state.is_ready:
                await _install(state, places)
            state.set_trouble(_ABOUT, None)
        except OSError as error:
            state.set_trouble(_ABOUT, Trouble(Reason.INSTALL_FAILED, f"{error.filename}: {error.strerror}"))
        await state.installation.wait(LOOK_SECONDS)


async def _install(state: State, places: Places) -> None:
    done = await asyncio.to_thread(install, places.bin_dir, places.conf_dir, places.shim)
    state.is_installed = True
    # Gone after an uninstall that was taken back.
    state.folder.mark_ready()
    if done.changed:
        versions = ", ".join(done.versions)
        log.info("CNI plugin in %s, configuration in %s (versions %s)", places.bin_dir, places.conf_dir, versions)
    if done.changed and done.missing:
        log.warning("not chained, since it is not in %s: %s", places.bin_dir, ", ".join(done.missing))


async def _remove(state: State, places: Places) -> None:
    if await asyncio.to_thread(uninstall, places.bin_dir, places.conf_dir):
        log.info("CNI plugin and configuration removed from %s and %s", places.bin_dir, places.conf_dir)
    state.folder.unmark_ready()
    if state.is_installed is not False:
        state.is_installed = False
        state.report.ring()
