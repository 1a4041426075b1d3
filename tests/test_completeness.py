"""Facts in, states out: three proofs that know nothing of each other, and unknown is never taken for fine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from central.completeness import (
    DayFacts,
    Head,
    Missing,
    ShiftFacts,
    TillFacts,
    judge_store_day,
    judge_till,
    lies_on,
)
from central.shift_sums import Difference
from central.store_clock import ClockError, day_after, days_between, store_clock
from wire.documents import Shift

END_MS = 1_000_000
OVER = DayFacts("042", "2026-03-01", END_MS, END_MS + 10)
RUNNING = replace(OVER, now_ms=END_MS - 1)
SHIFT = ShiftFacts(
    7, 5, 1, Shift(first_receipt_number=1, last_receipt_number=3), frozenset({1, 2, 3}), (), (("s", 1, 5),)
)
WELL = TillFacts(
    "till-1", 0, verified_at_ms=900_000, moved_at_ms=800_000, documents=5, last_received_ms=800_000, shifts=(SHIFT,)
)
SILENT = TillFacts("till-1", 0, verified_at_ms=900_000, moved_at_ms=800_000)
HOLE = Missing("sequence", 3, 4, "s")
HEAD = Head("s", 5, 9, 850_000)


def judged(day=OVER, facts=WELL, **changes):
    return judge_till(day, replace(facts, **changes))


def state(*tills, day=OVER):
    return judge_store_day(day, tills).state


def shift(**changes):
    return {"shifts": (replace(SHIFT, **changes),)}


# -- A till's state ----------------------------------------------------------------------------------------------------


def test_a_till_is_complete_when_all_three_proofs_hold_and_its_shifts_are_closed():
    """Nothing is missing, and there is nothing to do."""
    found = judged()

    assert (found.state, found.missing, found.notes, found.next_steps) == ("complete", (), (), ())
    assert (found.proofs.verified, found.proofs.numbered, found.proofs.reconciled) == (True, True, True)


@pytest.mark.parametrize(
    ("changes", "proofs"),
    [
        ({"verified_at_ms": None}, (None, True, True)),
        ({"verified_at_ms": 700_000}, (None, True, True)),
        (shift(closes=0, said=None, differences=None), (True, True, None)),
        (shift(differences=None), (True, True, None)),
        (shift(closes=2, said=None, differences=None), (True, True, None)),
        ({"without_shift": 1}, (True, True, None)),
        ({"shifts": ()}, (True, True, None)),
    ],
    ids=["never verified", "moved since", "shift open", "no sums", "closed twice", "beside any shift", "no shift"],
)
def test_what_is_unknown_keeps_a_day_open_and_is_named(changes, proofs):
    """A proof that could not be made is None, the day stays open, and a note says why."""
    found = judged(**changes)

    assert found.state == "open"
    assert (found.proofs.verified, found.proofs.numbered, found.proofs.reconciled) == proofs
    assert found.notes


@pytest.mark.parametrize("kind", ["sequence", "gap", "quarantined"])
def test_a_day_with_something_named_missing_is_partial(kind):
    """Whatever the sums say: a difference of sums explains itself by what is missing."""
    difference = Difference("by_type", "sale", 2, 1, 200, 100)
    found = judged(missing=(replace(HOLE, kind=kind),), **shift(differences=(difference,)))

    assert (found.state, found.missing_count) == ("partial", 2)
    assert found.proofs.numbered is (kind == "quarantined")
    assert found.next_steps


def test_a_day_is_partial_before_it_is_over_too():
    """What is missing now is worth knowing now."""
    assert judged(RUNNING, missing=(HOLE,)).state == "partial"
    assert judged(RUNNING).state == "open"


def test_sums_that_differ_are_a_mismatch():
    """All documents are there, and the till says otherwise."""
    difference = Difference("by_tender", "sale.cash", 1, 1, 101, 100)
    found = judged(**shift(differences=(difference,)))

    assert (found.state, found.proofs.reconciled) == ("mismatch", False)
    assert found.shifts[0].differences == (difference,)


# -- Verified ----------------------------------------------------------------------------------------------------------


def test_what_was_rung_for_and_is_not_here_is_named_once_the_day_is_over():
    """While the day runs it is on its way; afterwards it is missing, with its numbers."""
    running, over = judged(RUNNING, heads=(HEAD,)), judged(heads=(HEAD,))

    assert (running.state, running.proofs.verified) == ("open", False)
    assert (over.state, over.missing) == ("partial", (Missing("rung_for", 6, 9, "s"),))


def test_a_day_that_was_proven_after_its_end_stays_proven_while_the_till_sells_on():
    """Neither newer documents nor a newer doorbell take yesterday's proof away."""
    later = {"verified_at_ms": END_MS + 5, "moved_at_ms": END_MS + 7, "heads": (replace(HEAD, heard_at_ms=END_MS + 6),)}

    assert judged(**later).state == "complete"
    assert judged(**later, last_received_ms=END_MS + 6).proofs.verified is False
    assert judged(**{**later, "heads": (replace(HEAD, heard_at_ms=END_MS + 4),)}).proofs.verified is False


