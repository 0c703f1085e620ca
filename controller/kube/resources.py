"""Where kinds live on the API server: group, version, plural. Used by `controller.kube.client` and everything that calls it."""

import msgspec

from controller.api.kubernetes import Namespace, Node, ServiceCIDR
from controller.api.objects import GROUP, VERSION, Resource


class Collection(msgspec.Struct, frozen=True):
    """A kind's place: `group` is empty for Kubernetes' core kinds."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = False

    @property
    def api_version(self) -> str:
        """As it stands in an object, e.g. `podroute.dev/v1alpha1`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, name: str = "", namespace: str = "", subresource: str = "") -> str:
        """The URL's path; without `namespace` a namespaced kind is meant in all namespaces."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if namespace and self.namespaced:
            parts += ["namespaces", namespace]
        return "/".join(["", *parts, self.plural, *(part for part in (name, subresource) if part)])


SECRETS = Collection("", "v1", "secrets", "Secret", namespaced=True)
PODS = Collection("", "v1", "pods", "Pod", namespaced=True)
DAEMON_SETS = Collection("apps", "v1", "daemonsets", "DaemonSet", namespaced=True)
REVISIONS = Collection("apps", "v1", "controllerrevisions", "ControllerRevision", namespaced=True)
EVENTS = Collection("events.k8s.io", "v1", "events", "Event", namespaced=True)
LEASES = Collection("coordination.k8s.io", "v1", "leases", "Lease", namespaced=True)

_FOREIGN: dict[type[Resource], Collection] = {
    Node: Collection("", "v1", "nodes", "Node"),
    Namespace: Collection("", "v1", "namespaces", "Namespace"),
    ServiceCIDR: Collection("networking.k8s.io", "v1", "servicecidrs", "ServiceCIDR"),
}


def collection_of(kind: type[Resource]) -> Collection:
    """Where objects of a typed kind live: Kubernetes' own, or ours."""
    return _FOREIGN.get(kind) or Collection(GROUP, VERSION, kind.PLURAL, kind.__name__)
