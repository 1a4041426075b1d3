"""Central's database: one transaction for many tills, decided on the rows, and nothing missing in silence."""

from __future__ import annotations

import json
from collections import Counter

import peewee as pw
import pytest
from databases import listening, refuse
from factories import (
    NOW_MS,
    TILL,
    a_parcel,
    a_receipt,
    a_sale,
    a_store,
    a_stream,
    as_json,
    digest_of,
    some_baskets,
    some_sales,
)

from central.batch import Heard, Mark, NewStream, OpenTask
from central.store import FOLLOWED_AT_ONCE
from wire import chain
from wire.messages import History, Quarantined


@pytest.fixture
def store(central_url):
    """Return an empty database."""
    made = a_store(central_url)
    yield made
    made.close()


def opened(store, *tills, stream=None, previous=(), heard=None):
    """Make each till's stream known, as a doorbell does."""
    streams = [NewStream(till, stream or a_stream(), previous) for till in tills or (TILL,)]
    return store.open_streams(streams, heard or {}, NOW_MS)


def rows(store, statement, *values):
    return store.database.run(statement, values).fetchall()


def mark_of(store, till=TILL, stream=None):
    statement = "SELECT stream, through, digest FROM watermark WHERE till_id = ? AND stream = ?"
    return Mark(*rows(store, statement, till, stream or a_stream())[0])


def sequences(store, table="document", till=TILL):
    return [row[0] for row in rows(store, f"SELECT sequence FROM {table} WHERE till_id = ? ORDER BY id", till)]


def gaps(store):
    return rows(store, "SELECT stream, first, last FROM gap ORDER BY id")


def statements(store, act):
    """Return the first words of the statements that reach the database while ``act`` runs."""
    seen = []
    with listening(store.database, seen.append):
        act()
    return Counter(text.split("(")[0].strip().split(" ")[0] for text in seen)


# -- Ingest ------------------------------------------------------------------------------------------------------------


def test_documents_and_watermark_move_together(store):
    """The exact bytes, the fields that are searched by, and the row that says how far it goes."""
    opened(store)
    bodies = some_sales(3)

    outcome = store.ingest([a_parcel(bodies)], {}, NOW_MS)[0]

    moved = Mark(a_stream(), 3, digest_of(bodies))
    assert ("advanced", moved, 0, 3, ()) == (
        outcome.kind, outcome.mark, outcome.after, outcome.documents, outcome.quarantined,
    )  # fmt: skip
    assert moved == mark_of(store)
    assert [(n, f"d{n}", body, 12_300) for n, body in enumerate(bodies, 1)] == rows(
        store, "SELECT sequence, document_id, body, total_minor FROM document ORDER BY id"
    )


def test_many_tills_are_one_transaction(store):
    """Two hundred uploads are committed once: one BEGIN, one COMMIT, and one read of the watermarks."""
    tills = [f"till-{number}" for number in range(200)]
    opened(store, *tills)
    parcels = [a_parcel([a_sale(till_id=till)], till) for till in tills]
    outcomes = []

    seen = statements(store, lambda: outcomes.extend(store.ingest(parcels, {}, NOW_MS)))

    assert (1, 1, 1, 0) == (seen["BEGIN"], seen["COMMIT"], seen["SELECT"], seen["ROLLBACK"])
    assert tills == [outcome.till for outcome in outcomes]
    assert {"advanced"} == {outcome.kind for outcome in outcomes}
    assert rows(store, "SELECT count(*) FROM document") == [(200,)]


def test_many_streams_are_opened_in_one_transaction(store):
    """A fleet that comes back is registered at once."""
    tills = [f"till-{number}" for number in range(200)]

    seen = statements(store, lambda: opened(store, *tills))

    assert (1, 1) == (seen["BEGIN"], seen["COMMIT"])


def test_an_upload_that_does_not_begin_at_the_watermark_stores_nothing(store):
    """Ahead, behind and repeated are all ``not_next``, and are told the row's watermark."""
    opened(store)
    bodies = some_sales(5)
    store.ingest([a_parcel(bodies[:2])], {}, NOW_MS)
    at_two = Mark(a_stream(), 2, digest_of(bodies[:2]))

    for parcel in (a_parcel(bodies[3:], before=bodies[:3]), a_parcel(bodies[:2]), a_parcel([], before=bodies)):
        outcome = store.ingest([parcel], {}, NOW_MS)[0]
        assert ("not_next", at_two, 0) == (outcome.kind, outcome.mark, outcome.documents)

    assert [1, 2] == sequences(store)


