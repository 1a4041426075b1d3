"""Asking once more for what was sent before: it fills holes, proves nothing, and never delays what is new."""

from __future__ import annotations

import msgspec
import pytest
from factories import (
    CENTRAL,
    NOW_MS,
    TILL,
    a_bell,
    a_collector,
    a_greeting,
    a_request,
    a_sale,
    a_store,
    a_stream,
    a_till,
    digest_of,
    filled,
    some_sales,
)

from central.batch import Mark, NewStream, OpenTask, Outcome, Parcel, Span
from central.commands import Ask, Note
from wire import chain, codec, topics
from wire.codec import SalesLimits, Upload
from wire.messages import Sales, said

SALES = topics.SALES.of(till=TILL, worker=1)


def again(after, through, **fields):
    """Return central's request to repeat a range."""
    request = a_request(after, through=through, reason="repeat", **fields)
    return msgspec.structs.replace(request, digest=None)


# -- The till ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def till(tmp_path):
    """Return a connected till with ten documents, none of them known to be stored."""
    made = a_till(tmp_path)
    filled(made.outbox, 10)
    made.agent._run(made.agent.syps.on_connected(made.outbox.head(), 0.0), 0.0)
    return made


def served(till, request):
    """Serve a request and return the uploads that it brought."""
    before = len(till.link.payloads(SALES))
    till.agent._run(till.agent._serve(request, 0.0), 0.0)
    limits = SalesLimits(documents=200, inflated_bytes=2**21)
    return [codec.unpack_sales(payload, limits) for payload in till.link.payloads(SALES)[before:]]


def test_a_till_repeats_exactly_the_range_and_takes_it_for_no_proof(till):
    """The answer says the digest before it, and nothing counts as stored because of it."""
    (upload,) = served(till, again(3, 5))

    assert (upload.header.after, upload.header.through) == (3, 5)
    assert upload.header.before == till.outbox.digest_at(3)
    assert list(upload.bodies) == some_sales(2, 4)
    assert till.outbox.head().stored == 0


def test_a_long_range_is_repeated_in_parts_of_the_requests_size(till):
    """The limits of the request hold; central asks for the rest."""
    (upload,) = served(till, again(0, 10, limit_documents=4))

    assert (upload.header.after, upload.header.through) == (0, 4)


def test_what_was_pruned_is_left_out_and_said_so(till):
    """A range whose beginning is no longer retained is answered from where it is."""
    till.outbox.mark_stored(6, CENTRAL, None)
    till.outbox.prune(NOW_MS + 5)

    (upload,) = served(till, again(0, 8))

    assert (upload.header.after, upload.header.through) == (4, 8)
    assert list(upload.bodies) == some_sales(4, 5)


def test_a_range_that_is_pruned_as_a_whole_is_answered_with_nothing(till):
    """The empty answer begins where the outbox does, beyond the range, so that central stops asking."""
    till.outbox.mark_stored(6, CENTRAL, None)
    till.outbox.prune(NOW_MS + 6)

    (upload,) = served(till, again(0, 3))

    assert (upload.header.after, upload.header.through, upload.bodies) == (5, 5, ())


def test_a_range_beyond_the_newest_document_is_answered_with_the_doorbell(till):
    """Central knows more than the till: that is for the histories to sort out, not for a repetition."""
    rung = len(till.link.payloads(topics.RECEIPT_CLOSED.of(till=TILL)))
    till.agent.syps.on_acknowledged("ring", 0.0)

    assert served(till, again(5, 11)) == []
    assert len(till.link.payloads(topics.RECEIPT_CLOSED.of(till=TILL))) == rung + 1
    assert till.outbox.head().stream == a_stream()


def test_a_repetition_waits_while_an_upload_is_under_way(till):
    """One upload is in flight; the request that came meanwhile is served after it."""
    served(till, a_request())

    assert served(till, again(3, 5)) == []
    (waiting,) = till.agent.syps.on_acknowledged("sales", 1.0)
    assert waiting.request.reason == "repeat"


# -- The database ------------------------------------------------------------------------------------------------------


