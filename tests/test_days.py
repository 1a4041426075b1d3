"""A store's days as the database has them: exactly what is missing, what differs, and when a day opened again."""

from __future__ import annotations

import io
import json
from collections import Counter
from itertools import islice
from random import Random

import pytest
from databases import listening
from factories import (
    NOW_MS,
    a_document,
    a_parcel,
    a_receipt,
    a_store,
    a_stream,
    an_outbox,
    as_json,
    digest_of,
    the_catalogue,
)

from central import carriage as at_central
from central import days, decisions
from central.batch import Heard, NewStream
from central.completeness import Missing
from central.day_notes import DayNotes
from central.models import MODELS, Day
from central.shift_sums import Difference
from central.store_clock import day_after, store_clock
from edge import carriage as at_till
from fleet import baskets
from fleet.shift import ShiftBook
from wire.messages import History

DAY, STORE = "2026-03-01", "042"
END_MS = store_clock().ends_at_ms(DAY)
CLOSED_MS, NOON_MS, NEXT_NOON_MS = END_MS - 3_600_000, END_MS - 12 * 3_600_000, END_MS + 12 * 3_600_000


@pytest.fixture
def store(central_url):
    """Return central's database in a file, with the models bound to it."""
    made = a_store(central_url)
    with made.database.bind_ctx(MODELS):
        yield made
    made.close()


def run(store, statement, *values):
    cursor = store.database.run(statement, values)
    return cursor.fetchall() if cursor.description else []


class Till:
    """Closes documents in one stream and sends them, keeping its shift's sums as a POS does."""

    def __init__(self, store, till="till-1", stream=None, store_id=STORE):
        self.store, self.till, self.stream, self.store_id = store, till, stream or a_stream(), store_id
        self.sent, self.book, self.receipts = [], ShiftBook(), 0
        store.open_streams([NewStream(till, self.stream, ())], {}, NOON_MS)

    def document(self, kind="sale", day=DAY, number=1, **fields):
        """Close a document, a receipt of 100 unless it is said to be another; it counts in the shift's sums."""
        name = f"{self.till}-{self.stream}-{len(self.sent) + 1}"
        head = {"till_id": self.till, "store_id": self.store_id, "business_day": day, "shift_number": number}
        if kind in ("sale", "return"):
            self.receipts += 1
            made = a_receipt(name, kind, **{"total_minor": 100, "receipt_number": self.receipts, **head, **fields})
        else:
            made = a_document(name, kind, **head, **fields)
        self.book.add(made)
        return self.send(made)

    def send(self, *documents, at_ms=CLOSED_MS):
        """Send documents as they are; returns the number of the last one."""
        bodies = [one if isinstance(one, bytes) else as_json(one) for one in documents]
        outcome = self.store.ingest([a_parcel(bodies, self.till, before=self.sent, stream=self.stream)], {}, at_ms)[0]
        assert outcome.kind == "advanced"
        self.sent += bodies
        return len(self.sent)

    def open(self, **fields):
        self.book, self.receipts = ShiftBook(), 0
        return self.document("shift_open", **fields)

    def close(self, day=DAY, number=1, change=None):
        """Close the shift with its sums; ``change`` may falsify them."""
        summary = self.book.summary()
        if change:
            change(summary)
        return self.document("shift_close", day, number, shift=summary)

    def shift(self, receipts=3, day=DAY, number=1):
        self.open(day=day, number=number)
        for _ in range(receipts):
            self.document(day=day, number=number)
        self.close(day, number)
        return self

    def verify(self, at_ms=CLOSED_MS):
        """Ring with exactly what central has."""
        self.store.note(at_ms, verified=[(self.till, self.stream)])
        return self


def look(day=DAY, store_id=STORE, now_ms=NEXT_NOON_MS, till=None):
    return days.store_day(store_id, day, now_ms, till)


def missing_of(found):
    return [(one.kind, one.first, one.last) for till in found.tills for one in till.missing]


# -- Numbered ----------------------------------------------------------------------------------------------------------