def test_an_upload_whose_documents_do_not_make_its_digest_stores_nothing(store):
    """A damaged document, or one that was swapped, is noticed before anything is written."""
    opened(store)

    outcome = store.ingest([a_parcel(some_sales(2), digest=b"x" * 16)], {}, NOW_MS)[0]

    assert ("bad_digest", Mark(a_stream(), 0, chain.first(a_stream()))) == (outcome.kind, outcome.mark)
    assert sequences(store) == []


def test_an_upload_of_a_stream_that_nobody_rang_for_stores_nothing(store):
    """Known streams are those of doorbells; the till is asked for its own."""
    outcome = store.ingest([a_parcel(some_sales(1))], {}, NOW_MS)[0]

    assert outcome.kind == "unknown_stream"
    assert rows(store, "SELECT count(*) FROM watermark") == rows(store, "SELECT count(*) FROM document") == [(0,)]


def test_an_empty_upload_agrees_or_does_not(store):
    """Nothing is written for it; a digest that differs is told."""
    opened(store)
    store.ingest([a_parcel(some_sales(2))], {}, NOW_MS)
    before = rows(store, "SELECT * FROM watermark")

    outcomes = store.ingest([a_parcel([], before=some_sales(2)), a_parcel([], digest=b"x" * 16)], {}, NOW_MS + 5)

    assert ["advanced", "not_next"] == [outcome.kind for outcome in outcomes]
    assert before == rows(store, "SELECT * FROM watermark")


def test_two_uploads_of_one_till_in_one_transaction_follow_each_other(store):
    """The second is checked against where the first one ended; a repeat of the first is not next."""
    opened(store)
    bodies = some_sales(4)
    first, second = a_parcel(bodies[:2]), a_parcel(bodies[2:], before=bodies[:2])

    outcomes = store.ingest([first, first, second], {}, NOW_MS)

    assert ["advanced", "not_next", "advanced"] == [outcome.kind for outcome in outcomes]
    assert [2, 2, 4] == [outcome.mark.through for outcome in outcomes]
    assert [1, 2, 3, 4] == sequences(store)


def test_the_same_number_of_two_tills_and_the_same_id_are_two_documents(store):
    """Identity is till and document id, never across tills."""
    opened(store, "till-1", "till-2")

    store.ingest([a_parcel([a_sale(till_id=till)], till) for till in ("till-1", "till-2")], {}, NOW_MS)

    assert [("till-1", 1), ("till-2", 1)] == rows(store, "SELECT till_id, sequence FROM document ORDER BY id")


def test_a_bad_document_counts_and_stands_beside(store):
    """Its number is passed, its exact bytes are kept with the reason, and the answer names it."""
    opened(store)
    bodies = [a_sale("d1"), as_json(a_receipt("d2", totals={"total_minor": 1})), a_sale("d3")]

    outcome = store.ingest([a_parcel(bodies)], {}, NOW_MS)[0]

    assert (Quarantined(2, "totals_mismatch"),) == outcome.quarantined
    assert [1, 3] == sequences(store)
    assert [(2, "d2", bodies[1])] == rows(store, "SELECT sequence, document_id, body FROM quarantine")
    assert mark_of(store).through == 3


def test_a_renumbered_stream_brings_nothing_twice(store):
    """Documents that central has are skipped by their identity, quarantined ones too; new ones are stored."""
    bodies = [a_sale("d1"), as_json(a_receipt("d2", totals={"total_minor": 1})), a_sale("d3"), a_sale("d4")]
    opened(store)
    store.ingest([a_parcel(bodies[:3])], {}, NOW_MS)
    opened(store, stream=a_stream(2))

    outcome = store.ingest([a_parcel(bodies[1:], stream=a_stream(2))], {}, NOW_MS + 1)[0]

    assert ("advanced", 3) == (outcome.kind, outcome.mark.through)
    assert ["d1", "d3", "d4"] == [row[0] for row in rows(store, "SELECT document_id FROM document ORDER BY id")]
    assert ["d2"] == [row[0] for row in rows(store, "SELECT document_id FROM quarantine")]


