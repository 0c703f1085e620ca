"""Installs the CNI plugin and its configuration once the node can serve pods, and keeps them installed. One task of the agent.

From then on the runtime calls the node's network ready, and the kubelet the node.
"""

import asyncio
import logging
from pathlib import Path

from controller.agent.state import State, Trouble
from controller.api.reasons import Reason
from controller.cni.install import install

log = logging.getLogger(__name__)

# Between two looks whether somebody took the files away; soon again while the node is not ready yet.
LOOK_SECONDS = 30.0
_ABOUT = "installation"


async def keep_installed(state: State, bin_dir: Path, conf_dir: Path, shim: Path | None) -> None:
    """The task: installs as soon as the node is ready, looks again now and then; runs until cancelled."""
    await state.ready.wait()
    while True:
        try:
            done = await asyncio.to_thread(install, bin_dir, conf_dir, shim)
            state.set_trouble(_ABOUT, None)
            if done.changed:
                log.info(
                    "CNI plugin in %s, configuration in %s (versions %s)", bin_dir, conf_dir, ", ".join(done.versions)
                )
            if done.changed and done.missing:
                log.warning("not chained, since it is not in %s: %s", bin_dir, ", ".join(done.missing))
        except OSError as error:
            state.set_trouble(_ABOUT, Trouble(Reason.INSTALL_FAILED, f"{error.filename}: {error.strerror}"))
        await asyncio.sleep(LOOK_SECONDS)