@pytest.fixture
def store():
    """Return a database that holds ten sales of one till."""
    made = a_store()
    made.open_streams([NewStream(TILL, a_stream(), ())], {}, NOW_MS)
    made.ingest([Parcel(TILL, an_upload_of(some_sales(10)))], {}, NOW_MS)
    yield made
    made.close()


def an_upload_of(bodies, before=None, after=0, stream=None, digest=None):
    """Return an upload; with ``before`` one that repeats."""
    made = digest or chain.follow_all(before or chain.first(stream or a_stream()), bodies)
    header = said(
        Sales,
        stream=stream or a_stream(),
        after=after,
        through=after + len(bodies),
        digest=made,
        task="t1",
        before=before,
    )
    return Upload(header, tuple(bodies))


def repeated(store, first=1, count=10, **fields):
    """Ingest a repetition of ``count`` sales from number ``first``."""
    before = digest_of(some_sales(first - 1))
    upload = an_upload_of(some_sales(count, first), before, first - 1, **fields)
    return store.ingest([Parcel(TILL, upload)], {}, NOW_MS)[0]


def rows(store, statement):
    return store.database.execute_sql(statement).fetchall()


def test_a_repetition_fills_holes_and_moves_no_watermark(store):
    """What was missing is there again under its number; a second repetition changes nothing at all."""
    whole = rows(store, "SELECT till_id, stream, sequence, document_id, body FROM document ORDER BY sequence")
    mark = rows(store, "SELECT through, digest, moved_at_ms FROM watermark")
    store.database.execute_sql("DELETE FROM document WHERE sequence IN (3, 7)")

    for _ in range(2):
        assert repeated(store, 2, 8).kind == "repeated"
        found = rows(store, "SELECT till_id, stream, sequence, document_id, body FROM document ORDER BY sequence")
        assert found == whole
        assert rows(store, "SELECT through, digest, moved_at_ms FROM watermark") == mark
    assert rows(store, "SELECT count(*) FROM quarantine") == [(0,)]
    assert rows(store, "SELECT count(*) FROM held_before") == [(0,)]


def test_a_repetition_that_is_not_what_its_digest_says_stores_nothing(store):
    """Bytes that were changed on the way are not taken."""
    store.database.execute_sql("DELETE FROM document WHERE sequence = 3")

    assert repeated(store, 2, 4, digest=b"\7" * 16).kind == "bad_repeat"
    assert rows(store, "SELECT count(*) FROM document") == [(9,)]


def test_nothing_beyond_the_watermark_comes_in_by_repeating(store):
    """What is new comes in order, by its digest, or not at all."""
    assert repeated(store, 9, 3).kind == "bad_repeat"
    assert rows(store, "SELECT max(sequence) FROM document") == [(10,)]


def test_a_repeated_document_that_is_wrong_is_quarantined_once(store):
    """Its number counts, and repeating it again adds nothing."""
    before = digest_of(some_sales(4))
    upload = an_upload_of([b'{"document_id":"d5"}'], before, 4)
    for _ in range(2):
        store.ingest([Parcel(TILL, upload)], {}, NOW_MS)

    assert rows(store, "SELECT sequence, code FROM quarantine") == [(5, "bad_schema")]


def test_numbers_of_a_new_stream_whose_documents_were_here_are_no_holes(store):
    """A renumbered stream names documents that stand under old numbers, stored or quarantined: both are noted."""
    bad = b'{"document_id":"bad"}'
    store.ingest([Parcel(TILL, an_upload_of([bad], None, 10, digest=digest_of([*some_sales(10), bad])))], {}, NOW_MS)
    store.open_streams([NewStream(TILL, a_stream(2), ())], {}, NOW_MS)
    bodies = [*some_sales(2), bad, a_sale("d99")]

    store.ingest([Parcel(TILL, an_upload_of(bodies, stream=a_stream(2)))], {}, NOW_MS)

    held = rows(store, f"SELECT sequence FROM held_before WHERE stream = '{a_stream(2)}' ORDER BY 1")
    assert held == [(1,), (2,), (3,)]
    assert rows(store, f"SELECT sequence FROM document WHERE stream = '{a_stream(2)}'") == [(4,)]


