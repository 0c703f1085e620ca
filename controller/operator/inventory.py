"""The Store as the frozen value that `controller.plan` decides with. Called by `controller.operator.reconciler`."""

from controller.api.bgpconfiguration import BGPConfiguration
from controller.api.bgppeer import BGPPeer
from controller.api.clusternetwork import ClusterNetwork
from controller.api.ipblock import IPBlock
from controller.api.ippool import IPPool
from controller.api.ipreservation import IPReservation
from controller.api.kubernetes import Namespace, Node, ServiceCIDR
from controller.api.nodenetwork import NodeNetwork
from controller.api.objects import Resource
from controller.kube.store import Store
from controller.plan.inventory import Inventory

WATCHED: tuple[type[Resource], ...] = (
    IPPool,
    IPBlock,
    BGPPeer,
    BGPConfiguration,
    NodeNetwork,
    ClusterNetwork,
    IPReservation,
    Node,
    Namespace,
    ServiceCIDR,
)
# What users write: an object of these that does not decode gets a condition.
BY_USERS: tuple[type[Resource], ...] = (IPPool, BGPPeer, BGPConfiguration, IPReservation)


def inventory_of(store: Store) -> Inventory:
    """Everything that the Store holds."""
    return Inventory(
        nodes=store.all(Node),
        pools=store.all(IPPool),
        blocks=store.all(IPBlock),
        peers=store.all(BGPPeer),
        configurations=store.all(BGPConfiguration),
        networks=store.all(NodeNetwork),
        clusters=store.all(ClusterNetwork),
        reservations=store.all(IPReservation),
        namespaces=store.all(Namespace),
        services=store.all(ServiceCIDR),
        invalid=frozenset((kind, name) for kind in WATCHED for name in store.shelf(kind).invalid),
        unknown=frozenset((kind, name) for kind in WATCHED for name in store.shelf(kind).unknown),
    )
