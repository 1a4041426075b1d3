"""A backup is a whole copy made while others write, read back, and only then told to the tills."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from factories import NOW_MS, TILL, a_parcel, a_sale, a_store, a_stream, some_sales

from central import backup, reports
from central.backup import BackupError
from central.batch import BackedUp, NewStream
from central.cli import central
from central.lock import InUseError, Lock
from central.verify import NotTrustedError, follow, verify
from wire import chain

ROOT = Path(__file__).parent.parent
BAD = b'{"document_id":"bad"}'


def silent(*_):
    """Hear of progress and say nothing."""


def opened(path, tills=(TILL,), documents=3):
    """Return a store in which each till has sent so many documents and one that is in quarantine."""
    store = a_store(path)
    for till in tills:
        store.open_streams([NewStream(till, a_stream(), ())], {}, NOW_MS)
        store.ingest([a_parcel([*some_sales(documents, till_id=till), BAD], till=till)], {}, NOW_MS)
    return store


@pytest.fixture
def path(tmp_path):
    """Return where central's database stands."""
    return tmp_path / "central.db"


@pytest.fixture
def store(path):
    """Return central's database, open as a worker has it, with one till's documents."""
    made = opened(path)
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path):
    """Return a folder for backups."""
    made = tmp_path / "backups"
    made.mkdir()
    return made


def made_in(folder, path, keep=9, at_ms=NOW_MS, tell=silent):
    return backup.make(str(path), folder, keep, "nightly", lambda: at_ms, tell)


def changed(path, *statements):
    """Change a file that nobody has open."""
    with sqlite3.connect(path) as database:
        for statement in statements:
            database.execute(statement)
    database.close()


def run(path, *arguments):
    return CliRunner().invoke(central, ["--database", str(path), *map(str, arguments)])


# -- Making one --------------------------------------------------------------------------------------------------------


@pytest.mark.fault("F28")
def test_a_backup_holds_all_of_it_and_is_told_to_the_tills_afterwards(store, path, folder):
    """The copy is whole and private; what it holds is noted per stream, and 0 of a stream that it does not know."""
    assert store.backed_up() == BackedUp()
    made = made_in(folder, path)
    store.open_streams([NewStream("till-2", a_stream(2), ())], {}, NOW_MS)

    assert (made.verified.documents, made.verified.problems) == (3, [])
    assert list(folder.iterdir()) == [made.path]
    assert made.path.stat().st_mode & 0o777 == 0o600
    told = store.backed_up()
    assert (told.of(TILL, a_stream()), told.of("till-2", a_stream(2)), told.verified_at_ms) == (4, 0, NOW_MS)
    with reports.reading(str(path)):
        assert reports.status()["verified_backup_at_ms"] == NOW_MS


def test_a_backup_is_what_stood_there_at_one_moment_however_much_is_written_meanwhile(store, path, folder, monkeypatch):
    """A commit between two steps neither gets into the copy nor makes it begin anew."""
    monkeypatch.setattr(backup, "PAGES_A_STEP", 4)
    bodies, copied = [*some_sales(3), BAD], []

    def commit(what, done, of):
        if what == "copying pages":
            more = a_sale(f"more-{len(copied)}")
            store.ingest([a_parcel([more], before=bodies)], {}, NOW_MS)
            bodies.append(more)
            copied.append(done)

    made = made_in(folder, path, tell=commit)

    assert len(copied) > 5
    assert copied == sorted(copied)
    assert (made.verified.documents, made.verified.streams[0].through) == (3, 4)
    assert store.backed_up().of(TILL, a_stream()) == 4


def test_only_the_newest_backups_of_this_central_stay(store, path, folder):
    """Others' files are left alone, a killed backup's leavings are not, and one that still copies is."""
    (folder / "central-another-20260101T000000000Z.db").write_bytes(b"of another central")
    left, lives = (folder / f".central-{store.central_id}-{name}.db.part" for name in ("killed", "lives"))
    left.write_bytes(b"half")
    with lives.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        paths = [made_in(folder, path, 2, NOW_MS + number).path for number in range(4)]

    assert sorted(folder.glob("central-*.db")) == sorted(
        [folder / "central-another-20260101T000000000Z.db", *paths[2:]]
    )
    assert (left.exists(), lives.exists()) == (False, True)


def test_a_clock_that_went_back_does_not_cost_the_backup_just_made(store, path, folder):
    """The one just made stays whatever its name says of the time."""
    for at_ms in (NOW_MS + 10_000, NOW_MS + 20_000):
        made_in(folder, path, 2, at_ms)
    made = made_in(folder, path, 2, NOW_MS)

    assert made.path.exists()
    assert len(list(folder.iterdir())) == 2