def test_one_lost_document_makes_the_day_partial_with_exactly_its_number(store):
    """Row 118 is deleted: 118 is missing, nothing else; it is put back: the day is complete."""
    Till(store).shift(130).verify()
    assert (look().state, look().missing_count) == ("complete", 0)
    store.database.run("CREATE TABLE aside AS SELECT * FROM document WHERE sequence = 118")
    store.database.run("DELETE FROM document WHERE sequence = 118")

    found = look()
    assert found.state == "partial"
    assert ("sequence", 118, 118) in missing_of(found)
    assert missing_of(found) == [("sequence", 118, 118), ("receipt_number", 117, 117)]
    assert found.missing_count == 1
    assert "tillstream central request --day 2026-03-01 --store 042" in found.tills[0].next_steps[0]

    store.database.run("INSERT INTO document SELECT * FROM aside")
    assert look().state == "complete"


def test_a_day_that_was_lost_as_a_whole_is_not_complete_where_its_stream_begins(store):
    """Nothing is left of it, and nothing stands before it: from when the stream was opened, any day may be meant."""
    till = Till(store)
    for number, day in enumerate((DAY, "2026-03-02"), 1):
        till.shift(2, day, number)
    till.verify(END_MS)
    assert look().state == "complete"
    store.database.run("DELETE FROM document WHERE business_day = ?", (DAY,))

    assert (look().state, missing_of(look())) == ("partial", [("sequence", 1, 4)])


def test_a_day_that_was_lost_in_one_stream_is_missing_although_another_has_documents_of_it(store):
    """The till went on in a new stream that day; of the older one the whole day is gone."""
    before = Till(store).shift(2, "2026-02-28", 1).shift(2, DAY, 2)
    after = Till(store, stream=a_stream(2)).shift(2, DAY, 3).verify()
    assert look().state == "complete"
    store.database.run("DELETE FROM document WHERE stream = ? AND sequence > 4", (before.stream,))

    assert len(after.sent) == 4
    assert missing_of(look()) == [("sequence", 5, 8)]


@pytest.mark.parametrize("seed", range(40))
def test_no_day_with_a_lost_document_is_complete_and_every_day_without_one_is(store, seed):
    """Whatever the tills sold, over three days: days are compared with what was really closed and really lost."""
    rng = Random(seed)
    every_day = ("2026-02-28", DAY, "2026-03-02")
    for name in ("till-1", "till-2")[: rng.randint(1, 2)]:
        till, number = Till(store, name, a_stream(int(name[-1]))), rng.choice((1, 10**9))
        for day in every_day:
            number += 1
            crosses = rng.random() < 0.3 and day != every_day[-1]
            till.open(day=day, number=number)
            for place in range(rng.randint(0, 5)):
                flags = {"flags": ["training"]} if rng.random() < 0.2 else {}
                till.document(day=day_after(day, 1) if crosses and place > 2 else day, number=number, **flags)
            till.close(day_after(day, 1) if crosses else day, number)
        till.verify(NEXT_NOON_MS + 86_400_000)
    now_ms = NEXT_NOON_MS + 2 * 86_400_000
    store.database.run("UPDATE till SET first_seen_ms = first_seen_ms - 86400000")
    store.database.run(
        "UPDATE watermark SET opened_at_ms = opened_at_ms - 86400000, moved_at_ms = moved_at_ms + 86400000"
    )
    assert {look(day, now_ms=now_ms).state for day in every_day} == {"complete"}
    documents = run(store, "SELECT id, till_id, business_day FROM document")
    whole = rng.choice(documents)[1:]
    lost = [one for one in documents if (one[1:] == whole if seed % 2 else rng.random() < 0.1)]
    for number, _, _ in lost:
        store.database.run("DELETE FROM document WHERE id = ?", (number,))

    for day in {day for _, _, day in lost}:
        assert look(day, now_ms=now_ms).state == "partial"
    if not lost:
        assert {look(day, now_ms=now_ms).state for day in every_day} == {"complete"}


@pytest.mark.parametrize(
    ("lost", "missing"), [((1, 1), (1, 1)), ((5, 5), (5, 5)), ((2, 4), (2, 4))], ids=["first", "last", "a range"]
)
def test_a_hole_is_found_at_the_edges_of_a_day_too(store, lost, missing):
    """Below the first number there is the stream's beginning, above the last one the watermark."""
    Till(store).shift(3).verify()
    store.database.run("DELETE FROM document WHERE sequence BETWEEN ? AND ?", lost)

    assert ("sequence", *missing) in missing_of(look())


