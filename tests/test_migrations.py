"""The schema in numbered steps: applied once, together or not at all, also from two processes at once."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import peewee as pw
import pytest
from factories import a_store

from central.migrations import MIGRATIONS, NewerSchemaError, migrate
from central.models import MODELS


@pytest.fixture
def database(tmp_path):
    """Return an empty database file, connected."""
    made = pw.SqliteDatabase(str(tmp_path / "central.db"), pragmas={"journal_mode": "wal"})
    made.connect()
    yield made
    made.close()


def schema(database):
    return database.execute_sql("SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2").fetchall()


def test_an_empty_database_gets_every_step_and_a_current_one_none(database):
    """Migrating is idempotent: the second time changes nothing."""
    assert migrate(database) == len(MIGRATIONS)
    before = schema(database)

    assert migrate(database) == 0
    assert before == schema(database)


@pytest.mark.fault("F39")
@pytest.mark.parametrize("done", range(1, len(MIGRATIONS)))
def test_only_the_steps_that_are_missing_are_applied(database, done, tmp_path, monkeypatch):
    """A database of any earlier version goes on from where it stands, and ends like a new one."""
    with monkeypatch.context() as earlier:
        earlier.setattr("central.migrations.MIGRATIONS", MIGRATIONS[:done])
        migrate(database)
    new = pw.SqliteDatabase(":memory:")
    migrate(new)

    assert migrate(database) == len(MIGRATIONS) - done
    assert schema(database) == schema(new)


def test_a_database_of_a_newer_version_is_refused_untouched(database):
    """An older program must not write where it does not know the schema."""
    migrate(database)
    database.execute_sql("INSERT INTO migration (number) VALUES (?)", (len(MIGRATIONS) + 1,))
    before = schema(database)

    with pytest.raises(NewerSchemaError, match="upgrade"):
        migrate(database)

    assert before == schema(database)


def test_a_step_that_fails_leaves_nothing_of_it_behind(database):
    """A table that stands in the way is told; the database is as it was, and can be mended."""
    database.execute_sql("CREATE TABLE quarantine (x)")

    with pytest.raises(pw.OperationalError, match="already exists"):
        migrate(database)

    assert [("quarantine",)] == database.execute_sql("SELECT name FROM sqlite_master").fetchall()
    database.execute_sql("DROP TABLE quarantine")
    assert migrate(database) == len(MIGRATIONS)


def test_the_models_are_the_tables(database):
    """Each model's columns are its table's, in name and number; none is left out on either side."""
    migrate(database)
    for model in MODELS:
        name = model._meta.table_name
        columns = {row[1] for row in database.execute_sql(f"PRAGMA table_info({name})")}
        assert columns == {field.column_name for field in model._meta.sorted_fields}, name


OPEN = """
import sys; sys.path[:0] = ["tests"]
from factories import a_store
sys.stdin.readline()
store = a_store({path!r})
print(store.starts)
store.close()
"""


def test_two_processes_may_migrate_at_once(tmp_path):
    """Both start on an empty file; one migrates, the other waits and finds all done."""
    path = str(tmp_path / "central.db")
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN.format(path=path)],
            cwd=Path(__file__).parent.parent,
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
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM migration").fetchone() == (len(MIGRATIONS),)
    database.close()


KILLED = """
import os, sys
import peewee as pw
from central.migrations import migrate

class Killed(pw.SqliteDatabase):
    left = 0

    def execute_sql(self, *args, **options):
        self.left -= 1
        if self.left == 0:
            os._exit(9)
        return super().execute_sql(*args, **options)

for number in range(1, 999):
    if (child := os.fork()) == 0:
        database = Killed(f"{sys.argv[1]}/{number}.db", pragmas={"journal_mode": "wal"})
        database.connect()
        database.left = number
        migrate(database)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        print(number)
        break
"""


@pytest.mark.fault("F39")
def test_a_migration_that_is_killed_at_any_statement_is_none_and_the_next_start_does_it(tmp_path):
    """All steps or none: whichever statement was the last, what stands there then is what a new database gets."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], cwd=Path(__file__).parent.parent, capture_output=True, check=True
    )
    assert int(done.stdout) > 30
    new = pw.SqliteDatabase(":memory:")
    migrate(new)
    for path in tmp_path.glob("*.db"):
        killed = pw.SqliteDatabase(str(path))
        tables = killed.execute_sql("SELECT count(*) FROM sqlite_master").fetchone()[0]
        assert tables in (0, len(schema(new)))
        migrate(killed)
        assert schema(killed) == schema(new)
        killed.close()


@pytest.mark.fault("F39")
def test_a_store_of_a_newer_version_does_not_start(tmp_path):
    """The program is told to upgrade before it could do harm."""
    store = a_store(tmp_path / "central.db")
    store.database.execute_sql("INSERT INTO migration (number) VALUES (99)")
    store.close()

    with pytest.raises(NewerSchemaError, match="migration 99"):
        a_store(tmp_path / "central.db")