# -- Tills that say nothing, and tills that need not -------------------------------------------------------------------


def test_a_silent_till_is_complete_only_when_it_rang_after_the_day():
    """Nothing heard is not nothing sold."""
    assert judged(facts=SILENT).state == "open"
    assert "nothing was heard" in judged(facts=SILENT).notes
    found = judged(facts=SILENT, verified_at_ms=END_MS)
    assert (found.state, found.documents) == ("complete", 0)
    assert judged(RUNNING, SILENT, verified_at_ms=END_MS - 1).state == "open"


def test_a_till_that_was_first_seen_after_the_day_is_not_expected():
    """Unless documents of that day came from it all the same."""
    assert judged(facts=SILENT, first_seen_ms=END_MS).state == "not expected"
    assert judged(facts=SILENT, first_seen_ms=END_MS, missing=(HOLE,)).state == "partial"
    assert judged(first_seen_ms=END_MS, missing=(HOLE,)).state == "partial"


def test_a_parked_till_is_not_expected_until_documents_arrive_after_it_was_parked():
    """Then it is judged by its facts, as any other."""
    silent = {**shift(closes=0), "parked_note": "in repair"}

    assert judged(facts=SILENT, parked_at_ms=1).state == "not expected"
    assert judged(parked_at_ms=800_000, **silent).state == "not expected"
    assert judged(parked_at_ms=799_999, **silent).state == "open"
    assert judged(parked_at_ms=900_000).state == "complete"
    assert "parked: in repair" in judged(parked_at_ms=900_000, **silent).notes


@pytest.mark.fault("F45")
def test_parking_excuses_silence_and_hides_nothing_that_is_known_to_be_lost():
    """What was rung for and never came is silence; a number that central lost, or sums that differ, are not."""
    rung_for = Head("s", 9, 12, 1)

    assert judged(parked_at_ms=900_000, heads=(rung_for,)).state == "not expected"
    assert judged(parked_at_ms=900_000, missing=(HOLE,)).state == "partial"
    assert judged(parked_at_ms=900_000, heads=(rung_for,), missing=(HOLE,)).state == "partial"
    differs = shift(differences=(Difference("by_type", "sale", 1, 0, 1, 0),))
    assert judged(parked_at_ms=900_000, **differs).state == "mismatch"


def test_a_till_that_was_not_there_yet_is_not_expected_although_it_has_proved_itself_since():
    """A day before its time is not complete with nothing."""
    assert judged(facts=SILENT, first_seen_ms=END_MS, verified_at_ms=END_MS + 1).state == "not expected"


def test_a_store_is_as_its_worst_till_that_is_expected():
    """Mismatch before partial before open before complete; nobody expected is no day at all."""
    partial = replace(WELL, till_id="p", missing=(HOLE,))
    mismatch = replace(WELL, till_id="m", **shift(differences=(Difference("by_type", "sale", 1, 0, 1, 0),)))
    parked = replace(SILENT, till_id="q", parked_at_ms=1)

    assert state(WELL, SILENT, partial, mismatch, parked) == "mismatch"
    assert state(WELL, SILENT, partial, parked) == "partial"
    assert state(WELL, SILENT, parked) == "open"
    assert state(WELL, parked) == "complete"
    assert state(parked) == state() == "not expected"


# -- Receipt numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "there", "missing"),
    [
        ((1, 5), {1, 2, 4, 5}, [(3, 3)]),
        ((1, 9), {3, 4, 7}, [(1, 2), (5, 6), (8, 9)]),
        ((1, 2**53), {1}, [(2, 2**53)]),
        ((2, 4), set(), [(2, 4)]),
        ((None, None), {11, 14}, [(12, 13)]),
        ((None, 15), {11, 14}, [(12, 13), (15, 15)]),
        ((None, None), set(), []),
        ((2, 3), {1, 2, 3, 9}, []),
    ],
)
def test_receipt_numbers_have_no_hole_between_what_the_close_names_or_what_is_there(said, there, missing):
    """As ranges: a close that names a huge number costs no more than any other."""
    close = Shift(first_receipt_number=said[0], last_receipt_number=said[1])
    found = judged(**shift(said=close, receipt_numbers=frozenset(there)))

    assert [(one.first, one.last) for one in found.missing] == missing
    assert {one.shift_number for one in found.missing} <= {7}
    assert (found.proofs.numbered, found.state) == ((False, "partial") if missing else (True, "complete"))
    assert found.shifts[0].proofs.numbered is not bool(missing)


