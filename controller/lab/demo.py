"""A few pods for whoever looks at a lab; `podroute lab up` starts them, tests that bring up labs of their own do not."""

from collections.abc import Callable
from pathlib import Path

from controller.lab.cluster import Lab
from controller.lab.execute import wait_until

MANIFEST = Path(__file__).with_name("demo.yaml")
READY_LIMIT_S = 60.0


def start_demo(lab: Lab, report: Callable[[str], None]) -> None:
    """Apply the pods and wait until they are ready; a second time changes nothing."""
    report("starting a few pods")
    lab.apply(MANIFEST.read_text())

    def ready() -> bool:
        status = lab.get("daemonset", "web", "-n", "demo").get("status", {})
        return bool(status.get("numberReady")) and status["numberReady"] == status["desiredNumberScheduled"]

    wait_until(ready, READY_LIMIT_S, "the pods of namespace demo are ready", every=0.2)
