"""How podroute leaves a cluster: what `podroute uninstall` does at the API server, a step at a time.

Each step looks what is there, so that a removal that was broken off goes on where it stopped. The nodes clean themselves: the
ClusterNetwork says `retiring`, each agent withdraws, removes what it made, and says so in its NodeNetwork.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from controller.api import ClusterNetwork, IPPool, NodeNetwork
from controller.api.kubernetes import Namespace
from controller.api.objects import GROUP
from controller.api.reasons import Reason
from controller.kube.client import Api, Raw
from controller.kube.errors import Conflict, NotFound
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
LOOK_SECONDS = 0.5
# An operator renews its Lease every 3 s.
LEASE_SECONDS = 8.0


class NotRemoved(Exception):
    """A step did not come to its end; the text says what was waited for and what to do."""


@dataclass(frozen=True, slots=True)
class Removal:
    """One removal: how it asks, what it leaves out, how long it waits for each step, and how it tells of its progress."""

    api: Api
    tell: Callable[[str], None]
    seconds: float
    without: frozenset[str] = field(default_factory=frozenset)

    async def run(self) -> None:
        """Everything, in order. Raises NotRemoved, KubeError."""
        await self.stop_operator()
        await self.retire_nodes()
        for component in ("speaker", "agent"):
            # The agents last: at their end they remove the speakers' files, too.
            await _absent(self.api.delete(DAEMON_SETS, f"podroute-{component}", namespace=NAMESPACE))
            await self._until(lambda c=component: self._pods_left(c), f"the {component}s' pods end")  # type: ignore[misc]
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
        if (holder := await self._lease_holder()) and await self._is_renewed():
            raise NotRemoved(
                f"operator {holder} renews the Lease {NAMESPACE}/podroute-operator and is no pod of the Deployment: end it first"
            )
        self.tell("operator stopped")

    async def _lease_holder(self) -> str:
        lease = await _absent(self.api.get(LEASES, "podroute-operator", NAMESPACE)) or {}
        return str((lease.get("spec") or {}).get("holderIdentity") or "")

    async def _is_renewed(self) -> bool:
        before = await self.api.get(LEASES, "podroute-operator", NAMESPACE)
        await asyncio.sleep(LEASE_SECONDS)
        after = await self.api.get(LEASES, "podroute-operator", NAMESPACE)
        return bool(before["metadata"]["resourceVersion"] != after["metadata"]["resourceVersion"])

    async def retire_nodes(self) -> None:
        """Has every node withdraw and clean itself, and waits for it."""
        body = {"metadata": {"name": "default"}, "spec": {"retiring": True}}
        if await _absent(self.api.patch(collection_of(ClusterNetwork), body)) is None:
            return
        said: dict[str, str] = {}

        async def left() -> str:
            listed = await self.api.list(collection_of(NodeNetwork))
            states = {raw["metadata"]["name"]: retirement(raw) for raw in listed.items}
            for node, state in states.items():
                if said.get(node) != state:
                    said[node] = state
                    self.tell(f"node {node}: {state or 'clean'}")
            waiting = {node: state for node, state in states.items() if state and node not in self.without}
            return "; ".join(f"{node} ({state})" for node, state in sorted(waiting.items()))

        await self._until(
            left, "the nodes have withdrawn and cleaned up; --without NODE leaves out one whose machine is gone"
        )

    async def remove_rest(self) -> None:
        """Policies, the pools' finalizers, kinds with their objects, roles, and the namespace."""
        for collection in RIGHTS[:2]:
            await self._delete_all(collection)
        await self._free_pools()
        kinds = [raw["metadata"]["name"] for raw in await kinds_of_ours(self.api)]
        for name in kinds:
            await _absent(self.api.delete(KINDS, name))
        await self._until(lambda: _names(kinds_of_ours(self.api)), "the kinds and their objects are deleted")
        for collection in RIGHTS[2:]:
            await self._delete_all(collection)
        # A namespace that is being deleted already answers with a conflict.
        with contextlib.suppress(NotFound, Conflict):
            await self.api.delete(collection_of(Namespace), NAMESPACE)
        await self._until(self._namespace_left, f"namespace {NAMESPACE} is deleted")
        self.tell("kinds, objects, roles and policies removed")

    async def _delete_all(self, collection: Collection) -> None:
        for raw in (await self.api.list(collection, label_selector=OURS)).items:
            name, namespace = raw["metadata"]["name"], raw["metadata"].get("namespace", "")
            if raw["metadata"].get("finalizers"):
                await _absent(self.api.patch(collection, _freed(name)))
            await _absent(self.api.delete(collection, name, namespace=namespace))

    async def _free_pools(self) -> None:
        listed = await _absent(self.api.list(collection_of(IPPool)))
        for raw in listed.items if listed else ():
            await _absent(self.api.patch(collection_of(IPPool), _freed(raw["metadata"]["name"])))

    async def _pods_left(self, component: str) -> str:
        label = f"app.kubernetes.io/component={component}"
        listed = await self.api.list(PODS, label_selector=label, namespace=NAMESPACE)
        return ", ".join(
            raw["metadata"]["name"]
            for raw in listed.items
            if (raw.get("spec") or {}).get("nodeName") not in self.without
        )

    async def _namespace_left(self) -> str:
        return "" if await _absent(self.api.get(collection_of(Namespace), NAMESPACE)) is None else NAMESPACE

    async def _until(self, left: Callable[[], Awaitable[str]], what: str) -> None:
        """Looks until nothing is left. Raises NotRemoved with what is."""
        deadline = time.monotonic() + self.seconds
        while rest := await left():
            if time.monotonic() > deadline:
                raise NotRemoved(f"after {self.seconds:.0f} s still waiting until {what}: {rest}")
            await asyncio.sleep(LOOK_SECONDS)


def retirement(raw: Raw) -> str:
    """What a NodeNetwork still waits for, in words; "" once the node is clean. Pure."""
    conditions = (raw.get("status") or {}).get("conditions") or []
    found = next((c for c in conditions if c.get("type") == "Retired"), None)
    if found is None:
        return "its agent has not answered"
    if found.get("status") == "True" and found.get("reason") == Reason.RETIRED:
        return ""
    synced = next((c for c in conditions if c.get("type") == "Synced" and c.get("status") == "False"), None)
    trouble = f"; {synced['reason']}: {synced.get('message', '')}" if synced else ""
    return f"{found.get('message', '')}{trouble}"


async def kinds_of_ours(api: Api) -> list[Raw]:
    """The installed CustomResourceDefinitions of podroute's group."""
    return [raw for raw in (await api.list(KINDS)).items if raw["spec"]["group"] == GROUP]


async def is_installed(api: Api) -> bool:
    """Whether anything of podroute is at the API server."""
    if await kinds_of_ours(api) or await _absent(api.get(collection_of(Namespace), NAMESPACE)) is not None:
        return True
    return any([(await api.list(collection, label_selector=OURS)).items for collection in RIGHTS])


def _freed(name: str) -> dict[str, Any]:
    """The patch that takes an object's finalizers away."""
    return {"metadata": {"name": name, "finalizers": None}}


async def _names(listed: Awaitable[Iterable[Raw]]) -> str:
    return ", ".join(raw["metadata"]["name"] for raw in await listed)


async def _absent(asked: Awaitable[Any]) -> Any:
    """The answer; None if there is no such object or kind."""
    try:
        return await asked
    except NotFound:
        return None
