"""The doctors of both ends: each check finds what it looks for, says what to do, and is quiet otherwise."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from factories import CENTRAL, NOW_MS, TILL, a_parcel, a_store, a_stream, an_outbox, filled, some_sales

from central import backup
from central import doctor as at_central
from central.batch import NewStream
from central.cli import central
from central.config import CentralConfig
from central.database import UnsafeDatabaseError
from central.doctor import NewestBackup, ServerFacts
from central.migrations import MIGRATIONS
from central.restore import restore
from central.service import open_store, wall_clock_ms
from edge import doctor as at_till
from edge.cli import edge
from edge.config import EdgeConfig
from edge.outbox import SCHEMA_VERSION
from wire.doctor import CHECKS, FileFacts
from wire.examine import file_system_of, numbers_by_default, numbers_of, open_to_all, told

DAY_MS = 86_400_000
DOCS = Path(__file__).parent.parent / "docs"
FILE = FileFacts(
    "/srv/x.db", size_bytes=10**6, free_bytes=2**40, file_system="ext4", sqlite_version="3.40.1", journal_mode="wal",
    schema=4,
)  # fmt: skip
CENTRAL_FACTS = at_central.Facts(
    file=FILE,
    known_schema=4,
    now_ms=NOW_MS,
    values=numbers_of(CentralConfig()),
    defaults=numbers_by_default(CentralConfig),
    seen_ms=NOW_MS - 1,
    backup=NewestBackup("/srv/b.db", NOW_MS - DAY_MS, 7, 7),
)
SERVER = ServerFacts(
    "postgresql:///x", version="15.18 (Debian)", schema=4,
    settings={"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"},
)  # fmt: skip
OF_SERVERS = ("server_away", "server_version", "standbys")
OF_FILES = ("sqlite_version", "file_system", "disk_free")
TILL_FACTS = at_till.Facts(
    file=FILE,
    known_schema=4,
    now_ms=NOW_MS,
    values=numbers_of(EdgeConfig(till_id=TILL)),
    defaults=numbers_by_default(EdgeConfig),
    ballast_found_bytes=8 * 2**20,
    seen_ms=NOW_MS - 1,
    central_id=CENTRAL,
)


def wrong(findings):
    return {one.code: one.level for one in findings if one.level != "ok"}


def with_file(facts, **file):
    return replace(facts, file=replace(FILE, **file))


def with_values(facts, **values):
    return replace(facts, values={**facts.values, **values})


# -- Judging -----------------------------------------------------------------------------------------------------------


def test_where_nothing_is_wrong_every_check_is_told_and_is_fine():
    """Each check of an end is told, in the order of the list, also when it has nothing to say."""
    for judge, facts, room in ((at_central, CENTRAL_FACTS, "central"), (at_till, TILL_FACTS, "edge")):
        findings = judge.examine(facts)
        expected = [code for code in CHECKS if CHECKS[code].room in ("both", room) and code not in OF_SERVERS]
        assert [one.code for one in findings] == expected
        assert wrong(findings) == {}


BOTH = [
    ({"problem": "malformed"}, {"integrity": "error"}),
    ({"journal_mode": "memory"}, {"durability": "error"}),
    ({"synchronous": 1}, {"durability": "error"}),
    ({"schema": 5}, {"schema": "error"}),
    ({"schema": 3}, {"schema": "warning"}),
    ({"file_system": "nfs4"}, {"file_system": "error"}),
    ({"file_system": "overlay"}, {"file_system": "warning"}),
    ({"free_bytes": 1}, {"disk_free": "error"}),
    ({"free_bytes": 2**28}, {"disk_free": "warning"}),
    ({"free_bytes": None}, {"disk_free": "warning"}),
    ({"open_to_all": ("/etc/tillstream/token",)}, {"permissions": "error"}),
]


@pytest.mark.parametrize(("file", "expected"), BOTH)
def test_what_is_wrong_with_the_file_is_found_at_both_ends(file, expected):
    """A damaged file, one that is not durable, of another version, on a lying disk, a full one, open to all."""
    assert wrong(at_central.examine(with_file(CENTRAL_FACTS, **file))) == expected
    assert wrong(at_till.examine(with_file(TILL_FACTS, **file))) == expected


@pytest.mark.fault("F17")
@pytest.mark.parametrize("facts", [CENTRAL_FACTS, TILL_FACTS], ids=["central", "till"])
def test_a_clock_that_cannot_be_right_is_found(facts):
    """Before the program was written, or before what is stored already; a little behind is no finding."""
    judge = at_central if facts is CENTRAL_FACTS else at_till
    for at_ms, expected in ((0, {"clock": "error"}), (NOW_MS - 301_000, {"clock": "error"}), (NOW_MS - 9_000, {})):
        late = replace(facts, now_ms=at_ms)
        if facts is CENTRAL_FACTS:
            late = replace(late, backup=replace(CENTRAL_FACTS.backup, made_at_ms=at_ms))
        assert wrong(judge.examine(late)) == expected


@pytest.mark.parametrize(
    ("facts", "values", "code"),
    [
        (CENTRAL_FACTS, {"quiet_s": 9, "max_wait_s": 5}, "limits"),
        (CENTRAL_FACTS, {"backup_age_max_days": 40}, "limits"),
        (CENTRAL_FACTS, {"timeout_s": 30_000}, "units"),
        (TILL_FACTS, {"ring_again_s": 1000}, "limits"),
        (TILL_FACTS, {"intake_limit_bytes": 1024}, "limits"),
        (TILL_FACTS, {"intake_timeout_s": 10_000}, "units"),
    ],
)
def test_limits_that_contradict_each_other_and_times_in_milliseconds_are_found(facts, values, code):
    """Both keys and their values stand in the detail."""
    judge = at_central if facts is CENTRAL_FACTS else at_till
    findings = judge.examine(with_values(facts, **values))
    (found,) = [one for one in findings if one.level != "ok"]

    assert (found.code, found.level) == (code, "warning")
    assert all(f"{name} = {value}" in found.detail for name, value in values.items())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"backup": None}, {"backup_age": "warning"}),
        ({"backup": NewestBackup("/b", NOW_MS - 3 * DAY_MS, 7, 7)}, {"backup_age": "warning"}),
        ({"backup": NewestBackup("/b", NOW_MS - 36 * DAY_MS, 7, 7)}, {"backup_age": "error"}),
        ({"retention_days": 0.5}, {"backup_age": "error", "limits": "warning"}),
        ({"backup": NewestBackup("/b", NOW_MS, 7, None)}, {"backup_there": "error"}),
        ({"backup": NewestBackup("/b", NOW_MS, 7, 6)}, {"backup_there": "error"}),
        ({"restored_at_ms": NOW_MS, "gaps_since": 2}, {"restored": "warning"}),
        ({"restored_at_ms": NOW_MS}, {}),
        ({"skews": (("a", 299_000), ("b", -301_000))}, {"till_clocks": "warning"}),
        ({"disagreements": ("nobody answers for the tills of 2/2",)}, {"workers": "warning"}),
    ],
)
def test_what_only_central_can_see_is_found(changes, expected):
    """Backups that are old, gone or rarer than tills keep documents; gaps since a restore; tills' clocks."""
    assert wrong(at_central.examine(replace(CENTRAL_FACTS, **changes))) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"agent_problem": "no such file"}, {"agent": "warning"}),
        ({"ballast_found_bytes": None}, {"ballast": "warning"}),
        ({"used_bytes": 2**31 * 81 // 100}, {"outbox_size": "warning"}),
        ({"used_bytes": 2**31 * 96 // 100}, {"outbox_size": "error"}),
        ({"central_id": None}, {"own_central": "warning"}),
        ({"configured_central": "another"}, {"own_central": "warning"}),
        ({"waiting_for_backup": 7}, {"backup_late": "warning"}),
    ],
)
def test_what_only_a_till_can_see_is_found(changes, expected):
    """The agent, the ballast, a full outbox, an unknown central, documents that wait for a backup."""
    assert wrong(at_till.examine(replace(TILL_FACTS, **changes))) == expected


@pytest.mark.parametrize(
    ("version", "workers", "expected"),
    [
        ("3.40.1", 1, {}),
        ("3.40.1", 2, {"sqlite_version": "warning"}),
        ("3.51.2", 2, {"sqlite_version": "warning"}),
        ("3.51.3", 2, {}),
    ],
)
def test_an_sqlite_that_two_writers_can_damage_is_a_finding_where_there_are_two(version, workers, expected):
    """3.7.0 to 3.51.2: one program alone writes the log back, unless several workers share the database."""
    facts = replace(with_file(CENTRAL_FACTS, sqlite_version=version), workers=workers)
    assert wrong(at_central.examine(facts)) == expected


def test_a_server_is_asked_for_other_things_than_a_file():
    """Its version, how it commits, its standbys; where its files lie is its own matter."""
    findings = at_central.examine(replace(CENTRAL_FACTS, file=SERVER))
    expected = [code for code in CHECKS if CHECKS[code].room in ("both", "central") and code not in OF_FILES]

    assert ([one.code for one in findings], wrong(findings)) == (expected, {})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"problem": "connection refused", "is_away": True}, {"server_away": "error"}),
        ({"problem": "no such table"}, {"integrity": "error"}),
        ({"version": "13.22"}, {"server_version": "warning"}),
        ({"settings": {**SERVER.settings, "fsync": "off"}}, {"durability": "error"}),
        ({"settings": {**SERVER.settings, "synchronous_commit": "off"}}, {"durability": "error"}),
        ({"settings": {**SERVER.settings, "full_page_writes": "off"}}, {"durability": "warning"}),
        ({"is_standby": True}, {"durability": "error"}),
        ({"schema": 5}, {"schema": "error"}),
        ({"lag_s": 301.0}, {"standbys": "warning"}),
        ({"lag_s": 299.0}, {}),
        ({"open_to_all": ("/etc/tillstream/password",)}, {"permissions": "error"}),
    ],
)
def test_what_is_wrong_with_a_server_is_found(changes, expected):
    """It does not answer, is too old, may lose commits, only reads, or its standby is far behind."""
    assert wrong(at_central.examine(replace(CENTRAL_FACTS, file=replace(SERVER, **changes)))) == expected