def test_a_hole_between_two_days_is_missing_on_both_and_on_no_other(store):
    """The last of one day and the first of the next are gone: nobody can say which day the two were of."""
    till = Till(store)
    for number, day in enumerate(("2026-02-27", "2026-02-28", DAY), 1):
        till.shift(2, day, number)
    till.verify(END_MS)
    store.database.run("DELETE FROM document WHERE sequence IN (8, 9)")

    assert [look(day).state for day in ("2026-02-27", "2026-02-28", DAY)] == ["complete", "partial", "partial"]
    assert ("sequence", 8, 9) in missing_of(look("2026-02-28"))
    assert ("sequence", 8, 9) in missing_of(look())


def test_a_day_that_was_lost_as_a_whole_is_not_a_day_without_sales(store):
    """All of its numbers are gone: it is not complete with nothing."""
    till = Till(store)
    for number, day in enumerate(("2026-02-28", DAY, "2026-03-02"), 1):
        till.shift(2, day, number)
    till.verify(END_MS + 1)
    store.database.run("UPDATE till SET store_id = ?", (STORE,))
    store.database.run("DELETE FROM document WHERE business_day = ?", (DAY,))

    found = look()
    assert (found.state, missing_of(found)) == ("partial", [("sequence", 5, 8)])


def test_a_hole_of_another_day_does_not_touch_a_day_with_a_late_document(store):
    """A document of the first day comes a day late: what is lost between is not the first day's."""
    till = Till(store)
    till.open()
    late = a_receipt("late", total_minor=100, business_day=DAY, shift_number=1, receipt_number=1, store_id=STORE)
    till.book.add(late)
    till.close()
    till.shift(4, "2026-03-02", 2)
    till.send(late)
    till.verify(END_MS)
    assert look().state == "complete"
    store.database.run("DELETE FROM document WHERE sequence = 5")

    assert look().state == "complete"
    assert missing_of(look("2026-03-02")) == [("sequence", 5, 5), ("receipt_number", 2, 2)]


def test_numbers_whose_documents_were_here_before_are_no_hole(store):
    """A till renumbered its documents into a new stream: central skipped what it had, and says so."""
    old = Till(store)
    old.open()
    old.document()
    history = History(stream=old.stream, newest=2, digest=digest_of(old.sent))
    store.open_streams([NewStream("till-1", a_stream(2), (history,))], {}, CLOSED_MS)
    new = Till(store, stream=a_stream(2))
    new.book, new.receipts = old.book, old.receipts
    new.send(*old.sent)
    new.document()
    new.close()
    new.verify()

    assert [1, 2] == [row[0] for row in run(store, "SELECT sequence FROM held_before ORDER BY sequence")]
    assert (look().state, look().tills[0].documents) == ("complete", 4)


def test_a_receipt_number_that_is_skipped_is_missing(store):
    """The stream is whole and the sums agree: the POS lost a receipt before it handed it over."""
    till = Till(store)
    till.open()
    till.document()
    till.document(receipt_number=3)
    till.close()
    till.verify()

    found = look()
    assert (found.state, found.tills[0].missing) == ("partial", (Missing("receipt_number", 2, 2, shift_number=1),))
    assert found.missing_count == 1


# -- Quarantine and gaps -----------------------------------------------------------------------------------------------


def test_a_document_in_quarantine_is_listed_with_its_reason_until_it_is_accepted(store):
    """Handed over again under the same id, and right this time, it is settled."""
    till = Till(store)
    till.open()
    wrong = a_receipt("r1", total_minor=100, business_day=DAY, shift_number=1, store_id=STORE, receipt_number=1)
    till.send(wrong | {"totals": {"total_minor": 99}})
    till.document()
    till.book.add(wrong)
    till.close(change=lambda said: said.update(last_receipt_number=1))
    till.verify()

    found = look()
    ((kind, first, last), *rest) = missing_of(found)
    assert (found.state, kind, first, last, rest) == ("partial", "quarantined", 2, 2, [])
    assert found.tills[0].missing[0].code == "totals_mismatch"
    assert "tillstream central quarantine --till till-1" in found.tills[0].next_steps

    till.send(wrong)
    till.verify()
    assert look().state == "complete"


def test_an_id_that_was_used_for_two_documents_is_listed_for_good(store):
    """One of the two was never stored: that its id is stored settles nothing."""
    till = Till(store).shift(1)
    till.send(json.loads(till.sent[1]) | {"note": "another"})
    till.verify()

    assert (look().state, missing_of(look())) == ("partial", [("quarantined", 4, 4)])
    assert look().tills[0].missing[0].code == "conflict"


