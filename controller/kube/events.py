"""Kubernetes Events about objects, each said once: `kubectl describe node n1` then tells what podroute could not do for it.

Called by operator and agent. The same thing about the same object is said again only after `REPEAT_SECONDS`, as a series of the
same Event (events.k8s.io/v1).
"""

import hashlib
from datetime import UTC, datetime
from typing import Any

from controller.api.notes import Note
from controller.kube.client import Api
from controller.kube.errors import AlreadyExists, NotFound
from controller.kube.resources import EVENTS

REPEAT_SECONDS = 600.0


class EventRecorder:
    """Writes Events about cluster-scoped objects (they live in the namespace `default`)."""

    def __init__(self, api: Api, controller: str, instance: str) -> None:
        self._api = api
        self._controller = controller
        self._instance = instance
        self._said: dict[Note, float] = {}
        self._counts: dict[Note, int] = {}

    def is_due(self, note: Note, now: float) -> bool:
        """Whether `note` has not been said lately; `now` is monotonic seconds."""
        return now - self._said.get(note, -REPEAT_SECONDS) >= REPEAT_SECONDS

    async def record(self, note: Note, now: float, wall: datetime) -> None:
        """Says `note` unless it was said lately, at `wall` as the Event shows. Raises KubeError; then it was not said."""
        if not self.is_due(note, now):
            return
        self._forget(now)
        count = self._counts.get(note, 0) + 1
        body = event_body(note, self._controller, self._instance, wall)
        try:
            await self._api.create(EVENTS, body, namespace="default")
        except AlreadyExists:
            series = {"count": count + 1, "lastObservedTime": _micro(wall)}
            patch = {"metadata": {"name": body["metadata"]["name"]}, "series": series}
            try:
                await self._api.patch(EVENTS, patch, namespace="default")
            except NotFound:
                # It expired between the two requests; the next repeat creates it anew.
                return
        self._said[note] = now
        self._counts[note] = count

    def _forget(self, now: float) -> None:
        old = [note for note, said in self._said.items() if now - said > 10 * REPEAT_SECONDS]
        for note in old:
            self._said.pop(note, None)
            self._counts.pop(note, None)


def event_body(note: Note, controller: str, instance: str, wall: datetime) -> dict[str, Any]:
    """The Event; its name is a digest of what it says, so that a restarted process does not say it twice."""
    digest = hashlib.sha256("\0".join((note.kind, note.uid, note.reason, note.message)).encode()).hexdigest()[:16]
    regarding = {"apiVersion": note.api_version, "kind": note.kind, "name": note.name, "uid": note.uid}
    return {
        "apiVersion": EVENTS.api_version,
        "kind": "Event",
        "metadata": {"name": f"{note.name}.{digest}"[-253:], "namespace": "default"},
        "eventTime": _micro(wall),
        "reportingController": controller,
        "reportingInstance": instance[:128],
        "action": note.reason,
        "reason": note.reason,
        "regarding": regarding,
        "note": note.message[:1024],
        "type": note.type,
    }


def _micro(wall: datetime) -> str:
    """metav1.MicroTime."""
    return wall.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
