"""What is worth a Kubernetes Event. Decided by `controller.plan`, written by `controller.kube.events`."""

from typing import Literal

from msgspec import Struct


class Note(Struct, frozen=True):
    """Something to say about an object: which, why in one word, and what to do."""

    api_version: str
    kind: str
    name: str
    uid: str
    reason: str
    message: str
    type: Literal["Normal", "Warning"] = "Warning"
