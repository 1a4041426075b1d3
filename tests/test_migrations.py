"""The schema in numbered steps: applied once, together or not at all, also from two processes at once."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import peewee as pw
import psycopg
import pytest
from click.testing import CliRunner
from databases import look
from factories import NOW_MS, TILL, a_parcel, a_store, a_stream, some_sales, wait_until
from test_subscriber import Central

from central.batch import NewStream
from central.cli import central
from central.database import Place
from central.day_notes import DayNotes
from central.migrations import MIGRATIONS, NewerSchemaError, migrate
from central.models import MODELS
from central.roll import Roll
from central.share import Share

ROOT = Path(__file__).parent.parent
EVERYTHING = """
SELECT 'column', table_name || '.' || column_name, ordinal_position || data_type || is_nullable
  || coalesce(column_default, '') || coalesce(collation_name, '') || is_identity
  FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL SELECT 'view', viewname, definition FROM pg_views WHERE schemaname = 'public' ORDER BY 1, 2
"""


@pytest.fixture
def database(empty_url):
    """Return an empty database, connected."""
    with closing(Place(empty_url).open()) as made:
        yield made


def schema(database):
    if database.kind == "sqlite":
        return database.run("SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2").fetchall()
    return database.execute_sql(EVERYTHING).fetchall()


@pytest.fixture
def new(empty_url, another_url):
    """Return what a new database of the same kind gets."""
    with closing(Place(another_url).open()) as made:
        migrate(made)
        yield schema(made)


def test_an_empty_database_gets_every_step_and_a_current_one_none(database):
    """Migrating is idempotent: the second time changes nothing."""
    assert migrate(database) == len(MIGRATIONS)
    before = schema(database)

    assert migrate(database) == 0
    assert before == schema(database)


@pytest.mark.fault("F39")
@pytest.mark.parametrize("done", range(1, len(MIGRATIONS)))
def test_only_the_steps_that_are_missing_are_applied(database, done, new, monkeypatch):
    """A database of any earlier version goes on from where it stands, and ends like a new one."""
    with monkeypatch.context() as earlier:
        earlier.setattr("central.migrations.MIGRATIONS", MIGRATIONS[:done])
        migrate(database)

    assert migrate(database) == len(MIGRATIONS) - done
    assert schema(database) == new


def test_a_database_of_a_newer_version_is_refused_untouched(database):
    """An older program must not write where it does not know the schema."""
    migrate(database)
    database.run("INSERT INTO migration (number) VALUES (?)", (len(MIGRATIONS) + 1,))
    before = schema(database)

    with pytest.raises(NewerSchemaError, match="upgrade"):
        migrate(database)

    assert before == schema(database)


def test_a_step_that_fails_leaves_nothing_of_it_behind(database):
    """A table that stands in the way is told; the database is as it was, and can be mended."""
    database.run("CREATE TABLE quarantine (x INTEGER)")
    before = schema(database)

    with pytest.raises((pw.OperationalError, pw.ProgrammingError), match="already exists"):
        migrate(database)

    assert schema(database) == before
    database.run("DROP TABLE quarantine")
    assert migrate(database) == len(MIGRATIONS)


def test_the_models_are_the_tables(database):
    """Each model's columns are its table's, in name and number; none is left out on either side."""
    migrate(database)
    for model in MODELS:
        name = model._meta.table_name
        columns = {column.name for column in database.get_columns(name)}
        assert columns == {field.column_name for field in model._meta.sorted_fields}, name


OPEN = """
import sys; sys.path[:0] = ["tests"]
from click.testing import CliRunner
from databases import look
from factories import NOW_MS, TILL, a_parcel, a_store, a_stream, some_sales
sys.stdin.readline()
store = a_store({path!r})
print(store.starts)
store.close()
"""


def test_processes_may_migrate_at_once(empty_url):
    """All start on an empty database; one migrates and names it, the others wait and find all done."""
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN.format(path=empty_url)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for starter in starters:
        starter.stdin.write("\n")
        starter.stdin.flush()
    told = [starter.communicate(timeout=20) for starter in starters]

    assert ["1", "2", "3"] == sorted(out.strip() for out, _ in told), told
    with closing(Place(empty_url).open()) as database:
        assert database.run("SELECT count(*) FROM migration").fetchone() == (len(MIGRATIONS),)
        assert database.run("SELECT count(*) FROM central").fetchone() == (1,)


KILLED = """
import os, sys
from central.batch import NewStream
from central.cli import central
from central.database import Place
from central.migrations import migrate

def migrate_and_be_killed(left):
    database = Place(sys.argv[1]).open()
    run = database.execute_sql

    def run_so_many(*args, **options):
        nonlocal left
        left -= 1
        return run(*args, **options) if left else os._exit(9)

    database.execute_sql = run_so_many
    migrate(database)

for number in range(1, 999):
    if (child := os.fork()) == 0:
        migrate_and_be_killed(number)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        print(number)
        break
    database = Place(sys.argv[1]).open()
    assert database.get_tables() == [], number
    database.close()