def test_a_till_of_which_everything_is_in_quarantine_is_not_a_till_without_sales(store):
    """Its stream holds no document at all: the days since it was opened are partial."""
    till = Till(store)
    store.database.run("UPDATE till SET store_id = ?", (STORE,))
    till.send(b'{"document_id":"bad"}')
    till.verify(END_MS)

    assert (look().state, missing_of(look())) == ("partial", [("quarantined", 1, 1)])


def test_an_open_gap_makes_the_days_it_may_be_of_partial_until_a_person_closes_it(store):
    """A restored image cannot send what was rung for: that day, and not the ones before."""
    till = Till(store)
    till.shift(2, "2026-02-28", 1).shift(2, DAY, 2).verify()
    rung = Heard(till.stream, "boot", 11, b"x" * 16, after=8, agreed=digest_of(till.sent[:8]))
    store.open_streams([NewStream("till-1", a_stream(2), ())], {"till-1": (rung,)}, CLOSED_MS)
    store.note(CLOSED_MS, verified=[("till-1", a_stream(2))])

    assert (look().state, missing_of(look())) == ("partial", [("gap", 9, 11)])
    assert look("2026-02-28").state == "complete"
    store.database.run("UPDATE gap SET closed_at_ms = 1")
    assert look().state == "complete"


# -- Reconciled --------------------------------------------------------------------------------------------------------


def test_a_close_that_is_off_by_one_minor_unit_is_a_mismatch_with_exactly_that_difference(store):
    """Block, key, counts, and what is stored less what was said."""
    till = Till(store)
    till.open()
    till.document()
    till.document()

    def falsify(summary):
        summary["by_tender"]["sale.cash"]["amount_minor"] += 1

    till.close(change=falsify)
    till.verify()

    found = look()
    difference = Difference("by_tender", "sale.cash", 2, 2, 201, 200)
    assert (found.state, found.missing_count) == ("mismatch", 0)
    assert found.tills[0].shifts[0].differences == (difference,)
    assert difference.difference_minor == -1


@pytest.mark.parametrize("day", [DAY, "2026-03-02"])
def test_a_shift_over_midnight_is_one_shift_on_both_of_its_days(store, day):
    """Its documents carry two business days; the sums are those of both."""
    till = Till(store)
    till.open()
    till.document()
    till.document(day="2026-03-02")
    till.close("2026-03-02")
    till.verify(END_MS + 86_400_000)

    found = look(day, now_ms=END_MS + 2 * 86_400_000)
    assert (found.state, found.tills[0].shifts[0].documents) == ("complete", 4)


def test_a_shift_that_is_not_closed_keeps_the_day_open(store):
    """Named, with what to do."""
    till = Till(store)
    till.open()
    till.document()
    till.verify()

    found = look()
    assert (found.state, found.tills[0].notes) == ("open", ("shift 1: not closed yet",))
    assert "close shift 1 on the till" in found.tills[0].next_steps
    assert found.tills[0].proofs.reconciled is None


def test_many_shifts_of_a_day_are_judged_each_for_itself(store):
    """The second one differs; the first one stays proven."""
    till = Till(store).shift(2)
    till.open(number=2)
    till.document(number=2)
    till.close(number=2, change=lambda said: said["by_type"].update(sale={"count": 2, "amount_minor": 100}))
    till.verify()

    assert [True, False] == [shift.proofs.reconciled for shift in look().tills[0].shifts]


def test_a_shift_that_was_closed_twice_proves_nothing(store):
    """Which documents belong to which close cannot be told: unknown, and said so."""
    till = Till(store).shift(1)
    till.close()
    till.verify()

    (shift,) = look().tills[0].shifts
    assert (look().state, shift.proofs.reconciled, shift.differences) == ("open", None, ())
    assert "closed 2 times" in shift.note


def carry(outbox, store, made_at_ms, at_ms):
    """Export what the till has not been told is stored, and import it later."""
    file = io.BytesIO()

    def give(begin, through):
        return at_till.export_chunk(outbox, "boot-1", begin, through)

    at_till.export(file, give, "till-1", "token-" * 5, None, made_at_ms)
    at_central.take_in(store, file, lambda _: "token-" * 5, (), at_ms)


