"""Puts the files of each complete day of a store into a folder, then a flag beside them: as shops' ledgers take them.

Whoever waits for ``2026-03-01_042.ok`` finds the day's files whole; it may take all of them away. What was handed over
is noted in the database, not read from the folder. A day that is opened and complete again, or that gets a document
while it stays complete, is handed over again. Killed anywhere, it hands a day over once more rather than not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from . import consumer, days, export
from .consumer import Cursor, OtherIncarnationError
from .consumers import HAND_OVER, NoConsumerError, acknowledge, place_of
from .database import Postgres, Sqlite
from .export import AT_ONCE, COLUMNS
from .export_files import Form, What, measured, replaced, writer
from .models import Consumer, Day, DayHandedOver
from .store_clock import day_after

WAIT_S = 1.0
"""So long it waits for transactions that may still bring something older."""
LOOK_DOCUMENTS = 10_000
"""So many documents are looked at in one transaction."""
NAME_CHARS_MAX = 100
NO_STORE = "@"
"""In a file's name, for documents of no store; no store can be called so there."""

_ARRIVED = (
    "SELECT DISTINCT d.business_day, CASE WHEN d.store_id <> '' THEN d.store_id ELSE t.store_id END"
    " FROM document d JOIN till t ON t.till_id = d.till_id WHERE d.id > ? AND d.id <= ?"
)
_DUE = (
    "SELECT d.store_id, d.business_day FROM day d LEFT JOIN day_handed_over h"
    " ON h.store_id = d.store_id AND h.business_day = d.business_day"
    " WHERE d.state = 'complete' AND d.business_day >= ? AND (h.completed_at_ms IS NULL"
    " OR h.completed_at_ms <> coalesce(d.completed_at_ms, 0)) ORDER BY d.business_day, d.store_id"
)
_IDS = (
    "SELECT d.id FROM document d JOIN till t ON t.till_id = d.till_id WHERE d.business_day = ?"
    " AND (d.store_id = ? OR (d.store_id = '' AND t.store_id = ?)) AND d.id > ? ORDER BY d.id LIMIT ?"
)


@dataclass(frozen=True, slots=True)
class HandedFile:
    """One file of a day, as the flag names it."""

    file: str
    rows: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class HandedDay:
    """What the flag says; times are epoch milliseconds."""

    business_day: str
    store_id: str
    completed_at_ms: int
    made_at_ms: int
    incarnation: int
    documents: int
    files: tuple[HandedFile, ...]


def turn(
    database: Sqlite | Postgres, folder: Path, files: tuple[What, ...], form: Form, now_ms: int, days_back: int
) -> Iterator[HandedDay]:
    """Hand over every day that is due, one after the other; the models are bound, no transaction is open.

    Raises OSError and NoParquetError; what was handed over before stays so.
    """
    _note_late(database, now_ms)
    newest = days.known_days(1)
    first = day_after(newest[0], -days_back) if newest else ""
    for store_id, day in days.rows(_DUE, first):
        if done := _hand_over(database, folder, files, form, now_ms, store_id, day):
            yield done


# -- What came late ----------------------------------------------------------------------------------------------------


def _note_late(database: Sqlite | Postgres, now_ms: int) -> None:
    """Forget that days were handed over to which documents have come since."""
    try:
        begin = _begin(database, now_ms)
    except OtherIncarnationError:  # Numbers were given out again: nobody knows what was handed over of those there are.
        begin = consumer.newest(database, WAIT_S)
        with database.atomic():
            DayHandedOver.delete().execute()
            values = {"incarnation": begin.incarnation, "acknowledged": begin.number, "acknowledged_at_ms": now_ms}
            Consumer.update(values).where(Consumer.name == HAND_OVER).execute()
    newest = consumer.newest(database, WAIT_S)
    for after in range(begin.number, newest.number, LOOK_DOCUMENTS):
        through = min(after + LOOK_DOCUMENTS, newest.number)
        with database.atomic():
            for day, store_id in days.rows(_ARRIVED, after, through):
                same = (DayHandedOver.store_id == store_id) & (DayHandedOver.business_day == day)
                DayHandedOver.delete().where(same).execute()
            acknowledge(database, HAND_OVER, Cursor(newest.incarnation, through), now_ms)


def _begin(database: Sqlite | Postgres, now_ms: int) -> Cursor:
    """Return up to where was looked; at first, up to where all is: nothing was handed over yet."""
    try:
        begin = place_of(HAND_OVER)
    except NoConsumerError:
        begin = consumer.newest(database, WAIT_S)
        place = {"incarnation": begin.incarnation, "acknowledged": begin.number}
        Consumer.insert(name=HAND_OVER, made_at_ms=now_ms, note="", **place).execute()
    consumer.check(database, begin)
    return begin


# -- One day -----------------------------------------------------------------------------------------------------------


def _hand_over(
    database: Sqlite | Postgres, folder: Path, files: tuple[What, ...], form: Form, now_ms: int, store_id: str, day: str
) -> HandedDay | None:
    """Write a day as it is at one moment; None if it is not complete any more."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{day}_{_in_a_name(store_id)}"
    flag = folder / f"{stem}.ok"
    with database.reading():
        noted = Day.get_or_none((Day.store_id == store_id) & (Day.business_day == day) & (Day.state == "complete"))
        if noted is None:
            return None
        flag.unlink(missing_ok=True)  # From here on the files are not those that the old one was for.
        written = tuple(_write(database, folder, f"{stem}_{what}", what, form, store_id, day) for what in files)
        incarnation = consumer.incarnation_of(database)
        counted = sum(len(ids) for ids in _ids(database, store_id, day))
    done = HandedDay(day, store_id, noted.completed_at_ms or 0, now_ms, incarnation, counted, written)
    with replaced(flag) as path:
        path.write_text(json.dumps(asdict(done), ensure_ascii=False, indent=1) + "\n", "utf-8")
    _note(done)
    return done


def _write(
    database: Sqlite | Postgres, folder: Path, stem: str, what: What, form: Form, store_id: str, day: str
) -> HandedFile:
    name, rows = f"{stem}.{'csv' if form == 'excel' else form}", 0
    with replaced(folder / name) as path:
        with closing(writer(path, COLUMNS[what], form)) as file:
            for ids in _ids(database, store_id, day):
                some = export.rows_of(database, what, ids)
                rows += len(some)
                file.write(some)
        size_bytes, digest = measured(path)
    return HandedFile(name, rows, size_bytes, digest)


def _ids(database: Sqlite | Postgres, store_id: str, day: str) -> Iterator[list[int]]:
    """Yield the numbers of a store's documents; one of no store is of the store that its till is in."""
    after = 0
    while rows := database.run(_IDS, (day, store_id, store_id, after, AT_ONCE)).fetchall():
        yield [number for (number,) in rows]
        after = rows[-1][0]


def _note(done: HandedDay) -> None:
    values = {"completed_at_ms": done.completed_at_ms, "handed_over_at_ms": done.made_at_ms}
    insert = DayHandedOver.insert(store_id=done.store_id, business_day=done.business_day, **values)
    key = [DayHandedOver.store_id, DayHandedOver.business_day]
    insert.on_conflict(conflict_target=key, update=values).execute()


def _in_a_name(store_id: str) -> str:
    """Return a store id as a part of a file's name, which says it as it is where letters and digits are enough."""
    text = quote(store_id, safe="") or NO_STORE
    if len(text) <= NAME_CHARS_MAX:
        return text
    return f"{text[:NAME_CHARS_MAX]}~{hashlib.blake2b(store_id.encode(), digest_size=8).hexdigest()}"