@pytest.mark.parametrize("language", ["en", "ru"])
def test_every_finding_says_what_to_do_in_the_readers_language(language):
    """Below what is wrong stands the next step; what is fine has one line."""
    lines = told(at_central.examine(replace(CENTRAL_FACTS, backup=None)), language)
    (line,) = [number for number, text in enumerate(lines) if text.startswith("warning")]

    checks = [check for check in CHECKS.values() if check.room in ("both", "central") and check.code not in OF_SERVERS]
    assert len(lines) == len(checks) + 1
    assert ("central backup" in lines[line + 1], "night" in lines[line + 1]) == (True, language == "en")


def test_every_check_is_documented_with_what_to_do():
    """The operations page has each check, where it is made, and the very text that the doctor prints."""
    page = (DOCS / "operations.md").read_text("utf-8")

    for check in CHECKS.values():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{check.code}` | {check.room} |")]
        assert row.endswith(f"| {check.next_step} |")


# -- Looking -----------------------------------------------------------------------------------------------------------


def test_the_nearest_mount_tells_the_file_system():
    """A path may lie below several mounts, and a mount point may hold a blank."""
    mounts = (
        "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:5 / /mnt rw shared:1 - tmpfs tmpfs rw\n"
        "3 2 0:6 / /mnt/a\\040b rw - nfs4 host:/x rw\nnonsense\n"
    )

    def kind(path):
        return file_system_of(Path(path), mounts)

    assert [kind("/srv/x"), kind("/mnt/x"), kind("/mnt/a b/x"), file_system_of(Path("/x"), "")] == [
        "ext4", "tmpfs", "nfs4", "",
    ]  # fmt: skip


def test_a_secret_that_everybody_may_read_is_found_and_one_that_is_not_there_is_not(tmp_path):
    """The group's right is the administrator's matter."""
    secret = tmp_path / "token"
    secret.write_text("x")
    found = []
    for mode in (0o600, 0o640, 0o644, 0o602):
        secret.chmod(mode)
        found.append(open_to_all([str(secret), "", str(tmp_path / "no")]))

    assert found == [(), (), (str(secret),), (str(secret),)]


@pytest.fixture(autouse=True)
def a_local_disk(tmp_path, monkeypatch):
    """Let the commands find a local disk wherever the tests run."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text("1 0 8:1 / / rw - ext4 /dev/a rw\n")
    monkeypatch.setattr("wire.examine.MOUNTS", mounts)


# -- The commands ------------------------------------------------------------------------------------------------------


def at(command, *arguments, **keys):
    environment = {f"TILLSTREAM_{key}": str(value) for key, value in keys.items()}
    return CliRunner().invoke(command, [*map(str, arguments), "doctor", "--json"], env=environment)


def found_by(done):
    return {row["code"]: row["level"] for row in json.loads(done.stdout) if row["level"] != "ok"}


@pytest.fixture
def database(tmp_path):
    """Return a central database as a worker makes it, and the folder of its backup."""
    config = CentralConfig(database=str(tmp_path / "central.db"))
    store = open_store(config)
    store.open_streams([NewStream(TILL, a_stream(), ())], {}, NOW_MS)
    store.ingest([a_parcel(some_sales(3))], {}, NOW_MS)
    store.close()
    return Path(config.database)


def test_centrals_doctor_finds_what_is_wrong_and_is_quiet_when_it_was_mended(database, tmp_path):
    """Exit code 3 with findings and 0 without; it runs beside a worker, and changes nothing."""
    first = at(central, "--database", database)
    assert (first.exit_code, found_by(first)) == (3, {"backup_age": "warning"})
    made = backup.make(str(database), tmp_path / "b.db", 1, "", wall_clock_ms, lambda *_: None)
    with closing(a_store(database)):
        clean = at(central, "--database", database)
    assert (clean.exit_code, found_by(clean)) == (0, {})
    with closing(sqlite3.connect(database)) as there, there:
        there.execute("INSERT INTO setting VALUES (9, 'fleet', '', '{\"limits\":{\"retention_days\":1}}', 9, 9, '')")
        there.execute("UPDATE till SET clock_skew_ms = 400000")
        there.execute("UPDATE backup SET made_at_ms = made_at_ms - ?", (2 * DAY_MS,))
    made.path.unlink()
    database.chmod(0o644)

    assert found_by(at(central, "--database", database)) == {
        "backup_age": "error", "backup_there": "error", "limits": "warning", "permissions": "error",
        "till_clocks": "warning",
    }  # fmt: skip


def test_after_a_restore_the_gaps_since_then_are_a_finding(database, tmp_path):
    """What the tills could not send again is told until somebody closes it."""
    copy = backup.make(str(database), tmp_path / "b.db", 1, "", wall_clock_ms, lambda *_: None).path
    at_ms = wall_clock_ms()
    restore(database, copy, "", at_ms, lambda *_: None)
    with closing(a_store(database)) as store:
        assert found_by(at(central, "--database", database)) == {}
        gap = (
            "INSERT INTO gap (till_id, stream, first, last, reason, found_at_ms, note) VALUES (?, ?, 1, 2, 'x', ?, '')"
        )
        store.database.execute_sql(gap, (TILL, a_stream(), at_ms + 1))

    assert found_by(at(central, "--database", database)) == {"restored": "warning"}


def test_centrals_doctor_asks_the_server(postgres, tmp_path):
    """Quiet with a backup; and it tells of a password file that everybody may read, and of a server that is away."""
    url = postgres.new_database()
    a_store(url).close()
    first = at(central, "--database", url)
    assert (first.exit_code, found_by(first)) == (3, {"backup_age": "warning"})
    backup.make(url, tmp_path / "b.dump", 1, "", wall_clock_ms, lambda *_: None)
    clean = at(central, "--database", url)
    assert (clean.exit_code, found_by(clean)) == (0, {})

    secret = tmp_path / "password"
    secret.write_text("x")
    secret.chmod(0o644)
    found = found_by(at(central, "--database", url, DATABASE_PASSWORD_FILE=secret))
    assert found == {"permissions": "error"}
    away = at(central, "--database", url.replace(f"port={postgres.port}", "port=1"))
    assert (away.exit_code, found_by(away)) == (7, {"server_away": "error"})


@pytest.mark.fault("F39")
def test_a_damaged_database_or_one_of_a_newer_version_is_told_by_doctor_and_by_run(database, tmp_path):
    """The worker does not start, exit code 1 and one line; the doctor says what to do."""
    with closing(sqlite3.connect(database)) as there, there:
        there.execute("INSERT INTO migration VALUES (?)", (len(MIGRATIONS) + 1,))
    run = CliRunner().invoke(central, ["--database", str(database), "run"])
    assert (run.exit_code, "upgrade" in run.stderr, "Traceback" in run.stderr) == (1, True, False)
    assert found_by(at(central, "--database", database))["schema"] == "error"

    database.write_bytes(b"\xff" * 5000)
    run = CliRunner().invoke(central, ["--database", str(database), "run"])
    assert (run.exit_code, "central doctor" in run.stderr) == (1, True)
    assert found_by(at(central, "--database", database)) == {"integrity": "error"}


def test_a_central_whose_commits_would_not_be_durable_does_not_start(tmp_path):
    """Where no log can be kept, as here without shared memory, SQLite says no in silence: it is read back."""
    with pytest.raises(UnsafeDatabaseError, match="journal_mode=delete"):
        a_store(f"file:{tmp_path / 'central.db'}?vfs=unix-dotfile")


@pytest.fixture
def keys(tmp_path):
    """Return the keys of a till whose outbox holds ten documents; its agent is down."""
    state = tmp_path / "state"
    state.mkdir()
    outbox = an_outbox(state / "outbox.db", ballast_bytes=1000)
    filled(outbox, 10)
    outbox.mark_stored(8, CENTRAL, 3)
    outbox.close()
    folders = {"STATE_DIR": state, "RUN_DIR": tmp_path / "run", "SPOOL_DIR": tmp_path / "spool"}
    return {"TILL_ID": TILL, "BALLAST_BYTES": 1000, "OUTBOX_LIMIT_BYTES": 2**20, **folders}


def test_a_tills_doctor_answers_while_the_agent_is_down(keys, tmp_path):
    """It finds that the agent is down, and that documents past their time wait for a backup."""
    done = at(edge, **keys)
    assert (done.exit_code, found_by(done)) == (3, {"agent": "warning", "backup_late": "warning"})
    assert [row["detail"] for row in json.loads(done.stdout) if row["code"] == "backup_late"] == ["5"]
    assert found_by(at(edge, **keys, RETENTION_DAYS=3650)) == {"agent": "warning"}
    assert "ballast" in found_by(at(edge, **keys | {"BALLAST_BYTES": 2000}))
    assert at(edge, **keys | {"STATE_DIR": tmp_path / "no"}).exit_code == 7


@pytest.mark.fault("F41")
def test_an_outbox_of_a_newer_version_or_a_damaged_one_is_told_by_doctor_run_and_status(keys):
    """An older agent does not start on it: exit code 1, one line that says to upgrade, and the file as it was."""
    path = keys["STATE_DIR"] / "outbox.db"
    with closing(sqlite3.connect(path)) as there:
        there.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        assert "schema" not in found_by(at(edge, **keys)), "one that only adds is no harm"
        there.execute(f"PRAGMA application_id = {SCHEMA_VERSION + 1}")
    before = path.read_bytes()
    environment = {f"TILLSTREAM_{key}": str(value) for key, value in keys.items()}
    for command in ("run", "status"):
        done = CliRunner().invoke(edge, [command], env=environment)
        assert (done.exit_code, "upgrade" in done.stderr, "Traceback" in done.stderr) == (1, True, False), done
    assert path.read_bytes() == before
    assert found_by(at(edge, **keys))["schema"] == "error"

    path.write_bytes(b"\xff" * 5000)
    done = CliRunner().invoke(edge, ["status"], env=environment)
    assert (done.exit_code, "edge repair" in done.stderr) == (1, True)
    assert found_by(at(edge, **keys))["integrity"] == "error"
