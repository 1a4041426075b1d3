"""Backup and restore with real processes: under load, and killed at every call that makes something durable."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
from contextlib import closing

import pytest
from brokers import ROOT, wait_until
from factories import NOW_MS, TILL, a_parcel, a_store, a_stream, some_sales
from station import Station, tillstream

from central import backup
from central.batch import NewStream
from central.restore import restore
from central.verify import verify

DRAIN_S = 60
PRUNES_SOON = {
    "TILLSTREAM_RETENTION_DAYS": "0.000001",
    "TILLSTREAM_PRUNE_EVERY_S": "0.2",
    "TILLSTREAM_PRESENCE_EVERY_S": "1",
    "TILLSTREAM_CLOCK_SETTLES_S": "0.1",
}
"""Central lets a till forget once it has seen its clock, and the till waits after a start."""


def silent(*_):
    """Hear of progress and say nothing."""


# -- Under load --------------------------------------------------------------------------------------------------------


def central(station, *arguments):
    environment = {**os.environ, **station.environment("central-1")}
    command = tillstream("central", *map(str, arguments))
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def at(till, command):
    """Return what a command on a till tells; the agent runs."""
    done = subprocess.run(
        tillstream("edge", command, "--json"),
        cwd=ROOT,
        env={**os.environ, **till.environment},
        capture_output=True,
        check=False,
    )
    return json.loads(done.stdout)


def pruned(till):
    """Return up to which document a till has forgotten."""
    return at(till, "status")["oldest"] - 1


def has_forgotten(till, through):
    """Say whether a till has forgotten what is in a backup.

    It hears of the backup with the next document that is stored, and that its clock is right with the one after it has
    shown that.
    """
    till.close_documents(1)
    return pruned(till) == through


def prune_up_to(till, through):
    """Go on selling until a till has forgotten what is in the backup; its doctor misses the next one, if anything."""
    assert wait_until(lambda: has_forgotten(till, through), DRAIN_S), json.dumps([through, at(till, "status")])
    assert wrong(at(till, "doctor")) <= {"backup_late"}


def wrong(rows):
    """Return what a doctor found, but for the disk that the tests happen to run on."""
    return {row["code"] for row in rows if row["level"] != "ok"} - {"file_system", "disk_free"}


def backed_up(station, till):
    ((through,),) = station.query(f"SELECT backed_up FROM watermark WHERE till_id = '{till.till_id}'")
    return through


@pytest.mark.fault("F28")
def test_a_central_that_is_killed_and_restored_gets_all_of_it_again(tmp_path):
    """A backup under load, more documents, SIGKILL, an older database: the tills still have what it lacks.

    The tills keep stored documents for a tenth of a second only: what holds them back is the backup, and nothing else.
    """
    folder = tmp_path / "backups"
    folder.mkdir()
    station = Station(tmp_path, "embedded", tills=2)
    for till in station.tills:
        till.agent._environment.update(PRUNES_SOON)
        till.environment.update(PRUNES_SOON)
    with station:
        central_backup(station, folder)
        for till in station.tills:
            till.close_documents(20)
        assert wait_until(station.is_proven, DRAIN_S), station.central.log()[-2000:]
        for till in station.tills:
            till.close_documents(20)
        made = json.loads(central_backup(station, folder).stdout)
        for till in station.tills:
            till.close_documents(20)
        reached = {till.till_id: backed_up(station, till) for till in station.tills}
        assert min(reached.values()) >= 20
        for till in station.tills:
            prune_up_to(till, reached[till.till_id])
        assert wrong(json.loads(central(station, "doctor", "--json").stdout)) == set()
        assert wait_until(station.is_proven, DRAIN_S), station.central.log()[-2000:]

        assert central(station, "restore", made["path"]).returncode == 1  # It runs.
        station.central.kill()
        for till in station.tills:
            till.close_documents(10)
        done = central(station, "restore", made["path"], "--json")
        assert (done.returncode, json.loads(done.stdout)["incarnation"]) == (0, 2), done
        assert not station.is_proven()
        station.central.start()

        assert wait_until(station.is_proven, DRAIN_S), (station.closed(), station.stored())
        assert station.query("SELECT count(*) FROM gap") == station.query("SELECT count(*) FROM quarantine") == [(0,)]
        assert all(pruned(till) == reached[till.till_id] for till in station.tills)
        assert station.query("SELECT count(*) - count(DISTINCT till_id || document_id) FROM document") == [(0,)]


def central_backup(station, folder):
    assert wait_until(lambda: station.query("SELECT * FROM central"), DRAIN_S)
    done = central(station, "backup", "--to", folder, "--json")
    assert done.returncode == 0, done
    return done


# -- Killed at every call ----------------------------------------------------------------------------------------------

CALLS = ("fsync", "fdatasync", "rename", "unlink")
BODIES = some_sales(6)


def can_trace():
    return bool(
        shutil.which("strace") and not subprocess.run(["strace", "true"], capture_output=True, check=False).returncode
    )


traced = pytest.mark.skipif(not can_trace(), reason="strace, which kills a process at a call, cannot be used here")


def killed_at(call, number, database, *arguments):
    """Run a command that is killed just before its n-th such call; False if it makes no so many and was not killed."""
    inject = f"inject={call}:signal=KILL:when={number}"
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject]
    command += tillstream("central", "--database", str(database), *map(str, arguments))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, -signal.SIGKILL, 128 + signal.SIGKILL), done
    return done.returncode != 0


def facts(path):
    """Return the incarnation and the number of documents of a database that is whole."""
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return database.execute("SELECT incarnation, (SELECT count(*) FROM document) FROM central").fetchone()


@pytest.fixture
def killed_central(tmp_path):
    """Return the folder of a central that was killed with half of its documents in the log, and its backup."""
    folder = tmp_path / "killed"
    folder.mkdir()
    store = a_store(tmp_path / "central.db")
    store.open_streams([NewStream(TILL, a_stream(), ())], {}, NOW_MS)
    store.ingest([a_parcel(BODIES[:3])], {}, NOW_MS)
    copy = backup.make(str(tmp_path / "central.db"), tmp_path / "copy.db", 1, "", lambda: NOW_MS, silent).path
    store.ingest([a_parcel(BODIES[3:], before=BODIES[:3])], {}, NOW_MS)
    for file in tmp_path.glob("central.db*"):
        shutil.copy(file, folder / file.name)
    store.close()
    return folder, copy


def each_point(killed_central, tmp_path, call, *arguments):
    """Yield a database after a command on it was killed, for each of its calls of this kind, and after the last."""
    folder, _ = killed_central
    for number in range(1, 99):
        place = tmp_path / f"{call}-{number}"
        shutil.copytree(folder, place)
        was_killed = killed_at(call, number, place / "central.db", *[a.format(place=place) for a in arguments])
        yield place / "central.db"
        shutil.rmtree(place)
        if not was_killed:
            assert number > 1
            return


@traced
@pytest.mark.fault("F28")
@pytest.mark.parametrize("call", [*CALLS, "link"])
def test_a_restore_that_is_killed_leaves_the_old_database_or_the_new_one(killed_central, tmp_path, call):
    """Whole, with all that its log held; the next run ends what was begun, and what was replaced is kept."""
    copy = killed_central[1]
    for database in each_point(killed_central, tmp_path, call, "restore", str(copy)):
        there = facts(database)
        assert there in ((1, 6), (2, 3))
        restore(database, copy, "", NOW_MS, silent)

        assert facts(database) == (there[0] + 1, 3)
        kept = [facts(one) for one in database.parent.glob("*.replaced-*Z")]
        assert (1, 6) in kept
        assert not list(database.parent.glob("*.restoring*"))


@traced
@pytest.mark.fault("F28")
@pytest.mark.parametrize("call", CALLS)
def test_a_backup_that_is_killed_leaves_no_half_backup_and_no_false_word(killed_central, tmp_path, call):
    """What has a backup's name is whole, and what is noted as backed up is in one."""
    for database in each_point(killed_central, tmp_path, call, "backup", "--to", "{place}", "--keep", "2"):
        whole = [verify(one, silent) for one in database.parent.glob("central-*.db")]
        assert all(not one.problems for one in whole)
        with closing(a_store(database)) as store:
            noted = store.backed_up().of(TILL, a_stream())
            assert noted <= max((one.streams[0].through for one in whole), default=3)  # The fixture's backup has 3.
        backup.make(str(database), database.parent, 2, "", lambda: NOW_MS, silent)
        assert not list(database.parent.glob(".*part*"))