def test_a_file_proves_a_day_only_as_far_as_it_reaches(store):
    """Carried away at noon and imported the next day: what was sold in between is not here, and nobody says it is.

    The next file was made after the day's end, and proves that there is nothing more.
    """
    outbox = an_outbox()
    book = ShiftBook()
    for kind in ("shift_open", "shift_close"):
        head = {"store_id": STORE, "business_day": "2026-02-28", "shift_number": 1}
        made = a_document(kind, kind, **head, **({"shift": book.summary()} if kind == "shift_close" else {}))
        book.add(made)
        outbox.append(kind, as_json(made), NOON_MS)
    store.database.run("INSERT INTO till SELECT 'till-1', ?, true, 0, true, -1, NULL, '{}', NULL, NULL, ''", (STORE,))
    carry(outbox, store, NOON_MS, END_MS + 60_000)

    assert look("2026-02-28").state == "complete"
    assert look(DAY).state == "open"
    carry(outbox, store, END_MS + 60_000, END_MS + 120_000)
    assert look(DAY).state == "complete"
    outbox.database.close()


# -- Verified, silent and parked tills ---------------------------------------------------------------------------------


def test_what_was_rung_for_and_never_came_is_named(store):
    """The head that central heard stands above the watermark."""
    till = Till(store).shift(1)
    store.note(CLOSED_MS, heads=[("till-1", Heard(till.stream, "boot", 9, b"x" * 16))])

    found = look()
    assert (found.state, missing_of(found)) == ("partial", [("rung_for", 4, 9)])
    assert found.tills[0].proofs.verified is False


def test_yesterday_stays_complete_while_today_is_being_sold(store):
    """Today's documents move the watermark past the proof of the night; another stream's opening does not matter."""
    till = Till(store).shift(1).verify(END_MS + 1)
    till.send(a_receipt("today", business_day="2026-03-02", store_id=STORE), at_ms=END_MS + 500)
    store.note(END_MS + 600, heads=[("till-1", Heard(till.stream, "boot", 9, b"x" * 16))])
    assert look().state == "complete"

    Till(store, stream=a_stream(2))
    assert look().state == "complete"


def test_a_silent_till_of_the_store_keeps_its_day_open_until_it_is_parked_or_rings(store):
    """Nothing heard is not nothing sold."""
    Till(store).shift().verify()
    silent = Till(store, "till-2")
    store.database.run("UPDATE till SET store_id = ?", (STORE,))
    assert [("till-2", "open"), ("till-1", "complete")] == [(one.till_id, one.state) for one in look().tills]

    silent.verify(END_MS)
    assert look().state == "complete"


@pytest.mark.fault("F45")
def test_parking_lets_a_day_close_and_a_late_receipt_opens_it_again(store):
    """The parked till's receipt arrives after all: the till is expected again, and its shift is not closed."""
    Till(store).shift().verify()
    parked = Till(store, "till-2")
    parked.open()
    parked.verify()
    assert look().state == "open"

    decisions.park("till-2", "in repair", CLOSED_MS + 1)
    assert look().state == "complete"
    assert [("till-1", "complete"), ("till-2", "not expected")] == [(one.till_id, one.state) for one in look().tills]

    parked.send(a_receipt("late", till_id="till-2", business_day=DAY, store_id=STORE), at_ms=END_MS + 5)
    assert look().state == "open"
    decisions.unpark("till-2", "", END_MS + 6)
    assert look().state == "open"


def test_the_stores_clock_decides_when_a_day_is_over(store):
    """Moscow, cut off at five: two in the morning there is still the day before."""
    Till(store).shift().verify()
    decisions.set_store_clock(STORE, "Europe/Moscow", "05:00", NOW_MS)
    two_o_clock_ms = END_MS + 2 * 3_600_000 - 1

    assert [look(now_ms=two_o_clock_ms).state, look(now_ms=two_o_clock_ms + 1).state] == ["open", "complete"]


# -- Whose documents these are -----------------------------------------------------------------------------------------


def test_documents_that_name_no_store_are_of_the_store_their_till_shows(store):
    """And of the store without a name if it shows none."""
    Till(store, store_id="").shift().verify()
    assert (look(store_id="").tills[0].documents, look().tills) == (5, ())
    assert days.stores_on(DAY) == [""]

    store.database.run("UPDATE till SET store_id = ?", (STORE,))
    assert (look(store_id="").tills, look().tills[0].documents) == ((), 5)
    assert days.stores_on(DAY) == [STORE]


