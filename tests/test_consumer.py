"""A consumer's cursor over stored documents: whatever order transactions end in, nothing is skipped."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack, closing, contextmanager

import pytest
from click.testing import CliRunner
from factories import CENTRAL, NOW_MS, a_sale, a_store, a_stream, an_upload, some_sales

from central import consumer
from central.batch import NewStream, Parcel
from central.cli import central as central_command
from central.consumer import Cursor, CursorError, Horizon
from central.database import Place, UnsafeDatabaseError
from central.day_notes import DayNotes
from central.migrations import migrate
from central.store import Store
from wire.program import EXIT_FAILED, EXIT_USAGE

TILLS, UPLOADS, EACH = 4, 25, 5


@pytest.fixture
def store(central_url):
    """Return a store with one till whose stream is open."""
    made = a_store(central_url)
    made.open_streams([NewStream("a", a_stream(), ()), NewStream("b", a_stream(), ())], {}, NOW_MS)
    yield made
    made.close()


@pytest.fixture
def pg_url(postgres):
    """Return a database of the private server, migrated."""
    url = postgres.new_database()
    yield url
    postgres.drop(url)


def put(store, bodies, till="a", before=()):
    (outcome,) = store.ingest([Parcel(till, an_upload(bodies, before))], {}, NOW_MS)
    assert outcome.kind == "advanced"


def ids(page):
    return [json.loads(one["body"])["document_id"] for one in page.documents]


def read(url, after=None, most=1000, wait_s=0.0, **options):
    with closing(Place(str(url)).look(to_write=False)) as database:
        return consumer.read(database, after, most, wait_s, **options)


# -- In order ----------------------------------------------------------------------------------------------------------


def test_documents_come_once_each_in_pages(store, central_url):
    """Each page goes on where the one before ended; at the end the cursor stays."""
    bodies = some_sales(7, till_id="a")
    put(store, bodies)
    seen, cursor = [], None
    for _ in range(4):
        page = read(central_url, cursor, most=3)
        seen += [one["body"] for one in page.documents]
        cursor = page.cursor
    assert seen == list(bodies)
    assert read(central_url, cursor).documents == []

    more = some_sales(2, first=8, till_id="a")
    put(store, more, before=bodies)
    assert [one["body"] for one in read(central_url, cursor).documents] == list(more)


def test_an_empty_database_has_a_cursor_to_begin_with(store, central_url):
    """Whoever starts before the first document misses none."""
    page = read(central_url)
    assert (page.documents, str(page.cursor)) == ([], "1-0")

    put(store, some_sales(1, till_id="a"))
    assert len(read(central_url, page.cursor).documents) == 1


@pytest.mark.parametrize("text", ["", "x", "1", "-1", "1-", "1-2-3", "01-2", "1-" + "9" * 30, "1;DROP"])
def test_what_is_no_cursor_is_refused(text):
    """The text says what to give instead."""
    with pytest.raises(CursorError, match="give the one that the last read returned"):
        Cursor.parse(text)


def test_a_database_that_no_central_has_used_says_so(central_url):
    """The schema may be there before any worker was."""
    with closing(Place(str(central_url)).open()) as database:
        migrate(database)
    with pytest.raises(CursorError, match="start `tillstream central run`"):
        read(central_url)


def test_a_cursor_of_before_a_restore_is_refused(store, central_url):
    """Its numbers were given out again: going on would skip whatever has them now."""
    put(store, some_sales(3, till_id="a"))
    cursor = read(central_url).cursor
    store.database.run("UPDATE central SET incarnation = 2")
    with pytest.raises(CursorError, match="put back to an earlier state"):
        read(central_url, cursor)
    with pytest.raises(CursorError, match="no more than 3"):
        read(central_url, Cursor(2, 4))


# -- Transactions that end in another order than they began ------------------------------------------------------------


@contextmanager
def half_done(url, bodies, till):
    """Hold an upload between its insert and its commit, in a store of its own."""
    inserted, go_on = threading.Event(), threading.Event()

    def work():
        with closing(Store(url, lambda: CENTRAL)) as other:
            real = other._write

            def write(*batch):
                conflicts = real(*batch)
                inserted.set()
                assert go_on.wait(30)
                return conflicts

            other._write = write
            put(other, bodies, till)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert inserted.wait(30)
        yield go_on, thread
    finally:
        go_on.set()
        thread.join(30)


def test_a_commit_that_comes_late_is_not_skipped(pg_url):
    """Lower numbers are still uncommitted when higher ones are there: the reader takes neither, and then both."""
    store = a_store(pg_url)
    store.open_streams([NewStream("a", a_stream(), ()), NewStream("b", a_stream(), ())], {}, NOW_MS)
    with half_done(
        pg_url, [a_sale(till_id="b", document_id="late-1"), a_sale(till_id="b", document_id="late-2")], "b"
    ) as (go_on, thread):
        put(store, [a_sale(till_id="a", document_id="early-1")])
        page = read(pg_url, wait_s=0.1)
        assert ids(page) == []

        go_on.set()
        thread.join(30)
        page = read(pg_url, page.cursor)
    store.close()
    assert ids(page) == ["late-1", "late-2", "early-1"]


def test_what_was_certain_before_is_returned_while_a_transaction_lasts(pg_url):
    """A transaction that takes long holds up what came after it began, and nothing older, for a reader that stays."""
    store = a_store(pg_url)
    store.open_streams([NewStream("a", a_stream(), ()), NewStream("b", a_stream(), ())], {}, NOW_MS)
    put(store, [a_sale(till_id="a", document_id="before")])
    with closing(Place(pg_url).look(to_write=False)) as database:
        horizon = Horizon(database, "document")
        first = horizon.look()
        with half_done(pg_url, [a_sale(till_id="b", document_id="late")], "b") as (go_on, thread):
            put(store, [a_sale(till_id="a", document_id="after")], before=[a_sale(till_id="a", document_id="before")])
            assert [horizon.look() for _ in range(3)] == [first] * 3
            go_on.set()
            thread.join(30)
            assert horizon.look() == first + 2
    store.close()


def test_a_reader_waits_for_those_who_write_and_no_longer(pg_url):
    """It looks again and again; the transaction ends meanwhile, and the page has it all."""
    store = a_store(pg_url)
    store.open_streams([NewStream("a", a_stream(), ()), NewStream("b", a_stream(), ())], {}, NOW_MS)
    with half_done(pg_url, [a_sale(till_id="b", document_id="late")], "b") as (go_on, thread):
        put(store, [a_sale(till_id="a", document_id="early")])
        waited = []

        def sleep(seconds):
            waited.append(seconds)
            if len(waited) == 3:
                go_on.set()
                thread.join(30)

        page = read(pg_url, wait_s=60, sleep=sleep)
    store.close()
    assert ids(page) == ["late", "early"]
    assert len(waited) == 3


def test_who_begins_between_the_two_looks_is_waited_for(pg_url, monkeypatch):
    """The number is looked up first, then who writes: the other way round a transaction in between would be missed."""
    store = a_store(pg_url)
    store.open_streams([NewStream("a", a_stream(), ()), NewStream("b", a_stream(), ())], {}, NOW_MS)
    put(store, [a_sale(till_id="a", document_id="before")])
    store.close()
    with closing(Place(pg_url).look(to_write=False)) as database, ExitStack() as late:
        real, begun = database.last_number, []

        def last_number(table):
            if not begun:
                begun.append(late.enter_context(half_done(pg_url, [a_sale(till_id="b", document_id="late")], "b")))
            return real(table)

        monkeypatch.setattr(database, "last_number", last_number)
        horizon = Horizon(database, "document")
        assert [horizon.look(), horizon.look()] == [0, 0]


def test_a_transaction_that_is_rolled_back_holds_nobody_up(pg_url):
    """Its numbers are never used; the reader goes on behind them."""
    store = a_store(pg_url)
    store.open_streams([NewStream("a", a_stream(), ())], {}, NOW_MS)
    with store.database.writing() as transaction:
        store.database.run("SELECT nextval('document_id_seq')")
        transaction.rollback()
    put(store, [a_sale(till_id="a", document_id="next")])
    store.close()
    assert ids(read(pg_url)) == ["next"]


def test_numbers_that_a_crash_of_the_server_takes_back_are_not_passed_over(pg_url):
    """They were given out and rolled back, so nothing of it was flushed; after recovery others get them."""
    store = a_store(pg_url)
    store.open_streams([NewStream("a", a_stream(), ())], {}, NOW_MS)
    first, last = a_sale(till_id="a", document_id="first"), a_sale(till_id="a", document_id="last")
    put(store, [first])
    with store.database.writing() as transaction:
        store.database.run("SELECT nextval('document_id_seq') FROM generate_series(1, 66)")
        transaction.rollback()
    cursor = read(pg_url).cursor
    cursor = read(pg_url, cursor).cursor
    store.database.run("SELECT setval('document_id_seq', 1)")  # As recovery does.
    put(store, [last], before=[first])
    store.close()
    assert ids(read(pg_url, cursor)) == ["last"]


@pytest.mark.parametrize("is_careful", [True, False], ids=["waits", "reads what is there"])
def test_with_many_writers_a_reader_sees_each_document_once(pg_url, is_careful, monkeypatch):
    """Workers commit at once, in any order, while a consumer reads on; one that does not wait skips some."""
    if not is_careful:
        monkeypatch.setattr(
            Horizon, "look", lambda self: self._database.run("SELECT max(id) FROM document").fetchone()[0] or 0
        )
    store = a_store(pg_url)
    store.open_streams([NewStream(f"t{number}", a_stream(), ()) for number in range(TILLS)], {}, NOW_MS)
    seen, cursor, pauses = [], None, threading.Event()

    def work(till):
        with closing(Store(pg_url, lambda: CENTRAL)) as own:
            real, done = own._write, []
            own._write = lambda *batch: (real(*batch), pauses.wait(0.02 if till == "t0" else 0))[0]
            for number in range(UPLOADS):
                bodies = [a_sale(f"{till}-{number}-{place}", till_id=till) for place in range(EACH)]
                put(own, bodies, till, done)
                done += bodies

    writers = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(TILLS)]
    for writer in writers:
        writer.start()
    with closing(Place(pg_url).look(to_write=False)) as database:
        is_over = False
        while not is_over:
            is_over = not any(writer.is_alive() for writer in writers)
            page = consumer.read(database, cursor, 7, 5.0 if is_careful else 0.0)
            seen, cursor = seen + ids(page), page.cursor
            is_over = is_over and not page.documents
    store.close()
    everything = {
        f"t{till}-{number}-{place}" for till in range(TILLS) for number in range(UPLOADS) for place in range(EACH)
    }
    assert len(seen) == len(set(seen))
    assert (set(seen) == everything) == is_careful


def test_days_are_noted_of_documents_that_are_committed_late(pg_url):
    """Another worker's transaction began before and ends after the look: its day is looked at the next time."""
    store = a_store(pg_url)
    store.open_streams([NewStream("a", a_stream(), ()), NewStream("b", a_stream(), ())], {}, NOW_MS)
    notes = DayNotes(store.database)
    late = a_sale(till_id="b", document_id="late", business_day="2026-01-02")
    with half_done(pg_url, [late], "b") as (go_on, thread):
        put(store, [a_sale(till_id="a", document_id="early", business_day="2026-01-03")])
        notes.note_days(NOW_MS, 1)
        go_on.set()
        thread.join(30)
    notes.note_days(NOW_MS, 1)
    days = [day for (day,) in store.database.run("SELECT business_day FROM day ORDER BY 1")]
    store.close()
    assert days == ["2026-01-02", "2026-01-03"]