def test_the_same_id_with_other_bytes_is_a_conflict_within_and_across_uploads(store):
    """Quarantined with where the first one stands; the original is untouched, and the answer names the number."""
    opened(store)
    first, second, third = (a_sale("d1", total_minor=amount) for amount in (1, 2, 3))

    outcomes = [
        store.ingest([a_parcel([first, second])], {}, NOW_MS)[0],
        store.ingest([a_parcel([third, a_sale("d2")], before=[first, second])], {}, NOW_MS)[0],
    ]

    assert [(Quarantined(2, "conflict"),), (Quarantined(3, "conflict"),)] == [one.quarantined for one in outcomes]
    assert [(first,), (a_sale("d2"),)] == rows(store, "SELECT body FROM document ORDER BY id")
    assert [(2, second), (3, third)] == rows(store, "SELECT sequence, body FROM quarantine ORDER BY id")
    assert f"as number 1 of stream {a_stream()}" in rows(store, "SELECT reason FROM quarantine")[0][0]
    assert mark_of(store).through == 4


def test_an_upload_that_the_database_refuses_is_taken_apart(store):
    """Each document is tried on its own: the one that it refuses is quarantined ``unstorable``, the rest stored."""
    refuse(store.database, "document", "INSERT", "new.document_id = 'd2'")
    opened(store, "till-1", "till-2")
    theirs = a_parcel([a_sale(till_id="till-2")], "till-2")

    outcomes = store.ingest([a_parcel(some_sales(3)), theirs], {}, NOW_MS)

    assert [("advanced", 3), ("advanced", 1)] == [(one.kind, one.mark.through) for one in outcomes]
    assert (Quarantined(2, "unstorable"),) == outcomes[0].quarantined
    assert [1, 3] == sequences(store)


def test_a_database_that_refuses_as_a_whole_leaves_everything_as_it_was(store):
    """Documents without their watermark, or the reverse, are never there."""
    opened(store)
    accept_again = refuse(store.database, "watermark", "UPDATE", "true")
    with pytest.raises(pw.IntegrityError, match="refused"):
        store.ingest([a_parcel(some_sales(3))], {}, NOW_MS)

    assert (sequences(store), mark_of(store).through) == ([], 0)
    accept_again()
    assert store.ingest([a_parcel(some_sales(3))], {}, NOW_MS)[0].kind == "advanced"


# -- Heads, take-over and gaps -----------------------------------------------------------------------------------------


def head(newest, digest, stream=None, boot="boot-1", *, written=True, after=0, agreed=None):
    return Heard(stream or a_stream(), boot, newest, digest, written, after, agreed)


def test_a_head_that_is_reached_with_its_digest_is_passed(store):
    """What was rung for is here: its row goes in the same transaction, and there is no gap."""
    opened(store)
    bodies = some_sales(3)
    ahead, reached = head(9, b"9" * 16, boot="b"), head(2, digest_of(bodies[:2]))
    store.note(NOW_MS, heads=[(TILL, reached), (TILL, ahead)])

    store.ingest([a_parcel(bodies)], {TILL: (reached, ahead)}, NOW_MS)

    assert gaps(store) == []
    assert [9] == [one.newest for _, one in store.heard_heads(0)]


def test_a_head_that_is_reached_with_another_digest_becomes_a_gap(store):
    """What was rung for was replaced: the range is shown until a person closes it."""
    opened(store)
    bodies = some_sales(4)
    store.ingest([a_parcel(bodies[:1])], {}, NOW_MS)

    replaced = head(3, b"x" * 16, written=False, after=1, agreed=digest_of(bodies[:1]))
    store.ingest([a_parcel(bodies[1:], before=bodies[:1])], {TILL: (replaced,)}, NOW_MS)

    assert [(a_stream(), 2, 3)] == gaps(store)


def test_a_head_of_another_stream_is_left_alone_by_an_upload(store):
    """Only a take-over settles it."""
    opened(store)
    other = head(1, b"x" * 16, stream=a_stream(7))
    store.note(NOW_MS, heads=[(TILL, other)])

    store.ingest([a_parcel(some_sales(3))], {TILL: (other,)}, NOW_MS)

    assert (gaps(store), len(store.heard_heads(0))) == ([], 1)


