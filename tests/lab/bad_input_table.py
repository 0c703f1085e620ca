"""The table of bad input: each input, who refuses it, and which object, field, value and remedy the answer names.

The tests in test_bad_input_{pools,peers,nodes,cni} give each input to a running cluster, hold the answer against its row here,
and then give the nearest good input, which is accepted and served. More that the API server alone refuses is in
refused_inputs.
"""

from dataclasses import dataclass

from spare_router import GUARDED_HOST, OPEN_HOST, SILENT_HOST, SPARE_AS

API_SERVER = "API server"
PLUGIN = "CNI plugin"


@dataclass(frozen=True)
class Refusal:
    """`by` is API_SERVER, the type of the condition that turns False, or PLUGIN; `reason` the condition's, or the error code.

    The rest are words of the answer; each is asserted. A plugin's object is the call itself, so its answer begins with the field.
    """

    by: str
    object: str
    field: str
    value: str
    remedy: str
    reason: str = ""

    @property
    def words(self) -> tuple[str, ...]:
        """Everything that the answer names."""
        return tuple(word for word in (self.object, self.field, self.value, self.remedy, self.reason) if word)


def pools(family: int) -> dict[str, Refusal]:
    """Pools and reservations."""
    v4, f = family == 4, f"v{family}"

    def pick(ipv4: str, ipv6: str) -> str:
        return ipv4 if v4 else ipv6

    def at_apply(name: str, field: str, value: str, remedy: str, kind: str = "IPPool") -> Refusal:
        return Refusal(API_SERVER, f'{kind} "{name}-{f}" is invalid', field, value, remedy)

    def unaccepted(name: str, value: str, remedy: str, reason: str) -> Refusal:
        return Refusal("Accepted", f"IPPool {name}-{f}", "spec.cidr", value, remedy, reason)

    return {
        f"CIDR with host bits, {f}": at_apply(
            "bits", "spec.cidr", pick("10.245.1.1/24", "fd00:10:245:1::1/64"), "write the network address"
        ),
        f"block size of the other family, {f}": at_apply(
            "size",
            "blockSize",
            pick("beside cidr 10.245.2.0/24", "beside cidr fd00:10:245:2::/64"),
            "20 to 32 for IPv4, 116 to 128 for IPv6",
        ),
        f"block size outside the CIDR, {f}": at_apply(
            "small",
            "cidr",
            pick("10.245.3.0/27", "fd00:10:245:3::/123"),
            "use a larger CIDR or a longer blockSize",
        ),
        f"changed cidr, {f}": at_apply(
            "fixed",
            "spec.cidr",
            pick("10.245.6.0/24", "fd00:10:245:6::/64"),
            "cidr is immutable: create another pool and disable this one",
        ),
        f"changed blockSize, {f}": at_apply(
            "fixed", "spec.blockSize", pick("27", "123"), "blockSize is immutable: create another pool"
        ),
        f"overlap with an older pool, {f}": unaccepted(
            "over",
            pick("10.244.128.0/24", "fd00:10:244:80::/64"),
            "delete this pool and create one with a CIDR that overlaps no other pool's",
            "OverlapsPool",
        ),
        f"overlap with a node's address, {f}": unaccepted(
            "nodes",
            pick("10.10.0.0/24 contains 10.10.0.11 of Node n0", "fd00:10:10::/64 contains fd00:10:10::11 of Node n0"),
            "create a pool whose CIDR contains no node address",
            "OverlapsNodeAddress",
        ),
        f"overlap with the services, {f}": unaccepted(
            "services",
            pick("10.96.0.0/24 overlaps the service range 10.96.0.0/16", "fd00:10:96::/112"),
            "create a pool outside the service range",
            "OverlapsServiceRange",
        ),
        f"pool exhausted, {f}": Refusal(
            "Available",
            f"IPPool scarce-{f}",
            "spec.cidr",
            pick("10.245.7.0/26", "fd00:10:245:7::/122"),
            "add a pool, or free blocks by scaling down",
            "PoolExhausted",
        ),
        f"reservation with host bits, {f}": at_apply(
            "keep", "spec.cidrs[0]", pick("/28", "/124"), "host bits are set", "IPReservation"
        ),
        f"reservation outside all pools, {f}": Refusal(
            "Accepted",
            f"IPReservation keep-{f}",
            "spec.cidrs",
            pick("198.51.100.0/28", "2001:db8::/124"),
            "correct spec.cidrs or create the pool",
            "OutsidePools",
        ),
    }


