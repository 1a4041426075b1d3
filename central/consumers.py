"""Programs that take documents over under a name: how far each one says it has come, how far behind it is.

A consumer reads behind what it has acknowledged, stores that, and acknowledges: whatever is killed in between is read
once more. So a consumer knows documents by (till_id, document_id), and gets each at least once; none is skipped.
"""

from __future__ import annotations

from typing import Any

from . import audit, consumer
from .accounts import AccountError, a_name
from .consumer import Cursor, CursorError, OtherIncarnationError, Page
from .database import Postgres, Sqlite
from .models import Consumer

HAND_OVER = "hand-over"
"""The name under which `tillstream central hand-over` looks for documents that came late."""
CONSUMERS_MAX = 1_000
COUNTED_MAX = 100_000
"""A consumer that is further behind is said to be so far behind at least: counting on would take long."""
AT_ONCE = 100
"""So many documents are in memory before their bytes are counted."""
PAGE_BYTES_MAX = 8 * 2**20
"""A page ends behind the document that reaches so many bytes."""
_LISTED = (
    "SELECT c.name, c.incarnation, c.acknowledged, c.made_at_ms, c.acknowledged_at_ms, c.note, m.incarnation,"
    " CASE WHEN c.incarnation = m.incarnation THEN (SELECT count(*) FROM ("
    f"SELECT 1 AS one FROM document d WHERE d.id > c.acknowledged LIMIT {COUNTED_MAX + 1}) AS behind) END,"
    " CASE WHEN c.incarnation = m.incarnation THEN (SELECT d.received_at_ms FROM document d"
    " WHERE d.id > c.acknowledged ORDER BY d.id LIMIT 1) END"
    " FROM consumer c CROSS JOIN central m WHERE {which} ORDER BY c.name"
)


class ConsumerError(ValueError):
    """Nothing of the kind can be done; the text names the field and what is right."""


class NoConsumerError(ConsumerError):
    """There is no consumer of this name."""


class MovedError(CursorError):
    """The consumer does not stand any more where the page began that is acknowledged."""


def create(name: str, begin: Cursor, at_ms: int, note: str = "") -> bool:
    """Name a consumer that reads behind ``begin``; False if it is there already, and nothing changed."""
    try:
        a_name("consumer", name)
    except AccountError as problem:
        raise ConsumerError(str(problem)) from problem
    if name == HAND_OVER:
        raise ConsumerError(f"consumer {name}: this name is taken by `tillstream central hand-over`")
    if Consumer.get_or_none(Consumer.name == name):
        return False
    if Consumer.select().count() >= CONSUMERS_MAX:
        raise ConsumerError(f"there are {CONSUMERS_MAX} consumers, and no more can be made")
    place = {"incarnation": begin.incarnation, "acknowledged": begin.number}
    Consumer.insert(name=name, made_at_ms=at_ms, note=audit.a_note(note), **place).execute()
    audit.record("create consumer", f"consumer {name} at {begin}", note, at_ms)
    return True


def listed(database: Sqlite | Postgres, name: str | None = None) -> list[dict[str, Any]]:
    """Return the consumers by name, or one, by one statement.

    ``behind`` counts the documents it has not acknowledged, up to ``COUNTED_MAX`` (``is_further_behind`` beyond); it is
    None where nobody knows, because the database was put back to an earlier state since.
    """
    which = "1 = 1" if name is None else "c.name = ?"
    found = database.run(_LISTED.format(which=which), () if name is None else (name,)).fetchall()
    return [_shown(*row) for row in found]


def _shown(
    name: str, incarnation: int, number: int, made: int, acked: int | None, note: str, ours: int,
    behind: int | None, waiting_since: int | None,
) -> dict[str, Any]:  # fmt: skip
    return {
        "name": name,
        "cursor": str(Cursor(incarnation, number)),
        "behind": None if behind is None else min(behind, COUNTED_MAX),
        "is_further_behind": behind is not None and behind > COUNTED_MAX,
        "waiting_since_ms": waiting_since,
        "must_rewind": incarnation != ours,
        "acknowledged_at_ms": acked,
        "made_at_ms": made,
        "note": note,
    }


def place_of(name: str) -> Cursor:
    """Return what a consumer has acknowledged; raises NoConsumerError."""
    found = Consumer.get_or_none(Consumer.name == name)
    if found is None:
        raise NoConsumerError(f"there is no consumer {name[:70]!r}; see: tillstream central consumers list")
    return Cursor(found.incarnation, found.acknowledged)


def read(database: Sqlite | Postgres, after: Cursor | None, most: int, wait_s: float) -> Page:
    """Return what follows a cursor, ``most`` documents and about ``PAGE_BYTES_MAX`` bytes at most.

    Not inside a transaction. Raises CursorError.
    """
    page = consumer.read(database, after, min(most, AT_ONCE), wait_s)
    documents, size_bytes = page.documents, _size(page)
    while len(page.documents) == AT_ONCE and len(documents) < most and size_bytes < PAGE_BYTES_MAX:
        page = consumer.read(database, page.cursor, min(most - len(documents), AT_ONCE), 0)
        documents += page.documents
        size_bytes += _size(page)
    return Page(documents, page.cursor)


def _size(page: Page) -> int:
    return sum(len(one["body"] or b"") for one in page.documents)


def acknowledge(
    database: Sqlite | Postgres, name: str, cursor: Cursor, at_ms: int, after: Cursor | None = None
) -> bool:
    """Say that a consumer has everything up to a cursor; False if it had said so before. Never moves back.

    With ``after``, where the page began: only if the consumer still stands there. Without it, a program that holds a
    page while a person rewinds its consumer would take the rewind back, and nothing would be read again.

    Raises CursorError for a cursor of another incarnation, or of what is not there yet, and MovedError.
    """
    here = place_of(name)
    consumer.check(database, cursor)
    if here.incarnation != cursor.incarnation:
        raise OtherIncarnationError(
            f"consumer {name} stands at {here}, of before the database was put back to an earlier state: rewind it"
        )
    same = (Consumer.name == name) & (Consumer.incarnation == cursor.incarnation)
    ahead = same & (Consumer.acknowledged < cursor.number)
    ahead = ahead & (Consumer.acknowledged == after.number) if after else ahead
    if Consumer.update(acknowledged=cursor.number, acknowledged_at_ms=at_ms).where(ahead).execute():
        return True
    if after and (there := place_of(name)) not in (after, cursor):
        raise MovedError(
            f"consumer {name} stands at {there}, not at {after}, where this page began: it was rewound, or two programs"
            " read under its name; read on from where it stands"
        )
    return False


def rewind(database: Sqlite | Postgres, name: str, to: Cursor | None, at_ms: int, note: str = "") -> Cursor:
    """Have a consumer read again what follows a cursor, None for the beginning; returns where it stands now."""
    before = place_of(name)
    target = to or Cursor(consumer.incarnation_of(database), 0)
    consumer.check(database, target)
    if target.incarnation == before.incarnation and target.number > before.number:
        raise CursorError(f"{target} is ahead of {before}, where {name} stands: what is between would never be read")
    values = {"incarnation": target.incarnation, "acknowledged": target.number}
    Consumer.update(values).where(Consumer.name == name).execute()
    audit.record("rewind consumer", f"consumer {name}: {before} to {target}", note, at_ms)
    return target


def remove(name: str, at_ms: int, note: str = "") -> None:
    """Forget a consumer; raises NoConsumerError."""
    here = place_of(name)
    Consumer.delete().where(Consumer.name == name).execute()
    audit.record("remove consumer", f"consumer {name} at {here}", note, at_ms)