def test_a_stream_that_took_over_exactly_what_was_rung_for_leaves_no_gap(store):
    """Its ``previous`` ends with the number and digest of the head: the tail comes in the new stream."""
    opened(store)
    rung = head(5, b"5" * 16)
    store.note(NOW_MS, heads=[(TILL, rung)])
    history = History(stream=a_stream(), pruned=0, newest=5, digest=b"5" * 16)

    ((_, (mark, is_new)),) = [
        one
        for one in opened(store, stream=a_stream(2), previous=(history,), heard={TILL: (rung,)}).items()
        if one[0][1] == a_stream(2)
    ]

    assert (is_new, mark.through) == (True, 0)
    assert (gaps(store), store.heard_heads(0)) == ([], [])


def test_a_taken_over_head_goes_on_as_the_new_streams_head_at_once(store):
    """In the same transaction: a central that ends right after it has forgotten no promise."""
    opened(store)
    rung = head(5, b"5" * 16)
    store.note(NOW_MS, heads=[(TILL, rung)])
    history = History(stream=a_stream(), newest=5, digest=b"5" * 16)
    new = head(5, b"n" * 16, stream=a_stream(2), written=False, after=4)
    store.open_streams([NewStream(TILL, a_stream(2), (history,), new)], {TILL: (rung,)}, NOW_MS)

    assert [(a_stream(2), 5, 0)] == [(one.stream, one.newest, one.after) for _, one in store.heard_heads(NOW_MS)]


def test_what_was_pruned_is_held_only_if_the_documents_make_its_digest(store):
    """Central has three documents under these numbers; of a clone's three the digest is another one."""
    bodies = some_sales(4)
    opened(store)
    store.ingest([a_parcel(bodies)], {}, NOW_MS)
    ours, other = digest_of(bodies[:3]), digest_of(some_sales(3, first=7))
    for stream, agreed_digest in ((a_stream(2), ours), (a_stream(3), other)):
        history = History(
            stream=a_stream(), pruned=3, newest=9, digest=b"9" * 16, agreed=3, agreed_digest=agreed_digest
        )
        opened(store, stream=stream, previous=(history,))

    assert [(a_stream(), 1, 3)] == gaps(store)


def test_a_history_is_followed_through_documents_that_stand_under_older_numbers(store):
    """Renumbered documents are noted with where they stand, so that the new stream's chain can be worked out."""
    bodies = some_sales(3)
    opened(store)
    store.ingest([a_parcel(bodies)], {}, NOW_MS)
    opened(store, stream=a_stream(2))
    store.ingest([a_parcel([*bodies, a_sale("new")], stream=a_stream(2))], {}, NOW_MS)

    assert store._digest_at(TILL, a_stream(2), 3) == digest_of(bodies, a_stream(2))
    store.database.execute_sql("DELETE FROM document WHERE document_id = 'd2'")
    assert store._digest_at(TILL, a_stream(2), 3) is None


def test_a_long_history_is_followed_a_few_documents_at_a_time(store, monkeypatch):
    """A till's whole stream has no place in memory; the pages meet, and a hole at their edge is seen."""
    bodies = some_sales(2 * FOLLOWED_AT_ONCE + 3)
    opened(store)
    store.ingest([a_parcel(bodies)], {}, NOW_MS)
    real, sizes = store._run, []

    def run(*statement):
        cursor = real(*statement)
        fetched = cursor.fetchall()
        sizes.append(len(fetched))
        return Fetched(fetched)

    monkeypatch.setattr(store, "_run", run)
    for number in (0, 1, FOLLOWED_AT_ONCE, FOLLOWED_AT_ONCE + 1, 2 * FOLLOWED_AT_ONCE, len(bodies) - 1):
        assert store._digest_at(TILL, a_stream(), number) == digest_of(bodies[:number]), number
    assert store._digest_at(TILL, a_stream(), len(bodies) + 1) is None
    assert max(sizes) == FOLLOWED_AT_ONCE
    store.database.run("DELETE FROM document WHERE sequence = ?", (FOLLOWED_AT_ONCE,))
    assert store._digest_at(TILL, a_stream(), FOLLOWED_AT_ONCE) is None
    assert store._digest_at(TILL, a_stream(), FOLLOWED_AT_ONCE + 1) is None


