"""The console's connections: many threads at once, one view for each, and a database that goes away and comes back."""

from __future__ import annotations

import threading
from contextlib import closing

import peewee as pw
import pytest
from databases import look
from factories import NOW_MS, TILL, a_parcel, a_sale, a_store, a_stream

from central import audit, decisions, reports
from central import pool as pool_module
from central.batch import NewStream
from central.database import Place
from central.migrations import MIGRATIONS
from central.models import Audit, Document, Till
from central.pool import Pool


@pytest.fixture
def url(central_url):
    """Return a database with one till and one document."""
    with closing(a_store(central_url)) as store:
        store.open_streams([NewStream(TILL, a_stream(), ())], {}, NOW_MS)
        store.ingest([a_parcel([a_sale("d1")])], {}, NOW_MS)
    return central_url


def test_threads_read_and_change_side_by_side(url):
    """Each has a connection of its own: eight readers and a writer at once, and no half of a change is seen."""
    seen, failed = [], []

    def read_on():
        try:
            for _ in range(20):
                with pool.reading():
                    till = Till.get(Till.till_id == TILL)
                    rows = Audit.select().count()
                    seen.append((till.parked_at_ms is not None) == bool(rows % 2))
        except Exception as problem:  # noqa: BLE001 -- shown by the assertion below
            failed.append(problem)

    with Pool(Place(url)) as pool:
        readers = [threading.Thread(target=read_on) for _ in range(8)]
        for reader in readers:
            reader.start()
        for number in range(10):
            with pool.changing("anna"):
                (decisions.unpark if number % 2 else decisions.park)(TILL, "why", NOW_MS)
        for reader in readers:
            reader.join()

    assert (failed, len(seen), all(seen)) == ([], 160, True)


def test_one_reading_sees_one_moment(url):
    """What is committed meanwhile is not seen before the next reading."""
    with Pool(Place(url)) as pool:
        with pool.reading():
            before = Document.select().count()
            look(url, "UPDATE till SET store_id = 'moved'")
            look(url, "DELETE FROM document")
            assert Document.select().count() == before
        with pool.reading():
            assert Document.select().count() == 0


def test_the_audit_names_who_decided(url):
    """Not the login that the process runs as; and after it that one again."""
    with Pool(Place(url)) as pool:
        with pool.changing("anna"):
            decisions.park(TILL, "in repair", NOW_MS)
        with pool.reading():
            assert [row["who"] for row in audit.listed(5)] == ["anna"]
    assert audit.who() != "anna"


def test_what_fails_takes_all_of_it_back(url):
    """An error in the middle of a change leaves nothing, and the next one finds a good connection."""
    with Pool(Place(url)) as pool:
        with pytest.raises(decisions.DecisionError), pool.changing("anna"):  # noqa: PT012 -- the first is to be undone
            decisions.park(TILL, "why", NOW_MS)
            decisions.park("nobody", "why", NOW_MS)
        with pool.reading():
            assert Till.get(Till.till_id == TILL).parked_at_ms is None


def test_a_connection_that_failed_is_not_met_again(url):
    """In whatever state the failure left it: the next one begins anew."""
    with Pool(Place(url)) as pool:
        with pytest.raises(pw.OperationalError), pool.looking() as database:  # noqa: PT012 -- left in a transaction
            database.run("BEGIN")
            raise pw.OperationalError("the disk said no")
        with pool.changing("anna"):
            assert decisions.park(TILL, "why", NOW_MS)


def test_connections_that_the_server_cut_are_made_anew(postgres, request):
    """A restart of the server costs no request: an idle connection is tried before it is used."""
    url = postgres.new_database()
    a_store(url).close()
    with Pool(Place(url)) as pool:
        with pool.reading():
            pass
        others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        look(url, f"SELECT pg_terminate_backend(pid) {others}")
        with pool.reading():
            assert Till.select().count() == 0
    postgres.drop(url)


def test_a_schema_that_was_changed_meanwhile_is_noticed(url):
    """A newer central has migrated the database: the pages say so within a minute instead of guessing."""
    now = [0.0]
    with Pool(Place(url), lambda: now[0]) as pool:
        with pool.reading():
            pass
        look(url, f"INSERT INTO migration (number) VALUES ({len(MIGRATIONS) + 1})")
        now[0] += pool_module.CONNECTION_AGE_S
        with pytest.raises(reports.NoDatabaseError, match="upgrade"), pool.reading():
            pass


def test_without_a_database_it_is_said_what_to_do(tmp_path):
    """The console never makes one."""
    with pytest.raises(reports.NoDatabaseError, match="central run"), Pool(Place(str(tmp_path / "none.db"))):
        pass


def test_a_closed_pool_lets_a_restore_have_the_database(url):
    """Nothing stays open: whoever needs the database alone gets it."""
    with Pool(Place(url)) as pool, pool.reading():
        pass
    with closing(Place(url).open()) as database:
        if database.kind == "postgresql":
            database.have_alone()


def test_whoever_reads_keeps_no_worker_from_committing(url):
    """A page that takes long, or a console that was killed in the middle of one, costs the tills nothing."""
    bodies = [a_sale("d1")]
    with Pool(Place(url)) as pool, closing(a_store(url)) as store, pool.reading():
        before = Document.select().count()
        (outcome,) = store.ingest([a_parcel([a_sale("d2")], before=bodies)], {}, NOW_MS)
        assert (outcome.kind, Document.select().count()) == ("advanced", before)


def test_one_piece_of_work_borrows_one_connection(url):
    """A second one within it would not see what the first has changed: it is a fault of the program, and said so."""
    with Pool(Place(url)) as pool, pool.reading():
        with pytest.raises(RuntimeError, match="one piece of work"), pool.reading():
            pass
        assert Till.select().count() == 1
