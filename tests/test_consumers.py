"""Named consumers: where each stands, how far behind it is, and what a restored database means to it."""

from __future__ import annotations

import json
from contextlib import closing

import pytest
from click.testing import CliRunner
from databases import listening, look
from factories import NOW_MS, TILL, a_sale, a_store, a_stream, an_upload, some_sales

from central import backup, consumer, consumers
from central.batch import NewStream, Parcel
from central.cli import central
from central.consumer import Cursor, CursorError, OtherIncarnationError
from central.consumers import ConsumerError, MovedError, NoConsumerError
from central.database import Place
from central.models import Audit
from central.pool import Pool


@pytest.fixture
def store(central_url):
    """Return a store with seven documents of one till."""
    made = a_store(central_url)
    made.open_streams([NewStream(TILL, a_stream(), ())], {}, NOW_MS)
    made.ingest([Parcel(TILL, an_upload(some_sales(7)))], {}, NOW_MS)
    yield made
    made.close()


@pytest.fixture
def pool(store, central_url):
    """Return the database as the console has it, with the consumer erp at the beginning."""
    with Pool(Place(central_url)) as opened:
        with opened.changing("anna"):
            assert consumers.create("erp", Cursor(1, 0), NOW_MS, "1C")
        yield opened


def page(pool, after, most=1000):
    with pool.looking() as database:
        return consumers.read(database, after, most, 0.0)


def acknowledge(pool, name, cursor, after=None):
    with pool.noting() as database:
        return consumers.acknowledge(database, name, cursor, NOW_MS + 1, after)


def rewind(pool, name, to, note="why"):
    with pool.changing("anna") as database:
        return consumers.rewind(database, name, to, NOW_MS, note)


def shown(pool, name="erp"):
    with pool.looking() as database:
        (row,) = consumers.listed(database, name)
    return row


def place(pool, name="erp"):
    with pool.looking():
        return consumers.place_of(name)


def test_a_consumer_that_reads_and_acknowledges_gets_each_document_once(pool):
    """Page by page; one that is killed before it acknowledges gets the page again."""
    seen = []
    while True:
        got = page(pool, place(pool), most=3)
        assert got == page(pool, place(pool), most=3)
        if not got.documents:
            break
        seen += [json.loads(one["body"])["document_id"] for one in got.documents]
        assert acknowledge(pool, "erp", got.cursor)
        assert not acknowledge(pool, "erp", got.cursor)
    assert seen == [f"d{number}" for number in range(1, 8)]


def test_a_page_that_is_held_while_a_person_rewinds_does_not_take_the_rewind_back(pool):
    """The program says where its page began, is refused, reads on, and gets everything again."""
    acknowledge(pool, "erp", page(pool, None, most=4).cursor)
    begin = place(pool)
    held = page(pool, begin)
    rewind(pool, "erp", None)

    with pytest.raises(MovedError, match="stands at 1-0, not at 1-4"):
        acknowledge(pool, "erp", held.cursor, begin)
    assert place(pool) == Cursor(1, 0)
    again = page(pool, place(pool))
    assert len(again.documents) == 7
    assert acknowledge(pool, "erp", again.cursor, Cursor(1, 0))
    assert not acknowledge(pool, "erp", again.cursor, Cursor(1, 0))  # The answer was lost, and it asks once more.


def test_how_far_behind_is_counted_and_since_when(pool):
    """Seven at first, none at the end; the oldest that waits is named."""
    assert (shown(pool)["behind"], shown(pool)["waiting_since_ms"]) == (7, NOW_MS)
    acknowledge(pool, "erp", page(pool, None, most=5).cursor)
    assert (shown(pool)["behind"], shown(pool)["acknowledged_at_ms"]) == (2, NOW_MS + 1)
    acknowledge(pool, "erp", page(pool, None).cursor)
    assert (shown(pool)["behind"], shown(pool)["waiting_since_ms"]) == (0, None)


def test_far_behind_is_counted_no_further_than_it_helps(pool, monkeypatch):
    """It is said to be at least so many."""
    statement = consumers._LISTED.replace(f"LIMIT {consumers.COUNTED_MAX + 1}", "LIMIT 4")
    monkeypatch.setattr(consumers, "_LISTED", statement)
    monkeypatch.setattr(consumers, "COUNTED_MAX", 3)

    assert (shown(pool)["behind"], shown(pool)["is_further_behind"]) == (3, True)


