"""Graceful restart (RFC 4724): what is kept of a neighbour's routes when its session is lost, and what it keeps of ours.

Pure over a `Record`; called by `bgp.speaker.state`. Functions return the prefixes to decide anew.
"""

from collections.abc import Iterable

from bgp.exabgp.events import EndOfRib
from bgp.reasons import SessionReason
from bgp.speaker.record import Record
from bgp.values import Family

# Section 4.2 asks for an upper bound on keeping stale routes of a session that is back without end-of-RIB.
STALE_SECONDS = 360.0
# The transport went, no NOTIFICATION was sent: section 4.2 lets us keep the neighbour's routes.
_LOST = (SessionReason.CONNECTION_CLOSED, SessionReason.CONFIGURATION_CHANGED)
# After these the neighbour may keep ours: it does not hear a NOTIFICATION over a link that is dead.
_LOST_AT_THE_NEIGHBOUR = (*_LOST, SessionReason.HOLD_TIMER_EXPIRED)


def stale_after_loss(record: Record, reason: SessionReason, now: float) -> set[str]:
    """The session ended for this reason: its routes become stale, or go."""
    rib, peer = record.rib, record.peer
    changed = set(rib.flush_stale())  # what was stale already when the session falls again is deleted
    rib.restart()
    changed.update(rib.entries)
    restart_time = peer.restart_time if peer is not None and record.neighbour.graceful_restart else None
    kept = peer.restartable if peer is not None and restart_time and reason in _LOST else ()
    changed.update(_dropped_but(kept, record))
    record.keep_until = now + restart_time if kept and restart_time else None
    return changed


def stale_after_return(record: Record, now: float) -> set[str]:
    """The session is back: a family whose forwarding state the peer did not keep is dropped at once."""
    record.keep_until = None
    if not record.rib.stale():
        return set()
    changed = _dropped_but(record.peer.forwarding if record.peer is not None else (), record)
    if record.rib.stale():
        record.keep_until = now + STALE_SECONDS
    return changed


def _dropped_but(kept: Iterable[Family], record: Record) -> set[str]:
    return {prefix for family in Family if family not in kept for prefix in record.rib.flush_stale(family)}


def stale_after_end_of_rib(record: Record, marker: EndOfRib) -> set[str]:
    """Whatever was not said again before it, is dropped: by us if the neighbour sent it, by the neighbour if we did."""
    if marker.sent:
        record.end_of_rib_sent.add(marker.family)
        if record.end_of_rib_sent.issuperset(record.families):
            record.holds_until = None
        return set()
    record.end_of_rib_received.add(marker.family)
    record.settled.add(marker.family)
    changed = set(record.rib.flush_stale(marker.family))
    if not record.rib.stale():
        record.keep_until = None
    return changed


def note_what_it_holds(record: Record, reason: SessionReason, now: float) -> None:
    """Until when the neighbour may hold routes of ours from the session that ended, if it does not come back."""
    restart_time = record.peer.restart_time if record.peer is not None else None
    if reason not in _LOST_AT_THE_NEIGHBOUR or restart_time is None or not record.neighbour.graceful_restart:
        record.holds_until = None
    elif record.told or record.sent:
        record.holds_until = now + record.neighbour.graceful_restart