class Fetched(list):
    """What a statement brought, all of it at once."""

    def fetchall(self):
        return self

    def fetchone(self):
        return self[0] if self else None


def test_a_head_that_another_process_passed_is_settled_by_the_documents(store):
    """Two processes with one number: what one heard and the other came past is held, or a gap."""
    bodies = some_sales(3)
    opened(store)
    held = head(2, digest_of(bodies[:2]), boot="a")
    replaced = head(2, b"x" * 16, boot="b", after=1, agreed=digest_of(bodies[:1]))
    store.note(NOW_MS, heads=[(TILL, held), (TILL, replaced)])
    store.ingest([a_parcel(bodies)], {}, NOW_MS)

    assert store.heard_heads(NOW_MS) == []
    assert [(a_stream(), 2, 2)] == gaps(store)


def test_no_process_lowers_a_head_that_another_one_has_written(store):
    """Between them a boot's doorbells only grow."""
    store.note(NOW_MS, heads=[(TILL, head(9, b"9" * 16))])
    store.note(NOW_MS, heads=[(TILL, head(4, b"4" * 16))])

    assert [9] == [one.newest for _, one in store.heard_heads(NOW_MS)]


@pytest.mark.parametrize(
    "ended",
    [None, (4, b"5" * 16), (6, b"5" * 16), (5, b"x" * 16)],
    ids=["not named", "ended before", "ended after", "ended otherwise"],
)
def test_a_head_that_was_not_exactly_taken_over_becomes_a_gap(store, ended):
    """A disk image that was restored cannot send what was rung for: the range above the watermark is shown."""
    opened(store)
    store.ingest([a_parcel(some_sales(2))], {}, NOW_MS)
    previous = (History(stream=a_stream(), newest=ended[0], digest=ended[1]),) if ended else ()

    rung = head(5, b"5" * 16, after=2, agreed=digest_of(some_sales(2)))
    opened(store, stream=a_stream(2), previous=previous, heard={TILL: (rung,)})

    assert [(a_stream(), 3, 5)] == gaps(store)


def test_what_another_history_holds_under_its_numbers_is_no_part_of_a_promise(store):
    """Central went back and a clone's documents stand there now: all that was rung for may be lost."""
    opened(store)
    store.ingest([a_parcel(some_sales(2, first=7))], {}, NOW_MS)

    rung = head(5, b"5" * 16, after=1, agreed=digest_of(some_sales(1)))
    opened(store, stream=a_stream(2), heard={TILL: (rung,)})

    assert [(a_stream(), 1, 5)] == gaps(store)


def test_what_an_earlier_stream_had_pruned_above_the_watermark_is_a_gap(store):
    """The till forgot what this central never had: emptied, or restored from before."""
    opened(store)
    store.ingest([a_parcel(some_sales(2))], {}, NOW_MS)
    agreed = {"agreed": 2, "agreed_digest": digest_of(some_sales(2))}
    history = History(stream=a_stream(), pruned=6, newest=9, digest=b"9" * 16, **agreed)

    opened(store, stream=a_stream(2), previous=(history,))

    assert [(a_stream(), 3, 6)] == gaps(store)


def test_what_was_pruned_up_to_the_watermark_is_no_gap(store):
    """Central has it, as the digest there proves."""
    opened(store)
    store.ingest([a_parcel(some_sales(2))], {}, NOW_MS)
    agreed = {"agreed": 2, "agreed_digest": digest_of(some_sales(2))}
    history = History(stream=a_stream(), pruned=2, newest=9, digest=b"9" * 16, **agreed)

    opened(store, stream=a_stream(2), previous=(history,))

    assert gaps(store) == []


def test_what_was_pruned_without_a_digest_may_be_anybodys(store):
    """A till of wire version 1 names a number only, and its clone's documents may stand under it."""
    opened(store)
    store.ingest([a_parcel(some_sales(2))], {}, NOW_MS)
    history = History(stream=a_stream(), pruned=2, newest=9, digest=b"9" * 16)

    opened(store, stream=a_stream(2), previous=(history,))

    assert [(a_stream(), 1, 2)] == gaps(store)


