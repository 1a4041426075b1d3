"""Writes what is stored of a business day into one file, whole or not at all, with a manifest that says what is in it.

One folder a day, as DuckDB, pandas and Spark read as one table: ``OUT/lines/business_day=2026-03-01/lines.csv``.
The manifest is written last: whoever waits for it never reads half a day.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from . import days
from .database import Postgres, Sqlite
from .export_files import Form, Row, What, file_name, measured, replaced, writer

AT_ONCE = 1_000
"""So many documents are in memory at once."""

MANIFEST = "manifest.json"

_DOCUMENT = "business_day text, store_id text, till_id text, document_id text, transaction_type text"
COLUMNS: dict[What, str] = {
    "documents": _DOCUMENT + ", stream text, sequence bigint, shift_number bigint, receipt_number bigint,"
    " closed_at_ms bigint, received_at_ms bigint, currency text, total_minor bigint, is_training boolean, body text",
    "lines": _DOCUMENT + ", line_number bigint, kind text, is_voided boolean, item_id text, name text, quantity text,"
    " unit_price text, discount_minor bigint, extended_minor bigint",
    "tenders": _DOCUMENT + ", tender_number bigint, tender_type text, is_voided boolean, amount_minor bigint,"
    " change_minor bigint",
    "taxes": _DOCUMENT + ", tax_id text, rate text, taxable_minor bigint, amount_minor bigint",
    "days": "business_day text, store_id text, state text, documents bigint, missing bigint, tills bigint,"
    " tills_complete bigint, currency text, transaction_type text, total_minor bigint",
}
"""What each file has, with PostgreSQL's words for types; a day of a store has a row for each currency and type."""

