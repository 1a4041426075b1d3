"""The pure part of ingest: what one upload becomes, given its watermark and the heads that were heard."""

from __future__ import annotations

import pytest
from factories import NOW_MS, TILL, a_parcel, a_stream, digest_of, some_sales

from central.batch import Batch, Heard, Mark, NewStream, Outcome, gap_of, with_conflicts
from central.judge import Refused, judge
from wire import chain
from wire.messages import History, Quarantined

START = Mark(a_stream(), 0, chain.first(a_stream()))
BODIES = some_sales(4)


def take(batch, parcel, mark=START, heads=()):
    return batch.take(parcel, mark, heads, judge)


def test_an_upload_that_fits_leaves_its_rows_and_its_mark():
    """A row for each document, in order, and one mark for the stream."""
    batch = Batch(NOW_MS)

    outcome = take(batch, a_parcel(BODIES))

    moved = Mark(a_stream(), 4, digest_of(BODIES))
    assert Outcome(TILL, "advanced", moved, 0, "t1", 4) == outcome
    assert {(TILL, a_stream()): moved} == batch.marks
    assert [(n, f"d{n}") for n in range(1, 5)] == [(row[2], row[5]) for row in batch.documents]


@pytest.mark.parametrize(
    ("parcel", "mark", "kind"),
    [
        (a_parcel(BODIES), None, "unknown_stream"),
        (a_parcel(BODIES[2:], before=BODIES[:2]), START, "not_next"),
        (a_parcel(BODIES), Mark(a_stream(), 2, digest_of(BODIES[:2])), "not_next"),
        (a_parcel(BODIES, digest=b"x" * 16), START, "bad_digest"),
        (a_parcel([], digest=b"x" * 16), START, "bad_digest"),
        (a_parcel(BODIES), Mark(a_stream(), 0, b"x" * 16), "bad_digest"),
    ],
)
def test_an_upload_that_does_not_fit_leaves_nothing(parcel, mark, kind):
    """No row, no mark, no gap; the outcome tells the watermark as it is."""
    batch = Batch(NOW_MS)

    outcome = take(batch, parcel, mark, [Heard(a_stream(), "b", 2, b"x" * 16, written=True)])

    assert (kind, mark or START) == (outcome.kind, outcome.mark)
    assert Batch(NOW_MS) == batch


def test_a_head_beyond_the_upload_stays_open():
    """It will be compared when it is reached."""
    batch = Batch(NOW_MS)
    take(batch, a_parcel(BODIES), START, [Heard(a_stream(), "b", 5, b"x" * 16, written=True)])

    assert (batch.lost, batch.passed) == ([], [])


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("newest", [1, 3, 4])
def test_a_head_within_the_upload_is_compared_at_its_very_number(newest, written):
    """With the digest there it is passed; with another one it becomes a gap; unwritten ones need no deletion."""
    right, wrong = Batch(NOW_MS), Batch(NOW_MS)
    take(right, a_parcel(BODIES), START, [Heard(a_stream(), "b", newest, digest_of(BODIES[:newest]), written)])
    take(wrong, a_parcel(BODIES), START, [Heard(a_stream(), "b", newest, digest_of(BODIES[: newest - 1]), written)])

    passed = [(TILL, a_stream(), "b", newest)] if written else []
    assert ([], passed) == (right.lost, right.passed)
    assert ([(TILL, newest)], passed) == ([(till, one.newest) for till, one, _ in wrong.lost], wrong.passed)


def test_a_take_over_names_each_loss_once():
    """What was pruned above the watermark, and what was rung for and did not come along, per stream."""
    new = NewStream(
        TILL,
        a_stream(3),
        (
            History(stream=a_stream(1), pruned=9, newest=12, digest=b"1" * 16),
            History(stream=a_stream(2), pruned=0, newest=5, digest=b"2" * 16),
        ),
    )
    heads = [
        Heard(a_stream(1), "b", 12, b"1" * 16, written=True),
        Heard(a_stream(2), "b", 7, b"7" * 16, written=True),
        Heard(a_stream(3), "b", 1, b"3" * 16, written=False),
    ]
    batch = Batch(NOW_MS)
    batch.take_over(new, heads)

    assert [(TILL, a_stream(1), 1, 9)] == [gap[:4] for gap in batch.gaps]
    assert [(TILL, heads[1])] == [lost[:2] for lost in batch.lost]
    assert [(TILL, a_stream(1), "b", 12), (TILL, a_stream(2), "b", 7)] == batch.passed


@pytest.mark.parametrize(
    ("agreed", "held", "first"),
    [(b"3" * 16, b"3" * 16, 4), (b"3" * 16, b"x" * 16, 1), (b"3" * 16, None, 1), (None, None, 1)],
)
def test_a_gap_begins_behind_the_history_that_is_provably_held(agreed, held, first):
    """Where central's digest is another one, or unknown, whatever the till takes for stored may be lost."""
    head = Heard(a_stream(), "b", 7, b"7" * 16, after=3, agreed=agreed)

    assert (TILL, a_stream(), first, 7, "why") == gap_of((TILL, head, "why"), lambda *_: held)


def test_a_head_whose_very_history_is_held_leaves_no_gap():
    """An image of a disk rings once more for what it had sent: all of it is here, whatever becomes of its stream."""
    head = Heard(a_stream(), "b", 7, b"7" * 16)

    assert gap_of((TILL, head, "why"), lambda *_: b"7" * 16) is None


def test_a_refused_document_is_quarantined_with_its_bytes_and_their_digest():
    """The same document under the same id is the same entry, whatever stream brings it."""
    batch = Batch(NOW_MS)
    refused = Refused("d1", "conflict", "why")
    for stream, sequence in ((a_stream(1), 3), (a_stream(2), 1)):
        batch.quarantine_one(TILL, stream, sequence, refused, b"body")

    first, second = batch.quarantine
    assert first[7] == second[7]
    assert (first[8], first[4], first[5]) == (b"body", "conflict", "why")


def test_conflicts_are_told_with_the_upload_that_brought_them():
    """Each outcome gets the conflicts of its own till, stream and numbers."""
    outcomes = [
        Outcome(TILL, "advanced", Mark(a_stream(), 2, b""), 0, "t1", 2),
        Outcome(TILL, "advanced", Mark(a_stream(), 4, b""), 2, "t2", 2, (Quarantined(4, "bad_json"),)),
        Outcome("till-2", "advanced", Mark(a_stream(), 4, b""), 0, "t3", 4),
        Outcome(TILL, "not_next", Mark(a_stream(), 4, b""), 0, "t4"),
    ]
    told = with_conflicts(outcomes, [(TILL, a_stream(), Quarantined(3, "conflict"))])

    assert [(), (Quarantined(4, "bad_json"), Quarantined(3, "conflict")), (), ()] == [one.quarantined for one in told]
    assert outcomes == with_conflicts(outcomes, [])