def test_what_was_pruned_in_a_stream_that_central_never_knew_is_a_gap(store):
    """An emptied central does not know the old stream at all; what was pruned in it is missing all the same."""
    history = History(stream=a_stream(), pruned=6, newest=9, digest=b"9" * 16)

    opened(store, stream=a_stream(2), previous=(history,))

    assert [(a_stream(), 1, 6)] == gaps(store)


def test_a_stream_that_is_rung_for_again_changes_nothing(store):
    """Its row is made once, and its take-over is settled once."""
    history = History(stream=a_stream(), pruned=6, newest=9, digest=b"9" * 16)
    opened(store)
    opened(store, stream=a_stream(2), previous=(history,))
    before = gaps(store)
    again = opened(store, stream=a_stream(2), previous=(history,), heard={TILL: (head(9, b"x" * 16),)})

    assert again[TILL, a_stream(2)][1] is False
    assert before == gaps(store)


# -- What is written once a second -------------------------------------------------------------------------------------


def test_notes_of_many_tills_are_one_transaction_and_nothing_is_none(store):
    """Heads, proofs, presences and tasks go together; where nothing was heard the disk is left alone."""
    tills = [f"till-{number}" for number in range(100)]
    opened(store, *tills)

    seen = statements(
        store,
        lambda: store.note(
            NOW_MS,
            heads=[(till, head(1, b"1" * 16)) for till in tills],
            verified=[(till, a_stream()) for till in tills],
            presences=[("s1", True, 7, NOW_MS, "{}", None, till) for till in tills],
            tasks=[
                (f"t-{till}", till, 1, "queued", "doorbell", 1, NOW_MS, None, "", None, None, None) for till in tills
            ],
        ),
    )

    assert (1, 1) == (seen["BEGIN"], seen["COMMIT"])
    assert statements(store, lambda: store.note(NOW_MS)) == {}
    assert len(store.heard_heads(0)) == len(store.open_tasks()) == 100
    assert rows(store, "SELECT count(*) FROM watermark WHERE verified_at_ms = ?", NOW_MS) == [(100,)]


def test_a_head_is_kept_once_for_each_stream_and_boot(store):
    """A later one of the same boot replaces it; one of another boot stands beside it."""
    store.note(NOW_MS, heads=[(TILL, head(1, b"1" * 16)), (TILL, head(2, b"2" * 16, boot="boot-2"))])
    store.note(NOW_MS, heads=[(TILL, head(5, b"5" * 16))])

    assert [("boot-1", 5), ("boot-2", 2)] == sorted((one.boot_id, one.newest) for _, one in store.heard_heads(0))
    store.note(NOW_MS, passed=[(TILL, a_stream(), "boot-2", 4)])
    assert ["boot-1"] == [one.boot_id for _, one in store.heard_heads(0)]


def test_a_till_is_registered_by_its_first_presence_or_doorbell(store):
    """Nothing is set up on the server; its last presence and its newest stream are what a start reads."""
    store.note(NOW_MS, presences=[("s1", False, 7, NOW_MS, "{}", None, "till-2")])
    opened(store)
    opened(store, stream=a_stream(2))

    assert [
        ("till-1", Mark(a_stream(2), 0, chain.first(a_stream(2))), None, -1, True),
        ("till-2", None, 0, 7, True),
    ] == sorted(store.tills())


def test_a_till_may_have_to_be_approved_first(central_url):
    """With ``approve_tills`` a new till is registered and not approved."""
    store = a_store(central_url, approve_tills=True)
    opened(store)

    assert [False] == [approved for *_, approved in store.tills()]
    store.close()


def test_tasks_that_people_made_are_wishes_until_a_worker_takes_them(store):
    """A task without a worker is a wish; once noted by a worker it is none, and once finished it is closed."""
    statement = (
        "INSERT INTO task (task_id, till_id, state, reason, attempts, created_at_ms, note)"
        " VALUES ('w1', 'till-1', 'waiting', 'operator', 0, ?, '')"
    )
    store.database.run(statement, (NOW_MS,))
    assert store.wishes() == [OpenTask("w1", "till-1", "operator")]

    store.note(NOW_MS, tasks=[("w1", "till-1", 1, "queued", "operator", 0, NOW_MS, None, "", None, None, None)])
    assert (store.wishes(), store.open_tasks()) == ([], [OpenTask("w1", "till-1", "operator")])
    store.note(NOW_MS, tasks=[("w1", "till-1", 1, "done", "operator", 2, NOW_MS, NOW_MS + 1, "", None, None, None)])
    assert store.open_tasks() == []