def test_a_till_that_shows_no_store_is_at_home_where_its_newest_document_is_from(store):
    """On a day on which it sold nothing it is expected there, and not in a store without a name."""
    Till(store).shift().verify()

    assert [one.till_id for one in look("2026-03-02").tills] == ["till-1"]
    assert look("2026-03-02", "").tills == ()
    assert days.stores_on("2026-03-02") == []
    assert days.stores_on(DAY) == [STORE]


def test_the_same_shift_number_of_another_till_or_store_is_another_shift(store):
    """Two tills, both shift 1, and a till of another store."""
    for number, store_id in ((1, STORE), (2, STORE), (3, "043")):
        Till(store, f"till-{number}", a_stream(number), store_id).shift(number).verify()

    assert [3, 4] == [one.documents for one in look().tills]
    assert {look().state, look(store_id="043").state} == {"complete"}
    assert look().totals_minor == {"RUB": {"sale": 300}}
    assert [one.till_id for one in look(till="till-2").tills] == ["till-2"]


# -- Transitions -------------------------------------------------------------------------------------------------------


def notes(store, now_ms=NEXT_NOON_MS, limit=10, looks=None):
    looks = looks or DayNotes(store.database)
    return [(one.business_day, one.event) for one in looks.note_days(now_ms, limit)]


def test_a_day_is_noted_complete_once_and_again_when_a_late_receipt_opened_it(store):
    """Each change is returned once, and the row keeps when it was."""
    looks, till = DayNotes(store.database), Till(store).shift()
    till.verify()
    assert notes(store, END_MS - 1, looks=looks) == []
    assert notes(store, END_MS, looks=looks) == [(DAY, "day_complete")]
    assert notes(store, END_MS + 1, looks=looks) == []

    till.document()
    till.verify(END_MS + 2)
    assert notes(store, END_MS + 3, looks=looks) == [(DAY, "day_reopened")]
    row = Day.get()
    assert (row.state, row.since_ms) == ("mismatch", END_MS + 3)
    assert (row.completed_at_ms, row.reopened_at_ms) == (END_MS, END_MS + 3)


def test_a_day_becomes_complete_without_any_document_when_its_time_has_come(store):
    """The last document came hours before the end; a restart in between forgets nothing."""
    Till(store).shift().verify()
    assert notes(store, END_MS - 1) == []

    assert notes(store, END_MS) == [(DAY, "day_complete")]


def test_a_bad_document_that_comes_late_opens_the_day_that_it_lies_beside(store):
    """It says no day itself; nothing but quarantine grew."""
    looks, till = DayNotes(store.database), Till(store).shift()
    till.verify()
    assert notes(store, looks=looks) == [(DAY, "day_complete")]

    till.send(b'{"document_id":"bad"}', at_ms=END_MS + 5)
    till.verify(END_MS + 6)
    assert notes(store, looks=looks) == [(DAY, "day_reopened")]


def test_a_gap_that_is_found_later_opens_the_day_before_it(store):
    """The till comes back from a disk image: what it rang for in the evening is gone."""
    looks, till = DayNotes(store.database), Till(store).shift()
    till.verify()
    assert notes(store, looks=looks) == [(DAY, "day_complete")]

    rung = Heard(till.stream, "boot", 9, b"x" * 16, after=3, agreed=digest_of(till.sent[:3]))
    store.open_streams([NewStream("till-1", a_stream(2), ())], {"till-1": (rung,)}, NEXT_NOON_MS)
    assert notes(store, looks=looks) == [(DAY, "day_reopened")]


def test_a_look_is_bounded_and_the_next_one_goes_on(store):
    """Five days are unsettled; two are looked at each time, and none twice before all were."""
    till = Till(store)
    names = [day_after(DAY, -back) for back in range(5)]
    for number, day in enumerate(names, 1):
        till.shift(1, day, number)
    till.verify(END_MS)
    looks = DayNotes(store.database)

    seen = [notes(store, looks=looks, limit=2) for _ in range(4)]

    assert [2, 2, 1, 0] == [len(one) for one in seen]
    assert sorted(names) == sorted(day for one in seen for day, _ in one)


