"""Forgets the bytes of old documents, in bounded batches, and keeps what proofs and identity need for all time.

What stays of a document is its row: who it is, its number, what people search by, and of its body what a day's sums
are made of. In place of the bytes stand two digests: theirs, so that the same document is known and another one under
its id is a conflict, and the chain's after them, so that what follows in the stream can still be proven.

A stream is forgotten from its beginning, number by number, and no further than its documents make one chain; the newest
stream first, because the numbers of a renumbered one are proven by bytes that stand in an older one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from wire import chain

from .batch import body_digest_of
from .database import REFUSED, Postgres, Sqlite
from .shift_sums import essence
from .verify import Tell

_STREAMS = "SELECT till_id, stream FROM watermark ORDER BY till_id, id DESC"
_REACHED = (
    "SELECT sequence, chain_digest FROM (SELECT sequence, chain_digest FROM document WHERE till_id = ? AND stream = ?"
    " AND body_digest IS NOT NULL UNION ALL SELECT sequence, chain_digest FROM held_before"
    " WHERE till_id = ? AND stream = ? AND chain_digest IS NOT NULL) AS forgotten ORDER BY sequence DESC LIMIT 1"
)
_OWN = "{of}till_id = ? AND {of}stream = ? AND {of}sequence > ? AND {of}sequence <= ?"
_NEXT = (
    "SELECT sequence, 'document', id, received_at_ms, body, 1 FROM document WHERE " + _OWN.format(of="") + " UNION ALL"
    " SELECT sequence, 'quarantine', id, received_at_ms, body, 1 FROM quarantine WHERE " + _OWN.format(of="")
    + " UNION ALL SELECT h.sequence, 'held_before', 0, coalesce(d.received_at_ms, q.received_at_ms),"
    " coalesce(d.body, q.body), CASE WHEN d.body_digest IS NULL THEN 1 ELSE 0 END FROM held_before h"
    " LEFT JOIN document d ON (d.till_id, d.stream, d.sequence) = (h.till_id, h.in_stream, h.in_sequence)"
    " LEFT JOIN quarantine q ON (q.till_id, q.stream, q.sequence) = (h.till_id, h.in_stream, h.in_sequence)"
    " WHERE " + _OWN.format(of="h.") + " ORDER BY 1"
)  # fmt: skip
_FORGET = "UPDATE document SET body = ?, body_digest = ?, chain_digest = ? WHERE id = ? AND body_digest IS NULL"
_HELD = "UPDATE held_before SET chain_digest = ? WHERE till_id = ? AND stream = ? AND sequence = ?"


@dataclass(slots=True)
class Forgotten:
    """What was forgotten: documents, the bytes that they took and what of those was kept."""

    documents: int = 0
    size_bytes: int = 0
    kept_bytes: int = 0
    held_back: int = 0
    """Streams in which a number is missing: what lies behind it is kept until it is there, or for good."""


class HaltedError(Exception):
    """The database refused in the middle; the cause says why, ``done`` what was forgotten by then."""

    def __init__(self, done: Forgotten) -> None:
        self.done = done


@dataclass(slots=True)
class _Place:
    """How far a stream is forgotten, and the chain's digest there; None where the chain cannot be followed."""

    till: str
    stream: str
    reached: int
    digest: bytes | None
    is_at_end: bool = False


def forget(
    database: Sqlite | Postgres,
    before_ms: int,
    batch: int,
    tell: Tell,
    note: Callable[[Forgotten], None],
    *,
    dry_run: bool = False,
) -> Forgotten:
    """Forget the bytes of documents that were received before a time; each batch is one short transaction.

    ``note`` hears in each of them what is forgotten by its end. Raises HaltedError.
    """
    done = Forgotten()
    try:
        streams = database.run(_STREAMS).fetchall()
        for number, (till, stream) in enumerate(streams):
            tell("looking at streams", number, len(streams))
            place = _begin(database, till, stream)
            while not place.is_at_end:
                found = replace(done)
                with database.changing():
                    _forget_some(database, place, before_ms, batch, found, dry_run=dry_run)
                    if found.documents > done.documents and not dry_run:
                        note(found)
                done = found
    except REFUSED as problem:
        raise HaltedError(done) from problem
    return done


def _begin(database: Sqlite | Postgres, till: str, stream: str) -> _Place:
    found = database.run(_REACHED, (till, stream) * 2).fetchone()
    if found is None:
        return _Place(till, stream, 0, chain.first(stream))
    return _Place(till, stream, found[0], bytes(found[1]) if found[1] is not None else None)


def _forget_some(
    database: Sqlite | Postgres, place: _Place, before_ms: int, batch: int, done: Forgotten, *, dry_run: bool
) -> None:
    span = (place.till, place.stream, place.reached, place.reached + batch)
    forgotten, held = [], []
    before = place.reached
    for sequence, table, row_id, body in _old_enough(database, span, place, before_ms, done):
        place.reached = sequence
        place.digest = chain.follow(place.digest, body) if place.digest is not None and body is not None else None
        if table == "document" and body is not None:
            kept = essence(body)
            forgotten.append((kept, body_digest_of(body), place.digest, row_id))
            done.documents += 1
            done.size_bytes += len(body)
            done.kept_bytes += len(kept)
        elif table == "held_before" and place.digest is not None:
            held.append((place.digest, place.till, place.stream, sequence))
    place.is_at_end = place.is_at_end or place.reached == before
    if not dry_run:
        _write(database, forgotten, held)


def _write(database: Sqlite | Postgres, forgotten: list[Any], held: list[Any]) -> None:
    if forgotten:
        database.run_many(_FORGET, forgotten)
    if held:
        database.run_many(_HELD, held)


def _old_enough(
    database: Sqlite | Postgres, span: tuple[str, str, int, int], place: _Place, before_ms: int, done: Forgotten
) -> Iterator[tuple[int, str, int, bytes | None]]:
    """Yield the next numbers, as long as none is missing and none is too new."""
    expected = place.reached
    for sequence, table, row_id, received_at_ms, body, is_whole in database.run(_NEXT, span * 3).fetchall():
        expected += 1
        if sequence != expected:
            done.held_back += 1
            place.is_at_end = True
            return
        if received_at_ms is None or received_at_ms >= before_ms:
            place.is_at_end = True
            return
        yield sequence, table, row_id, bytes(body) if is_whole else None
