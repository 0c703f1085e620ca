"""Commands for ExaBGP: their text, their size, their pace."""

import re

from bgp.exabgp.commands import (
    PREFIXES_PER_LINE,
    Command,
    Window,
    announce_commands,
    end_of_rib_command,
    teardown_command,
    withdraw_commands,
)
from bgp.values import Announcement, Family, Neighbour

TOR = Neighbour(name="tor", address="192.0.2.1", local_address="192.0.2.11", asn=65001, local_asn=64512)


def announcement(number=0, **changes):
    return Announcement(**{"prefix": f"10.244.{number}.0/26", "next_hop": "192.0.2.11", **changes})


def test_every_attribute_is_written_in_numbers_and_the_path_is_prepended_whole():
    full = announcement(
        communities=("65001:100", "65535:0"), large_communities=("65001:1:2",), local_preference=50, med=5, prepend=2
    )
    (command,) = announce_commands(TOR, [full])
    assert command.line == (
        "neighbor 192.0.2.1 announce attributes next-hop 192.0.2.11 origin igp as-path [ 64512 64512 64512 ] med 5 "
        "local-preference 50 community [ 65001:100 65535:0 ] large-community [ 65001:1:2 ] nlri 10.244.0.0/26"
    )


def test_no_word_of_ours_is_one_that_exabgp_takes_for_another_command():
    full = announcement(communities=("65535:0",), large_communities=("1:2:3",), med=1, prepend=1)
    lines = [
        command.line for command in [*announce_commands(TOR, [full]), end_of_rib_command(TOR.address, Family.IPV6)]
    ]
    for line in lines:
        assert not re.search(r"shutdown|help|reload|restart|version|show|crash", line)


def test_lines_hold_at_most_25_prefixes_of_one_family_and_one_set_of_attributes():
    v6 = Announcement(prefix="fd00:244::/122", next_hop="2001:db8::11")
    commands = announce_commands(TOR, [*map(announcement, range(60)), v6, announcement(61, med=7)])
    assert [len(command.announcements) for command in commands] == [25, 25, 10, 1, 1]
    assert PREFIXES_PER_LINE == 25
    told = [announcement.prefix for command in commands for announcement in command.announcements]
    assert len(set(told)) == 62
    assert [prefix for command in commands for prefix in command.line.partition(" nlri ")[2].split()] == told


def test_a_withdrawal_repeats_the_attributes():
    (command,) = withdraw_commands(TOR, [announcement(med=5)])
    assert (
        command.line == "neighbor 192.0.2.1 withdraw attributes next-hop 192.0.2.11 origin igp med 5 nlri 10.244.0.0/26"
    )


def test_end_of_rib_and_teardown_name_the_neighbour():
    assert end_of_rib_command("2001:db8::1", Family.IPV6).line == "neighbor 2001:db8::1 announce eor ipv6 unicast"
    assert teardown_command("192.0.2.1").line == "neighbor 192.0.2.1 teardown 4"


def commands(*lines, address="192.0.2.1"):
    return [Command(line, address) for line in lines]


def test_no_more_than_the_window_is_unanswered_and_answers_come_in_order():
    window = Window(2)
    window.add(commands("a", "b", "c"))
    assert list(window.lines()) == ["a", "b"]
    assert list(window.lines()) == []
    assert window.answered().line == "a"
    assert list(window.lines()) == ["c"]
    assert [window.answered().line, window.answered().line, window.answered()] == ["b", "c", None]


def test_what_waits_for_a_lost_session_is_dropped_but_answers_are_still_expected():
    window = Window(1)
    window.add(commands("a", "b"))
    window.add(commands("x", address="192.0.2.2"))
    assert list(window.lines()) == ["a"]
    window.forget("192.0.2.1")
    assert window.busy_with("192.0.2.1")
    assert window.answered().line == "a"
    assert not window.busy_with("192.0.2.1")
    assert list(window.lines()) == ["x"]
