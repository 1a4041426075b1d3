"""Which database a URL names, and what PostgreSQL has to promise before anything is told to be stored."""

from __future__ import annotations

import threading
from contextlib import closing

import peewee as pw
import psycopg
import pytest
from click.testing import CliRunner
from databases import listening
from factories import CENTRAL, NOW_MS, TILL, a_parcel, a_sale, a_store, a_stream, some_sales, wait_until
from postgres import PASSWORD

from central import audit, reports
from central.batch import NewStream
from central.cli import central
from central.database import LOCK_CLASS, WRITING, Place, UnsafeDatabaseError
from central.days import _HOMES
from central.lock import InUseError
from central.store import _TILLS, Store
from wire.program import ConfigError


@pytest.fixture
def url(postgres):
    """Return a new database of the private server."""
    made = postgres.new_database()
    yield made
    postgres.drop(made)


@pytest.fixture
def store(url):
    """Return central's database on PostgreSQL."""
    with closing(a_store(url)) as made:
        yield made


def name_of(url):
    return url.split("@")[1].split("?")[0].strip("/")


def opened(store, *tills):
    store.open_streams([NewStream(till, a_stream(), ()) for till in tills or (TILL,)], {}, NOW_MS)


# -- Names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "kind", "path"),
    [
        ("/var/lib/x.db", "sqlite", "/var/lib/x.db"),
        ("sqlite:///var/lib/x.db", "sqlite", "/var/lib/x.db"),
        ("central.db", "sqlite", "central.db"),
        ("postgresql://tillstream@db-1:5432/tillstream", "postgresql", None),
        ("postgres:///tillstream?host=/run/postgresql", "postgresql", None),
    ],
)
def test_a_path_or_a_url_names_a_database(url, kind, path):
    """A bare path stays what it was."""
    place = Place(url)

    assert place.kind == kind
    assert path is None or str(place.path) == path


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:canary@h/d",
        "postgresql://u@h/d?password=canary",
        "postgresql://u@h/d?sslmode=require&sslpassword=canary",
        "postgresql://[canary/d",
        "mysql://canary@h/d",
    ],
)
def test_a_url_with_a_password_or_of_nothing_known_is_refused_and_not_shown(url):
    """It would stand in process lists; the text says what else there is, and does not repeat it."""
    with pytest.raises(ConfigError, match="database") as refused:
        Place(url)
    assert "canary" not in str(refused.value)

    told = CliRunner().invoke(central, ["--database", url, "status"])
    assert told.exit_code == 1, told.output
    assert "tillstream central: database:" in told.output
    assert "canary" not in told.output


def test_the_password_comes_from_a_file_and_stands_nowhere_else(postgres, url, tmp_path):
    """Right, it opens; wrong, the refusal names the user and not the password."""
    tcp, file = postgres.tcp_url(name_of(url)), tmp_path / "secret"
    file.write_text(f"{PASSWORD}\n")
    with closing(Place(tcp, password_file=str(file)).open()) as database:
        assert database.run("SELECT 1").fetchone() == (1,)
    file.write_text("canary-of-a-password\n")
    environment = {"TILLSTREAM_DATABASE_PASSWORD_FILE": str(file)}
    for command in ("status", "run"):
        told = CliRunner(env=environment).invoke(central, ["--database", tcp, command])
        assert told.exit_code == 7
        assert "password authentication failed" in told.output
        assert "canary" not in told.output


def test_a_server_that_is_not_there_is_told_at_once(postgres, url, tmp_path):
    """Every command says what libpq says, and ends with the code that a script may try again by."""
    nowhere, file = url.replace(str(postgres.folder), "/nowhere"), tmp_path / "x.dump"
    file.touch()
    for command in (
        *("status", "run", "workers", "migrate", "doctor", "documents --after 0", f"backup --to {tmp_path}"),
        *(f"restore {file}", f"restore {file} --dry-run"),
    ):
        told = CliRunner().invoke(central, ["--database", nowhere, *command.split()])
        assert (told.exit_code, "connection to server on socket" in told.output) == (7, True), told.output
        assert "Traceback" not in told.output


# -- What it must promise ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting", ["synchronous_commit = off", "synchronous_commit = local", "default_transaction_read_only = on"]
)
def test_a_database_whose_commits_may_be_lost_is_refused(postgres, url, setting):
    """What is told to tills must survive a power cut, so it is read back at every start."""
    postgres.run(f"ALTER DATABASE {name_of(url)} SET {setting}")

    with pytest.raises((UnsafeDatabaseError, pw.OperationalError), match=r"synchronous_commit=(off|local)|read-only"):
        a_store(url)


