"""What to do about a BGP session that is not established, in the fields of a BGPPeer. Pure; used by `controller.plan.statuses`.

The speaker says what it saw (`bgp.reasons.SessionReason`) and knows no Kubernetes; what to correct is told here.
"""

from collections.abc import Iterable

from bgp.reasons import SessionReason

REMEDIES = {
    SessionReason.ADDRESS_CONFLICT: "give spec.address to one BGPPeer alone for each node",
    SessionReason.LOCAL_ADDRESS_MISSING: "make spec.sourceAddress an address of the node's interfaces, or leave it out",
    SessionReason.CONFIGURATION_REFUSED: "correct the field that the message names",
    SessionReason.NOT_CONNECTED: (
        "see that spec.address, spec.port and the password are the router's, that it is up, and that it is configured "
        "for the node's address"
    ),
    SessionReason.WAITING_FOR_PEER: "see in the other node's NodeNetwork why it does not connect",
    SessionReason.WRONG_ASN: (
        "make spec.asNumber the router's AS, and spec.localASN (or the BGPConfiguration's asNumber) the AS that the "
        "router expects of the node"
    ),
    SessionReason.HOLD_TIMER_EXPIRED: "see whether the router still runs and the link between carries its packets",
    SessionReason.NOTIFICATION_RECEIVED: "see the router's log, and what it is configured to take from the node",
    SessionReason.NOTIFICATION_SENT: "see the speaker's log on the node, and what the router sends",
    SessionReason.CONNECTION_CLOSED: "configure the router for the node's address; until then it ends every connection",
}


def remedies_for(reasons: Iterable[str]) -> str:
    """What to do about sessions that are down for these reasons, each remedy once; empty if time alone will mend them."""
    there = set(reasons)
    return "; ".join(remedy for reason, remedy in REMEDIES.items() if reason in there)
