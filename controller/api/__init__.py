"""The kinds of `podroute.dev/v1alpha1`: typed, defaulted and validated objects, one module a kind.

Everything that reads or writes an object of ours goes through `decode` and `encode` in `controller.api.objects`; the CRDs in
`manifests/crds` are generated from the same types by `controller.api.crd`. Called by every room of `controller`.
"""

from controller.api.bgpconfiguration import BGPConfiguration
from controller.api.bgppeer import BGPPeer
from controller.api.clusternetwork import ClusterNetwork
from controller.api.ipblock import IPBlock
from controller.api.ippool import IPPool
from controller.api.ipreservation import IPReservation
from controller.api.nodenetwork import NodeNetwork
from controller.api.objects import GROUP, VERSION, Condition, Invalid, Metadata, decode, encode
from controller.api.reasons import Reason

KINDS = (IPPool, IPBlock, BGPConfiguration, BGPPeer, NodeNetwork, ClusterNetwork, IPReservation)

__all__ = [
    "GROUP",
    "KINDS",
    "VERSION",
    "BGPConfiguration",
    "BGPPeer",
    "ClusterNetwork",
    "Condition",
    "IPBlock",
    "IPPool",
    "IPReservation",
    "Invalid",
    "Metadata",
    "NodeNetwork",
    "Reason",
    "decode",
    "encode",
]
