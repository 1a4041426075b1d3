"""Complete days in a folder: files whole, then the flag; again when a day is complete again, never not at all."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest
from click.testing import CliRunner
from databases import look
from factories import NOW_MS, TILL, a_parcel, a_sale, a_store, a_stream

from central import hand_over
from central.batch import NewStream
from central.cli import central
from wire.program import EXIT_FAILED, EXIT_USAGE

ROOT = Path(__file__).parent.parent
DAY, NEXT = "2026-03-01", "2026-03-02"


@pytest.fixture
def url(central_url):
    """Return a database: store 042 sold on two days, of which the first is complete; one document names no store."""
    bodies = [a_sale(f"d{number}", store_id="042" if number else "") for number in range(3)]
    bodies += [a_sale("next", store_id="042", business_day=NEXT), a_sale("other", store_id="043")]
    with closing(a_store(central_url)) as store:
        store.open_streams([NewStream(TILL, a_stream(), ())], {}, NOW_MS)
        store.ingest([a_parcel(bodies)], {}, NOW_MS)
        store.database.run("UPDATE till SET store_id = '042'")
    note(central_url, "042", DAY, "complete", 1)
    note(central_url, "042", NEXT, "open")
    note(central_url, "043", DAY, "partial")
    return central_url


def note(url, store, day, state, completed_at_ms="NULL"):
    look(url, f"DELETE FROM day WHERE store_id = '{store}' AND business_day = '{day}'")
    values = f"'{store}', '{day}', '{state}', 1, {completed_at_ms}"
    look(url, f"INSERT INTO day (store_id, business_day, state, since_ms, completed_at_ms) VALUES ({values})")


def run(url, out, *arguments, **config):
    environ = {f"TILLSTREAM_HAND_OVER_{key.upper()}": value for key, value in config.items()}
    return CliRunner().invoke(central, ["--database", url, "hand-over", "--out", str(out), *arguments], env=environ)


def handed(url, out, **config):
    told = run(url, out, "--json", **config)
    assert told.exit_code == 0, told.output
    return [(one["business_day"], one["store_id"], one["documents"]) for one in json.loads(told.stdout)]


def ids(out, name=f"{DAY}_042_documents.csv"):
    with (out / name).open(newline="") as file:
        return [row["document_id"] for row in csv.DictReader(file)]


def late(url, document_id, before, **fields):
    """Store one more document of the till."""
    with closing(a_store(url)) as store:
        bodies = [bytes(row[0]) for row in look(url, "SELECT body FROM document ORDER BY sequence")]
        assert len(bodies) == before
        store.ingest([a_parcel([a_sale(document_id, **fields)], before=bodies)], {}, NOW_MS)


def test_a_complete_day_is_handed_over_once_with_a_flag_that_names_its_files(url, tmp_path):
    """Of its store and of no other; a document of no store is of the store that its till is in."""
    out = tmp_path / "out"
    assert handed(url, out) == [(DAY, "042", 3)]
    flag = json.loads((out / f"{DAY}_042.ok").read_text())
    (file,) = flag["files"]

    assert ids(out) == ["d0", "d1", "d2"]
    assert (file["file"], file["rows"]) == (f"{DAY}_042_documents.csv", 3)
    assert file["sha256"] == sha256((out / file["file"]).read_bytes()).hexdigest()
    assert handed(url, out) == []


def test_who_takes_the_files_away_gets_them_once(url, tmp_path):
    """What was handed over is noted in the database, not read from the folder."""
    out = tmp_path / "out"
    handed(url, out)
    for path in out.iterdir():
        path.unlink()
    assert handed(url, out) == []
    assert [path.name for path in out.iterdir() if path.suffix != ".lock"] == []


def test_a_day_that_is_opened_and_complete_again_comes_again(url, tmp_path):
    """With what came in between; while it is open, nothing comes."""
    out = tmp_path / "out"
    handed(url, out)
    note(url, "042", DAY, "partial", 1)
    late(url, "late", 5, store_id="042")
    assert handed(url, out) == []
    note(url, "042", DAY, "complete", 2)
    assert handed(url, out) == [(DAY, "042", 4)]
    assert ids(out) == ["d0", "d1", "d2", "late"]


def test_a_document_that_comes_while_the_day_stays_complete_brings_it_again(url, tmp_path):
    """Nobody opened the day, and the files would lack it."""
    out = tmp_path / "out"
    handed(url, out)
    late(url, "late", 5, store_id="042")
    assert handed(url, out) == [(DAY, "042", 4)]
    late(url, "other day", 6, store_id="042", business_day=NEXT)
    assert handed(url, out) == []


@pytest.mark.parametrize("at", ["_write", "replaced", "_note"])
def test_killed_anywhere_a_day_comes_once_more_and_no_flag_is_beside_half_a_file(url, tmp_path, monkeypatch, at):
    """Before the files, between file and flag, and before it is noted."""
    out = tmp_path / "out"
    handed(url, out)
    note(url, "042", DAY, "complete", 2)
    real, calls = getattr(hand_over, at), []

    def die(*arguments, **options):
        calls.append(arguments)
        if at != "replaced" or len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    with monkeypatch.context() as killed:
        killed.setattr(hand_over, at, die)
        run(url, out)
    flags = list(out.glob("*.ok"))
    assert len(flags) == (1 if at == "_note" else 0)
    for flag in flags:
        for file in json.loads(flag.read_text())["files"]:
            assert sha256((out / file["file"]).read_bytes()).hexdigest() == file["sha256"]
    assert handed(url, out) == [(DAY, "042", 3)]
    assert handed(url, out) == []


def test_after_a_restore_everything_comes_once_more(url, tmp_path):
    """Numbers were given out again: nobody knows what of it the other side has."""
    out = tmp_path / "out"
    handed(url, out)
    look(url, "UPDATE central SET incarnation = 2")
    assert handed(url, out) == [(DAY, "042", 3)]
    assert handed(url, out) == []


def test_only_days_of_the_last_weeks_are_handed_over(url, tmp_path):
    """Whoever switches it on after years does not get years."""
    assert handed(url, tmp_path / "out", days="1") == [(DAY, "042", 3)]
    late(url, "much later", 5, store_id="042", business_day="2026-05-01")
    note(url, "042", DAY, "complete", 2)
    assert handed(url, tmp_path / "out", days="35") == []


def test_several_files_in_another_form(url, tmp_path):
    """Lines and tenders beside the documents; the flag names them all."""
    out = tmp_path / "out"
    handed(url, out, files="documents,lines,tenders", format="jsonl")
    flag = json.loads((out / f"{DAY}_042.ok").read_text())

    assert [one["rows"] for one in flag["files"]] == [3, 3, 3]
    lines = [json.loads(line) for line in (out / f"{DAY}_042_lines.jsonl").read_text().splitlines()]
    assert {line["document_id"] for line in lines} == {"d0", "d1", "d2"}


@pytest.mark.parametrize(
    ("store", "name"),
    [("a/b", "a%2Fb"), ("..", ".."), ("", "@"), ("Магазин", "%D0%9C%D0%B0%D0%B3%D0%B0%D0%B7%D0%B8%D0%BD")],
)
def test_whatever_a_store_is_called_its_files_lie_in_the_folder(store, name):
    """And no two stores share a name."""
    assert hand_over._in_a_name(store) == name
    assert len(hand_over._in_a_name("ж" * 64)) < 200
    assert hand_over._in_a_name("ж" * 64) != hand_over._in_a_name("ж" * 63 + "з")


def test_what_cannot_be_done_is_told(url, tmp_path):
    """Without a folder, with one that is no folder, and while another one is at work there."""
    (tmp_path / "file").write_text("")
    assert run(url, tmp_path / "file").exit_code in (EXIT_FAILED, EXIT_USAGE)
    assert CliRunner().invoke(central, ["--database", url, "hand-over"]).exit_code == EXIT_USAGE
    with closing(hand_over_lock(tmp_path)):
        told = run(url, tmp_path)
    assert (told.exit_code, "another hand-over" in told.output) == (EXIT_FAILED, True)


def hand_over_lock(folder):
    from central.lock import Lock

    return Lock(folder / ".hand-over", alone=True)


def test_as_a_service_it_hands_over_what_becomes_complete_and_ends_when_told(url, tmp_path):
    """Also after it was killed in between: nothing is asked of it but to be started again."""
    arguments = [sys.executable, "-m", "tillstream", "central", "--database", url, "hand-over"]
    environ = {**os.environ, "TILLSTREAM_HAND_OVER_EVERY_S": "0.05"}
    command = [*arguments, "--out", str(tmp_path / "out"), "--watch"]
    with subprocess.Popen(command, cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True) as process:
        try:
            told = map(json.loads, iter(process.stderr.readline, ""))
            first = next(line for line in told if line["event"] == "day_handed_over")
            note(url, "042", NEXT, "complete", 3)
            second = next(line for line in told if line["event"] == "day_handed_over")
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()

    assert [(one["business_day"], one["count"]) for one in (first, second)] == [(DAY, 3), (NEXT, 1)]
