"""A business day as files: all that is stored of it, whole or not at all, and readable by what analysts have."""

from __future__ import annotations

import csv
import json
from contextlib import closing
from hashlib import sha256

import duckdb
import pytest
from click.testing import CliRunner
from databases import look
from factories import NOW_MS, a_document, a_parcel, a_receipt, a_store, a_stream, as_json, some_baskets
from hypothesis import given
from hypothesis import strategies as st

from central import export
from central.batch import NewStream
from central.cli import central
from central.export import COLUMNS, MANIFEST
from central.export_files import file_name, writer
from central.models import MODELS

DAY, NEXT = "2026-03-01", "2026-03-02"
FORMS = ("csv", "excel", "jsonl", "parquet")


def stored(url, bodies_of):
    """Store documents by till; returns the database's URL."""
    with closing(a_store(url)) as store:
        for number, (till, bodies) in enumerate(bodies_of.items(), 1):
            stream = a_stream(number)
            store.open_streams([NewStream(till, stream, ())], {}, NOW_MS)
            store.ingest([a_parcel(bodies, till, stream=stream)], {}, NOW_MS)
    return str(url)


@pytest.fixture
def shops(central_url):
    """Return a database with baskets of two stores on one day, and a lone document on the next, of no store."""
    one, two = (
        [as_json(json.loads(body) | {"business_day": DAY, "store_id": store}) for body in some_baskets(40, till, seed)]
        for till, store, seed in (("till-1", "042", 1), ("till-2", "", 2))
    )
    lone = as_json(a_document("lone", business_day=NEXT, store_id="", till_id="till-2"))
    return stored(central_url, {"till-1": one, "till-2": [*two, lone]})


def run(url, out, *arguments):
    return CliRunner().invoke(central, ["--database", url, "export", *arguments, "--out", str(out)])


def exported(url, out, *arguments):
    """Export and return the manifests."""
    told = run(url, out, *arguments, "--json")
    assert told.exit_code == 0, told.output
    return json.loads(told.stdout)


def read_all(out, what, form):
    """Return the rows that DuckDB finds in a folder, sorted, whatever their form."""
    path = f"{out}/{what}/*/{file_name(what, form)}"
    kinds = {name: kind.replace("text", "varchar") for name, kind in (one.split() for one in COLUMNS[what].split(","))}
    columns = json.dumps(kinds).replace('"', "'")
    asked = f"'{path}', columns={columns}, hive_partitioning=false"
    as_csv = f"read_csv({asked}, header=true, nullstr='', allow_quoted_nulls=false, delim="
    reader = {
        "csv": f"{as_csv}',')",
        "excel": f"{as_csv}';')",
        "jsonl": f"read_json({asked}, format='newline_delimited')",
        "parquet": f"read_parquet('{path}', hive_partitioning=false)",
    }[form]
    with duckdb.connect() as connection:
        return sorted(connection.execute(f"SELECT * FROM {reader}").fetchall(), key=repr)


def from_views(url, what):
    names = [one.split()[0] for one in COLUMNS[what].split(",")]
    table = {"documents": "document", "lines": "document_line", "tenders": "document_tender", "taxes": "document_tax"}
    found = look(url, f"SELECT {', '.join(names)} FROM {table[what]}")
    texts = [[bytes(one).decode() if isinstance(one, bytes | memoryview) else one for one in row] for row in found]
    flags = [number for number, name in enumerate(names) if name.startswith("is_")]
    return sorted(
        (tuple(bool(one) if place in flags else one for place, one in enumerate(row)) for row in texts), key=repr
    )


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize("what", ["documents", "lines", "tenders", "taxes"])
def test_a_file_has_exactly_what_the_database_has(shops, what, form, tmp_path):
    """Each row of each store and day, of documents with their exact text, read back by DuckDB."""
    done = exported(shops, tmp_path, what, "--format", form, "--from", DAY, "--to", NEXT)

    there = from_views(shops, what)
    assert len(there) > 20
    assert there == read_all(tmp_path, what, form)
    assert len(there) == sum(one["rows"] for one in done)