def test_a_task_keeps_what_is_left_of_its_range(store):
    """After a restart it goes on where it was, not at the beginning."""
    row = ("r1", TILL, 1, "queued", "operator", 1, NOW_MS, None, "", a_stream(), 200, 900)
    store.note(NOW_MS, tasks=[row])
    store.note(NOW_MS, tasks=[(*row[:-2], 400, 900)])

    assert store.open_tasks() == [OpenTask("r1", TILL, "operator", 1, Span(a_stream(), 400, 900))]


# -- Whose turn it is --------------------------------------------------------------------------------------------------


def digest(number):
    return bytes([number % 256]) * 16


def asks(commands):
    return [command.message for command in commands if isinstance(command, Ask)]


def a_core(through=1000, **limits):
    """Return central's rules with one till that is even, at ``through``."""
    core = a_collector(**limits)
    core.on_presence(TILL, a_greeting(), 0)
    core.on_receipt_closed(TILL, a_bell(through, digest(through), stored=through), 0, is_live=True)
    core.on_stream_opened(TILL, Mark(a_stream(), through, digest(through)), 0, is_new=False)
    return core


def wish(core, after=100, through=500, name="again", stream=None):
    core.on_task(OpenTask(name, TILL, "operator", 0, Span(stream or a_stream(), after, through)), 0)


def repeat_answer(after, documents, task="again", at=1000):
    return Outcome(TILL, "repeated", Mark(a_stream(), at, digest(at)), after, task, documents)


def test_a_range_is_asked_for_in_parts_until_it_is_through():
    """Each answer moves the beginning; the last one ends the task."""
    core = a_core()
    wish(core)

    for after in (100, 300):
        (request,) = asks(core.on_tick(1))
        assert (request.after, request.through, request.reason, request.digest) == (after, 500, "repeat", None)
        core.on_outcome(repeat_answer(after, 200), 1)
    notes = [one for one in core.on_tick(5) if isinstance(one, Note)]
    assert [(task.task_id, task.state) for task in notes[0].tasks] == [("again", "done")]
    assert asks(core.on_tick(6)) == []


def test_what_is_new_goes_before_what_is_repeated():
    """A receipt closed between two parts is asked for first, and the repetition goes on after it."""
    core = a_core()
    wish(core)
    core.on_tick(1)
    core.on_receipt_closed(TILL, a_bell(1001, digest(1001), stored=1000), 1, is_live=True)
    core.on_outcome(repeat_answer(100, 200), 1)

    (live,) = asks(core.on_tick(2))
    assert (live.after, live.reason) == (1000, "doorbell")
    core.on_outcome(Outcome(TILL, "advanced", Mark(a_stream(), 1001, digest(1001)), 1000, live.task, 1), 2)
    (request,) = asks(core.on_tick(3))
    assert (request.after, request.reason) == (300, "repeat")


def test_a_doorbell_overtakes_a_repetition_that_still_waits():
    """One that was not asked for yet stands back."""
    core = a_core()
    wish(core)
    core.on_receipt_closed(TILL, a_bell(1001, digest(1001), urgent=True), 1, is_live=True)

    (live,) = asks(core.on_tick(1))
    assert live.reason == "doorbell"


def test_an_even_doorbell_does_not_end_a_repetition():
    """Even means that nothing new is owed; what was asked for once more still is."""
    core = a_core()
    wish(core)
    core.on_receipt_closed(TILL, a_bell(1000, digest(1000), stored=1000), 1, is_live=True)

    (request,) = asks(core.on_tick(1))
    assert request.reason == "repeat"


def test_a_repetition_of_a_stream_that_ended_fails_with_the_reason():
    """Numbers mean nothing in another stream."""
    core = a_core()
    wish(core, stream=a_stream(2))

    (note,) = [one for one in core.on_tick(1) if isinstance(one, Note)]
    assert [(task.state, task.note) for task in note.tasks] == [("failed", f"the till went on in stream {a_stream()}")]


