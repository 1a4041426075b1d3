"""A restore puts a whole backup in the database's place, raises the incarnation, and loses nothing that was there."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from factories import CENTRAL, NOW_MS, TILL, a_parcel, a_store, a_stream, an_outbox, digest_of, some_sales
from test_backup import ROOT, SMALL_FILES, run, silent

from central import backup
from central.batch import NewStream
from central.lock import InUseError
from central.migrations import MIGRATIONS
from central.restore import RestoreError, plan, restore
from central.verify import NotTrustedError

BODIES = some_sales(6)


@pytest.fixture
def path(tmp_path):
    """Return where central's database stands."""
    return tmp_path / "central.db"


@pytest.fixture
def copy(path, tmp_path):
    """Return a backup that has the first three documents of six; the database is closed."""
    store = a_store(path)
    store.open_streams([NewStream(TILL, a_stream(), ())], {}, NOW_MS)
    store.ingest([a_parcel(BODIES[:3])], {}, NOW_MS)
    made = backup.make(str(path), tmp_path / "copy.db", 1, "", lambda: NOW_MS, silent)
    store.ingest([a_parcel(BODIES[3:], before=BODIES[:3])], {}, NOW_MS)
    store.close()
    return made.path


def facts(path):
    """Return what a database file says of itself: central, incarnation, starts, documents."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return database.execute(
            "SELECT central_id, incarnation, starts, (SELECT count(*) FROM document) FROM central"
        ).fetchone()


def changed(path, statement):
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(statement)


def files(path):
    return sorted(one.name for one in path.parent.iterdir() if one.name.startswith("central.db"))


@pytest.mark.fault("F28")
def test_what_is_restored_is_the_same_central_with_a_higher_incarnation(path, copy):
    """Its documents are the backup's; it says that all it holds is backed up; the one it replaced is kept."""
    before = facts(path)
    done = restore(path, copy, "disk replaced", NOW_MS + 9, silent)
    store = a_store(path)

    assert (store.central_id, store.incarnation) == (CENTRAL, before[1] + 1)
    assert store.starts > before[2]
    assert facts(path)[3] == 3
    assert facts(done.replaced) == before == (CENTRAL, 1, 1, 6)
    told = store.backed_up()
    assert (told.of(TILL, a_stream()), told.verified_at_ms) == (3, NOW_MS + 9)
    store.close()
    rows = json.loads(run(path, "audit", "--json").stdout)
    assert [(row["action"], row["note"]) for row in rows] == [("restore", "disk replaced")]


@pytest.mark.fault("F28")
def test_tills_send_again_what_the_backup_lacks_and_had_not_forgotten_it(path, copy):
    """Both ends over real databases: the till pruned what was in the backup, and nothing that was not."""
    outbox = an_outbox()
    for number, body in enumerate(BODIES, 1):
        outbox.append(f"d{number}", body, NOW_MS)
    with closing(a_store(path)) as store:
        outbox.mark_stored(6, store.central_id, store.backed_up().of(TILL, a_stream()))
    assert outbox.prune(NOW_MS + 1) == 3

    restore(path, copy, "", NOW_MS, silent)
    with closing(a_store(path)) as store:
        told = store.backed_up().of(TILL, a_stream())
        ((_, mark, *_),) = store.tills()
        assert mark.digest == outbox.digest_at(mark.through) == digest_of(BODIES[:3])
        outbox.mark_stored(mark.through, store.central_id, told)
        assert outbox.prune(NOW_MS + 1) == 0
        (outcome,) = store.ingest([a_parcel(outbox.read_after(3, 9, 2**20), before=BODIES[:3])], {}, NOW_MS)
        assert (outcome.kind, outcome.documents, facts(path)[3]) == ("advanced", 3, 6)
    outbox.close()


@pytest.mark.fault("F28")
def test_the_first_backup_of_all_does_not_come_back_as_a_database_without_any(path, copy):
    """The copy itself was made before it was noted: what stands there afterwards must not let tills forget."""
    with closing(sqlite3.connect(f"file:{copy}?mode=ro", uri=True)) as database:
        assert database.execute("SELECT count(*) FROM backup").fetchone() == (0,)
    restore(path, copy, "", NOW_MS, silent)

    with closing(a_store(path)) as store:
        store.open_streams([NewStream("till-2", a_stream(2), ())], {}, NOW_MS)
        assert store.backed_up().of("till-2", a_stream(2)) == 0


def test_restoring_again_is_safe_and_raises_the_incarnation_again(path, copy):
    """Each database that was replaced is kept under a name of its own; no name of a start is given out twice."""
    first = restore(path, copy, "", NOW_MS, silent)
    a_store(path).close()
    second = restore(path, copy, "", NOW_MS + 1, silent)

    assert [first.incarnation, second.incarnation] == [2, 3]
    assert len({first.replaced, second.replaced}) == 2
    assert facts(path)[1:] == (3, 2, 3)
    assert [facts(one.replaced)[1] for one in (first, second)] == [1, 2]


def test_a_restore_can_be_taken_back(path, copy):
    """What was kept is whole, and can be put back like a backup: nothing that was there is gone for good."""
    kept = Path(restore(path, copy, "", NOW_MS, silent).replaced)
    restore(path, kept, "by mistake", NOW_MS + 1, silent)

    assert facts(path)[1:] == (3, 1, 6)
    assert facts(kept)[3] == 6