def test_a_database_keeps_its_name_and_counts_its_starts(central_url):
    """Tills know their central by it; each start has its own number, so that tasks are never named alike."""
    first = a_store(central_url)
    first.close()
    second = a_store(central_url)

    assert (first.central_id, 1, 2) == (second.central_id, first.starts, second.starts)
    second.close()


# -- Views -------------------------------------------------------------------------------------------------------------


def test_the_views_add_up_to_what_the_baskets_say(store):
    """Lines, tenders and taxes of generated days, summed by SQL and by hand from the very bytes."""
    bodies = some_baskets(300)
    opened(store)
    assert store.ingest([a_parcel(bodies)], {}, NOW_MS)[0].quarantined == ()
    documents = [json.loads(body) for body in bodies]

    def by_hand(array, field):
        items = [item for document in documents for item in document.get(array, ())]
        return len(items), sum(item[field] for item in items if not item.get("voided"))

    for view, array, field, filtered in (
        ("document_line", "lines", "extended_minor", "NOT is_voided"),
        ("document_tender", "tenders", "amount_minor", "NOT is_voided"),
        ("document_tax", "taxes", "amount_minor", "true"),
    ):
        expected = by_hand(array, field)
        assert expected[0] > 100
        assert [expected] == rows(store, f"SELECT count(*), sum({field}) FILTER (WHERE {filtered}) FROM {view}")


def test_the_views_name_what_a_document_left_out(store):
    """A field at its default is shown with that default."""
    opened(store)
    store.ingest([a_parcel(some_sales(1))], {}, NOW_MS)

    assert [("sale", 0, 0)] == rows(store, "SELECT kind, is_voided, discount_minor FROM document_line")
    assert [("cash", 0, 0)] == rows(store, "SELECT tender_type, is_voided, change_minor FROM document_tender")
    assert rows(store, "SELECT * FROM document_tax") == []


@pytest.mark.parametrize(
    ("written", "meant"),
    [(b'"l\\u0069nes"', b'"lines"'), (b'"line_n\\u0075mber"', b'"line_number"'), (b'"line_number":7,"line_number"',
     b'"line_number"'), (b'"lines":[{"line_number":9,"quantity":"1","extended_minor":5}],"lines"', b'"lines"')],
    ids=["escaped array", "escaped field", "field twice", "array twice"],
)  # fmt: skip
def test_the_views_read_a_document_as_the_judge_does(store, written, meant):
    """However a name is written, and of one that stands there twice the last: as the sums were checked."""
    opened(store)
    assert meant in a_sale()
    store.ingest([a_parcel([a_sale().replace(meant, written)])], {}, NOW_MS)

    assert [(1, 12_300)] == rows(store, "SELECT line_number, extended_minor FROM document_line")


@pytest.mark.parametrize("depth", [100, 400, 700, 900, 950, 970, 980, 990])
def test_no_document_that_was_stored_breaks_a_view(store, depth):
    """A view reads all documents: one that SQLite could not parse would hide every other one."""
    deep = a_sale("deep")[:-1] + b',"from_pos":' + b"[" * depth + b"]" * depth + b"}"
    opened(store)
    store.ingest([a_parcel([a_sale(), deep])], {}, NOW_MS)

    assert rows(store, "SELECT count(*) >= 1 FROM document_line") == [(1,)]


def test_the_present_stream_is_the_one_that_rang_last_whichever_was_opened_first(store):
    """The doorbell of an older stream came late; the till's next one puts it right, also for a worker's start."""
    present, older = NewStream(TILL, a_stream(2), ()), NewStream(TILL, a_stream(1), ())
    for stream in (present, older, present):
        store.open_streams([stream], {}, NOW_MS)
    store.open_streams([NewStream("till-2", a_stream(3), ())], {}, NOW_MS)

    marks = {till: mark.stream for till, mark, *_ in store.tills()}
    assert marks == {TILL: a_stream(2), "till-2": a_stream(3)}
