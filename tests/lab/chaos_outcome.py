"""What a fault cost, whether that is more than it may, and the table of it. Pure. Called by `chaos`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chaos_faults import LONG_S, REPAIR_S, RETURN_S, Cost, Fault
from faults import HOLD_TIME_S

# Seconds of loss that a cost allows the victim's own flows.
LONGEST_GAP_S = {Cost.REPAIR: REPAIR_S, Cost.OWN: float(HOLD_TIME_S), Cost.RETURN: LONG_S + RETURN_S}


@dataclass(frozen=True)
class Outcome:
    """Packets lost on flows that end on the victim or cross it, and on the others; the longest gap, and when all was well again
    after the fault's end (seconds; None: never); sessions that restarted, the victim's own and others'; routes that went, by
    router; seconds from the creation of a pod that was asked for while the fault lasted until it was ready (None: never); and what
    else was wrong: the probe itself, wrong sources, the oracle's findings.
    """

    fault: Fault
    victim: str
    lost: int
    lost_by_others: int
    gap: float
    reset: Sequence[str]
    reset_of_others: Sequence[str]
    withdrawn: Mapping[str, int]
    healed: float | None
    started: float | None
    wrong: Sequence[str] = ()

    @property
    def excess(self) -> list[str]:
        """What is more than the fault may cost, in words."""
        return [*self._packets(), *self._routing(), *self.wrong]

    def _packets(self) -> list[str]:
        cost, found = self.fault.cost, []
        if cost is Cost.NOTHING and self.lost:
            found.append(f"{self.lost} packets lost, for {self.gap:.2f} s")
        longest = LONGEST_GAP_S.get(cost, self.gap)
        if self.gap > longest:
            found.append(f"a gap of {self.gap:.2f} s, more than {longest:g} s")
        if cost is Cost.LOSS and not self.lost:
            found.append("no packet lost: the probe is blind")
        if self.lost_by_others:
            found.append(f"{self.lost_by_others} packets of others lost")
        return found

    def _routing(self) -> list[str]:
        found = []
        restarted = [*(() if self.fault.resets else self.reset), *self.reset_of_others]
        if restarted:
            found.append(f"sessions restarted: {', '.join(restarted)}")
        withdrawn = {router: count for router, count in self.withdrawn.items() if count}
        if withdrawn and not self.fault.withdraws:
            found.append(f"routes withdrawn: {withdrawn}")
        if self.healed is None:
            found.append("not well again")
        if self.started is None:
            found.append("a new pod did not become ready")
        return found


_HEAD = (
    "| fault | at | may cost packets | lost | longest gap, s | sessions restarted | routes withdrawn | well in, s | new pod, s |",
    "|---|---|---|--:|--:|--:|---|--:|--:|",
)


def row(outcome: Outcome) -> str:
    """A line of the table; an excess stands below its own line."""
    withdrawn = ", ".join(f"{router} {count}" for router, count in outcome.withdrawn.items() if count) or "none"
    gap = f"{outcome.gap:.2f}" if outcome.lost else "-"
    healed, started = (
        "never" if value is None else f"{value:.{digits}f}"
        for value, digits in ((outcome.healed, 1), (outcome.started, 0))
    )
    cells = (
        *(outcome.fault.name, outcome.victim, outcome.fault.cost.value, str(outcome.lost), gap),
        *(str(len(outcome.reset)), withdrawn, healed, started),
    )
    excess = "".join(f"\n| **too much**: {each} |" for each in outcome.excess)
    return f"| {' | '.join(cells)} |{excess}"


def document(seed: int, outcomes: Sequence[Outcome], form: str, look: float) -> str:
    """The page with the table, sorted by fault. `form` says how podroute runs in the lab, `look` in how many seconds it is seen
    that all is well.
    """
    rows = "\n".join((*_HEAD, *map(row, sorted(outcomes, key=lambda each: (each.fault.name, each.victim)))))
    return f"""# What faults cost

Written by `make chaos` (seed {seed}). In a lab of four nodes in two racks with one ToR each (FRR and BIRD), in which podroute runs
{form}, numbered packets and a stream, IPv4 and IPv6, run both ways between pods of one rack, between pods
of two racks, and between a pod and the outside host, while one fault after the other is caused. A flow is the victim's own if it
ends on it or must cross it, or if it is a ToR whose BGP ends and that told the ends of each other; packets lost and the longest gap
are those of its own flows, and no fault may cost others a packet. Sessions are those of the nodes with their ToRs. Routes withdrawn
are pod routes that went from the routers' own kernels. Then come the seconds after the fault's end until all was seen to be well
again, of which the look at everything takes {look:.0f}, and those that a pod took from its creation until it was ready, which was
asked for while the fault lasted. After each fault the lab is compared with the oracle, which uses `kubectl`, `ip`, `vtysh` and
`birdc` alone, and with `podroute check`.

{rows}

With one ToR a rack, its end cuts the rack off until it is back; so does the spine's for what crosses it. Within the rack, too, if
the router takes its routes out of its own kernel when its BGP daemon dies, as FRR's zebra does unless it is told to preserve them:
nodes keep what a router told them for its restart time only if it says that it goes on forwarding (RFC 4724 section 4.2).
"""