def test_a_missing_receipt_is_not_counted_twice():
    """Its receipt number and its sequence are two signs of one document: at least so many are missing."""
    receipts = shift(receipt_numbers=frozenset({1}))

    assert judged(missing=(HOLE,), **receipts).missing_count == 2
    assert judged(missing=(replace(HOLE, last=9),), **receipts).missing_count == 7


def test_a_hole_belongs_to_the_shift_that_it_lies_in_or_beside():
    """The shift before it stays proven."""
    other = replace(SHIFT, number=8, spans=(("s", 20, 25),))
    found = judged(missing=(replace(HOLE, first=6, last=6),), shifts=(SHIFT, other))

    assert [one.proofs.numbered for one in found.shifts] == [False, True]


# -- Which day an unseen document may be of ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "behind", "days"),
    [
        ("02", "04", ["02", "03", "04"]),
        ("04", "02", ["02", "03", "04"]),
        (None, "03", ["02", "03"]),
        (None, "01", ["01"]),
        ("03", None, ["03", "04", "05"]),
        (None, None, ["02", "03", "04", "05"]),
        ("06", None, ["06"]),
    ],
)
def test_an_unseen_document_may_be_of_any_day_between_its_neighbours(before, behind, days):
    """With none behind it, up to when it was seen; with none before it, from when its stream was opened."""
    assert days == [f"0{day}" for day in range(1, 8) if lies_on(f"0{day}", before, behind, "02", "05")]


# -- The store's clock -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "cut_off", "ends"),
    [
        ("UTC", "00:00", "2026-03-02T00:00:00+00:00"),
        ("Europe/Moscow", "05:00", "2026-03-02T05:00:00+03:00"),
        ("Asia/Kathmandu", "23:59", "2026-03-02T23:59:00+05:45"),
    ],
)
def test_a_day_ends_on_the_next_date_at_the_cut_off_in_the_stores_zone(zone, cut_off, ends):
    """And the next one begins at that very moment."""
    from datetime import datetime

    clock = store_clock(zone, cut_off)
    end_ms = round(datetime.fromisoformat(ends).timestamp() * 1000)

    assert clock.ends_at_ms("2026-03-01") == end_ms
    assert (clock.day_at(end_ms - 1), clock.day_at(end_ms)) == ("2026-03-01", "2026-03-02")


def test_a_day_has_23_or_25_hours_when_the_clocks_are_set():
    """Local time decides."""
    clock = store_clock("Europe/Berlin")
    days = [("2026-03-28", "2026-03-29"), ("2026-10-24", "2026-10-25")]
    hours = [(clock.ends_at_ms(day) - clock.ends_at_ms(before)) / 3_600_000 for before, day in days]

    assert hours == [23, 25]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/Havana"])
@pytest.mark.parametrize("cut_off", ["00:00", "02:30"])
def test_every_moment_is_of_exactly_one_day_and_days_never_go_back(zone, cut_off):
    """Also where the clocks are set at the very cut-off: a day that is over does not begin again."""
    clock, before = store_clock(zone, cut_off), ""
    for hour in range(24 * 366):
        at_ms = 1_293_840_000_000 + hour * 3_600_000
        day = clock.day_at(at_ms)
        assert clock.ends_at_ms(day_after(day, -1)) <= at_ms < clock.ends_at_ms(day)
        assert day >= before
        before = day


@pytest.mark.parametrize(
    ("zone", "cut_off", "named"),
    [
        ("Mars/Olympus", "00:00", "time_zone"),
        ("", "00:00", "time_zone"),
        ("../../etc/passwd", "00:00", "time_zone"),
        ("UTC", "24:00", "day_cut_off"),
        ("UTC", "5:00", "day_cut_off"),
        ("UTC", "05:00\n", "day_cut_off"),
    ],
)
def test_a_clock_that_cannot_be_is_refused_with_the_field(zone, cut_off, named):
    """And with an example of what can."""
    with pytest.raises(ClockError, match=f"^{named} must be .*such as"):
        store_clock(zone, cut_off)


@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31"])
def test_the_calendars_ends_are_days_too(day):
    """A till with a broken clock may write them; nothing falls over."""
    clock = store_clock("Asia/Kathmandu", "05:00")

    assert clock.ends_at_ms(day_after(day, -1)) <= clock.ends_at_ms(day) <= clock.ends_at_ms(day_after(day))
    assert len(days_between(day_after(day, -1), day_after(day))) >= 1
