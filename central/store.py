"""Central's database: what is committed, how far each stream has come, and what is missing.

One transaction takes the uploads of many tills: documents, quarantine and watermarks move together or not at all.
Whether an upload begins where the last one ended is decided on the rows inside that transaction, never on memory.
Peewee owns the models and the connection; the statements on a document's path are written out once and prepared.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import attrgetter, itemgetter
from typing import Any

import peewee as pw

from wire import chain
from wire.messages import Quarantined

from .batch import (
    BackedUp,
    Batch,
    Gap,
    Heard,
    Judge,
    Key,
    Lost,
    Mark,
    NewStream,
    OpenTask,
    Outcome,
    Parcel,
    Span,
    gap_of,
    is_same,
    with_conflicts,
)
from .counters import Ingested
from .database import REFUSED, UNSTORABLE, Place, a_place, first_cause
from .judge import REASON_MAX, Accepted, Refused, judge
from .migrations import migrate
from .rows import ChangedRows, NewRows

log = logging.getLogger("tillstream.central")


_MARKS = "SELECT till_id, stream, through, digest FROM watermark WHERE till_id IN (TILLS) "
_LOCKED_MARKS = _MARKS + "{LOCKED}"
"""Of all streams of a till: two processes take turns with it. In one order: they never wait for each other."""
_DOCUMENTS = NewRows(
    "document",
    "till_id text, stream text, sequence bigint, received_at_ms bigint, body bytea, document_id text,"
    " transaction_type text, store_id text, business_day text, shift_number bigint, receipt_number bigint,"
    " closed_at_ms bigint, currency text, total_minor bigint, is_training boolean",
)
_QUARANTINE = NewRows(
    "quarantine",
    "till_id text, stream text, sequence bigint, document_id text, code text, reason text, received_at_ms bigint,"
    " body_digest bytea, body bytea",
)
_MOVE = "UPDATE watermark SET through = ?, digest = ?, moved_at_ms = ? WHERE till_id = ? AND stream = ?"
_OPEN = (
    "INSERT INTO watermark (till_id, stream, through, digest, opened_at_ms) VALUES (?, ?, 0, ?, ?)"
    " ON CONFLICT DO NOTHING"
)
_KNOWS = "SELECT 1 FROM watermark WHERE till_id = ? AND stream = ?"
_PRESENT = (
    "UPDATE watermark SET id = {NEXT_WATERMARK} WHERE till_id = ? AND stream = ?"
    " AND id < (SELECT max(id) FROM watermark WHERE till_id = ?)"
)
"""A till's newest row is its present stream, whichever of its streams' doorbells came first."""
_REGISTER = NewRows(
    "till",
    "till_id text, store_id text, is_approved boolean, first_seen_ms bigint, connection bigint, presence text",
)
_GAP = (
    "INSERT INTO gap (till_id, stream, first, last, reason, found_at_ms, note) VALUES (?, ?, ?, ?, ?, ?, '')"
    " ON CONFLICT DO NOTHING"
)
_PASSED = "DELETE FROM heard_head WHERE till_id = ? AND stream = ? AND boot_id = ? AND newest <= ?"
_HEAR = (
    "INSERT INTO heard_head (till_id, stream, boot_id, newest, digest, after, agreed, heard_at_ms)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (till_id, stream, boot_id) DO UPDATE SET newest = excluded.newest, digest = excluded.digest,"
    " after = excluded.after, agreed = excluded.agreed WHERE excluded.newest >= heard_head.newest"
)
_HELD = (
    "INSERT INTO held_before (till_id, stream, sequence, in_stream, in_sequence, chain_digest)"
    " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_WHOLE_BEFORE = (
    "SELECT 1 FROM document WHERE till_id = ? AND stream = ? AND sequence < ? AND body_digest IS NULL LIMIT 1"
)
_HISTORY = (
    "SELECT sequence, CASE WHEN body_digest IS NULL THEN body END, chain_digest FROM document"
    " WHERE till_id = ? AND stream = ? AND sequence > ? AND sequence <= ? UNION ALL SELECT sequence, body, NULL"
    " FROM quarantine WHERE till_id = ? AND stream = ? AND sequence > ? AND sequence <= ? UNION ALL"
    " SELECT h.sequence, coalesce(CASE WHEN d.body_digest IS NULL THEN d.body END, q.body), h.chain_digest"
    " FROM held_before h"
    " LEFT JOIN document d ON (d.till_id, d.stream, d.sequence) = (h.till_id, h.in_stream, h.in_sequence)"
    " LEFT JOIN quarantine q ON (q.till_id, q.stream, q.sequence) = (h.till_id, h.in_stream, h.in_sequence)"
    " WHERE h.till_id = ? AND h.stream = ? AND h.sequence > ? AND h.sequence <= ? ORDER BY 1"
)
"""A stream's documents in order, wherever they stand; the span is named three times."""
_KNOWN = (
    "SELECT sequence, chain_digest FROM (SELECT sequence, chain_digest FROM document WHERE till_id = ? AND stream = ?"
    " AND sequence <= ? AND chain_digest IS NOT NULL UNION ALL SELECT sequence, chain_digest FROM held_before"
    " WHERE till_id = ? AND stream = ? AND sequence <= ? AND chain_digest IS NOT NULL) AS known"
    " ORDER BY sequence DESC LIMIT 1"
)
"""The chain's digest where the last bytes were forgotten; the stream is named twice."""
_SAME_QUARANTINE = "SELECT stream, sequence FROM quarantine WHERE till_id = ? AND document_id = ? AND body_digest = ?"
_VERIFY = ChangedRows("watermark", "verified_at_ms bigint", "till_id text, stream text")
_SAME_DOCUMENT = "SELECT stream, sequence, body, body_digest FROM document WHERE till_id = ? AND document_id = ?"
_PRESENCE = ChangedRows(
    "till",
    "store_id text, is_online boolean, connection bigint, presence_at_ms bigint, presence text, clock_skew_ms bigint",
    "till_id text",
)
_TASK = NewRows(
    "task",
    "task_id text, till_id text, worker integer, state text, reason text, attempts integer, created_at_ms bigint,"
    " finished_at_ms bigint, note text, stream text, after bigint, through bigint",
    "(task_id) DO UPDATE SET worker = excluded.worker, state = excluded.state, attempts = excluded.attempts,"
    " after = excluded.after, finished_at_ms = excluded.finished_at_ms,"
    " note = CASE excluded.note WHEN '' THEN task.note ELSE excluded.note END",
)
_TILLS = (
    "SELECT t.till_id, t.is_online, t.connection, t.is_approved, w.stream, w.through, w.digest FROM till t"
    " LEFT JOIN watermark w ON w.id = (SELECT max(id) FROM watermark WHERE till_id = t.till_id)"
)
_OPEN_TASKS = (
    "SELECT task_id, till_id, reason, attempts, stream, after, through FROM task WHERE finished_at_ms IS NULL"
    " AND worker IS {taken} NULL ORDER BY created_at_ms, task_id"
)
_BACKED_UP = "SELECT till_id, stream, backed_up FROM watermark WHERE backed_up IS NOT NULL"
_NEWEST_BACKUP = "SELECT verified_at_ms FROM backup ORDER BY id DESC LIMIT 1"


