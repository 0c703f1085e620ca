"""The speaker's processes: how soon they start again, and what an orphan and a killed run leave behind."""

import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from bgp.speaker import start_daemon
from bgp.speaker.reload import Reloader
from bgp.speaker.supervision import LONGEST_PAUSE_SECONDS, STABLE_SECONDS, Pauses


def test_the_first_start_anew_is_at_once_and_each_later_one_waits_twice_as_long_up_to_a_limit():
    pauses = Pauses()
    assert [pauses.after(1.0) for _ in range(9)] == [0, 0.5, 1, 2, 4, 8, 16, 30, 30]


@given(lifetimes=st.lists(st.floats(0, 1000), max_size=30))
def test_after_a_stable_time_the_next_start_is_at_once_and_no_pause_exceeds_the_limit(lifetimes):
    pauses = Pauses()
    for lifetime in lifetimes:
        pause = pauses.after(lifetime)
        assert 0 <= pause <= LONGEST_PAUSE_SECONDS
        assert pause == 0 or lifetime < STABLE_SECONDS
    pauses.after(STABLE_SECONDS)
    assert pauses.after(0.0) == 0.5


def test_a_daemon_whose_exabgp_has_ended_before_it_ran_ends_at_once_and_touches_nothing(tmp_path):
    program = str(Path(start_daemon.__file__))
    not_its_parent = "1"
    done = subprocess.run(
        [sys.executable, "-I", program, str(tmp_path), not_its_parent], check=False, capture_output=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (1, b"")
    assert list(tmp_path.iterdir()) == []


def test_candidate_configurations_of_a_run_that_was_killed_are_removed_and_nothing_else(tmp_path):
    for name in ("candidate-0.conf", "candidate-17.conf.new", "exabgp.conf", "desired.json"):
        (tmp_path / name).write_text("secret")
    Reloader(tmp_path, [])
    assert {path.name for path in tmp_path.iterdir()} == {"exabgp.conf", "desired.json"}