_FROM: dict[What, str] = {
    "documents": "document",
    "lines": "document_line",
    "tenders": "document_tender",
    "taxes": "document_tax",
}
_IDS = "SELECT id, body_digest FROM document WHERE business_day = ? AND store_id = ? AND id > ? ORDER BY id LIMIT ?"
_STORES = "SELECT min(store_id) FROM document WHERE business_day = ? AND store_id > ?"
_COUNT = "SELECT count(*) FROM document WHERE business_day = ?"
_SETTLED = (
    "SELECT business_day, max(since_ms) FROM day GROUP BY business_day"
    " HAVING sum(CASE WHEN state IN ('complete', 'not expected') THEN 0 ELSE 1 END) = 0 ORDER BY business_day"
)
_NOWHERE = "SELECT 1 FROM document WHERE business_day = ? AND store_id = '' LIMIT 1"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a file has. ``state`` says of how many stores the day was in which state when it was read."""

    what: What
    business_day: str
    file: str
    rows: int
    documents: int
    forgotten: int
    """Documents whose bytes retention took: they have no lines any more, and no exact text."""
    size_bytes: int
    sha256: str
    incarnation: int
    made_at_ms: int
    state: dict[str, int]


# -- Days --------------------------------------------------------------------------------------------------------------


def settled_days(since: Callable[[str], int | None]) -> list[str]:
    """Return the days that are settled in all their stores, and were not exported since they are; models are bound.

    ``since`` returns when a day was last exported, None for never.
    """
    return [day for day, settled_ms in days.rows(_SETTLED) if (at := since(day)) is None or at <= settled_ms]


def made_at_ms(out: Path, what: What, day: str, form: Form) -> int | None:
    """Return when a day was exported in this form; None if it was not, or not to its end."""
    try:
        found = msgspec.json.decode((_folder(out, what, day) / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError):
        return None
    return found.made_at_ms if found.file == file_name(what, form) else None


def export_day(
    database: Sqlite | Postgres,
    what: What,
    day: str,
    out: Path,
    form: Form,
    now_ms: int,
    tell: Callable[[str, int, int], None] = lambda *_: None,
) -> Manifest:
    """Write one day's file and its manifest in the place of those that are there; the models must be bound.

    Everything is read as it is at one moment. ``tell`` hears the day, how many documents are done, and of how many.
    Raises OSError and NoParquetError.
    """
    folder = _folder(out, what, day)
    folder.mkdir(parents=True, exist_ok=True)
    name = file_name(what, form)
    counts = _Counts(tell)
    with database.reading():
        (incarnation,) = database.run("SELECT incarnation FROM central").fetchone() or (0,)
        counts.of = database.run(_COUNT, (day,)).fetchone()[0]
        found = _day_rows(day, now_ms) if what == "days" else _document_rows(database, what, day, counts)
        with replaced(folder / name, before=lambda: (folder / MANIFEST).unlink(missing_ok=True)) as path:
            with closing(writer(path, COLUMNS[what], form)) as file:
                for rows in found:
                    counts.rows += len(rows)
                    file.write(rows)
            size_bytes, digest = measured(path)
        state = _states(day)
    documents = counts.of if what == "days" else counts.done
    manifest = Manifest(
        what, day, name, counts.rows, documents, counts.forgotten, size_bytes, digest, incarnation, now_ms, state
    )
    with replaced(folder / MANIFEST) as path:
        path.write_text(json.dumps(asdict(manifest), indent=2) + "\n", "utf-8")
    return manifest


class _Counts:
    def __init__(self, tell: Callable[[str, int, int], None]) -> None:
        self._tell, self.of, self.done, self.rows, self.forgotten = tell, 0, 0, 0, 0

    def add(self, day: str, documents: int) -> None:
        self.done += documents
        self._tell(day, self.done, self.of)


def _folder(out: Path, what: What, day: str) -> Path:
    return out / what / f"business_day={day}"


def _states(day: str) -> dict[str, int]:
    return dict(days.rows("SELECT state, count(*) FROM day WHERE business_day = ? GROUP BY state ORDER BY state", day))


# -- Rows --------------------------------------------------------------------------------------------------------------


def _document_rows(database: Sqlite | Postgres, what: What, day: str, counts: _Counts) -> Iterator[Sequence[Row]]:
    """Yield a day's rows, store by store and each in the order in which documents were stored.

    By store, because that is how the index has them: no statement sorts a whole day.
    """
    names = [column.split()[0] for column in COLUMNS[what].split(",")]
    columns = ", ".join(names).replace("body", "CASE WHEN body_digest IS NULL THEN body END AS body")
    table = _FROM[what]
    between = f"SELECT {columns} FROM {table} WHERE business_day = ? AND store_id = ? AND id > ? AND id <= ?"
    order = ORDERS[what]
    booleans = [names.index(name) for name in names if name.startswith("is_")]
    for store in _stores(database, day):
        after = 0
        while some := database.run(_IDS, (day, store, after, AT_ONCE)).fetchall():
            last = some[-1][0]
            rows = database.run(f"{between} ORDER BY {order}", (day, store, after, last)).fetchall()
            yield [_plain(row, booleans) for row in rows]
            counts.forgotten += sum(digest is not None for _, digest in some)
            counts.add(day, len(some))
            after = last


ORDERS: dict[What, str] = {
    "documents": "id",
    "lines": "id, line_number",
    "tenders": "id, tender_number",
    "taxes": "id, tax_id",
}


def rows_of(database: Sqlite | Postgres, what: What, ids: Sequence[int]) -> list[list[Any]]:
    """Return the rows of these documents, in the order of their numbers."""
    names = [column.split()[0] for column in COLUMNS[what].split(",")]
    columns = ", ".join(names).replace("body", "CASE WHEN body_digest IS NULL THEN body END AS body")
    which = f"WHERE id IN ({', '.join('?' * len(ids))}) ORDER BY {ORDERS[what]}"
    booleans = [names.index(name) for name in names if name.startswith("is_")]
    return [_plain(row, booleans) for row in database.run(f"SELECT {columns} FROM {_FROM[what]} {which}", ids)]


def _plain(row: Row, booleans: Sequence[int]) -> list[Any]:
    plain = [bytes(one).decode() if isinstance(one, bytes | memoryview) else one for one in row]
    for place in booleans:
        plain[place] = None if plain[place] is None else bool(plain[place])
    return plain


def _stores(database: Sqlite | Postgres, day: str) -> Iterator[str]:
    if database.run(_NOWHERE, (day,)).fetchone():
        yield ""
    last = ""
    while (last := database.run(_STORES, (day, last)).fetchone()[0]) is not None:
        yield last


def _day_rows(day: str, now_ms: int) -> Iterator[Sequence[Row]]:
    for store in days.stores_on(day):
        found = days.store_day(store, day, now_ms)
        fixed = [
            day,
            store,
            found.state,
            sum(till.documents for till in found.tills),
            found.missing_count,
            len(found.expected),
            sum(till.state == "complete" for till in found.tills),
        ]
        sums = [
            [*fixed, currency, kind, sum_] for currency, of in found.totals_minor.items() for kind, sum_ in of.items()
        ]
        yield sums or [[*fixed, None, None, None]]