@pytest.mark.parametrize("form", ["csv", "excel"])
def test_csv_has_the_same_rows(shops, form, tmp_path):
    """With and without what Excel wants."""
    exported(shops, tmp_path, "tenders", "--format", form, "--from", DAY, "--to", NEXT)

    def empty(rows):  # CSV has no other way to say that there is nothing.
        return sorted((tuple("" if one is None else one for one in row) for row in rows), key=repr)

    assert empty(from_views(shops, "tenders")) == empty(read_all(tmp_path, "tenders", form))


def test_folders_are_one_table_with_the_day_as_a_column(shops, tmp_path):
    """The way analysts read it: hive partitions, in one statement."""
    exported(shops, tmp_path, "documents", "--format", "parquet", "--from", DAY, "--to", NEXT)
    statement = (
        f"SELECT business_day, count(*) FROM read_parquet('{tmp_path}/documents/*/*.parquet') GROUP BY 1 ORDER BY 1"
    )

    assert [(DAY, 80), (NEXT, 1)] == [(str(day), count) for day, count in duckdb.sql(statement).fetchall()]


def test_the_manifest_says_what_is_in_the_file(shops, tmp_path):
    """Rows, size and hash, so that a reader can tell a damaged copy."""
    (done,) = exported(shops, tmp_path, "lines", "--from", DAY, "--to", DAY)
    folder = tmp_path / "lines" / f"business_day={DAY}"
    content = (folder / "lines.csv").read_bytes()

    assert json.loads((folder / MANIFEST).read_text()) == done
    assert (done["size_bytes"], done["sha256"]) == (len(content), sha256(content).hexdigest())
    assert done["rows"] == content.count(b"\r\n") - 1
    assert sorted(path.name for path in folder.iterdir()) == ["lines.csv", MANIFEST]


def test_a_second_run_replaces_and_an_export_that_fails_leaves_the_one_before(shops, tmp_path, monkeypatch):
    """Nobody ever reads half a day: not of a disk that is full at the last row either."""
    exported(shops, tmp_path, "lines", "--from", DAY, "--to", DAY)
    folder = tmp_path / "lines" / f"business_day={DAY}"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    with closing(a_store(shops)) as store:
        store.database.run("DELETE FROM document WHERE till_id = 'till-2'")

    def full(_descriptor):
        raise OSError(28, "No space left on device", str(folder / "lines.csv"))

    monkeypatch.setattr("central.export_files.os.fsync", full)
    told = run(shops, tmp_path, "lines", "--from", DAY, "--to", DAY)
    assert (told.exit_code, "No space left on device" in told.output) == (1, True)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}

    monkeypatch.undo()
    exported(shops, tmp_path, "lines", "--from", DAY, "--to", DAY)
    assert 0 < len((folder / "lines.csv").read_bytes()) < len(before["lines.csv"])


def test_days_have_a_row_for_each_store_currency_and_type(central_url, tmp_path):
    """What an analyst sums up by: the state, what is missing, and the money."""
    sales = [as_json(a_receipt(f"s{number}", store_id="042", business_day=DAY, total_minor=100)) for number in (1, 2)]
    returned = as_json(a_receipt("r1", "return", store_id="042", business_day=DAY, total_minor=30))
    url = stored(central_url, {"till-1": [*sales, returned]})

    exported(url, tmp_path, "days", "--format", "jsonl", "--from", DAY, "--to", DAY)
    file = tmp_path / "days" / f"business_day={DAY}" / "days.jsonl"
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]

    assert {("sale", 200), ("return", 30)} == {(row["transaction_type"], row["total_minor"]) for row in rows}
    assert {(DAY, "042", 3, 1)} == {(r["business_day"], r["store_id"], r["documents"], r["tills"]) for r in rows}


def test_only_days_that_are_complete_and_not_exported_since_go_out_from_a_timer(shops, tmp_path):
    """The first run takes what is complete, the second nothing, and a day that was opened again comes once more."""
    with closing(a_store(shops)) as store:
        judge = "INSERT INTO day (store_id, business_day, state, since_ms) VALUES (?, ?, ?, ?)"
        for row in (("042", DAY, "complete", 1), ("", DAY, "not expected", 2), ("", NEXT, "partial", 1)):
            store.database.run(judge, row)
    assert [DAY] == [one["business_day"] for one in exported(shops, tmp_path, "lines", "--completed")]
    assert [] == exported(shops, tmp_path, "lines", "--completed")
    assert "nothing to export" in run(shops, tmp_path, "lines", "--completed").output
    assert [DAY] == [one["business_day"] for one in exported(shops, tmp_path, "tenders", "--completed")]

    with closing(a_store(shops)) as store:
        store.database.run("UPDATE day SET state = 'partial', since_ms = ? WHERE business_day = ?", (2**42, DAY))
    assert [] == exported(shops, tmp_path, "lines", "--completed")
    with closing(a_store(shops)) as store:
        store.database.run("UPDATE day SET state = 'complete' WHERE business_day = ?", (DAY,))
    assert [DAY] == [one["business_day"] for one in exported(shops, tmp_path, "lines", "--completed")]


