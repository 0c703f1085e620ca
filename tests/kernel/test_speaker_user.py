"""Whom the speaker runs as, what it may do, and what it says when it can't start."""

import pwd
import subprocess
import sys
from pathlib import Path

import pytest
from bgp_routers import BIRD_AS, bird_at, desired, neighbour
from bgp_world import TREE, Speaker, wait_for

pytestmark = pytest.mark.root

NET_BIND_SERVICE = 1 << 10


def status(process: int) -> dict[str, str]:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_exabgp_and_the_daemon_are_nobody_and_may_only_bind_low_ports(segment):
    node = segment.host("node", 11)
    bird = bird_at(segment.host("bird", 1), node.ipv4)
    speaker = Speaker(node)
    speaker.sync(desired(node, neighbour(node, "bird", bird.host.ipv4, BIRD_AS, passive=True)))
    speaker.wait_until_established("bird")
    for process in (speaker.exabgp(), speaker.daemon()):
        seen = status(process)
        assert set(seen["Uid"].split()) == {"65534"}
        assert set(seen["Gid"].split()) == {"65534"}
        assert seen["Groups"] == ""
        assert [int(seen[name], 16) for name in ("CapPrm", "CapEff", "CapAmb")] == [NET_BIND_SERVICE] * 3
        assert seen["NoNewPrivs"] == "1"


def test_the_socket_is_for_root_and_the_speakers_user_only(segment):
    node = segment.host("node", 11)
    speaker = Speaker(node)
    speaker.sync(desired(node))
    stranger = ["setpriv", "--reuid", "65533", "--regid", "65533", "--clear-groups"]
    reach = ["test", "-w", speaker.socket]
    assert subprocess.run([*stranger, *reach], check=False).returncode == 1
    owner = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    assert subprocess.run([*owner, *reach], check=False).returncode == 0
    # Root without the right to override permissions: the agent in its container.
    agent = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", "--no-new-privs"]
    assert subprocess.run([*agent, *reach], check=False).returncode == 0
    assert subprocess.run([*agent, "--regid", "65533", "--clear-groups", *reach], check=False).returncode == 1


def entry(*words: str, inside: str = "", python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    """Runs the entry to its end, optionally after a shell command in a private mount namespace."""
    command = [python, "-m", "bgp.speaker.entry", *words]
    if inside:
        command = ["unshare", "-m", "sh", "-c", f'mount --make-rprivate / && {inside} && exec "$@"', "sh", *command]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=TREE, timeout=20)


def test_a_tree_that_the_user_cannot_read_is_named_with_the_remedy(segment):
    inside = (
        "mount -t tmpfs -o mode=755 none /opt && mkdir -p /opt/python /opt/closed/tree/bgp && chmod 700 /opt/closed"
        f" && mount --bind {sys.prefix} /opt/python && mount --bind {TREE / 'bgp'} /opt/closed/tree/bgp"
        " && cd /opt/closed/tree"
    )
    # The interpreter must be readable, wherever this tree is: only the speaker's own code is kept away here.
    done = entry("--run-dir", str(segment.folder / "closed"), inside=inside, python="/opt/python/bin/python")
    assert done.returncode == 1
    assert "/opt/closed keeps it out" in done.stderr
    assert "chmod o+rx /opt/closed" in done.stderr
    assert "--user" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--user", "no-such-user-here"), 2, "--user no-such-user-here: there is no such user"),
        (("--run-dir", "/proc/speaker"), 1, "--run-dir /proc/speaker: No such file or directory"),
        (("--speed", "fast"), 2, "--speed"),
        (("--speed", "0"), 2, "--speed"),
        (("--wrong",), 2, "--wrong"),
    ],
)
def test_wrong_use_is_answered_in_one_line_that_names_it(words, code, says):
    done = entry(*words)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_dir_with_a_space_is_refused_before_anything_starts(segment):
    done = entry("--run-dir", str(segment.folder / "my speaker"))
    assert done.returncode == 1
    assert "plain characters" in done.stderr


def test_help_tells_what_stopping_does():
    done = entry("--help")
    assert done.returncode == 0
    assert "drain the node first" in done.stdout


def test_the_routers_folder_is_reached_through_folders_that_are_only_passable(segment):
    parent = segment.folder / "parent"
    parent.mkdir(mode=0o711)
    node = segment.host("node", 11)
    speaker = Speaker(node, name="parent/speaker")
    wait_for(speaker.is_answering, "the speaker answering")
    assert speaker.folder.stat().st_uid == 65534


def test_another_user_takes_over_the_folder_with_the_orders_in_it(segment):
    node = segment.host("node", 11)
    former = Speaker(node)
    former.sync(desired(node))
    stored = former.folder / "desired.json"
    assert stored.stat().st_uid == 65534
    former.stop()
    speaker = Speaker(node, user="daemon")
    wait_for(speaker.is_answering, "the speaker of another user answering")
    assert {path.stat().st_uid for path in (speaker.folder, stored)} == {pwd.getpwnam("daemon").pw_uid}


def test_a_second_speaker_in_the_same_folder_is_refused_and_the_first_goes_on(segment):
    node = segment.host("node", 11)
    speaker = Speaker(node)
    speaker.sync(desired(node, generation=5))
    second = Speaker(node)
    assert wait_for(lambda: second.process.poll() is not None, "the second speaker ending")
    assert second.process.returncode == 1
    assert f"another speaker (process {speaker.entry}) uses {speaker.folder}" in speaker.log.read_text()
    assert speaker.observed().generation == 5
    speaker.stop()
    third = Speaker(node)
    wait_for(third.is_answering, "the next speaker answering")
    assert third.observed().generation == 5


def test_the_speaker_can_stay_root_where_the_user_says_so(segment):
    node = segment.host("node", 11)
    bird = bird_at(segment.host("bird", 1), node.ipv4)
    speaker = Speaker(node, user="root")
    speaker.sync(desired(node, neighbour(node, "bird", bird.host.ipv4, BIRD_AS, passive=True)))
    speaker.wait_until_established("bird")
    assert {status(process)["Uid"].split()[0] for process in (speaker.exabgp(), speaker.daemon())} == {"0"}