def test_all_consumers_are_listed_by_one_statement(pool):
    """Whatever their number."""
    with pool.changing("anna"):
        for number in range(5):
            consumers.create(f"c{number}", Cursor(1, number), NOW_MS)
    heard = []
    with pool.looking() as database, listening(database, heard.append):
        rows = consumers.listed(database)
    assert [row["behind"] for row in rows] == [7, 6, 5, 4, 3, 7]
    assert len(heard) == 1


def test_an_acknowledgement_never_moves_back_and_never_ahead_of_what_there_is(pool):
    """An old one that comes late changes nothing; one of what was never handed out is refused."""
    acknowledge(pool, "erp", Cursor(1, 5))
    assert not acknowledge(pool, "erp", Cursor(1, 2))
    assert place(pool) == Cursor(1, 5)
    with pytest.raises(CursorError, match="no more than 7"):
        acknowledge(pool, "erp", Cursor(1, 8))
    with pytest.raises(NoConsumerError, match="consumers list"):
        acknowledge(pool, "nobody", Cursor(1, 1))


def test_a_rewind_goes_back_and_is_in_the_audit(pool):
    """Never ahead: what is between would not be read by anybody."""
    acknowledge(pool, "erp", Cursor(1, 5))
    with pytest.raises(CursorError, match="ahead"):
        rewind(pool, "erp", Cursor(1, 6))
    assert rewind(pool, "erp", Cursor(1, 2)) == Cursor(1, 2)
    assert rewind(pool, "erp", None) == Cursor(1, 0)
    with pool.reading():
        rows = [(one.who, one.action, one.object) for one in Audit.select().order_by(Audit.id)]
    assert rows[1:] == [
        ("anna", "rewind consumer", "consumer erp: 1-5 to 1-2"),
        ("anna", "rewind consumer", "consumer erp: 1-2 to 1-0"),
    ]


def test_after_a_restore_a_consumer_is_told_and_can_begin_anew(pool, central_url):
    """Numbers were given out again: how far behind it is nobody knows, and reading on would skip."""
    acknowledge(pool, "erp", Cursor(1, 5))
    look(central_url, "UPDATE central SET incarnation = 2")

    assert (shown(pool)["behind"], shown(pool)["must_rewind"]) == (None, True)
    with pytest.raises(OtherIncarnationError, match="put back to an earlier state"):
        page(pool, place(pool))
    with pytest.raises(OtherIncarnationError, match="incarnation 2"):
        acknowledge(pool, "erp", Cursor(1, 6))
    with pytest.raises(OtherIncarnationError, match="rewind it"):
        acknowledge(pool, "erp", Cursor(2, 6))
    assert rewind(pool, "erp", None) == Cursor(2, 0)
    assert (shown(pool)["behind"], shown(pool)["must_rewind"]) == (7, False)
    assert acknowledge(pool, "erp", Cursor(2, 6))


def test_a_name_is_given_once(pool):
    """Creating it again changes nothing; a name that cannot be one is refused."""
    acknowledge(pool, "erp", Cursor(1, 5))
    with pool.changing("anna"):
        assert not consumers.create("erp", Cursor(1, 0), NOW_MS)
        with pytest.raises(ConsumerError, match="consumer 'a b'"):
            consumers.create("a b", Cursor(1, 0), NOW_MS)
    assert place(pool) == Cursor(1, 5)


def test_a_page_is_bounded_in_bytes(store, central_url, monkeypatch):
    """Large documents make a page short; nothing is skipped by that."""
    monkeypatch.setattr(consumers, "AT_ONCE", 2)
    monkeypatch.setattr(consumers, "PAGE_BYTES_MAX", 10)
    with closing(Place(central_url).look(to_write=False)) as database:
        first = consumers.read(database, None, 1000, 0.0)
        second = consumers.read(database, first.cursor, 1000, 0.0)
    assert [one["document_id"] for one in first.documents + second.documents] == ["d1", "d2", "d3", "d4"]


