"""What to do about sessions that are down: a remedy for each reason that waiting does not mend, each once."""

from bgp.reasons import SessionReason
from controller.plan.remedies import REMEDIES, remedies_for


def test_every_reason_has_a_remedy_but_those_that_pass_by_themselves() -> None:
    passing = {SessionReason.CONFIGURATION_CHANGED, SessionReason.REMOVING}
    assert set(SessionReason) - set(REMEDIES) == passing
    assert remedies_for(passing) == ""


def test_a_remedy_that_several_sessions_need_is_told_once() -> None:
    told = remedies_for(["NotConnected", "WrongASN", "NotConnected"])
    assert told.count("spec.port") == 1
    assert told.count("spec.asNumber the router's AS") == 1


def test_a_reason_of_a_later_version_is_passed_over() -> None:
    assert remedies_for(["", "Sunspots"]) == ""
