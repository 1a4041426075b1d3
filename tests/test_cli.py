"""The commands that people type: what they print, what they exit with, and the hook that prints nothing."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from databases import look
from factories import a_sale, an_upload

from central.batch import NewStream, Parcel
from central.database import Place
from central.store import Store
from tillstream import COMMANDS, main
from wire import codec

HOOK = Path(__file__).parent.parent / "edge" / "scripts" / "unloadSales.sh"


def run(*arguments, given=None, **environment):
    return CliRunner().invoke(main, list(arguments), input=given, env=environment)


@pytest.fixture
def database(central_url):
    """Return a central database with one good document, one in quarantine, and a till."""
    path = central_url
    store = Store(path, lambda: "central")
    upload = an_upload([a_sale("good"), b'{"document_id":"bad"}'])
    store.open_streams([NewStream("till-1", upload.header.stream, ())], {}, 0)
    (outcome,) = store.ingest([Parcel("till-1", upload)], {}, 1_772_000_000_000)
    store.close()
    assert outcome.kind == "advanced"
    return path


@pytest.mark.parametrize("name", COMMANDS)
def test_each_room_teaches_how_it_is_used(name):
    """--help works without any configuration, and shows an example."""
    told = run(name, "--help")

    assert told.exit_code == 0
    assert f"tillstream {name}" in told.output


@pytest.mark.parametrize(
    "command", [("edge", "append"), ("edge", "run"), ("central", "documents"), ("broker", "token")]
)
def test_a_commands_help_needs_no_configuration(command, tmp_path):
    """Whoever reads how a till is configured has not configured it yet."""
    told = run(*command, "--help", TILLSTREAM_TILL_ID=None, TILLSTREAM_QUIET_S="not a number")

    assert (told.exit_code, "Usage:" in told.output) == (0, True)


def test_central_shows_what_it_has_as_json(database):
    """Each list is machine-readable, and an empty one is an empty list with exit code 0."""
    asked = {name: run("central", "--database", database, name, "--json") for name in (
        "tills", "documents", "quarantine", "tasks", "gaps",
    )}  # fmt: skip

    assert {told.exit_code for told in asked.values()} == {0}
    rows = {name: json.loads(told.output) for name, told in asked.items()}
    assert [1, 1, 1, 0, 0] == [len(rows[name]) for name in rows]
    assert (rows["documents"][0]["document_id"], rows["quarantine"][0]["code"]) == ("good", "bad_schema")
    assert rows["tills"][0]["through"] == 2


@pytest.mark.parametrize("command", [("tills",), ("days",), ("request", "till-1"), ("settings", "withdraw", "--fleet")])
@pytest.mark.parametrize(
    ("broken", "what_to_do"),
    [
        ("DELETE FROM migration WHERE number > 2", "restart `tillstream central run`"),
        ("INSERT INTO migration VALUES (999)", "upgrade this program"),
        ("DROP TABLE migration", "cannot be read as central's database"),
    ],
    ids=["older", "newer", "another's"],
)
def test_a_database_that_this_version_cannot_read_is_said_with_what_to_do(database, broken, what_to_do, command):
    """After an upgrade the worker migrates it, at its next start; nothing else does."""
    look(database, broken)
    told = run("central", "--database", database, *command)

    assert (told.exit_code, what_to_do in told.output) == (1, True), told.output


@pytest.mark.parametrize("central_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("content", "what_to_do"), [(b"no database at all" * 100, "not a database"), (b"", "no such table")]
)
def test_a_file_that_is_no_database_is_said(database, content, what_to_do):
    """Another file, and an empty one."""
    Path(database).write_bytes(content)
    told = run("central", "--database", database, "tills")

    assert (told.exit_code, what_to_do in told.output) == (1, True), told.output


def test_a_database_that_is_locked_is_said(database, monkeypatch):
    """A change that finds no turn leaves nothing behind, and says so."""
    monkeypatch.setattr("central.database.BUSY_MS", 1)
    monkeypatch.setenv("TILLSTREAM_DATABASE_LOCK_TIMEOUT_S", "0.1")
    with contextlib.closing(Place(database).look(to_write=True)) as other, other.alone():
        if other.kind == "postgresql":
            other.run("LOCK TABLE task")
        told = run("central", "--database", database, "request", "till-1")

    assert (told.exit_code, "try again" in told.output) == (1, True), told.output


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["tills", "--till", "\udcff"], 1),
        (["request", "till-1", "--shift", "9" * 20], 2),
        (["gaps", "close", "9" * 20, "--note", "n"], 2),
        (["tills", "--till", "x' OR '1'='1"], 0),
        (["documents", "--id", "'; DROP TABLE document; --"], 0),
        (["days", "--store", "x' OR '1'='1", "--json"], 0),
    ],
)
def test_strange_arguments_are_told_or_find_nothing(database, arguments, code):
    """No traceback, no other rows than those that were asked for, and nothing is executed."""
    told = run("central", "--database", database, *arguments)

    assert told.exit_code == code, told.output
    assert told.exception is None or isinstance(told.exception, SystemExit)
    assert "till-1" not in told.output or code


def test_what_tills_name_never_commands_a_terminal(database):
    """Escape sequences and line breaks of a document's id are shown, not obeyed; JSON escapes them itself."""
    look(database, "UPDATE quarantine SET document_id = 'a\x1b[2J\nb'")
    told = run("central", "--database", database, "quarantine")

    assert "\x1b" not in told.output
    assert r"a\x1b[2J\nb" in told.output