def test_a_server_that_is_too_old_is_refused_before_anything_is_made(postgres, monkeypatch):
    """Its version is named, not the word in a statement that it does not know."""
    url = postgres.empty_database()
    monkeypatch.setattr("central.database.SERVER_VERSION_MIN", 99)

    with pytest.raises(UnsafeDatabaseError, match="is older than 99"):
        a_store(url)
    postgres.drop(url)


def test_a_server_without_fsync_is_refused(postgres, url):
    """The server itself may have been told not to wait for its disk."""
    postgres.run("ALTER SYSTEM SET fsync = off")
    postgres.stop()
    settings, postgres.settings = postgres.settings, postgres.settings | {"fsync": "off"}
    postgres.start()
    try:
        with pytest.raises(UnsafeDatabaseError, match="fsync=off"):
            a_store(url)
    finally:
        postgres.stop()
        postgres.settings = settings
        postgres.start()
        postgres.run("ALTER SYSTEM RESET fsync")
        postgres.run("SELECT pg_reload_conf()")


def test_waits_are_bounded_and_the_server_sees_who_is_there(url):
    """Each limit is a key of the configuration."""
    place = Place(url, program="tillstream central-3", lock_timeout_s=1.5, statement_timeout_s=7, idle_timeout_s=9)
    with closing(place.open()) as database:
        names = "lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout", "application_name"
        shown = [database.run(f"SHOW {name}").fetchone()[0] for name in names]

    assert shown == ["1500ms", "7s", "9s", "tillstream central-3"]


def test_a_commit_that_the_server_turned_into_a_rollback_is_an_error(store):
    """A statement that failed and was passed over: the server answers ROLLBACK, and psycopg calls that no error."""

    def fail_quietly():
        with store.database.writing():
            store.database.run("INSERT INTO till_tag (till_id, tag) VALUES ('t', 'x')")
            with pytest.raises(pw.ProgrammingError):
                store.database.run("SELECT nonsense")

    with pytest.raises(pw.OperationalError, match="ROLLBACK"):
        fail_quietly()
    assert store.database.run("SELECT count(*) FROM till_tag").fetchone() == (0,)


def test_the_newest_stream_of_each_till_is_found_by_an_index_before_anybody_has_counted_the_rows(store):
    """Without statistics the server went through all streams for each till: 15 s for 10,000, and all tills waited."""
    opened(store, *[f"till-{number}" for number in range(2000)])
    for statement, values in ((_TILLS, ()), (_HOMES, ("1", "1"))):
        plan = "\n".join(line for (line,) in store.database.run(f"EXPLAIN {statement}", values).fetchall())

        assert "watermark_by_till" in plan
        assert "watermark_pkey" not in plan


# -- Several at once ---------------------------------------------------------------------------------------------------


def test_whoever_may_insert_a_document_holds_the_lock_that_readers_wait_for(store, url):
    """From before the first id is handed out: worker and person alike."""
    held = f"SELECT mode FROM pg_locks WHERE locktype = 'advisory' AND classid = {LOCK_CLASS} AND objid = {WRITING}"
    for writing in (store.database.writing, lambda: reports.writing(url)):
        with writing():
            assert store.database.run(held).fetchall() == [("ShareLock",)]
        assert store.database.run(held).fetchall() == []

    seen = []
    with listening(store.database, seen.append):
        opened(store)
        store.ingest([a_parcel(some_sales(2))], {}, NOW_MS)
        store.note(NOW_MS, verified=[(TILL, a_stream())])
    begun = [text for text in seen if text.startswith("BEGIN")]
    assert begun == [f"BEGIN ; SELECT pg_advisory_xact_lock_shared({LOCK_CLASS}, {WRITING})"] * 3


def test_an_upload_waits_for_the_one_that_another_process_is_committing(url, store):
    """Whether it begins at the watermark is decided on the row, once that is settled: the second stores nothing."""
    opened(store)
    bodies, outcomes = some_sales(3), []
    with closing(a_store(url)) as other:
        with store.database.writing():
            store.database.run("SELECT 1 FROM watermark FOR UPDATE").fetchall()
            second = threading.Thread(target=_ingest_elsewhere, args=(url, [a_parcel(bodies)], outcomes))
            second.start()
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            assert wait_until(lambda: other.database.run(waiting).fetchone() == (1,))
            store.ingest([a_parcel(bodies)], {}, NOW_MS)
        second.join(10)

    assert [(one.kind, one.mark.through) for one in outcomes] == [("not_next", 3)]
    assert store.database.run("SELECT count(*) FROM document").fetchone() == (3,)


