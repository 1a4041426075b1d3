"""A backup of PostgreSQL is a dump that was read back; a restore puts one in the schema's place, all of it or none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from databases import look
from factories import NOW_MS, TILL, a_parcel, a_sale, a_store, a_stream, some_sales

from central import backup, reports
from central.backup import BackupError
from central.batch import NewStream
from central.cli import central
from central.dump import SCRATCH, verify_dump
from central.lock import InUseError
from central.models import Audit
from central.restore import RestoreError, plan, restore
from central.verify import NotTrustedError

ROOT = Path(__file__).parent.parent
STRANGE = "tab\t, line\nbreak, back\\slash, \\N, 'quote', ünï ☃"
BODIES = [*some_sales(3), b'{"document_id":"bad\\tone"}', a_sale("d\t4\\"), a_sale("d5", note=STRANGE)]
TABLES = (
    *("central", "till", "watermark", "document", "quarantine", "heard_head", "gap", "task", "setting", "day"),
    *("held_before", "backup"),
)


def silent(*_):
    """Hear of progress and say nothing."""


@pytest.fixture
def url(postgres):
    """Return a new database of the private server, with documents that are hard to write down."""
    made = postgres.new_database()
    with closing(a_store(made)) as store:
        store.open_streams([NewStream(TILL, a_stream(), ())], {}, NOW_MS)
        store.ingest([a_parcel(BODIES)], {}, NOW_MS)
        store.open_streams([NewStream(TILL, a_stream(2), ())], {}, NOW_MS)
        store.ingest([a_parcel(BODIES[1:], stream=a_stream(2))], {}, NOW_MS)
    yield made
    postgres.drop(made)


def made_in(folder, url, keep=9, at_ms=NOW_MS):
    return backup.make(url, folder, keep, STRANGE, lambda: at_ms, silent)


def run(url, *arguments, **environment):
    return CliRunner(env=environment).invoke(central, ["--database", url, *map(str, arguments)])


def rows(url):
    return {table: sorted(map(repr, look(url, f"SELECT * FROM {table}"))) for table in TABLES}


# -- Making one --------------------------------------------------------------------------------------------------------


def test_a_dump_is_read_back_and_what_it_holds_is_told_to_the_tills(url, tmp_path):
    """Private, verified, noted per stream; older ones of the same central make room."""
    made = [made_in(tmp_path, url, 2, NOW_MS + number) for number in range(3)][-1]

    assert (made.verified.documents, made.verified.problems) == (5, [])
    assert [one.through for one in made.verified.streams] == [6, 5]
    assert len(list(tmp_path.iterdir())) == 2
    assert made.path.suffix == ".dump"
    assert made.path.stat().st_mode & 0o777 == 0o600
    with closing(a_store(url)) as store:
        assert store.backed_up().of(TILL, a_stream()) == 6
    with reports.reading(url):
        assert reports.status()["verified_backup_at_ms"] == NOW_MS + 2


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ("DELETE FROM document WHERE document_id = 'd2'", "number 2 is missing of 6"),
        ("UPDATE document SET body = '\\x7b7d' WHERE document_id = 'd2'", "its documents do not make its digest"),
    ],
)
def test_documents_that_are_not_there_or_not_the_same_are_found_in_the_dump(url, tmp_path, changed, problem):
    """The chain is worked out from the bytes in the file: tills go on keeping what is not whole."""
    look(url, changed)
    done = run(url, "backup", "--to", tmp_path, "--json")

    assert done.exit_code == 3, done.output
    assert [one["problem"] for one in json.loads(done.stdout)["problems"]] == [problem]
    with closing(a_store(url)) as store:
        assert store.backed_up().of(TILL, a_stream()) == 0


def test_what_a_killed_backup_had_unpacked_is_removed_by_the_next_one(url, tmp_path):
    """It is as large as the dump's rows; a folder in which somebody still verifies is left alone."""
    left, seen = tmp_path / f"{SCRATCH}left", []
    left.mkdir()
    (left / "scratch.db").write_bytes(b"half")

    def back_up(what, *_):
        if what == "checking pages":
            made_in(tmp_path, url, 9, NOW_MS + 1)
            seen.extend(tmp_path.glob(f"{SCRATCH}*"))

    verify_dump(made_in(tmp_path, url).path, back_up)
    assert (left.exists(), len(seen)) == (False, 1)