def test_status_exits_with_three_when_a_person_should_look(database):
    """Only when asked to by --exit-code: a document in quarantine is a finding."""
    assert run("central", "--database", database, "status").exit_code == 0
    assert run("central", "--database", database, "status", "--exit-code").exit_code == 3


def test_the_exact_bytes_of_a_document_can_be_had(database):
    """What was received is what is printed."""
    told = run("central", "--database", database, "documents", "--id", "good", "--bytes")

    assert a_sale("good") + b"\n" == told.stdout_bytes


def test_asking_a_till_twice_is_one_task_and_an_unknown_till_an_error(database):
    """A repeated wish is harmless; a till that never connected cannot be asked."""
    first, second = (run("central", "--database", database, "request", "till-1", "--json") for _ in range(2))
    assert json.loads(first.output) == json.loads(second.output)

    unknown = run("central", "--database", database, "request", "nobody")
    assert unknown.exit_code == 1
    assert "no till is known for till nobody" in unknown.output


def test_a_missing_database_or_till_id_is_said_with_what_to_do(tmp_path):
    """The text names the file or the key."""
    missing = run("central", "--database", str(tmp_path / "none.db"), "status")
    assert (missing.exit_code, "tillstream central run" in missing.output) == (1, True)

    unnamed = run("edge", "status", TILLSTREAM_TILL_ID=None)
    assert (unnamed.exit_code, "till_id" in unnamed.output) == (1, True)


def test_ringing_an_agent_that_does_not_run_is_told_by_its_exit_code(tmp_path):
    """7: not reachable."""
    told = run("edge", "ring", TILLSTREAM_TILL_ID="till-1", TILLSTREAM_RUN_DIR=str(tmp_path))

    assert told.exit_code == 7


def test_what_travels_can_be_read_by_a_person():
    """An upload comes out as its header and one document a line."""
    upload = an_upload([a_sale("d1"), a_sale("d2")])
    told = run("wire", "decode", given=codec.pack_sales(upload.header, upload.bodies))

    header, *bodies = told.output.splitlines()
    assert json.loads(header)["through"] == 2
    assert [body.decode() for body in upload.bodies] == bodies
    assert run("wire", "decode", given=b"\x07junk").exit_code == 1


@pytest.mark.parametrize("state", ["listening", "nobody listens", "no fifo", "a plain file"])
def test_the_hook_rings_and_never_shows_itself_to_the_pos(tmp_path, state):
    """One byte if somebody listens; always exit code 0, never a word, and it does not wait."""
    fifo, reader = tmp_path / "ring", None
    if state in ("listening", "nobody listens"):
        os.mkfifo(fifo)
    if state == "listening":
        reader = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    if state == "a plain file":
        fifo.write_bytes(b"")
    done = subprocess.run(
        ["sh", str(HOOK)], env={"TILLSTREAM_FIFO": str(fifo)}, capture_output=True, timeout=5, check=True
    )

    assert (done.stdout, done.stderr) == (b"", b"")
    if reader is not None:
        assert os.read(reader, 10) == b"r"
        os.close(reader)
    if state == "a plain file":
        assert fifo.read_bytes() == b""