INSERTED_AT_ONCE = 100
"""So many documents are sent to the database while the next ones are judged."""

FOLLOWED_AT_ONCE = 100
"""So many documents of a stream are in memory while its chain is worked out."""


def _head_rows(heads: Iterable[tuple[str, Heard]], at_ms: int) -> list[tuple[Any, ...]]:
    rows = (
        (till, one.stream, one.boot_id, one.newest, one.digest, one.after, one.agreed, at_ms) for till, one in heads
    )
    return sorted(rows, key=itemgetter(0, 1, 2))


_first, _last = itemgetter(0), itemgetter(-1)
_closed_at_ms, _code = itemgetter(11), itemgetter(4)
"""Where these stand in a row of documents, and of quarantine."""


class Store:
    """Central's database, every commit durable. Used by one thread only."""

    def __init__(self, where: Place | str, make_id: Callable[[], str], *, approve_tills: bool = False) -> None:
        """Open the database, making or migrating it first.

        Raises NewerSchemaError if it is ahead of this version, InUseError while a backup is being put in its place,
        UnsafeDatabaseError where commits would not be durable.
        """
        self.database = a_place(where).open()
        self._run, self._run_many = self.database.run, self.database.run_many
        self._approve, self._make_id = not approve_tills, make_id
        self.ingested = Ingested()
        try:
            self._begin()
        except BaseException:
            self.database.close()
            raise

    def _begin(self) -> None:
        self.database.fold()
        self.database.refuse_unsafe()
        migrate(self.database)
        self.central_id, self.incarnation, self.starts = self._count_start()

    def _count_start(self) -> tuple[str, int, int]:
        with self.database.alone():
            if self._run("SELECT count(*) FROM central").fetchone()[0] == 0:
                self._run("INSERT INTO central (central_id, incarnation, starts) VALUES (?, 1, 0)", (self._make_id(),))
            self._run("UPDATE central SET starts = starts + 1")
            row: tuple[str, int, int] = self._run("SELECT central_id, incarnation, starts FROM central").fetchone()
        return row

    def reopen(self) -> None:
        """Make the connection anew after the database refused, if it has one; raises what opening it raises."""
        if self.database.reopen():
            self._begin()  # As a start: another server may answer now, or a backup may have been put in its place.

    def close(self) -> None:
        """Close the connection; everything that was said to be stored is."""
        self.database.close()

    # -- A document's path -----------------------------------------------------------------------------------------

    def ingest(
        self, parcels: Sequence[Parcel], heard: dict[str, tuple[Heard, ...]], received_at_ms: int
    ) -> list[Outcome]:
        """Commit the uploads of many tills in one transaction and say what became of each, in order.

        ``heard`` gives, for each till, the heads it rang for that are not passed yet. An upload that the database
        refuses as a whole is tried again alone, and document by document if need be: one never stops the others.
        """
        try:
            return self._ingest_together(parcels, heard, received_at_ms, judge)
        except UNSTORABLE:
            if len(parcels) > 1:
                return [one for parcel in parcels for one in self.ingest([parcel], heard, received_at_ms)]
            log.exception("unstorable", extra={"till": parcels[0].till})
            return self._ingest_together(parcels, heard, received_at_ms, self._judge_by_trying)

    def _ingest_together(
        self, parcels: Sequence[Parcel], heard: dict[str, tuple[Heard, ...]], received_at_ms: int, judge_one: Judge
    ) -> list[Outcome]:
        batch, began_at = Batch(received_at_ms), time.perf_counter()
        with self._transaction():
            known = self._marks({parcel.till for parcel in parcels}, _LOCKED_MARKS)
            taken = self._take_all(batch, parcels, known, heard, judge_one)
            outcomes, inserted = self._insert_beside(taken, batch) if judge_one is judge else (list(taken), None)
            conflicts = self._write(batch, inserted)
        self._count(batch, time.perf_counter() - began_at)
        return with_conflicts(outcomes, conflicts)

    def _count(self, batch: Batch, took_s: float) -> None:
        closed_at_ms = map(_closed_at_ms, batch.documents)
        codes = map(_code, batch.quarantine)
        self.ingested.add(len(batch.documents), batch.inserted, codes, closed_at_ms, batch.received_at_ms)
        self.ingested.commit_s.observe(took_s)

    def _take_all(
        self,
        batch: Batch,
        parcels: Sequence[Parcel],
        known: dict[Key, Mark],
        heard: dict[str, tuple[Heard, ...]],
        judge_one: Judge,
    ) -> Iterator[Outcome]:
        for parcel in parcels:
            key = parcel.till, parcel.upload.header.stream
            mark = batch.marks.get(key) or known.get(key)
            yield batch.take(parcel, mark, heard.get(parcel.till, ()), judge_one)

    def _insert_beside(self, taken: Iterator[Outcome], batch: Batch) -> tuple[list[Outcome], int]:
        """Judge documents while a server stores those before them; return how many were not there before."""
        outcomes, sent = [], 0
        with self.database.inserting(_DOCUMENTS) as inserting:
            for outcome in taken:
                outcomes.append(outcome)
                if len(batch.documents) >= sent + INSERTED_AT_ONCE:
                    inserting.add(batch.documents[sent:])
                    sent = len(batch.documents)
            inserting.add(batch.documents[sent:])
        return outcomes, inserting.count()

    def _marks(self, tills: set[str], statement: str = _MARKS) -> dict[tuple[str, str], Mark]:
        marks = {}
        names = sorted(tills)
        for start in range(0, len(names), 500):
            some = names[start : start + 500]
            rows = self._run(statement.replace("TILLS", ",".join("?" * len(some))), some)
            marks.update({(till, stream): Mark(stream, through, digest) for till, stream, through, digest in rows})
        return marks

    def _write(self, batch: Batch, inserted: int | None = None) -> list[tuple[str, str, Quarantined]]:
        conflicts: list[tuple[str, str, Quarantined]] = []
        many = self._run_many
        insert = self.database.insert_new
        if inserted is None and batch.documents:
            inserted = insert(_DOCUMENTS, batch.documents)
        batch.inserted = inserted or 0
        if inserted != len(batch.documents):
            conflicts = self._find_conflicts(batch)
        if batch.quarantine and insert(_QUARANTINE, batch.quarantine) != len(batch.quarantine):
            self._find_held(batch)
        if batch.held:
            many(_HELD, batch.held)
        if batch.marks:
            at_ms = batch.received_at_ms
            many(
                _MOVE,
                [(mark.through, mark.digest, at_ms, *key) for key, mark in sorted(batch.marks.items(), key=_first)],
            )
        if gaps := batch.gaps + self._gaps(batch.lost):
            many(_GAP, sorted((*gap, batch.received_at_ms) for gap in gaps))
        if batch.passed:
            many(_PASSED, sorted(batch.passed))
        if batch.heads:
            many(_HEAR, _head_rows(batch.heads, batch.received_at_ms))
        return conflicts

    def _find_conflicts(self, batch: Batch) -> list[tuple[str, str, Quarantined]]:
        """Find out, when fewer rows went in than were given, which had an id that was there before.

        The same bytes are skipped: a till that renumbered sends again what central has. Other bytes are quarantined.
        """
        conflicts = []
        for till, stream, sequence, _, body, document_id, *_ in batch.documents:
            there = self._run(_SAME_DOCUMENT, (till, document_id)).fetchone()
            if there is None:
                continue
            if is_same(body, *there[2:]):
                if there[:2] != (stream, sequence):
                    digest = self._kept_digest(batch, till, stream, sequence) if there[3] else None
                    batch.held.append((till, stream, sequence, *there[:2], digest))
                continue
            reason = f"document_id was used before, with other bytes, as number {there[1]} of stream {there[0]}"
            refused = Refused(document_id, "conflict", reason)
            conflicts.append((till, stream, batch.quarantine_one(till, stream, sequence, refused, body)))
        return conflicts

    def _kept_digest(self, batch: Batch, till: str, stream: str, sequence: int) -> bytes | None:
        """Return what proves the chain where the bytes were forgotten before the till sent them again.

        None behind a document that retention has not come to: it begins behind the newest digest that was kept.
        """
        is_in_order = self._run(_WHOLE_BEFORE, (till, stream, sequence)).fetchone() is None
        return batch.digest_after(till, stream, sequence) if is_in_order else None

    def _find_held(self, batch: Batch) -> None:
        """Note the numbers of documents that were quarantined before under other numbers."""
        for till, stream, sequence, document_id, _, _, _, body_digest, _ in batch.quarantine:
            there = self._run(_SAME_QUARANTINE, (till, document_id, body_digest)).fetchone()
            if there and there != (stream, sequence):
                batch.held.append((till, stream, sequence, *there, None))

    def _judge_by_trying(self, till: str, body: bytes) -> Accepted | Refused:
        """Judge a document by whether the database takes it: it passed all checks, and was refused all the same."""
        verdict = judge(till, body)
        if isinstance(verdict, Refused):
            return verdict
        self._run("SAVEPOINT trial")
        try:
            self._run(_DOCUMENTS.each, Batch(0).document_row(till, "trial", 0, body, verdict))
        except REFUSED:
            raise  # The disk or the lock: that says nothing of the document.
        except (pw.DatabaseError, *UNSTORABLE) as problem:
            return Refused("", "unstorable", first_cause(problem)[:REASON_MAX])
        finally:
            self._run("ROLLBACK TO trial")
            self._run("RELEASE trial")
        return verdict

    # -- Streams ---------------------------------------------------------------------------------------------------

    def open_streams(
        self, streams: Sequence[NewStream], heard: dict[str, tuple[Heard, ...]], at_ms: int
    ) -> dict[Key, tuple[Mark, bool]]:
        """Register tills and streams that doorbells named, in one transaction.

        Returns each stream's watermark and whether its row was made just now. What an earlier stream can no longer
        send becomes a gap: numbers pruned above central's watermark, and heads that were heard and are not exactly
        where that stream ended.
        """
        batch = Batch(at_ms)
        with self._transaction():
            streams = sorted(streams, key=attrgetter("till"))
            self._run_many(_REGISTER, [self._till_row(one.till, at_ms) for one in streams])
            before = self._marks({one.till for one in streams}, _LOCKED_MARKS)
            for one in streams:
                if (one.till, one.stream) not in before:
                    self._run(_OPEN, (one.till, one.stream, chain.first(one.stream), at_ms))
                    batch.take_over(one, heard.get(one.till, ()), self._digest_at)
                else:
                    self._run(_PRESENT, (one.till, one.stream, one.till))
            self._write(batch)
            after = self._marks({one.till for one in streams})
        return {key: (mark, key not in before) for key, mark in after.items()}

    def _digest_at(self, till: str, stream: str, number: int) -> bytes | None:
        """Work out the chain's digest over what is held of a stream, None if not all of it is; reads all bytes of it.

        Needed only when a till that had forgotten documents went on in another stream.
        """
        mark = self._marks({till}).get((till, stream))
        if mark and mark.through == number:
            return mark.digest
        reached, digest = self._run(_KNOWN, (till, stream, number) * 2).fetchone() or (0, chain.first(stream))
        while reached < number:
            through = min(reached + FOLLOWED_AT_ONCE, number)
            for sequence, body, known in self._run(_HISTORY, (till, stream, reached, through) * 3).fetchall():
                if sequence != reached + 1 or (body is None and known is None):
                    return None
                digest, reached = known or chain.follow(digest, body), sequence
            if reached != through:
                return None
        return bytes(digest)

    def knows(self, till: str, stream: str) -> bool:
        """Say whether a stream of this till has a row."""
        return self._run(_KNOWS, (till, stream)).fetchone() is not None

    # -- What is written once a second -----------------------------------------------------------------------------

    def note(
        self,
        at_ms: int,
        heads: Iterable[tuple[str, Heard]] = (),
        passed: Sequence[tuple[str, str, str, int]] = (),
        lost: Sequence[Lost] = (),
        verified: Iterable[tuple[str, str]] = (),
        presences: Iterable[tuple[Any, ...]] = (),
        tasks: Iterable[tuple[Any, ...]] = (),
    ) -> None:
        """Write what has been heard since the last time, for all tills, in one transaction; nothing if nothing was."""
        hear = _head_rows(heads, at_ms)
        verify = [(at_ms, *key) for key in sorted(verified)]
        shown, task_rows = sorted(presences, key=_last), sorted(tasks, key=_first)
        if not (hear or passed or lost or verify or shown or task_rows):
            return
        with self._transaction():
            register = [self._till_row(row[-1], at_ms) for row in shown]
            missing = sorted((*gap, at_ms) for gap in self._gaps(lost))
            for statement, rows in (
                (_REGISTER, register),
                (_PRESENCE, shown),
                (_VERIFY, verify),
                (_GAP, missing),
                (_PASSED, sorted(passed)),
                (_HEAR, hear),
                (_TASK, task_rows),
            ):
                if rows:
                    self._run_many(statement, rows)

    def _till_row(self, till: str, at_ms: int) -> tuple[Any, ...]:
        return till, "", self._approve, at_ms, -1, "{}"

    # -- What a start needs ----------------------------------------------------------------------------------------

    def tills(self) -> list[tuple[str, Mark | None, bool | None, int, bool]]:
        """Return each till's id, its newest stream's watermark, whether it was online, its connection, approval."""
        return [
            (till, Mark(stream, through, digest) if stream else None, online, connection, bool(approved))
            for till, online, connection, approved, stream, through, digest in self._run(_TILLS)
        ]

    def heard_heads(self, at_ms: int, holds: Callable[[str], bool] = bool) -> list[tuple[str, Heard]]:
        """Return the heads that were written and never passed; first settle those that were passed unawares.

        Only of the tills that ``holds`` names. Two processes write to one database: what one had heard the other may
        have passed. Whether it was that very history is worked out from the documents.
        """
        passed = self._heads("JOIN watermark w USING (till_id, stream) WHERE h.newest <= w.through")
        self.settle((one for one in passed if holds(one[0])), at_ms)
        return [one for one in self._heads("") if holds(one[0])]

    def settle(self, doubted: Iterable[tuple[str, Heard]], at_ms: int) -> None:
        """Make gaps of heads below the watermark that are of another history than the one held; let the others go."""
        for till, head in doubted:
            lost = till, head, f"rung for up to {head.newest} by boot {head.boot_id}, then replaced"
            self.note(at_ms, passed=[(till, head.stream, head.boot_id, head.newest)], lost=[lost])

    def _gaps(self, lost: Iterable[Lost]) -> list[Gap]:
        return [gap for one in lost if (gap := gap_of(one, self._digest_at))]

    def _heads(self, which: str) -> list[tuple[str, Heard]]:
        rows = self._run(
            f"SELECT till_id, stream, boot_id, newest, h.digest, after, agreed FROM heard_head h {which}"
        ).fetchall()
        return [
            (till, Heard(stream, boot, newest, digest, written=True, after=after, agreed=agreed))
            for till, stream, boot, newest, digest, after, agreed in rows
        ]

    def open_tasks(self) -> list[OpenTask]:
        """Return the tasks that were taken up and are not finished, oldest first."""
        return list(self._tasks("NOT"))

    def wishes(self, most: int = 1000, holds: Callable[[str], bool] = bool) -> list[OpenTask]:
        """Return the tasks that people made that nobody has taken up, of the tills ``holds`` names; oldest first."""
        return list(islice((task for task in self._tasks("") if holds(task.till)), most))

    def _tasks(self, taken: str) -> Iterator[OpenTask]:
        for task_id, till, reason, attempts, *span in self._run(_OPEN_TASKS.format(taken=taken)):
            yield OpenTask(task_id, till, reason, attempts, Span(*span) if span[0] else None)

    def last_change(self) -> int:
        """Return the number of the last thing that a person changed: approvals, settings, tags, parking."""
        number: int = self._run("SELECT coalesce(max(id), 0) FROM audit").fetchone()[0]
        return number

    def backed_up(self) -> BackedUp:
        """Return how far each stream is in the newest verified backup."""
        newest = self._run(_NEWEST_BACKUP).fetchone()
        if newest is None:
            return BackedUp()
        rows = self._run(_BACKED_UP)
        return BackedUp({(till, stream): through for till, stream, through in rows}, newest[0])

    def unapproved(self) -> set[str]:
        """Return the tills that nobody has approved yet."""
        return {till for (till,) in self._run("SELECT till_id FROM till WHERE NOT is_approved")}

    def _transaction(self) -> Any:
        return self.database.writing()
