"""How podroute leaves a cluster: what `podroute uninstall` does at the API server, a step at a time.

Each step looks what is there, so that a removal that was broken off goes on where it stopped. The nodes clean themselves: the
ClusterNetwork says `retiring`, each agent withdraws, removes what it made, and says so in its NodeNetwork.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from controller.api import ClusterNetwork, IPBlock, IPPool, NodeNetwork
from controller.api.kubernetes import Namespace
from controller.api.objects import GROUP
from controller.kube.client import Api, Raw
from controller.kube.errors import Conflict, Forbidden, NotFound, Unavailable
from controller.kube.resources import DAEMON_SETS, LEASES, PODS, Collection, collection_of

NAMESPACE = "podroute-system"
# On everything that the manifests install (manifests/base/kustomization.yaml).
OURS = "app.kubernetes.io/part-of=podroute"

DEPLOYMENTS = Collection("apps", "v1", "deployments", "Deployment", namespaced=True)
KINDS = Collection("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition")
_ADMISSION, _RBAC = "admissionregistration.k8s.io", "rbac.authorization.k8s.io"
# In the order of their removal: the policies guard what comes after them.
RIGHTS = (
    Collection(_ADMISSION, "v1", "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding"),
    Collection(_ADMISSION, "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy"),
    Collection(_RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding"),
    Collection(_RBAC, "v1", "clusterroles", "ClusterRole"),
    Collection(_RBAC, "v1", "rolebindings", "RoleBinding", namespaced=True),
    Collection(_RBAC, "v1", "roles", "Role", namespaced=True),
)
KIND_OF_CLUSTER = f"{ClusterNetwork.PLURAL}.{GROUP}"
LOOK_SECONDS = 0.5


class NotRemoved(Exception):
    """A step did not come to its end; the text says what was waited for and what to do."""


@dataclass(frozen=True, slots=True)
class Removal:
    """One removal: how it asks, what it leaves out, how long it waits for each step, and how it tells of its progress."""

    api: Api
    tell: Callable[[str], None]
    seconds: float
    without: frozenset[str] = field(default_factory=frozenset)

    async def run(self, new_name: str) -> None:
        """Everything, in order; `new_name` is the uninstall's, unless one was begun. Raises NotRemoved, KubeError."""
        await self.stop_operator()
        name = await self.retire_nodes(new_name)
        for component in ("speaker", "agent"):
            # The agents last: at their end they remove the speakers' files, too.
            await self._require_stopped(name)
            await self._delete(DAEMON_SETS, f"podroute-{component}", NAMESPACE)
            await self._until(functools.partial(self._pods_left, component), f"the {component}s' pods end")
            self.tell(f"{component}s removed")
        await self.remove_rest()

    async def stop_operator(self) -> None:
        """Nothing is granted any more, and nobody takes `retiring` back."""
        await _absent(
            self.api.patch(
                DEPLOYMENTS, {"metadata": {"name": "podroute-operator"}, "spec": {"replicas": 0}}, namespace=NAMESPACE
            )
        )
        await self._until(lambda: self._pods_left("operator"), "the operator's pod ends")
        if holder := await self._renewing():
            raise NotRemoved(
                f"operator {holder} renews the Lease {NAMESPACE}/podroute-operator and is no pod of the Deployment: end it first"
            )
        self.tell("operator stopped")

    async def _lease(self) -> Raw:
        lease: Raw = await _absent(self.api.get(LEASES, "podroute-operator", NAMESPACE)) or {"metadata": {}}
        return lease

    async def _renewing(self) -> str:
        """Who renews the Lease though no pod of ours does; "" if it runs out."""
        first = await self._lease()
        spec = first.get("spec") or {}
        deadline = time.monotonic() + float(spec.get("leaseDurationSeconds") or 0)
        while spec.get("holderIdentity") and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_SECONDS)
            now = await self._lease()
            if now["metadata"].get("resourceVersion") != first["metadata"].get("resourceVersion"):
                return str((now.get("spec") or {}).get("holderIdentity") or "")
        return ""

    async def retire_nodes(self, new_name: str) -> str:
        """Has every node withdraw and clean itself, and waits for it; gives the uninstall's name, "" if there never was a node."""
        cluster = await _absent(self.api.get(collection_of(ClusterNetwork), "default"))
        if cluster is None and KIND_OF_CLUSTER not in await _names(kinds_of_ours(self.api)):
            # A removal that had come so far, or kinds that were never installed.
            return ""
        if cluster is None:
            listed = await _absent(self.api.list(collection_of(NodeNetwork)))
            if listed and (names := [raw["metadata"]["name"] for raw in listed.items]):
                raise NotRemoved(
                    f"ClusterNetwork default is missing, so nodes can't be told: {', '.join(names)}. Start the operator "
                    f"(kubectl scale -n {NAMESPACE} deployment/podroute-operator --replicas=1): it makes it anew"
                )
            return ""
        name = cluster["spec"].get("retiring") or new_name
        await self._say(retiring=name)
        said: dict[str, str] = {}

        async def left() -> str:
            await self._require_stopped(name)
            listed = await self.api.list(collection_of(NodeNetwork))
            states = {raw["metadata"]["name"]: retirement(raw, name) for raw in listed.items}
            for node, state in states.items():
                if said.get(node) != state:
                    said[node] = state
                    self.tell(f"node {node}: {state or 'clean'}")
            waiting = {node: state for node, state in states.items() if state and node not in self.without}
            return "; ".join(f"{node} ({state})" for node, state in sorted(waiting.items()))

        await self._until(
            left, "the nodes have withdrawn and cleaned up; --without NODE leaves out one whose machine is gone"
        )
        await self._say(retired=True)
        return name

    async def _say(self, **spec: object) -> None:
        await self.api.patch(collection_of(ClusterNetwork), {"metadata": {"name": "default"}, "spec": spec})

    async def _require_stopped(self, name: str) -> None:
        """Raises NotRemoved if an operator runs again: it takes the uninstall back."""
        cluster = await _absent(self.api.get(collection_of(ClusterNetwork), "default"))
        if name and (cluster is None or cluster["spec"].get("retiring") != name):
            raise NotRemoved("the operator was started again and has taken the uninstall back")

    async def remove_rest(self) -> None:
        """Policies, the pools' finalizers, kinds with their objects, roles, and the namespace."""
        for collection in RIGHTS[:2]:
            await self._delete_all(collection)
        await self._free_pools()
        # The one last that says how far the removal is.
        for is_last in (False, True):
            for raw in await kinds_of_ours(self.api):
                if (raw["metadata"]["name"] == KIND_OF_CLUSTER) == is_last:
                    await self._delete(KINDS, raw["metadata"]["name"])
            await self._until(functools.partial(self._kinds_left, is_last), "the kinds and their objects are deleted")
        for collection in RIGHTS[2:]:
            await self._delete_all(collection)
        # A namespace that is being deleted already answers with a conflict.
        with contextlib.suppress(Conflict):
            await self._delete(collection_of(Namespace), NAMESPACE)
        await self._until(self._namespace_left, f"namespace {NAMESPACE} is deleted")
        self.tell("kinds, objects, roles and policies removed")

    async def _kinds_left(self, also_last: bool) -> str:
        names = (await _names(kinds_of_ours(self.api))).split(", ")
        return ", ".join(name for name in names if also_last or name != KIND_OF_CLUSTER)

    async def _delete(self, collection: Collection, name: str, namespace: str = "") -> None:
        """Asks until it is allowed: an API server may not have heard yet that all nodes are clean, and refuse (removal.yaml)."""

        async def refusal() -> str:
            try:
                await _absent(self.api.delete(collection, name, namespace=namespace))
            except Forbidden as error:
                return str(error)
            return ""

        await self._until(refusal, f"{collection.kind} {name} may be deleted")

    async def _delete_all(self, collection: Collection) -> None:
        for raw in (await self.api.list(collection, label_selector=OURS)).items:
            name, namespace = raw["metadata"]["name"], raw["metadata"].get("namespace", "")
            if raw["metadata"].get("finalizers"):
                await _absent(self.api.patch(collection, _freed(name)))
            await self._delete(collection, name, namespace)

    async def _free_pools(self) -> None:
        listed = await _absent(self.api.list(collection_of(IPPool)))
        for raw in listed.items if listed else ():
            await _absent(self.api.patch(collection_of(IPPool), _freed(raw["metadata"]["name"])))

    async def _pods_left(self, component: str) -> str:
        labels = f"app.kubernetes.io/name=podroute,app.kubernetes.io/component={component}"
        left = []
        for raw in (await self.api.list(PODS, label_selector=labels, namespace=NAMESPACE)).items:
            name = raw["metadata"]["name"]
            if (raw.get("spec") or {}).get("nodeName") in self.without:
                # Nobody on its machine could say that it has ended.
                await _absent(self.api.delete(PODS, name, namespace=NAMESPACE, at_once=True))
            else:
                left.append(name)
        return ", ".join(left)

    async def _namespace_left(self) -> str:
        return "" if await _absent(self.api.get(collection_of(Namespace), NAMESPACE)) is None else NAMESPACE

    async def _until(self, left: Callable[[], Awaitable[str]], what: str) -> None:
        """Looks until nothing is left. Raises NotRemoved with what is."""
        deadline = time.monotonic() + self.seconds
        while rest := await _answered(left):
            if time.monotonic() > deadline:
                raise NotRemoved(f"after {self.seconds:.0f} s still waiting until {what}: {rest}")
            await asyncio.sleep(LOOK_SECONDS)