"""


@pytest.mark.fault("F39")
def test_a_migration_that_is_killed_at_any_statement_is_none_and_the_next_start_does_it(empty_url, new):
    """All steps or none: whichever statement was the last, nothing of it is there, and the next start does them all."""
    killed = subprocess.run([sys.executable, "-c", KILLED, empty_url], cwd=ROOT, capture_output=True, check=False)
    assert int(killed.stdout or 0) > 30, killed.stderr.decode()

    with closing(Place(empty_url).open()) as database:
        assert schema(database) == new


def test_who_reads_for_long_holds_up_a_migration_and_nobody_else(postgres, monkeypatch):
    """It gives its turn at the table back again and again: a worker gets there while the reader still reads."""
    monkeypatch.setattr("central.migrations.REST_S", 0.2)
    url = postgres.empty_database()
    with monkeypatch.context() as earlier, closing(Place(url).open()) as database:
        earlier.setattr("central.migrations.MIGRATIONS", MIGRATIONS[:8])
        migrate(database)

    def upgrade():
        with closing(Place(url, lock_timeout_s=0.5).open()) as database:
            migrate(database)

    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'document'::regclass"
    with psycopg.connect(url) as reader, closing(Place(url, lock_timeout_s=5).open()) as worker:
        reader.execute("SELECT count(*) FROM document")
        upgrading = threading.Thread(target=upgrade)
        upgrading.start()
        assert wait_until(lambda: worker.run(waiting).fetchone() == (1,))
        assert worker.run("SELECT count(*) FROM document").fetchone() == (0,)
        assert upgrading.is_alive()
    upgrading.join(20)

    assert look(url, "SELECT max(number) FROM migration") == [(len(MIGRATIONS),)]
    postgres.drop(url)


def test_the_command_makes_the_tables_and_says_so(empty_url):
    """Once there is something to do, then nothing; a worker may start on what it made."""
    asked = ["--database", empty_url, "migrate", "--json"]
    made = [json.loads(CliRunner().invoke(central, asked).stdout)["made"] for _ in range(2)]

    assert made == [len(MIGRATIONS), 0]
    a_store(empty_url).close()


@pytest.fixture
def roles(postgres):
    """Return the URLs of a migrated database for its owner and for a worker and a reader without any right yet."""
    url = postgres.empty_database()
    for role in ("worker", "reader"):
        look(url, f"CREATE ROLE {role} LOGIN")
    yield url, *(url.replace("tillstream@", f"{role}@") for role in ("worker", "reader"))
    for role in ("worker", "reader"):
        look(url, f"DROP OWNED BY {role}")
        look(url, f"DROP ROLE {role}")
    postgres.drop(url)


def grant_as_told(url):
    """Give the rights that the documentation names, by its own words."""
    block = (ROOT / "docs" / "operations.md").read_text("utf-8").split("**Roles.**")[1].split("```sql\n")[2]
    for statement in block.split("```")[0].split(";"):
        if statement.strip():
            look(url, statement)


def test_a_worker_needs_no_right_to_change_tables(roles):
    """The owner migrates; the worker reads and writes rows, and a schema that is not up to date is told."""
    url, worker, reader = roles
    told = CliRunner().invoke(central, ["--database", worker, "run"])
    assert (told.exit_code, "permission denied" in told.output) == (7, True), told.output
    CliRunner().invoke(central, ["--database", url, "migrate"])
    grant_as_told(url)

    with closing(a_store(worker)) as store:
        for stream in (1, 2, 1):
            store.open_streams([NewStream(TILL, a_stream(stream), ())], {}, NOW_MS)
        assert store.ingest([a_parcel(some_sales(3))], {}, NOW_MS)[0].kind == "advanced"
        DayNotes(store.database).note_days(NOW_MS, 1)
        Roll(store.database, Share(1, 1), 1, NOW_MS).call(NOW_MS)
    for asked in (["documents", "--after", "0"], ["status"], ["tills"], ["days", "--store", ""]):
        told = CliRunner().invoke(central, ["--database", reader, *asked])
        assert told.exit_code == 0, told.output


def test_a_right_that_is_missing_is_named_and_the_worker_goes_on_when_it_is_granted(roles):
    """No traceback and no end: a worker waits as for a server that is away; a command says what to grant."""
    url, worker, reader = roles
    CliRunner().invoke(central, ["--database", url, "migrate"])
    grant_as_told(url)
    look(url, "REVOKE SELECT ON document_id_seq FROM worker, reader")
    look(url, "REVOKE INSERT ON audit FROM worker")
    one = Central(worker, days_every_s=1.0)
    with closing(one.store):
        one.store.open_streams([NewStream(TILL, a_stream(), ())], {}, NOW_MS)
        one.shell.tick(2.0)
        assert "permission denied for sequence document_id_seq: grant the role what" in one.link.reconnects[-1]
        look(url, "GRANT SELECT ON document_id_seq TO worker")
        one.shell.tick(60.0)
        assert len(one.link.reconnects) == 1, one.link.reconnects

    told = CliRunner().invoke(central, ["--database", reader, "documents", "--after", "0"])
    assert (told.exit_code, "permission denied for sequence" in told.output) == (1, True), told.output
    told = CliRunner().invoke(central, ["--database", worker, "tills", "park", TILL, "--note", "x"])
    assert (told.exit_code, "permission denied for table audit: grant the role" in told.output) == (1, True), (
        told.output
    )


@pytest.mark.fault("F39")
def test_a_store_of_a_newer_version_does_not_start(central_url):
    """The program is told to upgrade before it could do harm."""
    store = a_store(central_url)
    store.database.run("INSERT INTO migration (number) VALUES (99)")
    store.close()

    with pytest.raises(NewerSchemaError, match="migration 99"):
        a_store(central_url)