@pytest.mark.parametrize("damage", ["cut", "torn", "another"])
def test_a_dump_that_is_damaged_is_not_trusted(url, tmp_path, damage):
    """Cut off, bytes turned over, or no dump at all: nothing is restored, and the text names the file."""
    path = made_in(tmp_path, url).path
    whole = path.read_bytes()
    middle = len(whole) // 2
    torn = whole[:middle] + bytes(byte ^ 0xFF for byte in whole[middle : middle + 200]) + whole[middle + 200 :]
    path.write_bytes({"cut": whole[:middle], "torn": torn, "another": b"SQLite format 3\0" * 99}[damage])
    before = rows(url)
    with pytest.raises(NotTrustedError, match=path.name):
        restore(url, path, "", NOW_MS, silent)

    assert rows(url) == before


@pytest.mark.parametrize(
    ("version", "said"), [(None, "pg_dump is not installed"), ("12.3", "pg_dump is of version 12, the server of ")]
)
def test_without_the_programs_or_with_older_ones_it_is_told_what_to_install(url, tmp_path, version, said, monkeypatch):
    """pg_dump must be as new as the server."""
    programs = tmp_path / "programs"
    programs.mkdir()
    if version:
        (programs / "pg_dump").write_text(f"#!/bin/sh\necho 'pg_dump (PostgreSQL) {version}'\n")
        (programs / "pg_dump").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(BackupError, match=said):
        made_in(tmp_path, url)

    assert list(tmp_path.glob("*central*")) == []


# -- Putting one in place ----------------------------------------------------------------------------------------------


def test_what_is_restored_is_the_same_central_with_a_higher_incarnation(url, tmp_path):
    """Every row comes back as it was; what stood there is kept; who asks afterwards sees why and by whom."""
    path = made_in(tmp_path, url).path
    before = rows(url)
    with closing(a_store(url)) as store:
        store.ingest([a_parcel([a_sale("later")], stream=a_stream(), before=BODIES)], {}, NOW_MS)
        starts = store.starts
    done = run(url, "restore", path, "--note", STRANGE, "--json")

    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["incarnation"], told["documents"]) == (2, 5)
    after = rows(url)
    assert [table for table in TABLES if before[table] != after[table]] == ["central", "backup"]
    (kept,) = look(url, f"SELECT count(*) FROM {told['replaced'].removeprefix('schema ')}.document")
    assert kept == (6,)
    with reports.reading(url):
        audit = Audit.select().order_by(Audit.id.desc()).get()
        assert (audit.action, audit.note) == ("restore", STRANGE)
    with closing(a_store(url)) as store:
        assert (store.incarnation, store.starts) == (2, starts + 1)
        assert store.backed_up().of(TILL, a_stream()) == 6
        store.ingest([a_parcel([a_sale("later")], stream=a_stream(), before=BODIES)], {}, NOW_MS)
        assert store.database.run("SELECT count(*) FROM document").fetchone() == (6,)


def test_a_dump_goes_into_a_new_server_that_has_nothing_yet(url, postgres, tmp_path):
    """The server was lost: an empty database is enough."""
    path, new = made_in(tmp_path, url).path, postgres.empty_database()
    planned = plan(new, path, silent)
    done = restore(new, path, "", NOW_MS, silent)

    assert (planned.incarnation, done.incarnation, done.replaced) == (2, 2, None)
    assert rows(new)["document"] == rows(url)["document"]
    with closing(a_store(new)) as store:
        assert store.ingest([a_parcel([a_sale("later")], before=BODIES)], {}, NOW_MS)[0].kind == "advanced"


