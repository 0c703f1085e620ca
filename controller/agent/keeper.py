"""Keeps the snapshot: the node's NodeNetwork, the ClusterNetwork, and the Secrets that its sessions name.

What vanishes is kept: a missing object means that the node knows no better, not that it has nothing to do. While the API server is
away the last snapshot serves, also one that a former agent left in /run.
"""

import asyncio
import base64
import binascii
import logging
import random

import msgspec

from controller.agent.bell import Bell
from controller.agent.state import State, Trouble
from controller.api import ClusterNetwork, NodeNetwork
from controller.api.nodenetwork import NodeNetworkStatus
from controller.api.reasons import Reason
from controller.kube.client import Api
from controller.kube.errors import KubeError, NotFound, Unavailable
from controller.kube.reflector import Reflector, exponential
from controller.kube.resources import SECRETS
from controller.kube.store import Change, Store
from controller.kube.writer import Writer
from controller.plan.node import Snapshot
from controller.plan.returned import Returns, after_hearing
from controller.plan.validity import cluster_problem, node_problem

log = logging.getLogger(__name__)

CLUSTER = "default"
# Seconds between two looks at the Secrets: a changed password is noticed by then.
SECRETS_SECONDS = 30.0
# What a trouble with a Secret is about, before its name.
_ABOUT = "Secret "
# The key in a Secret of type kubernetes.io/basic-auth, too.
_KEY = "password"


class Keeper:
    """Feeds `state.snapshot`; also writes the status, since it has the connection."""

    def __init__(self, state: State, api: Api) -> None:
        """Asks nothing before `run`."""
        self._state, self._api = state, api
        self._store = Store((NodeNetwork, ClusterNetwork))
        self._writer = Writer(api)
        self._secrets = Bell()
        # Rings when the blocks of a node whose object is gone are given up.
        self._giving_up: asyncio.TimerHandle | None = None
        backoff = exponential(random.SystemRandom(), most=5.0)
        self._reflectors = [
            Reflector(api, self._store, kind, backoff=backoff, on_change=self._on_change).named(name)
            for kind, name in ((NodeNetwork, state.node), (ClusterNetwork, CLUSTER))
        ]

    async def run(self) -> None:
        """Watches until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for reflector in self._reflectors:
                tasks.create_task(reflector.run(), name=f"watch {reflector.name}")
            tasks.create_task(self._read_secrets(), name="secrets")

    async def write_status(self, name: str, status: NodeNetworkStatus) -> None:
        """Writes the node's status. Raises KubeError."""
        node = self._state.snapshot.node
        await self._writer.set_status(NodeNetwork, name, node.metadata.uid if node else "", status)

    def _on_change(self, change: Change) -> None:
        state = self._state
        troubled = [reflector.trouble for reflector in self._reflectors if reflector.trouble]
        state.set_trouble("api", Trouble(Reason.SNAPSHOT_STALE, str(troubled[0])) if troubled else None)
        found = self._store.get(NodeNetwork, state.node)
        given = self._store.get(ClusterNetwork, CLUSTER)
        problems = [node_problem(found.spec) if found else "", cluster_problem(given.spec) if given else ""]
        node = found if found and not problems[0] else state.snapshot.node
        cluster = given if given and not problems[1] else state.snapshot.cluster
        if change.removed:
            log.warning("%s %s is gone: the last one stays in force", change.kind.__name__, ", ".join(change.removed))
        invalid = [f"{i.kind} {i.name}, field {i.field}: {i.message}" for i in self._store.invalid()]
        names = (f"NodeNetwork {state.node}", f"ClusterNetwork {CLUSTER}")
        invalid += [f"{name}, field {text}" for name, text in zip(names, problems, strict=True) if text]
        for text in invalid:
            log.error("%s", text)
        state.set_trouble("objects", Trouble(Reason.INVALID, "; ".join(invalid)) if invalid else None)
        missing_since = self._missing_since(found)
        returns = after_hearing(state.snapshot.returns, node.spec.epoch, state.clock()) if node else Returns()
        snapshot = msgspec.structs.replace(
            state.snapshot, node=node, cluster=cluster, missing_since=missing_since, returns=returns
        )
        if snapshot != state.snapshot:
            is_news = (
                _spec(node) != _spec(state.snapshot.node) or snapshot.missing_since != state.snapshot.missing_since
            )
            self._take(snapshot, is_news=is_news or cluster != state.snapshot.cluster)
            self._secrets.ring()

    def _missing_since(self, found: NodeNetwork | None) -> float | None:
        """Since when the API server says that there is no such object; what it says while it is away does not count."""
        state, shelf = self._state, self._store.shelf(NodeNetwork)
        before = state.snapshot.missing_since
        if found is not None or state.node in shelf.invalid:
            if self._giving_up is not None:
                self._giving_up.cancel()
                self._giving_up = None
            return None
        if not shelf.is_loaded or state.snapshot.node is None:
            return before
        since = state.clock() if before is None else before
        if self._giving_up is None:
            due = since + state.snapshot.node.spec.deleted_node_grace
            wait = max(0.0, due - state.clock())
            self._giving_up = asyncio.get_running_loop().call_later(wait, state.reconcile.ring)
        return since

    def _take(self, snapshot: Snapshot, *, is_news: bool) -> None:
        state = self._state
        state.snapshot = snapshot
        if is_news:
            # Our own status comes back by the watch, too; only what we are to do is worth a file and a pass.
            state.folder.store_snapshot(snapshot)
            state.reconcile.ring()
        state.report.ring()

    async def _read_secrets(self) -> None:
        while True:
            await self._secrets.wait(SECRETS_SECONDS)
            await self.look_at_secrets()

    async def look_at_secrets(self) -> None:
        """Reads the Secrets that sessions name now; what is wrong with others is forgotten."""
        state = self._state
        node = state.snapshot.node
        names = {s.password_secret for s in node.spec.sessions if s.password_secret} if node else set()
        for about in [each for each in state.troubles if each.startswith(_ABOUT)]:
            if about.removeprefix(_ABOUT) not in names:
                state.set_trouble(about, None)
        passwords = {name: found for name in sorted(names) if (found := await self._password(name)) is not None}
        if passwords != state.snapshot.passwords:
            self._take(msgspec.structs.replace(state.snapshot, passwords=passwords), is_news=True)

    async def _password(self, name: str) -> str | None:
        """The password; the last known one if it can't be had now: a session that works is not ended for a Secret's sake."""
        try:
            raw = await self._api.get(SECRETS, name, self._api.namespace)
            password = base64.b64decode((raw.get("data") or {})[_KEY], validate=True).decode("ascii")
        except (NotFound, KeyError):
            problem = f"there is no such Secret, or it lacks the key {_KEY}"
        except (binascii.Error, UnicodeDecodeError):
            problem = f"field data.{_KEY} is not ASCII, as TCP MD5 passwords are here"
        except KubeError as error:
            problem = "" if isinstance(error, Unavailable) else str(error)
        else:
            self._state.set_trouble(_ABOUT + name, None)
            return password
        if problem:
            log.error("Secret %s: %s", name, problem)
            self._state.set_trouble(_ABOUT + name, Trouble(Reason.SECRET_MISSING, f"Secret {name}: {problem}"))
        return self._state.snapshot.passwords.get(name)


def _spec(node: NodeNetwork | None) -> object:
    return None if node is None else (node.spec, node.metadata.uid, node.metadata.generation)
