"""Replaces speakers of an older version, node by node: their DaemonSet is OnDelete, so that nothing else does.

Looks at the DaemonSet every few seconds, and at the pods only while some are of an older version; what is to be done,
`controller.plan.rollout` decides. Where podroute runs as plain processes there is no DaemonSet, and nothing to do.
Called by `controller.operator.main`.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from controller.api.kubernetes import Node
from controller.api.nodenetwork import NodeNetwork, NodeNetworkStatus
from controller.api.notes import Note
from controller.api.reasons import Reason
from controller.kube.client import Api, Raw
from controller.kube.errors import KubeError, NotFound
from controller.kube.events import EventRecorder
from controller.kube.resources import DAEMON_SETS, PODS, REVISIONS
from controller.kube.store import Store
from controller.plan.rollout import Component, NodeView, Part, Replaced, Step, last_replaced, next_step, seen

log = logging.getLogger(__name__)

# Seconds between two looks: at a DaemonSet whose pods are all current, during a rollout, and where there is none.
IDLE_SECONDS = 10.0
BUSY_SECONDS = 1.0
AWAY_SECONDS = 60.0
# More of them during a rollout, for each pod that is listed.
PART_SECONDS = 0.005
# Seconds for which a node holds the others up before people are told.
HELD_SECONDS = 30.0
COMPONENTS: tuple[Component, ...] = ("agent", "speaker")
_COMPONENT = "app.kubernetes.io/component"
# Which template a pod was made from (apps/v1, DefaultDaemonSetUniqueLabelKey).
_REVISION = "controller-revision-hash"


class SpeakerRollout:
    """A task of its own. `may_write` is asked before each delete."""

    def __init__(self, api: Api, store: Store, recorder: EventRecorder, may_write: Callable[[], bool]) -> None:
        self._api = api
        self._store = store
        self._recorder = recorder
        self._may_write = may_write
        self._memory: Replaced | None = None
        # Whether an operator before this one may have been in the middle of a rollout.
        self._is_new = True
        # The reason and the node of the last step, since when (monotonic seconds), and whether people were told.
        self._phase: tuple[Reason | None, str, float] = (None, "", 0.0)
        self._is_told = False

    async def run(self) -> None:
        """Never ends by itself; cancel it."""
        said = ""
        while True:
            wait = IDLE_SECONDS
            try:
                if self._may_write() and self._store.is_loaded:
                    wait = await self._look()
                else:
                    # Whoever writes meanwhile may replace others.
                    self._memory, self._is_new = None, True
                said = ""
            except KubeError as error:
                if str(error) != said:
                    log.warning("the speakers' rollout waits: %s", error)
                said = str(error)
            await asyncio.sleep(wait)

    async def _look(self) -> float:
        """Replaces at most one speaker; gives the seconds until the next look."""
        try:
            sets = {name: await self._daemon_set(name) for name in COMPONENTS}
        except NotFound:
            return AWAY_SECONDS
        if is_current(sets["speaker"]) and self._memory is None:
            return IDLE_SECONDS
        parts = await self._parts(sets)
        if parts is None:
            return BUSY_SECONDS
        wanted = int(sets["speaker"]["status"].get("desiredNumberScheduled", 0))
        here = seen(parts, self._nodes(), wanted)
        if self._is_new:
            self._memory, self._is_new = last_replaced(here), False
        step = next_step(here, self._memory, time.monotonic())
        # Before the request: its answer may be lost.
        self._memory = step.memory
        if step.replace is not None and self._may_write():
            await self._api.delete(PODS, step.replace.name, uid=step.replace.uid, namespace=self._api.namespace)
        await self._tell(step)
        # Lists of thousands of pods take their time.
        return IDLE_SECONDS if step.reason is None else max(BUSY_SECONDS, len(parts) * PART_SECONDS)

    async def _daemon_set(self, component: Component) -> Raw:
        return await self._api.get(DAEMON_SETS, f"podroute-{component}", self._api.namespace)

    async def _parts(self, sets: Mapping[Component, Raw]) -> list[Part] | None:
        """Every pod of the two DaemonSets; None while their controller has not seen the latest of both."""
        namespace = self._api.namespace
        revisions = await self._api.list(REVISIONS, namespace=namespace)
        found: list[Part] = []
        for component, owner in sets.items():
            uid = owner["metadata"]["uid"]
            latest = latest_revision(revisions.items, uid)
            if not latest or (owner.get("status") or {}).get("observedGeneration") != owner["metadata"]["generation"]:
                return None
            pods = await self._api.list(PODS, namespace=namespace, label_selector=f"{_COMPONENT}={component}")
            found += [part_of(pod, component, latest) for pod in pods.items if is_owned(pod, uid)]
        return found

    def _nodes(self) -> dict[str, NodeView]:
        networks = {each.metadata.name: each.status for each in self._store.all(NodeNetwork)}
        return {node.metadata.name: view_of(node, networks.get(node.metadata.name)) for node in self._store.all(Node)}

    async def _tell(self, step: Step) -> None:
        """An Event on the node, and a line in the log, of each replacement, and of a node that holds the others up for long."""
        now = time.monotonic()
        if (step.reason, step.node) != self._phase[:2]:
            self._phase = (step.reason, step.node, now)
            self._is_told = False
        is_due = step.replace is not None or now - self._phase[2] >= HELD_SECONDS
        if step.reason is None or self._is_told or not is_due:
            return
        self._is_told = True
        is_held = step.replace is None
        log.log(logging.WARNING if is_held else logging.INFO, "%s: %s: %s", step.node, step.reason, step.detail)
        node = next((each for each in self._store.all(Node) if each.metadata.name == step.node), None)
        if node is None:
            return
        message = f"{step.reason.meaning}: {step.detail}{f'; {step.reason.remedy}' if is_held else ''}"
        note = Note(
            "v1", "Node", step.node, node.metadata.uid, step.reason, message, "Warning" if is_held else "Normal"
        )
        await self._recorder.record(note, now, datetime.now(UTC))


def view_of(node: Node, status: NodeNetworkStatus | None) -> NodeView:
    """What a Node and the status of its NodeNetwork tell."""
    if status is None:
        return NodeView(node.is_ready, None)
    names = {(each.peer, each.address): each.state for each in status.sessions}
    up = frozenset(name for name, state in names.items() if state == "established")
    return NodeView(node.is_ready, up, frozenset(names))


def is_current(daemon_set: Raw) -> bool:
    """Whether every pod of the DaemonSet is of its latest template, as its controller counts them."""
    status = daemon_set.get("status") or {}
    return bool(
        status.get("observedGeneration") == daemon_set["metadata"]["generation"]
        and status.get("updatedNumberScheduled", 0) == status.get("currentNumberScheduled", 0)
    )


def is_owned(raw: Raw, owner_uid: str) -> bool:
    """Whether an object belongs to the one of that UID."""
    return any(owner.get("uid") == owner_uid for owner in raw["metadata"].get("ownerReferences", ()))


def latest_revision(revisions: list[Raw], owner_uid: str) -> str:
    """The hash of a DaemonSet's latest template; empty if its controller has not seen it yet."""
    own = [each for each in revisions if is_owned(each, owner_uid)]
    latest = max(own, key=lambda each: int(each["revision"]), default=None)
    return "" if latest is None else str(latest["metadata"].get("labels", {}).get(_REVISION, ""))


def part_of(pod: Raw, component: Component, latest: str) -> Part:
    """What the rollout needs to know of a pod."""
    metadata, conditions = pod["metadata"], (pod.get("status") or {}).get("conditions") or ()
    return Part(
        name=metadata["name"],
        uid=metadata["uid"],
        node=pod["spec"].get("nodeName", ""),
        component=component,
        is_current=metadata.get("labels", {}).get(_REVISION) == latest,
        is_ready=any(each["type"] == "Ready" and each["status"] == "True" for each in conditions),
        is_ending="deletionTimestamp" in metadata,
        created=metadata.get("creationTimestamp", ""),
    )