def test_a_range_that_the_till_has_pruned_fails_with_the_reason():
    """What cannot come is said, not asked for for ever."""
    core = a_core()
    wish(core)
    core.on_tick(1)
    core.on_outcome(repeat_answer(500, 0), 1)

    (note,) = [one for one in core.on_tick(5) if isinstance(one, Note)]
    assert [(task.state, task.note) for task in note.tasks] == [("failed", "the till retains nothing up to 500")]


def test_ranges_are_bounded_per_till_and_the_same_one_is_taken_once():
    """Further wishes wait in the database; one that comes again until it is noted changes nothing."""
    core = a_core(repeats_max=2)
    for name in ("a", "a", "b", "c"):
        wish(core, name=name)

    assert [task.task_id for task in core.tills[TILL].repeats] == ["a", "b"]


def test_a_repetition_that_nobody_answers_is_given_up_after_so_many_attempts():
    """It ends as failed, and the next one has its turn."""
    core = a_core(attempts_max=2, timeout_s=1, retry_min_s=1, retry_max_s=1)
    wish(core, name="a")
    wish(core, name="b")
    states = {}
    for now in range(1, 12):
        for one in core.on_tick(now):
            if isinstance(one, Note):
                states |= {task.task_id: task.state for task in one.tasks}

    assert states["a"] == "failed"
    assert states["b"] in ("requested", "resting", "failed")


def test_a_doorbell_overtakes_a_repetition_that_is_under_way_and_its_answer_counts_all_the_same():
    """Nothing new waits for what is repeated, answered or not; what is answered late is not asked for again."""
    core = a_core(timeout_s=30)
    wish(core)
    core.on_tick(1)
    core.on_receipt_closed(TILL, a_bell(1001, digest(1001), stored=1000), 2, is_live=True)

    (live,) = asks(core.on_tick(3))
    assert (live.after, live.reason) == (1000, "doorbell")
    core.on_outcome(repeat_answer(100, 200), 3)
    core.on_outcome(Outcome(TILL, "advanced", Mark(a_stream(), 1001, digest(1001)), 1000, live.task, 1), 4)
    (request,) = asks(core.on_tick(5))
    assert (request.after, request.reason) == (300, "repeat")


@pytest.mark.parametrize(
    "answer",
    [
        repeat_answer(0, 1),
        repeat_answer(0, 0),
        repeat_answer(100, 0),
        Outcome(TILL, "repeated", Mark(a_stream(2), 900, digest(9)), 100, "again", 400),
    ],
    ids=["before what was asked", "empty, before it", "empty", "another stream"],
)
def test_an_answer_that_brings_the_range_no_further_is_no_answer(answer):
    """A till that answers beside the question is asked as often as one that does not answer, and then given up."""
    core = a_core(attempts_max=3, timeout_s=10, retry_min_s=1, retry_max_s=1)
    wish(core)
    requests, states = 0, {}
    for now in range(1, 100):
        commands = core.on_tick(now)
        for one in commands:
            states |= {task.task_id: task.state for task in one.tasks} if isinstance(one, Note) else {}
        for request in asks(commands):
            requests += 1
            assert (request.after, request.through) == (100, 500)
            core.on_outcome(answer, now)

    assert (requests, states["again"]) == (3, "failed")


def test_an_answer_that_comes_twice_takes_nothing_back():
    """The second copy of a part's answer moves nothing and asks for nothing."""
    core = a_core()
    wish(core)
    core.on_tick(1)
    core.on_outcome(repeat_answer(100, 200), 1)
    core.on_tick(1)
    core.on_outcome(repeat_answer(100, 200), 2)

    assert asks(core.on_tick(2)) == []
    core.on_outcome(repeat_answer(300, 200), 3)
    core.on_outcome(repeat_answer(100, 200), 3)
    assert core.tills[TILL].repeats == []


