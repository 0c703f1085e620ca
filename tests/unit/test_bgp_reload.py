"""What the way to a confirmed configuration leaves in the speaker's folder."""

from bgp.speaker.reload import Reloader


def test_candidates_of_a_daemon_that_was_killed_are_removed_at_the_next_start(tmp_path):
    for name in ("candidate-0.conf", "candidate-17.conf", "candidate-1.conf.new", "exabgp.conf"):
        (tmp_path / name).write_text("left")
    Reloader(tmp_path, ["python"])
    assert [path.name for path in tmp_path.iterdir()] == ["exabgp.conf"]