# -- The command -------------------------------------------------------------------------------------------------------


def told(url, *arguments):
    done = CliRunner().invoke(central_command, ["--database", str(url), "documents", *arguments])
    return done.exit_code, done.output


def test_the_command_prints_documents_and_the_cursor_to_go_on_with(store, central_url):
    """JSON lines, each with its text; the last one is the cursor, on an empty page too."""
    put(store, some_sales(3, till_id="a"))
    code, output = told(central_url, "--after", "0", "--most", "2")
    *documents, last = map(json.loads, output.splitlines())
    assert (code, [json.loads(one["body"])["document_id"] for one in documents]) == (0, ["d1", "d2"])

    code, output = told(central_url, "--after", last["cursor"])
    *documents, last = map(json.loads, output.splitlines())
    assert [json.loads(one["body"])["document_id"] for one in documents] == ["d3"]
    assert told(central_url, "--after", last["cursor"]) == (0, json.dumps(last) + "\n")


def test_the_command_says_what_is_wrong_with_a_cursor(store, central_url):
    """Exit code 1 for one that cannot be used, 2 for a wish that is none."""
    assert told(central_url, "--after", "soon")[0] == EXIT_FAILED
    assert told(central_url, "--after", "9-1")[0] == EXIT_FAILED
    assert told(central_url, "--after", "0", "--till", "a")[0] == EXIT_USAGE


def test_a_standby_is_no_place_to_read_on(pg_url, monkeypatch):
    """It does not know who writes on its primary."""
    a_store(pg_url).close()
    with closing(Place(pg_url).look(to_write=False)) as database:
        monkeypatch.setattr("central.database._WRITERS", "SELECT CAST(NULL AS text) AS writer")
        with pytest.raises(UnsafeDatabaseError, match="ask its primary"):
            consumer.read(database, None, 10, 0.0)
