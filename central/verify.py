"""Reads a copy of central's database from end to end and says whether it can be trusted.

SQLite's own check tells whether the pages are whole. Whether the documents are is told by the chain: each stream's
digest is worked out anew from the stored bytes, and must be the watermark's.
"""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wire import chain

from .migrations import MIGRATIONS

Tell = Callable[[str, int, int], None]
"""Hears of progress: what is being done, how much of it is done, and how much there is."""

_HELD_BEFORE_SINCE = 3
"""The migration that made the table ``held_before``."""
_MARKS = "SELECT till_id, stream, through, digest FROM watermark ORDER BY id"
_FORGOTTEN_SINCE = 9
"""The migration since which bytes may be forgotten."""
_MINE = "WHERE till_id = ? AND stream = ? ORDER BY sequence"
_BODIES = f"SELECT sequence, body, NULL FROM {{table}} {_MINE}"
_KEPT = f"SELECT sequence, CASE WHEN body_digest IS NULL THEN body END, chain_digest FROM document {_MINE}"
_HELD = f"SELECT sequence, NULL, {{digest}} FROM held_before {_MINE}"


class NotTrustedError(Exception):
    """The file is no database of ours, or a damaged one; the text says which."""


@dataclass(frozen=True, slots=True)
class StreamFound:
    """How far a stream is in the copy, and what is wrong with it; empty if all of it is there."""

    till_id: str
    stream: str
    through: int
    problem: str


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found in a copy whose pages are whole."""

    central_id: str
    incarnation: int
    starts: int
    migration: int
    documents: int
    streams: tuple[StreamFound, ...]

    @property
    def problems(self) -> list[StreamFound]:
        """The streams whose documents are not what their watermark says."""
        return [one for one in self.streams if one.problem]


def verify(path: Path, tell: Tell) -> Verified:
    """Check a database that nobody writes to; raises NotTrustedError."""
    log = Path(f"{path}-wal")
    if log.exists() and log.stat().st_size:
        raise NotTrustedError(f"{path} is no backup: a database in use, its newest documents are in {log.name}")
    try:
        with closing(sqlite3.connect(f"file:{path.resolve()}?immutable=1", uri=True)) as database:
            return _verify(database, path, tell)
    except (sqlite3.Error, TypeError, ValueError) as problem:
        raise NotTrustedError(f"{path} cannot be read as central's database: {problem}") from problem


def _verify(database: sqlite3.Connection, path: Path, tell: Tell) -> Verified:
    run = database.execute
    migration = int(run("SELECT coalesce(max(number), 0) FROM migration").fetchone()[0])
    if migration > len(MIGRATIONS):
        raise NotTrustedError(f"{path} has migration {migration}, this version knows {len(MIGRATIONS)}: upgrade it")
    tell("checking pages", 0, 1)
    if (found := run("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
        raise NotTrustedError(f"{path} is damaged: {found}")
    facts = run("SELECT central_id, incarnation, starts FROM central").fetchone()
    if facts is None:
        raise NotTrustedError(f"{path} names no central")
    documents = int(run("SELECT count(*) FROM document").fetchone()[0])
    central_id, incarnation, starts = facts
    streams = tuple(_streams(database, migration, tell))
    return Verified(central_id, incarnation, starts, migration, documents, streams)


def _streams(database: sqlite3.Connection, migration: int, tell: Tell) -> Iterator[StreamFound]:
    marks = database.execute(_MARKS).fetchall()
    for number, (till, stream, through, digest) in enumerate(marks):
        tell("checking streams", number, len(marks))
        may_be_forgotten = migration >= _FORGOTTEN_SINCE
        parts = [_KEPT if may_be_forgotten else _BODIES.format(table="document"), _BODIES.format(table="quarantine")]
        if migration >= _HELD_BEFORE_SINCE:
            parts.append(_HELD.format(digest="chain_digest" if may_be_forgotten else "NULL"))
        # Bodies before the bare numbers of what is here under another one: either fills its place, a body proves it.
        rows = heapq.merge(*(database.execute(part, (till, stream)) for part in parts), key=_by_number)
        yield StreamFound(till, stream, through, follow(stream, through, bytes(digest), rows))


def _by_number(row: tuple[int, Any]) -> tuple[int, bool]:
    return row[0], row[1] is None


Row = tuple[int, bytes | None] | tuple[int, bytes | None, bytes | None]


def follow(stream: str, through: int, digest: bytes, rows: Iterable[Row]) -> str:
    """Return what keeps these documents from being ``1..through`` with that digest at the end, nothing if they are.

    ``rows`` are numbers in order with their bytes. None stands for a document that is here under another number, or
    whose bytes were forgotten: it is no hole, but behind it the chain can be followed only if its digest there is
    given as the third.
    """
    reached, made = 0, chain.first(stream)
    is_followed = True
    for number, body, *known in rows:
        if number > reached + 1:
            break
        if number == reached + 1:
            reached = number
            if known and known[0] is not None:
                made, is_followed = bytes(known[0]), True
            else:
                is_followed = is_followed and body is not None
                made = chain.follow(made, bytes(body)) if body is not None else made
    if reached < through:
        return f"number {reached + 1} is missing of {through}"
    if reached > through:
        return f"number {reached} lies beyond the watermark {through}"
    return "its documents do not make its digest" if is_followed and made != digest else ""