def test_a_database_that_was_killed_is_put_aside_with_what_its_log_held(path, copy, tmp_path):
    """The log of the old database is written into it: nothing of it is lost, and none of it gets into the new one."""
    store = a_store(path)
    store.ingest([a_parcel([b"{}"], before=BODIES)], {}, NOW_MS)
    killed = tmp_path / "killed"
    killed.mkdir()
    for file in path.parent.glob("central.db*"):
        shutil.copy(file, killed / file.name)
    store.close()
    assert (killed / "central.db-wal").stat().st_size

    done = restore(killed / "central.db", copy, "", NOW_MS, silent)
    assert facts(done.replaced)[3] == 6
    with closing(sqlite3.connect(done.replaced)) as database:
        assert database.execute("SELECT count(*) FROM quarantine").fetchone() == (1,)
    assert files(killed / "central.db") == ["central.db", "central.db.lock", Path(done.replaced).name]


@pytest.mark.parametrize("there", ["nothing", "log only", "damaged"])
def test_a_database_that_is_lost_or_damaged_is_no_hindrance(path, copy, there):
    """A log that was left behind, or that belongs to a damaged database, does not get into the new one."""
    path.unlink()
    if there == "damaged":
        path.write_bytes(b"\xff" * 9999)
    if there != "nothing":
        Path(f"{path}-wal").write_bytes(b"a log of something else")
    done = restore(path, copy, "", NOW_MS, silent)

    assert facts(path)[1:] == (2, 1, 3)
    assert (done.replaced is not None) == (there == "damaged")
    assert not Path(f"{path}-wal").exists()
    assert there != "log only" or len(list(path.parent.glob("central.db.replaced-*-wal"))) == 1
    a_store(path).close()


def test_a_restore_that_is_not_possible_changes_nothing(path, copy, tmp_path):
    """A damaged backup, another central's, one of a newer version, the database itself: told, and all is as it was."""
    other, damaged, newer = (tmp_path / name for name in ("other.db", "damaged.db", "newer.db"))
    for file in (other, newer):
        shutil.copy(copy, file)
    changed(other, "UPDATE central SET central_id = 'other'")
    changed(newer, f"INSERT INTO migration (number) VALUES ({len(MIGRATIONS) + 1})")
    damaged.write_bytes(copy.read_bytes()[:20_000])
    before = path.read_bytes()

    for file, problem, said in (
        (other, RestoreError, "of central other"),
        (damaged, NotTrustedError, "damaged|cannot be read"),
        (newer, NotTrustedError, "upgrade"),
        (path, RestoreError, "itself"),
    ):
        with pytest.raises(problem, match=said):
            restore(path, file, "", NOW_MS, silent)
        assert run(path, "restore", file).exit_code == 1
    assert path.read_bytes() == before
    assert set(files(path)) <= {"central.db", "central.db.lock", "central.db-wal", "central.db-shm"}


def test_nothing_is_put_under_a_worker_that_runs(path, copy):
    """The database that it writes to would be gone; trying a backup disturbs nobody."""
    with closing(a_store(path)) as store:
        with pytest.raises(InUseError, match="central run"):
            restore(path, copy, "", NOW_MS, silent)
        assert run(path, "restore", copy).exit_code == 1
        assert plan(path, copy, silent).incarnation == 2
        store.ingest([a_parcel([b"{}"], before=BODIES)], {}, NOW_MS)
    assert facts(path)[1] == 1


@pytest.mark.fault("F29")
def test_a_backup_that_is_not_the_newest_is_told_by_what_tills_may_have_forgotten(path, copy, tmp_path):
    """A newer backup held more, and tills were told so: exit code 3, before and after."""
    backup.make(str(path), tmp_path / "newer.db", 1, "", lambda: NOW_MS, silent)
    dry = run(path, "restore", copy, "--dry-run")
    told = json.loads(run(path, "restore", copy, "--json").stdout)

    assert (dry.exit_code, "3 documents are not in it" in dry.stdout, "would be put" in dry.stdout) == (3, True, True)
    assert (told["may_be_forgotten"], told["restored"], told["incarnation"]) == (3, True, 2)
    done = run(path, "restore", tmp_path / "newer.db", "--json")
    assert (done.exit_code, json.loads(done.stdout)["may_be_forgotten"]) == (0, 0)


def test_a_backup_with_a_hole_is_restored_and_told(path, copy):
    """Something is better than nothing: exit code 3 names the stream, and its till is free to forget nothing."""
    changed(copy, "DELETE FROM document WHERE sequence = 2")
    done = run(path, "restore", copy)

    assert (done.exit_code, "number 2 is missing of 3" in done.stdout) == (3, True)
    with closing(a_store(path)) as store:
        assert store.backed_up().of(TILL, a_stream()) == 0


def test_a_backup_of_an_earlier_version_is_brought_up_to_date(path, tmp_path, monkeypatch):
    """It is migrated on the way; an earlier version knew no backups, and nothing of it is lost."""
    with monkeypatch.context() as earlier:
        earlier.setattr("central.migrations.MIGRATIONS", MIGRATIONS[:3])
        with closing(a_store(path)) as store:
            store.open_streams([NewStream(TILL, a_stream(), ())], {}, NOW_MS)
            store.ingest([a_parcel(BODIES)], {}, NOW_MS)
    shutil.copy(path, tmp_path / "old.db")
    restore(path, tmp_path / "old.db", "", NOW_MS, silent)

    with closing(a_store(path)) as store:
        assert (store.incarnation, store.backed_up().of(TILL, a_stream()), facts(path)[3]) == (2, 6, 6)


def test_a_disk_that_fills_up_during_a_restore_changes_nothing(path, copy):
    """No more can be written than a part of it: exit code 1, one line, the database as it was, no part left behind."""
    before = path.read_bytes()
    arguments = ["tillstream", "central", "--database", str(path), "restore", str(copy)]
    script = f"{SMALL_FILES}import sys; sys.argv = {arguments!r}; runpy.run_module('tillstream', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr.count("\n"), "Traceback" in done.stderr) == (1, 1, False), done.stderr
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*.restoring*")) + list(path.parent.glob("*.replaced-*"))