def test_a_repetition_that_live_sales_always_overtake_is_given_up_like_one_that_nobody_answers():
    """A till that does not know how to repeat is not asked for it after each of its receipts for ever."""
    core = a_core(attempts_max=3)
    wish(core)
    repeats = 0
    for number in range(1001, 1020):
        now = number - 1000.0
        repeats += sum(one.reason == "repeat" for one in asks(core.on_tick(now)))
        core.on_receipt_closed(TILL, a_bell(number, digest(number), stored=number - 1, urgent=True), now, is_live=True)
        (live,) = asks(core.on_tick(now))
        mark = Mark(a_stream(), number, digest(number))
        core.on_outcome(Outcome(TILL, "advanced", mark, number - 1, live.task, 1), now)

    assert repeats == 3
    assert core.tills[TILL].repeats == []


def test_wrong_repetitions_never_make_a_till_start_a_new_stream():
    """What is asked for once more proves nothing about the chain that is growing, however often it is wrong."""
    core = a_core()
    wish(core)
    (request,) = asks(core.on_tick(1))
    bad = Outcome(TILL, "bad_repeat", Mark(a_stream(), 1000, digest(1000)), 100, request.task)
    for _ in range(5):
        core.on_outcome(bad, 1)
    core.on_receipt_closed(TILL, a_bell(1001, digest(1001), urgent=True), 2, is_live=True)

    assert [one.reason for one in asks(core.on_tick(2))] == ["doorbell"]


def test_a_repetition_ends_when_the_till_comes_back_with_an_empty_outbox():
    """Its new stream is even, owes nothing, and has none of those numbers: failed at once, and swept as any other."""
    core = a_core()
    wish(core)
    core.on_tick(1)
    core.on_receipt_closed(TILL, a_bell(0, digest(0), a_stream(2)), 2, is_live=True)
    core.on_stream_opened(TILL, Mark(a_stream(2), 0, digest(0)), 2, is_new=True)

    assert asks(core.on_tick(3)) == []
    assert core.tills[TILL].repeats == []


def test_a_till_with_a_repetition_that_waits_is_swept_all_the_same():
    """The doorbell that was lost may concern what is new; hours of repeating must not hide it."""
    core = a_core(parallel=1, sweep_s=600)
    core.turns.asked.set("another", 10**6)
    wish(core)
    core.on_tick(1)
    assert core.tills[TILL].task.span
    core.on_tick(700)
    core.turns.leave("another")

    assert [one.reason for one in asks(core.on_tick(701))] == ["sweep"]


def test_a_wish_that_is_done_before_it_was_noted_is_not_taken_up_again():
    """It is read from the table until the note is written, once a second."""
    core = a_core()
    core.on_tick(0)
    wish(core)
    core.on_tick(0.1)
    core.on_outcome(repeat_answer(100, 400), 0.2)
    wish(core)

    assert asks(core.on_tick(0.3)) == []


def test_a_repeated_document_with_other_bytes_under_its_own_number_is_a_conflict(store):
    """A disk image was restored, perhaps: neither of the two is dropped."""
    other = a_sale("d5", total_minor=7)
    outcome = store.ingest([Parcel(TILL, an_upload_of([other], digest_of(some_sales(4)), 4))], {}, NOW_MS)[0]

    assert [one.code for one in outcome.quarantined] == ["conflict"]
    assert rows(store, "SELECT sequence, code, body FROM quarantine") == [(5, "conflict", other)]


def test_repetitions_leave_half_the_slots_to_what_is_new():
    """Tills that do not answer a repetition hold their slots until it runs out: live sales must not wait for that."""
    core = a_collector(parallel=4)
    for till in "abcdef":
        core.on_presence(till, a_greeting(), 0)
        core.on_receipt_closed(till, a_bell(1000, digest(1000), stored=1000), 0, is_live=True)
        core.on_stream_opened(till, Mark(a_stream(), 1000, digest(1000)), 0, is_new=False)
        core.on_task(OpenTask(f"wish-{till}", till, "operator", 0, Span(a_stream(), 0, 1000)), 0)
    assert [one.reason for one in asks(core.on_tick(1))] == ["repeat", "repeat"]

    core.on_receipt_closed("f", a_bell(1001, digest(1001), urgent=True), 2, is_live=True)
    assert [one.reason for one in asks(core.on_tick(2))] == ["doorbell"]