def test_a_backup_to_a_file_replaces_that_file_and_nothing_else(store, path, folder):
    """The name is the caller's, and so is how many there are."""
    (folder / "other.db").write_bytes(b"other")
    for number in range(2):
        backup.make(str(path), folder / "mine.db", 1, "", lambda at=NOW_MS + number: at, silent)

    assert sorted(one.name for one in folder.iterdir()) == ["mine.db", "other.db"]


@pytest.mark.parametrize("to", ["nowhere/backup.db", "nowhere", "central.db"])
def test_a_backup_that_cannot_be_written_is_told_and_noted_nowhere(store, path, tmp_path, to):
    """No folder, or the database itself: nothing changes, and tills hear of no backup."""
    with pytest.raises(BackupError):
        backup.make(str(path), tmp_path / to, 1, "", lambda: NOW_MS, silent)

    assert store.backed_up() == BackedUp()
    assert not list(tmp_path.glob(".*part*"))


def test_a_folder_without_room_is_told_before_anything_is_copied(store, path, folder, monkeypatch):
    """How much is free and how much is needed stand in the text."""
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((1, 1, 0, 0, 0, 0, 0, 0, 0, 255)))

    with pytest.raises(BackupError, match="room for 0 bytes"):
        made_in(folder, path)
    assert list(folder.iterdir()) == []


def test_no_backup_is_made_while_one_is_being_put_in_place(store, path, folder):
    """What it would copy is about to go."""
    store.close()
    lock = Lock(path, alone=True)
    assert run(path, "backup", "--to", folder).exit_code == 1
    lock.close()
    assert run(path, "backup", "--to", folder).exit_code == 0


SMALL_FILES = "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)); "


def test_a_disk_that_fills_up_while_it_is_written_leaves_nothing_behind(store, path, folder):
    """No more can be written than a part of it: exit code 1, one line, no file, and nothing is noted."""
    arguments = ["tillstream", "central", "--database", str(path), "backup", "--to", str(folder)]
    script = f"{SMALL_FILES}import sys; sys.argv = {arguments!r}; runpy.run_module('tillstream', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr.count("\n"), "Traceback" in done.stderr) == (1, 1, False), done.stderr
    assert list(folder.iterdir()) == []
    assert store.backed_up() == BackedUp()


def test_two_backups_to_one_file_do_not_write_into_each_other(store, path, folder):
    """The second one is told; what the first one has just finished is never emptied."""
    target = folder / "mine.db"
    part = folder / ".mine.db.part"

    def second(*_):
        with pytest.raises(BackupError, match="another backup"):
            backup.make(str(path), target, 1, "", lambda: NOW_MS, silent)

    backup.make(str(path), target, 1, "", lambda: NOW_MS, second)
    part.write_bytes(b"")
    with pytest.MonkeyPatch.context() as late:
        # The first one ends just when the second one locks it.
        late.setattr(fcntl, "flock", lambda _, how: how & fcntl.LOCK_EX and part.replace(target))
        with pytest.raises(BackupError, match="another backup"):
            backup.make(str(path), target, 1, "", lambda: NOW_MS, silent)
    assert list(folder.iterdir()) == [target]


# -- Verifying ---------------------------------------------------------------------------------------------------------


BODIES = some_sales(3)
DIGEST = chain.follow_all(chain.first(a_stream()), BODIES)


@pytest.mark.parametrize(
    ("rows", "through", "problem"),
    [
        (list(enumerate(BODIES, 1)), 3, ""),
        ([], 0, ""),
        ([(1, BODIES[0]), (1, None), (2, BODIES[1]), (3, BODIES[2])], 3, ""),
        ([(1, BODIES[0]), (2, None), (3, b"anything")], 3, ""),
        ([(1, BODIES[0]), (3, BODIES[2])], 3, "number 2 is missing"),
        (list(enumerate(BODIES[:2], 1)), 3, "number 3 is missing"),
        (list(enumerate([*BODIES, b"x"], 1)), 3, "beyond"),
        (list(enumerate([*BODIES[:2], b"x"], 1)), 3, "digest"),
    ],
    ids=["whole", "empty", "twice", "held before", "hole", "end missing", "beyond", "other bytes"],
)
def test_a_stream_is_whole_if_its_numbers_and_its_digest_are(rows, through, problem):
    """Each number up to the watermark is there, none beyond it, and the bytes make the digest."""
    digest = DIGEST if through else chain.first(a_stream())
    told = follow(a_stream(), through, digest, rows)

    assert problem in told
    assert bool(problem) == bool(told)


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM document WHERE sequence = 2",
        "UPDATE document SET body = CAST(replace(CAST(body AS TEXT), '12300', '12301') AS BLOB) WHERE sequence = 2",
        "UPDATE watermark SET through = 5",
        "DELETE FROM quarantine",
    ],
)
def test_a_stream_that_is_not_whole_is_named_and_its_till_keeps_what_it_has(path, folder, damage):
    """A lost row, a changed byte: the backup is made, and moves the other tills' marks only. Exit code 3."""
    opened(path, tills=(TILL, "till-2")).close()
    changed(path, damage + (" AND" if "WHERE" in damage else " WHERE") + f" till_id = '{TILL}'")
    done = run(path, "backup", "--to", folder, "--json")
    told = json.loads(done.stdout)
    store = a_store(path)

    assert done.exit_code == 3
    assert [one["till_id"] for one in told["problems"]] == [TILL]
    assert (store.backed_up().of(TILL, a_stream()), store.backed_up().of("till-2", a_stream())) == (0, 4)
    store.close()