def peers(family: int) -> dict[str, Refusal]:
    """BGPPeers, whose sessions are with the spare router."""
    f = f"v{family}"
    hosts = (OPEN_HOST, GUARDED_HOST, SILENT_HOST)
    router, guarded, silent = (f"10.10.0.{host}" if family == 4 else f"fd00:10:10::{host}" for host in hosts)

    def at_apply(field: str, value: str, remedy: str) -> Refusal:
        return Refusal(API_SERVER, f'BGPPeer "good-{f}" is invalid', field, value, remedy)

    def down(name: str, field: str, value: str, remedy: str, reason: str) -> Refusal:
        return Refusal("Established", f"BGPPeer {name}-{f} SessionsDown", field, value, remedy, reason)

    return {
        f"AS 0, {f}": at_apply("spec.asNumber", "Invalid value: 0", "greater than or equal to 1"),
        f"AS 65535, {f}": at_apply("spec.asNumber", "Invalid value: 65535", "AS 65535 is reserved"),
        f"AS out of range, {f}": at_apply(
            "spec.asNumber", "Invalid value: 4294967296", "less than or equal to 4294967294"
        ),
        f"no way to name the peer, {f}": at_apply(
            "spec", "neither address nor peerSelector", "address for a router, or peerSelector for nodes"
        ),
        f"two ways to name the peer, {f}": at_apply(
            "spec", f"address {router} and peerSelector", "name the peer in exactly one way"
        ),
        f"unreachable peer, {f}": down(
            "silent", "spec.address, spec.port", f"{silent} port 179", "that it is up", "NotConnected"
        ),
        f"the peer has another AS, {f}": down(
            "as",
            "spec.asNumber",
            f"expects AS {SPARE_AS + 1}, peer sent {SPARE_AS}",
            "make spec.asNumber the router's AS",
            "WrongASN",
        ),
        f"the peer expects another AS, {f}": down(
            "local",
            "spec.localASN",
            f"{router} expects another AS than 64999",
            "the AS that the router expects of the node",
            "WrongASN",
        ),
        f"two peers for one address, {f}": Refusal(
            "Accepted",
            f"BGPPeer younger-{f}",
            "address",
            f"{router} is BGPPeer older-{f}'s",
            "delete one of the two, or give them distinct node selectors",
            "AddressConflict",
        ),
        f"unknown Secret, {f}": Refusal(
            "Established",
            f"BGPPeer guarded-{f}",
            "passwordSecretRef",
            f"Secret unknown-{f}",
            "create it in podroute-system",
            "SecretMissing",
        ),
        f"another password, {f}": down(
            "guarded", "spec.address, spec.port and the password", guarded, "are the router's", "NotConnected"
        ),
    }


def nodes(family: int) -> dict[str, Refusal]:
    """Nodes that lack an address of the family, or have that of n0. `ghost-` is how their names begin."""
    f = f"v{family}"
    taken = "10.10.0.11" if family == 4 else "fd00:10:10::11"
    return {
        f"node with no address, {f}": Refusal(
            "NodesServed",
            "Node ghost-",
            "InternalIP",
            f"no InternalIP of family ip{f}",
            "start the kubelet with --node-ip for both families",
            "NodeWithoutAddress",
        ),
        f"two nodes with one address, {f}": Refusal(
            "NodesServed",
            "Node ghost-",
            "InternalIP",
            f"{taken} is Node n0's",
            "give the nodes distinct --node-ip addresses",
            "NodeAddressConflict",
        ),
    }


def _call(code: int, field: str, value: str, remedy: str, object_: str = "") -> Refusal:
    return Refusal(PLUGIN, object_, field, value, remedy, f"code {code}")


CNI = {
    "broken JSON": _call(6, "standard input", '{"cniVersion": "1.1.0",', "give the network configuration"),
    "nothing on standard input": _call(6, "standard input", "begins with ''", "give the network configuration"),
    "a list": _call(6, "standard input", "a list, not a JSON object", "give one network configuration"),
    "unknown version": _call(1, "cniVersion", "'9.9.9'", "use one of 0.3.1, 0.4.0, 1.0.0, 1.1.0"),
    "version that is a number": _call(7, "field cniVersion", "1.1", "give a string"),
    "no network name": _call(7, "field name", "is missing", "name the network"),
    "result of a plugin before": _call(7, "field prevResult", "is set", "put podroute first"),
    "no container id": _call(4, "CNI_CONTAINERID", "''", "use letters"),
    "strange container id": _call(4, "CNI_CONTAINERID", "'../x'", "use letters"),
    "no interface name": _call(4, "CNI_IFNAME", "''", "eth0"),
    "long interface name": _call(4, "CNI_IFNAME", "'abcdefghijklmnop'", "1 to 15"),
    "no namespace": _call(4, "CNI_NETNS", "''", "give the path"),
    "namespace that is not there": _call(4, "CNI_NETNS", "'/run/netns/none'", "give the path"),
    "arguments without sign": _call(4, "CNI_ARGS", "'IgnoreUnknown'", "KEY=VALUE"),
    "DEL without container id": _call(4, "CNI_CONTAINERID", "''", "use letters"),
    "DEL without interface name": _call(4, "CNI_IFNAME", "''", "eth0"),
    "unknown operation": _call(4, "CNI_COMMAND", "'UPDATE'", "ADD, DEL, CHECK"),
    "GC with a list of names": _call(7, "cni.dev/valid-attachments[0]", '"bad-input"', '"containerID"'),
    "CHECK of the unknown": _call(3, "eth0", "bad-input", "call ADD first", "container bad-input"),
    "ADD twice": _call(100, "interface eth0", "ADD came twice", "call DEL before ADD", "container bad-input"),
    "agent away": _call(11, "the podroute agent", "does not answer", "wait until it runs on this node, or see its log"),
    "agent not ready since boot": _call(
        50, "the podroute agent", "has not been ready since boot", "wait for it, or see its log"
    ),
    "ADD from an exhausted pool": _call(11, "pools", "scarce-v4, scarce-v6", "kubectl get ippools", "node "),
}
# DEL of the unknown and DEL twice are no errors: the specification wants them to succeed. test_bad_input_cni holds that, too.

CONFIGURATION = {
    "configuration of another name": Refusal(
        API_SERVER, 'BGPConfiguration "others" is invalid', "metadata.name", "others", "name it default"
    ),
}
TABLE: dict[str, Refusal] = {
    **{
        name: row
        for family in (4, 6)
        for part in (pools(family), peers(family), nodes(family))
        for name, row in part.items()
    },
    **CONFIGURATION,
    **CNI,
}


def held_against(said: str, name: str) -> None:
    """Asserts that the answer names all that the input's row asks for."""
    missing = [word for word in TABLE[name].words if word not in said]
    assert not missing, f"{name}: {missing} not in: {said}"
