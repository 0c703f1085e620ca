"""A short run of random faults under traffic; `make chaos` makes a long one and writes docs/faults.md."""

from dataclasses import replace

import pytest
from chaos import chosen, flow, run
from chaos_faults import CONTROL, FAULTS, LONG_S, REPAIR_S, RETURN_S, Cost, Fault, Machines, by_hand
from chaos_outcome import Outcome, document
from faults import HOLD_TIME_S
from traffic import Place

from controller.lab.cluster import Lab
from controller.lab.topology import Topology

# containerd killed, with podroute in containers of it, and the control.
SEED, COUNT = 43, 1


@pytest.mark.lab
@pytest.mark.root
@pytest.mark.timeout(400)
def test_faults_cost_what_they_may_and_no_more(installed_lab: Lab) -> None:
    outcomes = list(run(installed_lab, SEED, COUNT))
    assert {each.fault.name: each.excess for each in outcomes} == {each.fault.name: [] for each in outcomes}
    assert len(outcomes) == COUNT + 1
    (control,) = [each for each in outcomes if each.fault is CONTROL]
    assert control.lost


def test_a_long_run_has_every_fault_and_its_seed_decides_all() -> None:
    assert {fault for fault, _ in chosen(1, len(FAULTS))} == {CONTROL, *FAULTS}
    assert chosen(1, 30) == chosen(1, 30) != chosen(2, 30)


SHAPE = Topology("chaos", 4, 2, ("frr", "bird"))
ENDS = (Place("one", (), ()), Place("other", (), ()))
QUIET = Fault("a fault", Machines.NODE, by_hand(lambda *_: None))
# Its BGP ends, and what it told with it.
FORGOTTEN = replace(QUIET, resets=True, withdraws=True)


@pytest.mark.parametrize(
    ("nodes", "crossed"),
    [
        (("n0", "n1"), {"n0", "n1"}),
        (("n0", "n2"), {"n0", "n2", "tor0", "tor1", "spine"}),
        (("n2",), {"n2", "tor1", "spine"}),
    ],
    ids=["within a rack", "across racks", "to the outside"],
)
def test_a_flow_is_the_victims_own_if_it_ends_there_or_must_cross_it(nodes: tuple[str, ...], crossed: set[str]) -> None:
    own = flow(SHAPE, ENDS, *nodes)
    assert {name for name in SHAPE.machine_names if own.is_of(name, QUIET)} == crossed


def test_a_flow_within_a_rack_is_its_tors_own_where_the_tors_bgp_ends_alone() -> None:
    own = flow(SHAPE, ENDS, "n2", "n3")
    assert [own.is_of(tor, FORGOTTEN) for tor in SHAPE.tor_names] == [False, True]
    assert not own.is_of("tor1", replace(FORGOTTEN, resets=False))


def outcome(cost: Cost, **more: object) -> Outcome:
    fault = Fault("a fault", Machines.NODE, by_hand(lambda *_: None), cost)
    good = Outcome(fault, "n0", 0, 0, 0.0, (), (), {"tor0": 0}, 1.0, 2.0)
    return replace(good, **more)  # type: ignore[arg-type]


def test_what_a_fault_costs_beyond_its_price_is_an_excess() -> None:
    assert not outcome(Cost.NOTHING).excess
    assert outcome(Cost.NOTHING, lost=1).excess
    assert not outcome(Cost.REPAIR, lost=9, gap=REPAIR_S).excess
    assert outcome(Cost.REPAIR, lost=9, gap=REPAIR_S + 0.1).excess
    assert not outcome(Cost.OWN, lost=9, gap=float(HOLD_TIME_S)).excess
    assert outcome(Cost.OWN, lost=9, gap=HOLD_TIME_S + 0.1).excess
    assert not outcome(Cost.RETURN, lost=9, gap=LONG_S + RETURN_S).excess
    assert outcome(Cost.RETURN, lost=9, gap=LONG_S + RETURN_S + 0.1).excess
    assert not outcome(Cost.LOSS, lost=1).excess
    assert outcome(Cost.LOSS).excess
    for cost in Cost:
        assert outcome(cost, lost=1, lost_by_others=1).excess


@pytest.mark.parametrize(
    ("may", "what"), [("resets", {"reset": ("tor0 n0",)}), ("withdraws", {"withdrawn": {"tor0": 1}})]
)
def test_sessions_and_routes_may_go_only_where_the_fault_says_so(may: str, what: dict[str, object]) -> None:
    strict = outcome(Cost.OWN, **what)
    assert strict.excess
    assert not replace(strict, fault=replace(strict.fault, **{may: True})).excess


def test_others_sessions_a_lab_that_stays_ill_and_the_oracles_word_are_always_an_excess() -> None:
    free = replace(outcome(Cost.OWN).fault, resets=True, withdraws=True)
    for what in (
        {"reset_of_others": ("tor1 n3",)},
        {"healed": None},
        {"started": None},
        {"wrong": ("AddressTwice: 10.0.0.1",)},
    ):
        assert outcome(Cost.OWN, fault=free, **what).excess


def test_the_table_has_a_line_for_each_fault_and_says_what_was_too_much() -> None:
    text = document(7, [outcome(Cost.NOTHING, lost=3, gap=0.25), outcome(Cost.OWN)], "in pods", 4.2)
    assert "seed 7" in text
    assert "| a fault | n0 | nothing | 3 | 0.25 | 0 | none | 1.0 | 2 |" in text
    assert "**too much**: 3 packets lost, for 0.25 s" in text
    assert "| a fault | n0 | the victim's own, for 9 s | 0 | - | 0 | none | 1.0 | 2 |" in text