def test_a_newer_pg_restore_speaks_to_an_older_server(url, tmp_path, monkeypatch):
    """It sets what this server does not know; that word is left out, and no row that looks like it."""
    for statement in ("INSERT INTO store VALUES ('{0}', 'UTC', '')", "INSERT INTO day VALUES ('{0}', '', '', 0)"):
        look(url, statement.format("CREATE SCHEMA public;"))
    path, program, before = made_in(tmp_path, url).path, tmp_path / "pg_restore", rows(url)
    program.write_text(f"#!/bin/sh\necho 'SET transaction_timeout = 0;'\nexec {shutil.which('pg_restore')} \"$@\"\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    restore(url, path, "", NOW_MS, silent)

    assert (rows(url)["day"], len(look(url, "SELECT * FROM store"))) == (before["day"], 1)


def test_a_database_of_another_application_is_no_place_for_a_backup(url, postgres, tmp_path):
    """Its tables stay where they are: a URL that is mistyped costs nobody a schema."""
    path, other = made_in(tmp_path, url).path, postgres.empty_database()
    look(other, "CREATE TABLE orders (id INTEGER)")
    for act in (plan, lambda *where: restore(*where[:2], "", NOW_MS, silent)):
        with pytest.raises(RestoreError, match="not central's \\(table orders\\)"):
            act(other, path, silent)

    assert look(other, "SELECT count(*) FROM orders") == [(0,)]


def test_nothing_is_restored_while_somebody_has_the_database_open(url, tmp_path):
    """A dry run may be made at any time, and says what tills may have forgotten."""
    path = made_in(tmp_path, url).path
    with closing(a_store(url)) as store:
        store.ingest([a_parcel([a_sale("later")], before=BODIES)], {}, NOW_MS)
        backup.make(url, tmp_path / "newer.dump", 9, "", lambda: NOW_MS + 1, silent)
        assert plan(url, path, silent).forgotten == 1
        with pytest.raises(InUseError, match="stop `tillstream central run`"):
            restore(url, path, "", NOW_MS, silent)
        assert run(url, "restore", path, "--dry-run").exit_code == 3
    assert restore(url, path, "", NOW_MS, silent).forgotten == 1


def test_a_backup_of_another_central_is_refused(url, tmp_path):
    """No till would believe it."""
    path = made_in(tmp_path, url).path
    look(url, "UPDATE central SET central_id = 'another'")

    with pytest.raises(RestoreError, match="move the database away first"):
        restore(url, path, "", NOW_MS, silent)


def test_what_the_server_says_no_to_is_told_in_its_words(url, postgres, tmp_path):
    """However much was still to be said to psql: a role that does not own the schema hears so."""
    note = "SELECT 0, '', '', '', repeat('x', 9999) FROM generate_series(1, 99)"  # Much more than a pipe takes.
    look(url, f"INSERT INTO audit (at_ms, who, action, object, note) {note}")
    path, new = made_in(tmp_path, url).path, postgres.empty_database()
    name = new.split("@/")[1].split("?")[0]
    postgres.run("CREATE ROLE clerk LOGIN")
    postgres.run(f"ALTER DATABASE {name} OWNER TO clerk")
    postgres.run("ALTER SCHEMA public OWNER TO tillstream", name)
    done = run(new.replace("tillstream@", "clerk@"), "restore", path)

    assert (done.exit_code, "must be owner of schema public" in done.stderr) == (1, True), done.output
    assert postgres.run("SELECT count(*) FROM pg_class WHERE relname = 'central'", name) == [(0,)]
    postgres.drop(new)
    postgres.run("DROP ROLE clerk")


KILLED = """
import os, sys
from pathlib import Path
from central import dump, restore
restored = dump._feed
def feed(to, first, file, last):
    left = int(sys.argv[3])
    class Cut:
        def write(self, given): to.write(given); self.count()
        def writelines(self, lines):
            for line in lines: self.write(line)
        def count(self):
            nonlocal left
            left -= 1
            if left == 0:
                to.flush()
                os._exit(9)
    restored(Cut(), first, file, last)
dump._feed = feed
restore.restore(sys.argv[1], Path(sys.argv[2]), "", 1, lambda *_: None)
"""


def test_a_restore_that_is_killed_anywhere_has_changed_nothing(url, tmp_path):
    """Between any two words to the server: what stood there stands there, and the next attempt goes through."""
    path = made_in(tmp_path, url).path
    before = rows(url)
    for number in (1, 2, 3, 4, 60, 150, 250):
        command = [sys.executable, "-c", KILLED, url, str(path), str(number)]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ}, capture_output=True, check=False)
        assert done.returncode == 9, done.stderr.decode()
        assert rows(url) == before

    assert restore(url, path, "", NOW_MS, silent).incarnation == 2
