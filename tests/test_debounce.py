"""The debounce: one quiet period per till, never longer than a cap."""

from __future__ import annotations

from random import Random

import pytest

from central.debounce import Debounce


@pytest.fixture
def debounce():
    """Return a debounce of half a second, at most five."""
    return Debounce(quiet_s=0.5, max_wait_s=5)


def test_a_lone_ring_is_due_after_the_quiet_time(debounce):
    """Not before, and only once."""
    debounce.ring("a", 10)

    assert debounce.next_deadline() == 10.5
    assert debounce.due(10.49) == []
    assert debounce.due(10.5) == ["a"]
    assert debounce.due(99) == []
    assert debounce.next_deadline() is None


def test_each_further_ring_begins_the_quiet_time_anew(debounce):
    """Three receipts in a row are one upload."""
    for now in (0, 0.4, 0.8):
        debounce.ring("a", now)

    assert debounce.due(1.29) == []
    assert debounce.due(1.3) == ["a"]


def test_a_till_that_never_is_quiet_is_due_at_the_cap(debounce):
    """However busy a till is, its upload is put off for at most ``max_wait_s`` after the first ring."""
    for tenth in range(60):
        debounce.ring("a", tenth / 10)
        if due := debounce.due(tenth / 10):
            break

    assert due == ["a"]
    assert tenth == 50


def test_an_urgent_ring_is_due_at_once(debounce):
    """Also where the till rang before."""
    debounce.ring("a", 0)
    debounce.ring("a", 0.1, urgent=True)

    assert debounce.next_deadline() <= 0.1
    assert debounce.due(0.1) == ["a"]
    assert debounce.due(99) == []


def test_an_urgent_ring_stays_urgent_when_another_follows(debounce):
    """A receipt closed right after the shift must not put the shift's upload off."""
    debounce.ring("a", 0, urgent=True)
    debounce.ring("a", 0)

    assert debounce.due(0) == ["a"]


def test_a_cancelled_ring_is_not_due_and_a_later_one_is(debounce):
    """What it rang for came meanwhile; the next ring counts from its own time."""
    debounce.ring("a", 0)
    debounce.cancel("a")
    debounce.cancel("never rang")
    assert debounce.due(1) == []

    debounce.ring("a", 2)
    debounce.cancel("a")
    debounce.ring("a", 2.3)

    assert debounce.due(2.6) == []
    assert debounce.due(2.8) == ["a"]


def test_many_tills_are_due_each_in_its_own_time():
    """Seeded rings of a hundred tills: none early, none later than the cap, none twice, none forgotten."""
    rng, debounce = Random(4711), Debounce(0.5, 5)
    first, last, served = {}, {}, 0
    for step in range(20_000):
        now = step / 100
        if step < 19_000:
            till = f"till-{rng.randrange(100)}"
            debounce.ring(till, now)
            first.setdefault(till, now)
            last[till] = now
        for till in debounce.due(now):
            expected = min(last[till] + 0.5, first.pop(till) + 5)
            assert expected - 1e-9 <= now <= expected + 0.010001
            served += 1

    assert first == {}
    assert served > 3000


def test_the_deadline_is_never_late(debounce):
    """Whoever sleeps until the deadline finds every till that is due."""
    debounce.ring("a", 0)
    debounce.ring("b", 0.2)
    debounce.ring("a", 0.4)
    now, found = 0.0, []
    while (deadline := debounce.next_deadline()) is not None:
        now = max(now, deadline)
        found += [(till, round(now, 3)) for till in debounce.due(now)]

    assert found == [("b", 0.7), ("a", 0.9)]
