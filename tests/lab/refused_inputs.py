"""What the API server itself refuses: bad input, the nearest good input, and the words of the answer.

Used against a bare API server, and in a lab, where the good input must be served, too.
"""

from typing import Any

Body = dict[str, Any]


def body(kind: str, name: str = "x", **spec: Any) -> Body:
    return {"apiVersion": "podroute.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def pool(**spec: Any) -> Body:
    return body("IPPool", **spec)


def peer(**spec: Any) -> Body:
    return body("BGPPeer", **{"address": "10.10.0.1", "asNumber": 65001, **spec})


def without(spec: Body, *fields: str) -> Body:
    return {**spec, "spec": {key: value for key, value in spec["spec"].items() if key not in fields}}


def with_as(kind: str, field: str, number: int) -> Body:
    return peer(**{field: number}) if kind == "BGPPeer" else body(kind, "default", **{field: number})


# What is bad, what is nearest to it and good, and what the answer names: object, field, value or remedy.
TABLE = {
    "host bits, IPv4": (
        pool(cidr="10.244.0.1/16"),
        pool(cidr="10.244.0.0/16"),
        ('IPPool "x"', "spec.cidr", "10.244.0.1/16", "write the network address"),
    ),
    "host bits, IPv6": (
        pool(cidr="fd00:10:244::1/56"),
        pool(cidr="fd00:10:244::/56"),
        ("spec.cidr", "fd00:10:244::1/56", "host bits are set"),
    ),
    "no CIDR": (pool(cidr="10.244.0.0"), pool(cidr="10.244.0.0/16"), ("spec.cidr", "not an IPv4 or IPv6 CIDR")),
    "no cidr field": (pool(), pool(cidr="10.244.0.0/16"), ("spec.cidr", "Required value")),
    "not canonical": (
        pool(cidr="FD00:10:244::/56"),
        pool(cidr="fd00:10:244::/56"),
        ("spec.cidr", "not in canonical form"),
    ),
    "everything": (
        pool(cidr="0.0.0.0/0"),
        pool(cidr="16.0.0.0/4"),
        ("spec", "cidr 0.0.0.0/0", "prefix length must be at least 4"),
    ),
    **{
        f"of which no pod can have an address, {bad}": (
            pool(cidr=bad),
            pool(cidr=good),
            ("spec.cidr", bad, "unspecified, loopback, link-local, multicast", "use unicast addresses"),
        )
        for bad, good in (
            ("0.0.0.0/8", "1.0.0.0/8"),
            ("127.0.0.0/16", "126.255.0.0/16"),
            ("126.0.0.0/7", "124.0.0.0/7"),
            ("169.254.64.0/18", "169.253.64.0/18"),
            ("224.0.0.0/16", "223.255.0.0/16"),
            ("::/112", "2001:db8::/112"),
            ("fe80::/64", "fd80::/64"),
            ("ff02::/64", "fd02::/64"),
        )
    },
    "block size of the other family": (
        pool(cidr="10.244.0.0/16", blockSize=122),
        pool(cidr="10.244.0.0/16", blockSize=26),
        ("spec", "blockSize beside cidr 10.244.0.0/16", "20 to 32 for IPv4, 116 to 128 for IPv6"),
    ),
    "IPv6 block size too short": (
        pool(cidr="fd00::/56", blockSize=64),
        pool(cidr="fd00::/56", blockSize=116),
        ("spec", "blockSize beside cidr fd00::/56", "116 to 128 for IPv6"),
    ),
    "block size no number": (
        pool(cidr="10.244.0.0/16", blockSize="26"),
        pool(cidr="10.244.0.0/16", blockSize=26),
        ("spec.blockSize", "integer"),
    ),
    "pool smaller than a block": (
        pool(cidr="10.244.0.0/27"),
        pool(cidr="10.244.0.0/27", blockSize=28),
        ("spec", "cidr 10.244.0.0/27", "smaller than one block", "use a larger CIDR or a longer blockSize"),
    ),
    "pool smaller than its block size": (
        pool(cidr="10.244.0.0/24", blockSize=23),
        pool(cidr="10.244.0.0/24", blockSize=24),
        ("spec", "cidr 10.244.0.0/24 with this blockSize", "smaller than one block", "use a larger CIDR"),
    ),
    "negative headroom": (
        pool(cidr="10.244.0.0/16", headroom=-1),
        pool(cidr="10.244.0.0/16", headroom=0),
        ("spec.headroom", "-1", "greater than or equal to 0"),
    ),
    "unknown operator in a selector": (
        pool(cidr="10.244.0.0/16", nodeSelector={"matchExpressions": [{"key": "a", "operator": "Is"}]}),
        pool(cidr="10.244.0.0/16", nodeSelector={"matchExpressions": [{"key": "a", "operator": "Exists"}]}),
        ("operator", '"Is"', '"DoesNotExist", "Exists", "In", "NotIn"'),
    ),
    "unknown field": (
        pool(cidr="10.244.0.0/16", cidrs=["10.0.0.0/8"]),
        pool(cidr="10.244.0.0/16"),
        ("cidrs", "unknown field"),
    ),
    **{
        f"{name}, {field} of {kind}": (
            with_as(kind, field, bad),
            with_as(kind, field, good),
            (f"{kind} ", f"spec.{field}", *words),
        )
        for kind, field in (("BGPPeer", "asNumber"), ("BGPPeer", "localASN"), ("BGPConfiguration", "asNumber"))
        for name, bad, good, words in (
            ("AS 0", 0, 1, ("Invalid value: 0", "greater than or equal to 1")),
            ("AS out of range", 4294967296, 4294967294, ("4294967296", "less than or equal to 4294967294")),
            ("AS 65535", 65535, 65534, ("AS 65535 is reserved",)),
        )
    },
    "no way to name the peer": (
        without(peer(), "address"),
        peer(),
        (
            "spec",
            "neither address nor peerSelector",
            "name the peer in exactly one way",
            "address for a router, or peerSelector for nodes",
        ),
    ),
    "two ways to name the peer": (
        peer(peerSelector={}),
        without(peer(peerSelector={}), "address"),
        ("spec", "address 10.10.0.1 and peerSelector", "name the peer in exactly one way"),
    ),
    "address without AS": (
        without(peer(), "asNumber"),
        peer(),
        ("spec", "address 10.10.0.1", "asNumber is required with address"),
    ),
    "address no address": (
        peer(address="tor0"),
        peer(address="10.10.0.1"),
        ("spec.address", "not an IPv4 or IPv6 address"),
    ),
    "source of another family": (
        peer(sourceAddress="fd00::1"),
        peer(sourceAddress="10.10.0.11"),
        ("spec", "sourceAddress fd00::1 and address 10.10.0.1", "must be of the same family"),
    ),
    "port 0": (peer(port=0), peer(port=1), ("spec.port", "greater than or equal to 1")),
    "port between nodes": (
        without(peer(peerSelector={}, port=1790), "address"),
        without(peer(peerSelector={}), "address"),
        ("spec", "port goes with address", "listenPort"),
    ),
    "hold time too short": (peer(holdTime=2), peer(holdTime=3), ("spec.holdTime", "greater than or equal to 3")),
    "two kinds of hops": (
        peer(ttlSecurity=1, multihop=2),
        peer(ttlSecurity=1),
        ("spec", "ttlSecurity and multihop exclude each other", "leave one out"),
    ),
    "community out of range": (
        peer(export={"communities": ["64512:65536"]}),
        peer(export={"communities": ["64512:65535"]}),
        ("spec.export.communities", "64512:65536", "not a standard community (RFC 1997)"),
    ),
    "large community of two parts": (
        peer(export={"largeCommunities": ["64512:1"]}),
        peer(export={"largeCommunities": ["64512:1:4294967295"]}),
        ("spec.export.largeCommunities", "three numbers up to 4294967295"),
    ),
    "accepted range with host bits": (
        peer(**{"import": {"accept": ["10.0.0.1/8"]}}),
        peer(**{"import": {"accept": ["10.0.0.0/8", "0.0.0.0/0"]}}),
        ("spec.import.accept", "10.0.0.1/8", "host bits are set"),
    ),
    "prepend too often": (
        peer(export={"prepend": 17}),
        peer(export={"prepend": 16}),
        ("spec.export.prepend", "less than or equal to 16"),
    ),
    "a second configuration": (
        body("BGPConfiguration", "other"),
        body("BGPConfiguration", "default"),
        ('BGPConfiguration "other"', "metadata.name other", "name it default"),
    ),
    "an unknown mesh mode": (
        body("BGPConfiguration", "default", nodeMesh="On"),
        body("BGPConfiguration", "default", nodeMesh="Auto"),
        ("spec.nodeMesh", '"On"', '"Auto", "Disabled", "Enabled"'),
    ),
    "metrics clients with host bits": (
        body("BGPConfiguration", "default", metricsClients=["10.244.0.1/16"]),
        body("BGPConfiguration", "default", metricsClients=["10.244.0.0/16"]),
        ("spec.metricsClients", "10.244.0.1/16", "host bits are set"),
    ),
    "restart time too long": (
        body("BGPConfiguration", "default", gracefulRestart={"time": 4096}),
        body("BGPConfiguration", "default", gracefulRestart={"time": 4095}),
        ("spec.gracefulRestart.time", "4096", "less than or equal to 4095"),
    ),
    "a reservation of nothing": (
        body("IPReservation", cidrs=[]),
        body("IPReservation", cidrs=["10.244.0.1/32"]),
        ("spec.cidrs", "at least 1 items"),
    ),
    "a reservation with host bits": (
        body("IPReservation", cidrs=["10.244.0.1/24"]),
        body("IPReservation", cidrs=["10.244.0.0/24"]),
        ("spec.cidrs[0]", "10.244.0.1/24", "host bits are set"),
    ),
}


IMMUTABLE = {
    "cidr": (pool(cidr="10.244.0.0/16"), pool(cidr="10.245.0.0/16"), "cidr is immutable: create another pool"),
    "blockSize": (
        pool(cidr="10.244.0.0/16", blockSize=26),
        pool(cidr="10.244.0.0/16", blockSize=27),
        "blockSize is immutable: create another pool",
    ),
    "blockSize added": (
        pool(cidr="10.244.0.0/16"),
        pool(cidr="10.244.0.0/16", blockSize=26),
        "blockSize can't be added or removed later: create another pool",
    ),
    "block's node": (
        body("IPBlock", cidr="10.244.0.0/26", pool="x", node={"name": "n0"}),
        body("IPBlock", cidr="10.244.0.0/26", pool="x", node={"name": "n1"}),
        "a block never changes its node",
    ),
}