@pytest.mark.parametrize("damage", ["page", "half", "text", "empty"])
def test_a_damaged_copy_is_no_backup(store, path, folder, damage):
    """A page overwritten, a file cut off, another file altogether: each is told for what it is."""
    copy = made_in(folder, path).path
    content = bytearray(copy.read_bytes())
    if damage == "page":
        for page in range(4096 * 2, len(content), 4096):
            content[page : page + 64] = b"\xff" * 64
    copy.write_bytes(
        {"page": content, "half": content[: len(content) // 2], "text": b"hello" * 999, "empty": b""}[damage]
    )

    with pytest.raises(NotTrustedError):
        verify(copy, silent)


def test_a_copy_of_the_file_alone_is_no_backup(store, path, folder):
    """What `cp` takes of a database in use lacks the log: it is not taken for a backup."""
    for file in path.parent.glob("central.db*"):
        shutil.copy(file, folder / file.name)

    with pytest.raises(NotTrustedError, match="in use"):
        verify(folder / "central.db", silent)


def test_documents_that_are_here_under_another_number_are_no_hole(store, path, folder):
    """A till that renumbered sends again what central has: those numbers are held, and count as backed up."""
    store.open_streams([NewStream(TILL, a_stream(2), ())], {}, NOW_MS)
    store.ingest([a_parcel([*some_sales(3), a_sale("new")], stream=a_stream(2))], {}, NOW_MS)

    assert made_in(folder, path).verified.problems == []
    assert store.backed_up().of(TILL, a_stream(2)) == 4


# -- The command -------------------------------------------------------------------------------------------------------


def test_the_command_tells_what_it_made_and_leaves_an_audit_row(store, path, folder):
    """For people and for scripts; without --keep as many stay as are configured."""
    told = json.loads(run(path, "backup", "--to", folder, "--json", "--note", "nightly").stdout)
    done = run(path, "backup", "--to", folder, "--keep", "1")

    assert (told["documents"], told["streams"], told["problems"], told["removed"]) == (3, 1, [], [])
    assert (done.exit_code, "3 documents of 1 streams" in done.stdout) == (0, True)
    assert f"removed {told['path']}" in done.stdout
    rows = json.loads(run(path, "audit", "--json").stdout)
    assert [(row["action"], row["note"]) for row in rows] == [("backup", ""), ("backup", "nightly")]


def test_a_database_that_is_not_there_or_not_ours_is_told(path, folder, tmp_path):
    """Exit code 1, one line, and no traceback."""
    other = tmp_path / "other.db"
    changed(other, "CREATE TABLE x (y)")
    for database in (path, other):
        done = run(database, "backup", "--to", folder)
        assert (done.exit_code, done.stderr.count("\n")) == (1, 1)


# -- The lock ----------------------------------------------------------------------------------------------------------


def test_workers_share_the_database_and_a_restore_has_it_alone(path):
    """Whoever opens it comes in beside the others; nobody does while it is being replaced, nor the other way round."""
    first, second = a_store(path), a_store(path)
    with pytest.raises(InUseError, match="central run"):
        Lock(path, alone=True)
    first.close()
    second.close()
    alone = Lock(path, alone=True)
    with pytest.raises(InUseError, match="restore"):
        a_store(path)
    with pytest.raises(reports.NoDatabaseError, match="restore"), reports.reading(str(path)):
        pass
    alone.close()
    alone.close()
    a_store(path).close()
    assert Path(f"{path}.lock").exists()


# -- People's changes --------------------------------------------------------------------------------------------------


def test_a_persons_change_waits_for_its_turn_between_a_workers_commits(store, path):
    """It has the write lock from its beginning: what it has read cannot be overtaken, and it never fails for that."""
    with reports.writing(str(path)):
        other = sqlite3.connect(path, isolation_level=None, timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
    other.execute("BEGIN IMMEDIATE")
    other.close()


def test_a_report_is_of_one_moment(store, path):
    """What a worker commits while a report is read is not in it: its figures agree with each other."""
    with reports.reading(str(path)):
        before = reports.status()["documents"]
        store.ingest([a_parcel([a_sale("later")], before=[*some_sales(3, till_id=TILL), BAD])], {}, NOW_MS)
        assert reports.status()["documents"] == before