def _ingest_elsewhere(url, parcels, outcomes):
    with closing(Store(url, lambda: CENTRAL)) as store:
        outcomes += store.ingest(parcels, {}, NOW_MS)


def test_what_people_change_is_changed_one_after_the_other(url, store):
    """So the audit's numbers are committed in order: whoever knows the newest has missed none."""
    insert = "INSERT INTO audit (at_ms, who, action, object, note) VALUES (0, '', ?, '', '')"

    def change():
        with closing(Place(url).look(to_write=True)) as mine, mine.changing():
            mine.run(insert, ("second",))

    with reports.writing(url):
        second = threading.Thread(target=change)
        second.start()
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory'"
        assert wait_until(lambda: store.database.run(waiting).fetchone() == (1,))
        audit.record("first", "", "", NOW_MS)
    second.join(10)

    assert store.database.run("SELECT action FROM audit ORDER BY id").fetchall() == [("first",), ("second",)]


def test_processes_with_the_same_tills_never_wait_for_each_other_in_a_ring(url, store):
    """Four writers, the same new tills in every order, at the same moment: each document once, and no deadlock."""
    troubles, together = [], threading.Barrier(4)

    def write(number):
        try:
            with closing(Store(url, lambda: CENTRAL)) as mine:
                for turn in range(8):
                    tills = [f"till-{turn}-{one}" for one in range(20)][:: 1 if number % 2 else -1]
                    together.wait(30)
                    opened(mine, *tills)
                    sales = {till: [a_sale(f"d{one}", till_id=till) for one in range(3)] for till in tills}
                    mine.ingest([a_parcel(sales[till], till) for till in tills], {}, NOW_MS)
                    mine.note(NOW_MS, verified=[(till, a_stream()) for till in tills])
        except pw.DatabaseError as problem:
            together.abort()
            troubles.append(problem)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)

    assert troubles == []
    counts = "SELECT count(*), count(DISTINCT (till_id, document_id)) FROM document"
    assert store.database.run(counts).fetchone() == (8 * 20 * 3, 8 * 20 * 3)


def test_the_present_stream_never_takes_a_number_that_is_handed_out_again(url, store):
    """A row that moved to the newest number must not meet the next one that is made."""
    for stream in (1, 2, 1, 2, 1):
        store.open_streams([NewStream(TILL, a_stream(stream), ())], {}, NOW_MS)
    opened(store, "till-2", "till-3", "till-4")

    assert len(store.tills()) == 4
    assert all(mark is not None for _, mark, *_ in store.tills())


def test_a_restore_and_a_worker_keep_out_of_each_others_way(url, store):
    """Who has the database open shares a lock that a restore takes alone; a server that dies lets go of both."""
    with psycopg.connect(url, autocommit=True) as other:
        taken = other.execute(f"SELECT pg_try_advisory_lock({LOCK_CLASS}, 1)").fetchone()
        assert taken == (False,)
        store.close()
        assert wait_until(lambda: other.execute(f"SELECT pg_try_advisory_lock({LOCK_CLASS}, 1)").fetchone() == (True,))
        with pytest.raises(InUseError, match="a restore is under way"):
            a_store(url)


def test_a_person_reads_one_moment(url, store):
    """What is committed while a report is made is not in it, so that its figures fit each other."""
    opened(store)
    with reports.reading(url):
        before = reports.status()["documents"]
        store.ingest([a_parcel(some_sales(3))], {}, NOW_MS)
        assert reports.status()["documents"] == before == 0
    with reports.reading(url):
        assert reports.status()["documents"] == 3


def test_a_person_changes_in_one_transaction(url, store):
    """What fails leaves nothing behind."""

    def change():
        with reports.writing(url):
            audit.record("a", "b", "", NOW_MS)
            audit.record("a", "b", "x" * 10_000, NOW_MS)

    with pytest.raises(ValueError, match="a note may have"):
        change()
    assert store.database.run("SELECT count(*) FROM audit").fetchone() == (0,)
