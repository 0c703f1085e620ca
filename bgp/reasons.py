"""Why the speaker said no: one member for every refusal, loss and problem, with what it means and what to do about it.

Members are what status, metrics and the command line show, so their values are stable words in the style of
Kubernetes condition reasons. Used by `bgp.decision`, `bgp.speaker` and everyone who reads an `Observed`.
"""

from enum import StrEnum
from typing import Self

_LOCAL_ADDRESS_MISSING = (
    "LocalAddressMissing",
    "the local address is on none of the node's interfaces",
    "correct sourceAddress, or give the node the address",
)


class _Word(StrEnum):
    """A word with its meaning; `remedy` is empty where nothing is wrong, or where it ends by itself."""

    meaning: str
    remedy: str

    def __new__(cls, value: str, meaning: str, remedy: str = "") -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        member.remedy = remedy
        return member


class ImportReason(_Word):
    """Why a received route is not used at all."""

    MALFORMED = "Malformed", "the route can't be read", "see the router's log, and report it"
    FAMILY_NOT_ENABLED = (
        "FamilyNotEnabled",
        "the session does not carry the route's family",
        "announce each family over the session of that family",
    )
    OWN_AS = (
        "OwnAS",
        "the AS path contains our own AS (RFC 4271 section 9.1.2)",
        "set allowOwnAS in the BGPPeer if nodes of other racks share the AS",
    )
    OWN_BLOCK = "OwnBlock", "the route is one of the node's own blocks, or lies inside"
    NODE_RANGE = "NodeRange", "the route is a node's address, or lies inside one", "keep the router from announcing it"
    SERVICE_RANGE = (
        "ServiceRange",
        "the route lies in the cluster's service range",
        "keep the router from announcing it",
    )
    NOT_ACCEPTED = (
        "NotAccepted",
        "the route lies outside podroute's pools and everything that the BGPPeer accepts",
        "name its range in import.accept if nodes are to learn it",
    )
    LONGER_THAN_BLOCK = (
        "LongerThanBlock",
        "the route is longer than a block of its pool",
        "see who announces single addresses of a pool",
    )
    NEXT_HOP_OWN = (
        "NextHopOwn",
        "the next hop is an address of this node (RFC 4271 section 5.1.3)",
        "have the router set itself as next hop",
    )
    NEXT_HOP_NOT_ON_LINK = (
        "NextHopNotOnLink",
        "the next hop is in no subnet of the node",
        "have the router set itself as next hop",
    )
    ABOVE_MAX_PREFIXES = (
        "AboveMaxPrefixes",
        "the peer sent more routes than import.maxPrefixes",
        "filter at the router, or raise import.maxPrefixes",
    )


class PathReason(_Word):
    """Why an accepted path is not among the best ones for its prefix."""

    STALE = "Stale", "its session is lost, and the path is kept for the restart time (RFC 4724 section 4.2)"
    GRACEFUL_SHUTDOWN = "GracefulShutdown", "the peer is about to shut down (RFC 8326)"
    LOCAL_PREFERENCE = "LowerLocalPreference", "another has a higher LOCAL_PREF (RFC 4271 section 9.1.1)"
    AS_PATH = "LongerASPath", "another has a shorter AS path (RFC 4271 section 9.1.2.2 a)"
    ORIGIN = "HigherOrigin", "another has a lower ORIGIN (RFC 4271 section 9.1.2.2 b)"
    MED = "HigherMED", "another has a lower MULTI_EXIT_DISC (RFC 4271 section 9.1.2.2 c)"
    EXTERNAL = "Internal", "an external path exists (RFC 4271 section 9.1.2.2 d)"


class SessionReason(_Word):
    """Why a session is not established, or what ended it last."""

    ADDRESS_CONFLICT = (
        "AddressConflict",
        "an earlier neighbour of the list has the same address",
        "delete one of the two BGPPeers, or give them distinct node selectors",
    )
    LOCAL_ADDRESS_MISSING = _LOCAL_ADDRESS_MISSING
    CONFIGURATION_REFUSED = (
        "ConfigurationRefused",
        "a field is wrong, or ExaBGP's own parser refused the neighbour",
        "correct the field that the message names",
    )
    NOT_CONNECTED = (
        "NotConnected",
        "nobody answers: unreachable, not listening, or another TCP MD5 password",
        "see that the router is up, listens for this node, and has the same password or none",
    )
    WAITING_FOR_PEER = "WaitingForPeer", "this side waits for the other to connect"
    WRONG_ASN = (
        "WrongASN",
        "one side expects another AS than the other has (RFC 4271 section 6.2)",
        "correct asNumber or localASN; the message says which side expects what",
    )
    HOLD_TIMER_EXPIRED = (
        "HoldTimerExpired",
        "nothing was heard for the hold time (RFC 4271 section 6.5)",
        "see the link and the router's load",
    )
    NOTIFICATION_RECEIVED = "NotificationReceived", "the peer ended the session", "see the message and the peer's log"
    NOTIFICATION_SENT = "NotificationSent", "this side ended the session", "see the message and the speaker's log"
    CONNECTION_CLOSED = (
        "ConnectionClosed",
        "the TCP connection ended without a NOTIFICATION",
        "see whether the router restarted, and its log",
    )
    CONFIGURATION_CHANGED = "ConfigurationChanged", "the session restarts since a parameter in its OPEN changed"
    REMOVING = "Removing", "the session is no longer wanted; its routes are being withdrawn"


class ProblemReason(_Word):
    """Why a part of the desired state is not honoured."""

    INVALID_VALUE = "InvalidValue", "a field has a value that can't be", "correct the field that the message names"
    ADDRESS_CONFLICT = (
        "AddressConflict",
        "two neighbours have one address",
        "delete one of the two BGPPeers, or give them distinct node selectors",
    )
    LOCAL_ADDRESS_MISSING = _LOCAL_ADDRESS_MISSING
    CONFIGURATION_REFUSED = (
        "ConfigurationRefused",
        "ExaBGP's own parser refused the neighbour",
        "correct the field that the message names",
    )
    NOT_APPLIED = "NotApplied", "ExaBGP has not confirmed the configuration (yet)", "see the speaker's log if it lasts"
    ROUTES_FORGOTTEN = (
        "RoutesForgotten",
        "there is room again for routes above the limit that are no longer known",
        "raise import.maxPrefixes, which fetches them, or have the router send them again",
    )