def test_a_consumer_that_begins_now_gets_what_comes_and_no_more(store, central_url):
    """What is being committed at that moment still comes."""
    with closing(Place(central_url).look(to_write=False)) as database:
        begin = consumer.newest(database, 1.0)
    store.ingest([Parcel(TILL, an_upload([a_sale("d8")], some_sales(7)))], {}, NOW_MS)
    with closing(Place(central_url).look(to_write=False)) as database:
        assert [one["document_id"] for one in consumers.read(database, begin, 10, 0.0).documents] == ["d8"]


# -- Commands ----------------------------------------------------------------------------------------------------------


def run(url, *arguments):
    return CliRunner().invoke(central, ["--database", url, "consumers", *arguments])


def test_the_commands_do_it_by_the_same_functions(store, central_url):
    """Create, list, acknowledge, rewind and remove."""
    assert "begins at 1-0" in run(central_url, "create", "erp").output
    assert "begins at 1-7" in run(central_url, "create", "wall", "--from", "now").output
    assert "nothing changed" in run(central_url, "create", "erp", "--from", "now").output
    assert "up to 1-3" in run(central_url, "ack", "erp", "1-3").output
    assert json.loads(run(central_url, "ack", "erp", "1-3", "--json").output)["changed"] is False
    listed = json.loads(run(central_url, "list", "--json").output)
    assert [(one["name"], one["cursor"], one["behind"]) for one in listed] == [("erp", "1-3", 4), ("wall", "1-7", 0)]
    assert "behind 1-0" in run(central_url, "rewind", "erp", "0", "--note", "lost").output
    assert run(central_url, "remove", "wall").exit_code == 0
    assert len(json.loads(run(central_url, "list", "--json").output)) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("ack", "erp", "1-9"), 1, "no more than 7"),
        (("ack", "erp", "x"), 2, "no cursor"),
        (("ack", "erp", "0"), 2, "rewind"),
        (("ack", "nobody", "1-1"), 1, "no consumer"),
        (("rewind", "erp", "2-1"), 1, "incarnation 1"),
        (("remove", "nobody"), 1, "no consumer"),
        (("create", "a b"), 1, "letters"),
    ],
)
def test_what_cannot_be_done_is_told(store, central_url, arguments, code, named):
    """In one line, with what is right."""
    run(central_url, "create", "erp")
    told = run(central_url, *arguments)

    assert (told.exit_code, named in told.output) == (code, True), told.output


def test_a_restore_of_yesterdays_backup_is_seen_by_every_consumer(tmp_path):
    """By the commands themselves: what was acknowledged beyond the backup is not passed over when it comes again."""
    path, note = tmp_path / "central.db", ("--note", "disk replaced")
    bodies = some_sales(6)
    with closing(a_store(path)) as store:
        store.open_streams([NewStream(TILL, a_stream(), ())], {}, NOW_MS)
        store.ingest([Parcel(TILL, an_upload(bodies[:3]))], {}, NOW_MS)
        run(str(path), "create", "erp")
        backup.make(str(path), tmp_path / "copy.db", 1, "", lambda: NOW_MS, lambda *_: None)
        store.ingest([Parcel(TILL, an_upload(bodies[3:5], bodies[:3]))], {}, NOW_MS)
        assert run(str(path), "ack", "erp", "1-5").exit_code == 0
    done = CliRunner().invoke(central, ["--database", str(path), "restore", str(tmp_path / "copy.db"), *note])
    assert done.exit_code in (0, 3), done.output

    with closing(a_store(path)) as store:  # The till sends again, and one more: it has number 4 now.
        store.ingest([Parcel(TILL, an_upload([bodies[5], *bodies[3:5]], bodies[:3]))], {}, NOW_MS)
    (row,) = json.loads(run(str(path), "list", "--json").output)
    assert (row["must_rewind"], row["behind"]) == (True, None)
    assert "put back" in run(str(path), "ack", "erp", "1-5").output
    assert "behind 2-0" in run(str(path), "rewind", "erp", "0").output
    with closing(Place(str(path)).look(to_write=False)) as database:
        page = consumers.read(database, Cursor(2, 0), 100, 0.0)
    assert {one["document_id"] for one in page.documents} == {f"d{number}" for number in range(1, 7)}
