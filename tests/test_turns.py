"""Whose turn it is: classes, slots and rests, and fairness within a class."""

from __future__ import annotations

import pytest

from central.turns import BACKLOG, LIVE, REPEAT, URGENT, Alarms, Turns


def served(turns):
    """Return the order of turns when each is over at once."""
    order = []
    while till := turns.next():
        order.append(till)
        turns.leave(till)
    return order


def test_within_a_class_it_is_first_come_first_served():
    """Nobody overtakes within a class."""
    turns = Turns(1, 9)
    for till in "abcd":
        turns.queue(till, LIVE)

    assert list("abcd") == served(turns)


def test_urgent_comes_before_live_and_live_before_backlog():
    """A class is served only while no better one waits."""
    turns = Turns(1, 9)
    for till, rank in (("old", BACKLOG), ("live", LIVE), ("shift", URGENT), ("live too", LIVE)):
        turns.queue(till, rank)

    assert ["shift", "live", "live too", "old"] == served(turns)


def test_only_so_many_have_their_turn_at_once():
    """A slot is free again when its till leaves or goes to rest."""
    turns = Turns(2, 9)
    for till in "abc":
        turns.queue(till, LIVE)
    for _ in range(2):
        turns.ask(turns.next(), 30)

    assert turns.next() is None
    assert turns.waiting == 1
    turns.leave("a")
    assert turns.next() == "c"


def in_turn(turns, at=30):
    """Return who gets a slot now."""
    tills = []
    while till := turns.next():
        turns.ask(till, at)
        tills.append(till)
    return tills


def test_who_owes_much_takes_only_its_share_of_the_slots():
    """A fleet that comes back leaves the others free; what is asked once more has half of that share."""
    turns = Turns(8, 4)
    for number in range(6):
        turns.queue(f"silent-{number}", REPEAT)
    assert in_turn(turns) == ["silent-0", "silent-1"]
    for number in range(6):
        turns.queue(f"back-{number}", BACKLOG)
    assert in_turn(turns) == ["back-0", "back-1"]
    for number in range(6):
        turns.queue(f"sells-{number}", LIVE if number else URGENT)

    assert in_turn(turns) == ["sells-0", "sells-1", "sells-2", "sells-3"]
    turns.leave("back-0")
    turns.leave("sells-2")
    assert in_turn(turns) == ["sells-4", "sells-5"]
    turns.leave("sells-5")
    assert in_turn(turns) == ["back-2"]
    assert len(turns.timed_out(30)) == 8
    assert in_turn(turns) == ["back-3", "back-4", "back-5"]


def test_one_slot_serves_all_classes():
    """The smallest configuration starves nobody."""
    turns = Turns(1, 1)
    turns.queue("silent", REPEAT)
    turns.queue("back", BACKLOG)

    assert in_turn(turns) == ["back"]
    turns.leave("back")
    assert in_turn(turns) == ["silent"]


def test_a_till_with_more_goes_to_the_end_of_its_class():
    """One turn is one request: three tills with a backlog take turns."""
    turns, order = Turns(1, 9), []
    for till in "abc":
        turns.queue(till, BACKLOG)
    for _ in range(7):
        till = turns.next()
        turns.ask(till, 30)
        order.append(till)
        turns.queue(till, BACKLOG)

    assert list("abcabca") == order


@pytest.mark.parametrize("leaves", [False, True])
def test_a_till_that_is_queued_again_waits_at_the_end(leaves):
    """Its former place is given up: queueing anew is no way to overtake."""
    turns = Turns(1, 9)
    turns.queue("a", LIVE)
    turns.queue("b", LIVE)
    if leaves:
        turns.leave("a")
    turns.queue("a", LIVE)

    assert ["b", "a"] == served(turns)


def test_a_till_that_changes_its_class_stands_in_one_queue_only():
    """One that has become urgent has one turn, not two."""
    turns = Turns(1, 9)
    turns.queue("a", BACKLOG)
    turns.queue("b", BACKLOG)
    turns.queue("a", URGENT)

    assert turns.waiting == 2
    assert ["a", "b"] == served(turns)
    turns.queue("c", BACKLOG)
    turns.queue("a", BACKLOG)
    assert ["c", "a"] == served(turns)


def test_a_till_that_left_has_no_turn():
    """Out of queue, slot and rest; leaving twice changes nothing."""
    turns = Turns(1, 9)
    turns.queue("a", LIVE)
    turns.leave("a")
    turns.leave("a")
    turns.queue("b", BACKLOG)
    turns.ask("b", 5)
    turns.resting.set("c", 5)
    turns.leave("b")
    turns.leave("c")

    assert turns.next() is None
    assert (turns.waiting, len(turns.asked), turns.asked.due(9), turns.resting.due(9)) == (0, 0, [], [])


def test_an_alarm_rings_once_and_at_the_time_that_was_set_last():
    """Setting it anew replaces it, clearing forgets it."""
    alarms = Alarms()
    alarms.set("a", 5)
    alarms.set("a", 9)
    alarms.set("b", 6)
    alarms.set("c", 6)
    alarms.clear("c")

    assert "a" in alarms
    assert "c" not in alarms
    assert len(alarms) == 2
    assert alarms.due(8) == ["b"]
    assert alarms.due(9) == ["a"]
    assert alarms.due(99) == []
    alarms.set("a", 100)
    alarms.set("a", 100)
    assert alarms.due(100) == ["a"]


def test_the_next_deadline_is_never_late():
    """It names the earliest slot or rest."""
    turns = Turns(2, 9)
    assert turns.next_deadline() is None
    turns.queue("a", LIVE)
    turns.ask("a", 30)
    assert turns.next_deadline() == 30
    turns.resting.set("b", 7)
    assert turns.next_deadline() == 7