def test_days_that_stay_unsettled_take_turns(store):
    """A day that nobody mends does not keep the others from being looked at."""
    till = Till(store)
    for number in range(1, 6):
        till.open(day=day_after(DAY, -number), number=number)
    looks = DayNotes(store.database)
    looks.note_days(NEXT_NOON_MS, 10)
    seen = Counter()
    for _ in range(5):
        before = looks._last
        assert looks.note_days(NEXT_NOON_MS, 1) == []
        assert before != looks._last
        seen[looks._last] += 1

    assert set(seen.values()) == {1}


def test_a_store_whose_time_zone_this_machine_does_not_know_stops_no_worker(store, caplog):
    """Its days wait, with a word in the log; the others go on."""
    Till(store).shift().verify()
    Till(store, "till-2", a_stream(2), "043").shift().verify()
    run(store, "INSERT INTO store (store_id, time_zone, day_cut_off) VALUES (?, 'Mars/Olympus', '00:00')", STORE)

    assert notes(store) == [(DAY, "day_complete")]
    assert "store_clock" in caplog.messages


# -- A random day, and what it costs -----------------------------------------------------------------------------------


def a_generated_day(store, seed, till="till-1", documents=40, stream=None):
    """Ingest one shift of a generated till and return its business day."""
    register = baskets.Register(till, Random(seed), the_catalogue(), STORE, shift_documents=documents)
    closed = list(islice(baskets.documents(register, NOW_MS), 2 * documents))
    closed = closed[: 1 + [one["transaction_type"] for one in closed].index("shift_close")]
    made = Till(store, till, stream)
    made.send(*[baskets.encode(one) for one in closed], at_ms=NOW_MS + 1)
    made.verify(NOW_MS + 2)
    return closed[0]["business_day"], len(closed)


@pytest.mark.parametrize("seed", range(6))
def test_a_random_day_is_complete_and_without_any_one_document_it_names_it(store, seed):
    """Whatever a till closes adds up; whichever document is lost, its very number is named."""
    day, closed = a_generated_day(store, seed)
    now_ms = NOW_MS + 5 * 86_400_000
    assert look(day, now_ms=now_ms).state == "complete"
    for number in range(1, closed + 1):
        with store.database.atomic() as lost:
            store.database.run("DELETE FROM document WHERE sequence = ?", (number,))
            found = look(day, now_ms=now_ms)
            assert found.state == "partial", number
            assert ("sequence", number, number) in missing_of(found)
            assert [1] == [one.count for one in found.tills[0].missing if one.kind == "sequence"]
            lost.rollback()


def test_a_day_costs_a_few_statements_a_till_whatever_it_sold(store):
    """Twenty tills: as many statements with thirty documents each as with ten, and at most four a till."""

    def statements(documents, first):
        for number in range(first, first + 20):
            day, _ = a_generated_day(store, number, f"till-{number}", documents, a_stream(number + 1))
        seen = []
        with listening(store.database, seen.append):
            found = look(day, now_ms=NOW_MS + 5 * 86_400_000)
        assert {one.state for one in found.tills} == {"complete"}
        return len(seen), len(found.tills)

    few, _ = statements(10, 0)
    store.database.run("DELETE FROM document")
    store.database.run("DELETE FROM till")
    store.database.run("DELETE FROM watermark")
    many, tills = statements(30, 100)

    assert (few, tills) == (many, 20)
    assert few <= 12 + 4 * tills


@pytest.mark.parametrize("store_id", [STORE, ""], ids=["by its tills", "by its documents"])
def test_a_store_of_very_many_tills_is_not_looked_at_by_the_way(store, store_id, monkeypatch, caplog):
    """A fleet that names no stores would be one day of ten thousand tills; asked for, it is worked out all the same."""
    for number in (1, 2):
        Till(store, f"till-{number}", a_stream(number)).shift(2).verify()
    store.database.run("UPDATE till SET store_id = ?", (store_id,))
    monkeypatch.setattr("central.day_notes.STORE_TILLS_MOST", 1)
    notes = DayNotes(store.database)
    assert notes.note_days(NEXT_NOON_MS, 9) == notes.note_days(NEXT_NOON_MS, 9) == []
    assert caplog.messages == ["store_too_large"]
    assert look().state == "complete"

    monkeypatch.setattr("central.day_notes.STORE_TILLS_MOST", 2)
    assert [one.event for one in DayNotes(store.database).note_days(NEXT_NOON_MS, 9)] == ["day_complete"]