def test_a_large_day_is_never_in_memory_as_a_whole(shops, tmp_path, monkeypatch):
    """Batch by batch: the same rows, whatever their number, and progress in between."""
    monkeypatch.setattr(export, "AT_ONCE", 7)
    heard, sizes = [], []
    real = export._document_rows
    monkeypatch.setattr(
        export, "_document_rows", lambda *given: (sizes.append(len(rows)) or rows for rows in real(*given))
    )
    with closing(a_store(shops)) as store, store.database.bind_ctx(MODELS):
        done = export.export_day(
            store.database, "documents", DAY, tmp_path, "jsonl", NOW_MS, lambda *told: heard.append(told)
        )

    assert (done.rows, max(sizes), heard[-1]) == (80, 7, (DAY, 80, 80))
    assert len(heard) == 12


def test_documents_whose_bytes_were_forgotten_keep_their_row(shops, tmp_path):
    """Their exact text is null, and the manifest says how many they are."""
    with closing(a_store(shops)) as store:
        store.database.run("UPDATE document SET body_digest = ? WHERE business_day = ?", (b"1" * 16, NEXT))
    (done,) = exported(shops, tmp_path, "documents", "--format", "jsonl", "--from", NEXT, "--to", NEXT)
    row = json.loads((tmp_path / "documents" / f"business_day={NEXT}" / "documents.jsonl").read_text("utf-8"))

    assert (done["forgotten"], row["document_id"], row["body"]) == (1, "lone", None)


@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=5))
def test_no_text_of_a_till_is_a_formula_to_a_spreadsheet(tmp_path_factory, texts):
    """And every text is read back, in all forms, whatever is in it; Excel's have a leading apostrophe at most."""
    folder = tmp_path_factory.mktemp("texts")
    texts = [(one.encode("utf-8", "replace").decode(), two.encode("utf-8", "replace").decode()) for one, two in texts]
    for form in ("csv", "excel", "jsonl"):
        with closing(writer(folder / form, "one text, two text", form)) as file:
            file.write(texts)
    encoding = {"csv": "utf-8", "excel": "utf-8-sig"}
    found = {}
    for form, sign in (("csv", ","), ("excel", ";")):
        with (folder / form).open(encoding=encoding[form], newline="") as file:
            found[form] = [tuple(row) for row in csv.reader(file, delimiter=sign)][1:]
    lines = (folder / "jsonl").read_text("utf-8").split("\n")[:-1]

    assert texts == found["csv"] == [tuple(json.loads(line).values()) for line in lines]
    for row, kept in zip(texts, found["excel"], strict=True):
        assert all(cell in (text, f"'{text}") for text, cell in zip(row, kept, strict=True))
        assert all(cell[:1] not in "=@\t\r" for cell in kept if cell)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("lines", "--completed", "--from", DAY), "--completed finds the days itself"),
        (("lines", "--from", NEXT, "--to", DAY), "a range goes forward"),
        (("lines", "--from", "2026-02-30"), "2026-02-30"),
        (("receipts",), "receipts"),
    ],
)
def test_what_cannot_be_exported_is_told(shops, arguments, says, tmp_path):
    """The error names the option, and nothing is written."""
    told = run(shops, tmp_path / "out", *arguments)

    assert told.exit_code in (1, 2)
    assert says in told.output
    assert not (tmp_path / "out").exists()


def test_parquet_without_its_library_is_told_before_anything_is_written(shops, tmp_path, monkeypatch):
    """The text names the package."""
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    told = run(shops, tmp_path, "lines", "--format", "parquet", "--from", DAY, "--to", DAY)

    assert told.exit_code == 1
    assert "tillstream[parquet]" in told.output
    assert list((tmp_path / "lines" / f"business_day={DAY}").iterdir()) == []
