"""Why the speaker said no: one member for every refusal, loss and problem.

Members are what status, metrics and the command line show, so their values are stable words in the style of
Kubernetes condition reasons. Used by `bgp.decision`, `bgp.speaker` and everyone who reads an `Observed`.
"""

from enum import StrEnum


class ImportReason(StrEnum):
    """Why a received route is not used at all."""

    MALFORMED = "Malformed"
    FAMILY_NOT_ENABLED = "FamilyNotEnabled"
    OWN_AS = "OwnAS"  # RFC 4271 section 9.1.2: the AS path contains our own AS
    OWN_BLOCK = "OwnBlock"
    NODE_RANGE = "NodeRange"
    SERVICE_RANGE = "ServiceRange"
    NOT_ACCEPTED = "NotAccepted"  # outside everything that the neighbour's `accept` lists
    LONGER_THAN_BLOCK = "LongerThanBlock"
    NEXT_HOP_OWN = "NextHopOwn"  # RFC 4271 section 5.1.3: an address of our own is never a next hop for us
    NEXT_HOP_NOT_ON_LINK = "NextHopNotOnLink"
    ABOVE_MAX_PREFIXES = "AboveMaxPrefixes"


class PathReason(StrEnum):
    """Why an accepted path is not among the best ones for its prefix."""

    STALE = "Stale"  # RFC 4724 section 4.2
    GRACEFUL_SHUTDOWN = "GracefulShutdown"  # RFC 8326
    LOCAL_PREFERENCE = "LowerLocalPreference"  # RFC 4271 section 9.1.1
    AS_PATH = "LongerASPath"  # RFC 4271 section 9.1.2.2 a
    ORIGIN = "HigherOrigin"  # RFC 4271 section 9.1.2.2 b
    MED = "HigherMED"  # RFC 4271 section 9.1.2.2 c
    EXTERNAL = "Internal"  # RFC 4271 section 9.1.2.2 d: an external path exists


class SessionReason(StrEnum):
    """Why a session is not established, or what ended it last."""

    ADDRESS_CONFLICT = "AddressConflict"  # an earlier neighbour of the list has the same address
    LOCAL_ADDRESS_MISSING = "LocalAddressMissing"  # the local address is on none of the node's interfaces
    CONFIGURATION_REFUSED = "ConfigurationRefused"  # a field is wrong, or ExaBGP's own parser refused the neighbour
    NOT_CONNECTED = "NotConnected"  # nobody answers: unreachable, not listening, or another TCP MD5 password
    WAITING_FOR_PEER = "WaitingForPeer"  # passive: the other side is to connect
    WRONG_ASN = "WrongASN"  # RFC 4271 section 6.2: Bad Peer AS
    HOLD_TIMER_EXPIRED = "HoldTimerExpired"  # RFC 4271 section 6.5
    NOTIFICATION_RECEIVED = "NotificationReceived"
    NOTIFICATION_SENT = "NotificationSent"
    CONNECTION_CLOSED = "ConnectionClosed"  # the TCP connection ended without a NOTIFICATION
    CONFIGURATION_CHANGED = "ConfigurationChanged"  # the session restarts since a parameter in its OPEN changed
    REMOVING = "Removing"  # no longer desired; its routes are being withdrawn


class ProblemReason(StrEnum):
    """Why a part of the desired state is not honoured."""

    INVALID_VALUE = "InvalidValue"
    ADDRESS_CONFLICT = "AddressConflict"
    LOCAL_ADDRESS_MISSING = "LocalAddressMissing"
    CONFIGURATION_REFUSED = "ConfigurationRefused"
    NOT_APPLIED = "NotApplied"  # ExaBGP has not confirmed the configuration (yet)
    ROUTES_FORGOTTEN = "RoutesForgotten"  # there is room again for routes above the limit that are no longer known