def retirement(raw: Raw, name: str) -> str:
    """What a NodeNetwork still waits for in the uninstall of that name, in words; "" once the node is clean. Pure."""
    status = raw.get("status") or {}
    if status.get("retired") == name:
        return ""
    conditions = status.get("conditions") or []
    found = next((c for c in conditions if c.get("type") == "Retired"), None)
    if found is None:
        return "its agent has not answered"
    synced = next((c for c in conditions if c.get("type") == "Synced" and c.get("status") == "False"), None)
    trouble = f"; {synced['reason']}: {synced.get('message', '')}" if synced else ""
    return f"{found.get('message', '')}{trouble}"


async def kinds_of_ours(api: Api) -> list[Raw]:
    """The installed CustomResourceDefinitions of podroute's group."""
    return [raw for raw in (await api.list(KINDS)).items if raw["spec"]["group"] == GROUP]


async def blocks_of_ours(api: Api) -> list[Raw]:
    """All IPBlocks; none if the kind is gone already."""
    listed = await _absent(api.list(collection_of(IPBlock)))
    return listed.items if listed else []


async def is_installed(api: Api) -> bool:
    """Whether anything of podroute is at the API server."""
    if await kinds_of_ours(api) or await _absent(api.get(collection_of(Namespace), NAMESPACE)) is not None:
        return True
    return any([(await api.list(collection, label_selector=OURS)).items for collection in RIGHTS])


def _freed(name: str) -> dict[str, Any]:
    """The patch that takes an object's finalizers away."""
    return {"metadata": {"name": name, "finalizers": None}}


async def _answered(left: Callable[[], Awaitable[str]]) -> str:
    """What is left; a server that does not answer just now is asked again."""
    try:
        return await left()
    except Unavailable as error:
        return f"the API server does not answer: {error}"


async def _names(listed: Awaitable[Iterable[Raw]]) -> str:
    return ", ".join(raw["metadata"]["name"] for raw in await listed)


async def _absent(asked: Awaitable[Any]) -> Any:
    """The answer; None if there is no such object or kind."""
    try:
        return await asked
    except NotFound:
        return None
