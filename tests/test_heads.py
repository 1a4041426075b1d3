"""What tills rang for and central has not seen: it goes for a reason, or it becomes a gap."""

from __future__ import annotations

from dataclasses import replace

import pytest
from factories import TILL, a_bell, a_stream

from central.batch import Heard, Mark
from central.commands import CollectorLimits
from central.heads import Heads, head_of
from central.till_state import Task, TillState
from wire.messages import History


def digest(number):
    return bytes([number]) * 16


def mark(through=5, stream=None):
    return Mark(stream or a_stream(), through, digest(through))


def head(newest=9, boot="boot-1", stream=None, **fields):
    return Heard(stream or a_stream(), boot, newest, digest(newest), **fields)


@pytest.fixture
def heads():
    return Heads(CollectorLimits())


@pytest.fixture
def state():
    return TillState(mark=mark())


def open_heads(state):
    return [one for one, _ in state.heads.values()]


def asked_at(when):
    return Task("t", TILL, "sweep", when, first_asked_at=when)


def test_a_head_remembers_how_far_its_till_says_that_both_agreed(heads, state):
    """By the digest there, which central can compare; what it takes back later makes it forget nothing."""
    heads.hear(TILL, state, head_of(a_bell(9, stored=3, stored_digest=digest(3))), mark(5), 0)
    heads.hear(TILL, state, head_of(a_bell(12, stored=0)), mark(5), 1)

    assert [(12, 3, digest(3))] == [(one.newest, one.after, one.agreed) for one in open_heads(state)]


def test_what_a_till_takes_for_stored_beyond_the_watermark_says_nothing_of_what_lies_below(heads, state):
    """Central has lost it since, and may have come this far again by another history, a clone's."""
    heads.hear(TILL, state, head_of(a_bell(12, stored=7, stored_digest=digest(7))), mark(5), 0)

    assert [(12, 0, None)] == [(one.newest, one.after, one.agreed) for one in open_heads(state)]


def test_a_number_without_a_digest_is_a_belief_and_no_proof(heads, state):
    """As a till of an earlier version says it, and one whose document there is gone."""
    heads.hear(TILL, state, head_of(a_bell(12, stored=3)), mark(5), 0)

    assert [(12, 0, None)] == [(one.newest, one.after, one.agreed) for one in open_heads(state)]


def test_what_is_exactly_held_is_no_head(heads, state):
    """An even doorbell promises nothing."""
    heads.hear(TILL, state, head(5), mark(5), 0)

    assert open_heads(state) == []


def test_a_doorbell_behind_the_watermark_is_kept_and_no_upload_settles_it(heads, state):
    """A clone may have rung for another fourth document than the one that is held."""
    heads.hear(TILL, state, head(4), mark(5), 0)
    heads.drop_reached(TILL, state)

    assert [True] == [one.below for one in open_heads(state)]


def test_the_even_doorbell_of_a_boot_settles_what_that_boot_rang_for_before(heads, state):
    """Between them a boot's history only grows; a doorbell of it that comes late says nothing of newer ones."""
    heads.hear(TILL, state, head(4), mark(5), 0)
    state.bell = a_bell(3, digest(3))
    heads.drop_boot(TILL, state)
    assert len(open_heads(state)) == 1

    state.bell = a_bell(5, digest(5))
    heads.drop_boot(TILL, state)
    assert open_heads(state) == []


def test_a_late_doorbell_of_a_stream_that_was_taken_over_is_no_news(heads, state):
    """What it holds comes in the stream that took it over; beyond that end it is a promise like any other."""
    state.taken_over = {a_stream(2): 8}

    assert heads.is_late(state, head(8, stream=a_stream(2)))
    assert not heads.is_late(state, head(9, stream=a_stream(2)))


def test_a_till_that_holds_nothing_more_leaves_a_gap_of_what_it_rang_for_before_it_was_asked(heads, state):
    """What was rung for after the question stays open."""
    heads.hear(TILL, state, head(9, "before"), mark(5), 1)
    heads.hear(TILL, state, head(8, "after"), mark(5), 3)
    heads.end(TILL, state, asked_at(2))

    _, lost, _ = heads.to_settle()
    assert [(TILL, "before", 9)] == [(till, one.boot_id, one.newest) for till, one, _ in lost]
    assert ["after"] == [one.boot_id for one in open_heads(state)]


def test_a_task_of_an_earlier_life_proves_nothing(heads, state):
    """Its answer may have been given before the doorbell."""
    heads.hear(TILL, state, head(9), mark(5), 1)
    heads.end(TILL, state, replace(asked_at(2), first_asked_at=None))

    assert len(open_heads(state)) == 1


def test_a_head_that_the_present_stream_names_exactly_is_no_gap(heads, state):
    """It was taken over: its documents are in the stream that answered."""
    state.bell = a_bell(0, previous=(History(stream=a_stream(2), newest=9, digest=digest(9)),))
    heads.hear(TILL, state, head(9, stream=a_stream(2)), mark(0, a_stream(2)), 1)
    heads.end(TILL, state, asked_at(2))

    assert ((), ()) == heads.to_settle()[1:]
    assert open_heads(state) == []


@pytest.mark.parametrize(("boot", "doubted"), [("boot-1", 0), ("boot-2", 1)])
def test_a_head_below_the_watermark_is_looked_into_unless_the_till_that_answers_rang_it(heads, state, boot, doubted):
    """The same life of the agent has just proven its history; of another one the documents must tell."""
    state.boot_id = boot
    heads.hear(TILL, state, head(4), mark(5), 1)
    heads.end(TILL, state, asked_at(2))

    _, lost, found = heads.to_settle()
    assert (lost, len(found)) == ((), doubted)


def test_a_head_that_another_process_came_past_lies_below(heads, state):
    """Only this process's own uploads were compared with what it heard."""
    heads.hear(TILL, state, head(9), mark(5), 0)
    heads.lie_below(state, a_stream(), 9)
    state.mark = mark(9)
    heads.drop_reached(TILL, state)

    assert [True] == [one.below for one in open_heads(state)]


def test_only_what_the_database_settled_is_dropped_with_a_new_stream(heads, state):
    """A head that was heard in the same turn was not looked at."""
    heads.hear(TILL, state, head(9, "old"), mark(5), 0)
    (settled,) = open_heads(state)
    heads.hear(TILL, state, head(7, "meanwhile"), mark(5), 0)
    heads.drop_settled(TILL, state, (settled,), a_stream(2))

    assert ["meanwhile"] == [one.boot_id for one in open_heads(state)]


def test_heads_are_bounded(heads, state):
    """A till that lies about its boots keeps its first ones open."""
    for number in range(100):
        heads.hear(TILL, state, head(9, f"boot-{number}"), mark(5), 0)

    assert len(open_heads(state)) == CollectorLimits().heads_max
