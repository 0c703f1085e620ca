"""One neighbour's session as the speaker remembers it. Mutable, no I/O; owned by `bgp.speaker.state`."""

from bgp.exabgp.events import NotificationMessage, OpenMessage
from bgp.reasons import SessionReason
from bgp.rib import AdjRibIn
from bgp.values import Announcement, Family, Neighbour, Sent, Session, SessionState

NOTIFICATION_NAMES = {  # RFC 4271 section 4.5, RFC 4486
    (1, 0): "Message Header Error",
    (2, 0): "OPEN Message Error",
    (2, 1): "Unsupported Version Number",
    (2, 2): "Bad Peer AS",
    (2, 3): "Bad BGP Identifier",
    (2, 6): "Unacceptable Hold Time",
    (2, 7): "Unsupported Capability",
    (3, 0): "UPDATE Message Error",
    (4, 0): "Hold Timer Expired",
    (5, 0): "Finite State Machine Error",
    (6, 0): "Cease",
    (6, 1): "Maximum Number of Prefixes Reached",
    (6, 2): "Administrative Shutdown",
    (6, 3): "Peer De-configured",
    (6, 4): "Administrative Reset",
    (6, 5): "Connection Rejected",
    (6, 6): "Other Configuration Change",
    (6, 7): "Connection Collision Resolution",
    (6, 8): "Out of Resources",
}


class Record:
    """What is known of one neighbour."""

    def __init__(self, neighbour: Neighbour, rib: AdjRibIn, now: float) -> None:
        """A neighbour that was just asked for: not connected yet."""
        self.neighbour = neighbour
        self.rib = rib
        self.state = SessionState.CONNECTING
        self.since = now
        self.reason: SessionReason | None = None
        self.message = ""
        self.last_reason: SessionReason | None = None
        self.restarts = 0
        self.open: OpenMessage | None = None  # of the session that is, or of the one being opened
        self.peer: OpenMessage | None = None  # of the last session that was established
        self.notification: NotificationMessage | None = None
        self.told: dict[str, Announcement] = {}
        self.doubtful: set[str] = set()  # of those, what ExaBGP refused to say
        self.sent: dict[str, Sent] = {}
        self.end_of_rib_told = False
        self.end_of_rib_sent: set[Family] = set()
        self.end_of_rib_received: set[Family] = set()
        self.settled: set[Family] = set()
        self.is_inherited = False  # of the first order: the kernel may have routes of it from before this speaker
        self.keep_until: float | None = None
        self.removing_since: float | None = None
        self.quiet_since: float | None = None
        self.is_withdrawn = False
        self.holds_until: float | None = None  # the peer may hold routes of ours from a session that was lost
        self.retry_at: float | None = None
        self.reset_expected = False
        self.explain_silence()

    @property
    def established(self) -> bool:
        """Whether routes can be exchanged now."""
        return self.state is SessionState.ESTABLISHED

    @property
    def hold_time(self) -> int:
        """The negotiated hold time (RFC 4271 section 4.2); 0 before the peer's OPEN."""
        return min(self.neighbour.hold_time, self.peer.hold_time) if self.peer else 0

    @property
    def families(self) -> tuple[Family, ...]:
        """The families both sides named (RFC 4760 section 8)."""
        if self.peer is None:
            return ()
        return tuple(family for family in self.neighbour.families if family in self.peer.families)

    def enter(self, state: SessionState, now: float) -> None:
        """Changes the state and notes when."""
        if state is not self.state:
            self.state, self.since = state, now

    def explain_silence(self) -> None:
        """Nothing has been heard: says what that can mean."""
        neighbour = self.neighbour
        if neighbour.passive:
            self.reason = SessionReason.WAITING_FOR_PEER
            self.message = f"{neighbour.address} has not connected to {neighbour.local_address} yet"
        else:
            self.reason = SessionReason.NOT_CONNECTED
            self.message = f"no session with {neighbour.address} port {neighbour.port}: unreachable or not listening"
        if neighbour.password:
            self.message += ", or the passwords differ"

    def explain_end(self, words: str) -> SessionReason:
        """Sets reason and message from ExaBGP's words for why a connection ended, and returns the reason."""
        reason, message = self._reason_of_end(words)
        specific = self.reason in (
            SessionReason.WRONG_ASN,
            SessionReason.NOTIFICATION_RECEIVED,
            SessionReason.NOTIFICATION_SENT,
        )
        if self.established or reason is not SessionReason.CONNECTION_CLOSED or not specific:
            self.reason, self.message = reason, message
        return reason

    def _reason_of_end(self, words: str) -> tuple[SessionReason, str]:
        neighbour, told = self.neighbour, self.notification
        self.notification = None
        if words.startswith("notification"):
            sent = words.startswith("notification sent")
            code, subcode = _codes(words)
            name = NOTIFICATION_NAMES.get((code, subcode)) or NOTIFICATION_NAMES.get((code, 0), "unknown")
            text = f": {told.text}" if told is not None and told.text.isprintable() and told.text else ""
            if (code, subcode) == (2, 2):
                return SessionReason.WRONG_ASN, self._wrong_asn(sent=sent)
            if (code, sent) == (4, True):
                return SessionReason.HOLD_TIMER_EXPIRED, f"nothing heard from {neighbour.address} for the hold time"
            if sent:
                return SessionReason.NOTIFICATION_SENT, f"sent NOTIFICATION {code}/{subcode}, {name}{text}"
            return SessionReason.NOTIFICATION_RECEIVED, f"peer sent NOTIFICATION {code}/{subcode}, {name}{text}"
        if self.reset_expected:
            return SessionReason.CONFIGURATION_CHANGED, "restarting with changed parameters"
        if self.established:
            return SessionReason.CONNECTION_CLOSED, f"{neighbour.address} closed the connection"
        return SessionReason.CONNECTION_CLOSED, f"{neighbour.address} accepts and closes the connection again"

    def _wrong_asn(self, *, sent: bool) -> str:
        neighbour = self.neighbour
        if not sent:
            return f"{neighbour.address} expects another AS than {neighbour.local_asn} from {neighbour.local_address}"
        actual = f"peer sent {self.open.asn}" if self.open is not None else "peer sent another"
        return f"expects AS {neighbour.asn}, {actual}"

    def view(self) -> Session:
        """The session as it is shown."""
        up = self.established
        removing = self.removing_since is not None
        return Session(
            name=self.neighbour.name,
            address=self.neighbour.address,
            state=SessionState.REMOVING if removing else self.state,
            since=self.since,
            reason=SessionReason.REMOVING if removing else None if up else self.reason,
            message="" if up else self.message,
            last_reason=self.last_reason,
            restarts=self.restarts,
            hold_time=self.hold_time if up else 0,
            families=self.families if up else (),
            received=self.rib.received,
            accepted=self.rib.accepted,
            refused=self.rib.refused_counts(),
            forgotten=len(self.rib.forgotten),
            is_incomplete=self.rib.is_incomplete,
            sent=tuple(sorted(self.sent)),
            end_of_rib_sent=tuple(sorted(self.end_of_rib_sent)),
            end_of_rib_received=tuple(sorted(self.end_of_rib_received)),
            settled=tuple(sorted(self.settled)),
            keep_until=self.keep_until,
        )


def _codes(words: str) -> tuple[int, int]:
    """The two numbers of "notification sent (4,0)"; zeros if there are none."""
    inside = words.rpartition("(")[2].rstrip(")")
    code, _, subcode = inside.partition(",")
    return (int(code), int(subcode)) if code.isdigit() and subcode.isdigit() else (0, 0)
