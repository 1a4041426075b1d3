"""Reads stored documents in an order that never skips one: by number, up to where nothing older can still be committed.

PostgreSQL hands numbers out inside transactions, and those end in any order: 7 may be there while 6 is still to come,
and who had read up to 7 would never see 6. So a reader first takes the last number that was handed out, then looks who
may insert at that moment (each such transaction holds a lock from its first statement on), and waits until none of
those is left. SQLite has one writer at a time, and numbers there are committed in order.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .database import Postgres, Sqlite

LOOK_EVERY_S = 0.02
"""How often is looked whether the transactions that are waited for have ended."""

MOST_MAX = 10_000
"""So many documents are read at once at most."""

_CURSOR = re.compile(r"(?:0|[1-9][0-9]{0,8})-(?:0|[1-9][0-9]{0,17})")
_INCARNATION = "SELECT incarnation FROM central"
_DOCUMENTS = (
    "SELECT id, till_id, stream, sequence, document_id, transaction_type, store_id, business_day, received_at_ms,"
    " CASE WHEN body_digest IS NULL THEN body END FROM document WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"
)


class CursorError(ValueError):
    """Nothing can be read after this cursor; the text says why and where to begin."""


class OtherIncarnationError(CursorError):
    """The cursor counts in a database that was put back to an earlier state since."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a consumer has read: a document's number, and in which incarnation of the database it counts."""

    incarnation: int
    number: int

    def __str__(self) -> str:
        return f"{self.incarnation}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> Cursor | None:
        """Return the cursor that a text names, None for ``0``: the beginning. Raises CursorError."""
        if text == "0":
            return None
        if not _CURSOR.fullmatch(text):
            raise CursorError(f"{text[:40]!r} is no cursor: give the one that the last read returned, or 0 to begin")
        return cls(*map(int, text.split("-")))


@dataclass(frozen=True, slots=True)
class Page:
    """Documents in their order, with their exact bytes unless those were forgotten, and the cursor to go on with."""

    documents: list[dict[str, Any]]
    cursor: Cursor


class Horizon:
    """Up to which number of a table all is committed that ever will be; looks and never waits.

    Not inside a transaction that sees the database as it was at one moment: the rows up to there may be newer.
    """

    def __init__(self, database: Sqlite | Postgres, table: str) -> None:
        self._database, self._table = database, table
        self._ahead, self._writers = 0, frozenset[str]()
        self.certain = 0

    def look(self) -> int:
        """Return the number; 0 until the first of those who were writing then have ended."""
        ahead = self._database.last_number(self._table)
        writers = self._database.writers()  # After the number: whoever comes later gets a greater one.
        if not self._writers & writers:
            self.certain = ahead if not writers else self._ahead
            self._ahead, self._writers = ahead, writers
        return self.certain


def read(
    database: Sqlite | Postgres,
    after: Cursor | None,
    most: int,
    wait_s: float,
    sleep: Callable[[float], None] = time.sleep,
) -> Page:
    """Return what is stored after a cursor, in order, and the cursor behind it.

    Waits ``wait_s`` seconds at most for transactions that may still bring something older than what is there; what they
    hold up comes the next time. Raises CursorError.
    """
    begin = after or Cursor(incarnation_of(database), 0)
    newest = check(database, begin)
    through = _wait(Horizon(database, "document"), begin.number, newest, wait_s, sleep)
    rows = database.run(_DOCUMENTS, (begin.number, through, most)).fetchall() if through > begin.number else []
    documents = [_document(*row) for row in rows]
    # Not ``through``: a server that crashes may give numbers out again that nobody used, for they were never flushed.
    reached = documents[-1]["id"] if documents else begin.number
    return Page(documents, Cursor(begin.incarnation, reached))


def incarnation_of(database: Sqlite | Postgres) -> int:
    """Return which incarnation of central's database this is; raises CursorError while it has never been used."""
    row = database.run(_INCARNATION).fetchone()
    if row is None:
        raise CursorError("no central has used this database yet: start `tillstream central run`")
    return int(row[0])


def newest(database: Sqlite | Postgres, wait_s: float, sleep: Callable[[float], None] = time.sleep) -> Cursor:
    """Return the cursor behind all that is stored and can be told for certain; not inside a transaction."""
    last = database.last_number("document")
    certain = _wait(Horizon(database, "document"), 0, last, wait_s, sleep)
    return Cursor(incarnation_of(database), min(certain, last))


def check(database: Sqlite | Postgres, begin: Cursor) -> int:
    """Raise CursorError unless a cursor counts here, and return the last number that was handed out."""
    incarnation, newest = incarnation_of(database), database.last_number("document")
    if begin.incarnation != incarnation:
        raise OtherIncarnationError(
            f"{begin}: central's database was put back to an earlier state since (it is incarnation {incarnation} now),"
            " and numbers were given out again. Begin at 0, and know documents by till_id and document_id"
        )
    if begin.number > newest:
        raise CursorError(f"{begin}: no more than {newest} documents were ever numbered in this database")
    return newest


def _wait(horizon: Horizon, after: int, newest: int, wait_s: float, sleep: Callable[[float], None]) -> int:
    """Return up to which number is certain; that is ``newest``, unless a transaction lasts longer than the wait."""
    left_s = wait_s
    while (certain := horizon.look()) < newest > after and left_s > 0:
        sleep(LOOK_EVERY_S)
        left_s -= LOOK_EVERY_S
    return certain


def _document(
    number: int, till: str, stream: str, sequence: int, document_id: str, kind: str, store: str, day: str, at_ms: int,
    body: bytes | None,
) -> dict[str, Any]:  # fmt: skip
    return {
        "id": number,
        "till_id": till,
        "stream": stream,
        "sequence": sequence,
        "document_id": document_id,
        "transaction_type": kind,
        "store_id": store,
        "business_day": day,
        "received_at_ms": at_ms,
        "body": None if body is None else bytes(body),  # None: forgotten by `central retention`.
    }
