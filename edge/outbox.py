"""The till's durable, numbered, chained record of documents: one file, one process, one writing connection.

``synchronous=full``: with ``normal`` 18 real power cuts lost 6,204 of 518,578 acknowledged commits, with ``full`` none
of 102,603. One writing connection, because SQLite before 3.51.3 can corrupt a write-ahead log that two checkpoint.
Appending a document is one commit, so one fsync. What central has stored is kept in memory and written with the next
commit that is due anyway: after a crash the till believes a little less, which is always safe.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import peewee as pw

from wire import chain
from wire.messages import HISTORIES_MAX, History
from wire.program import is_damage, is_disk_failure

from .syps import Head

MEMORY = ":memory:"
PAGE_BYTES = 4096
SCHEMA_VERSION = 2
READABLE_FROM = 2
"""The oldest schema whose programs may use this one. It goes up only with a change that an older program would break by
its writing; one that adds leaves it, so that a till can go back to the release before."""


class OutboxFullError(Exception):
    """There is no room for one more document; the text names the limit. Nothing was appended."""


class OutboxBusyError(Exception):
    """Another process has this outbox open."""


class OutboxUnsafeError(Exception):
    """The outbox cannot be trusted with what it is given, or not be read; the text says why."""


@dataclass(frozen=True, slots=True)
class OutboxLimits:
    """Bounds of the outbox on disk."""

    outbox_limit_bytes: int = 2 * 2**30
    ballast_bytes: int = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Appended:
    """The number under which a document stands in the stream, and whether it stood there before."""

    sequence: int
    is_new: bool


_TABLES = """
CREATE TABLE stream (
  stream TEXT NOT NULL, pruned INTEGER NOT NULL DEFAULT 0, pruned_digest BLOB NOT NULL,
  stored INTEGER NOT NULL DEFAULT 0, backed_up INTEGER, central_id TEXT, starts INTEGER NOT NULL DEFAULT 0,
  card_numbers_masked INTEGER NOT NULL DEFAULT 0);
CREATE TABLE document (
  sequence INTEGER PRIMARY KEY, document_id TEXT NOT NULL, body BLOB NOT NULL, digest BLOB NOT NULL,
  appended_at_ms INTEGER NOT NULL);
CREATE INDEX document_by_id ON document (document_id);
CREATE TABLE previous (
  id INTEGER PRIMARY KEY, stream TEXT NOT NULL, pruned INTEGER NOT NULL, newest INTEGER NOT NULL, digest BLOB NOT NULL,
  agreed INTEGER NOT NULL DEFAULT 0, agreed_digest BLOB);
CREATE TABLE forgotten (sequence INTEGER PRIMARY KEY, digest BLOB NOT NULL)
"""
_FROM_1 = """
ALTER TABLE previous ADD COLUMN agreed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE previous ADD COLUMN agreed_digest BLOB;
CREATE TABLE forgotten (sequence INTEGER PRIMARY KEY, digest BLOB NOT NULL)
"""
FORGOTTEN_MAX = 200_000
"""How many digests of pruned documents are kept, some 6 MB: a year of 500 documents a day."""
_FACTS = "stored, backed_up, central_id, starts, card_numbers_masked"
_KNOWN = "SELECT sequence FROM document WHERE document_id = ? AND body = ?"
_APPEND = "INSERT INTO document (sequence, document_id, body, digest, appended_at_ms) VALUES (?, ?, ?, ?, ?)"
_DIGEST_AT = "SELECT digest FROM document WHERE sequence = ?"
_READ_AFTER = "SELECT sequence, CAST(body AS BLOB) FROM document WHERE sequence > ? ORDER BY sequence LIMIT ?"
_OLDEST = "SELECT sequence, appended_at_ms FROM document WHERE sequence <= ? ORDER BY sequence LIMIT ?"
_OLDEST_UNSENT = "SELECT appended_at_ms FROM document WHERE sequence = ?"
_SOME = "SELECT sequence, CAST(body AS BLOB), digest FROM document WHERE sequence > ? ORDER BY sequence LIMIT 100"
"""Whoever edits a row by hand may leave text where bytes were."""
_TAKE_OVER = "INSERT INTO previous (stream, pruned, newest, digest, agreed, agreed_digest) VALUES (?, ?, ?, ?, ?, ?)"
_FORGET = "INSERT INTO forgotten (sequence, digest) SELECT sequence, digest FROM document WHERE sequence <= ?"
_FORGET_HISTORIES = "DELETE FROM previous WHERE id NOT IN (SELECT id FROM previous ORDER BY id DESC LIMIT ?)"
_UNSENT = (
    "SELECT sequence, document_id, length(body), appended_at_ms FROM document WHERE sequence > ?"
    " ORDER BY sequence LIMIT ?"
)


def hold(path: Path) -> IO[bytes]:
    """Take the outbox for this process, until what is returned is closed; makes an empty file if there is none.

    Raises OutboxBusyError if another process has it.
    """
    lock = path.with_suffix(".lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise OutboxBusyError(f"{path} is open in another process") from None
    # What a store sold is nobody else's business; SQLite gives its other files the mode of this one.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    return lock


class Outbox:
    """The outbox of one till. Used by one thread only."""

    def __init__(self, path: Path | str, limits: OutboxLimits, make_stream: Callable[[], str]) -> None:
        """Open the outbox, making it first if there is none.

        Raises OutboxBusyError if another process has it open, and sqlite3.DatabaseError if it cannot be trusted.
        """
        is_memory = path == MEMORY or "mode=memory" in str(path)
        self._path = None if is_memory else Path(path)
        self._limits, self._make_stream = limits, make_stream
        self._lock = hold(self._path) if self._path else None
        self.database = pw.SqliteDatabase(str(path), pragmas=self._pragmas(), uri=str(path).startswith("file:"))
        try:
            self.database.connect()
            self._connection = cast("sqlite3.Connection", self.database.connection())
            self._refuse_unsafe()
            self._empty_log()
            self._make_tables()
            self._load()
        except BaseException as problem:
            if is_damage(problem) or not is_disk_failure(problem):  # Closing would write.
                self._let_go()
            raise
        self._keep_ballast()

    def _pragmas(self) -> dict[str, Any]:
        pages = self._limits.outbox_limit_bytes // PAGE_BYTES
        common = {"page_size": PAGE_BYTES, "max_page_count": pages, "synchronous": "full", "temp_store": "memory"}
        return common if self._path is None else {**common, "journal_mode": "wal", "cache_size": -2048}

    def _refuse_unsafe(self) -> None:
        """Read back what the promise rests on: a build or a mount may silently have said no."""
        synchronous = self._connection.execute("PRAGMA synchronous").fetchone()[0]
        journal = self._connection.execute("PRAGMA journal_mode").fetchone()[0]
        if synchronous != 2 or journal not in ("wal", "memory"):
            raise sqlite3.DatabaseError(f"{self._path}: synchronous={synchronous}, journal_mode={journal}: not safe")

    def _empty_log(self) -> None:
        """Move what the last life left in the write-ahead log into the database, before anybody is told of it.

        After a failed fsync the kernel shows bytes that the disk may not have, and takes them for written. Copied to
        their place they are written anew. A full disk is given the ballast's room; without any they stay in the log.
        """
        for _ in range(2):
            try:
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            except sqlite3.OperationalError as problem:
                if "full" not in str(problem):
                    raise
                self.make_room()
            else:
                return

    def _make_tables(self) -> None:
        """Make a new outbox with the first stream, all at once; refuse one that a newer version has made."""
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        readable_from = self._connection.execute("PRAGMA application_id").fetchone()[0] or version
        if readable_from > SCHEMA_VERSION:
            raise sqlite3.DatabaseError(
                f"{self._path} has schema {version}, this version knows {SCHEMA_VERSION}: upgrade it"
            )
        if version >= SCHEMA_VERSION:
            return
        if version:
            with self._transaction():
                for statement in _FROM_1.split(";\n"):
                    self._connection.execute(statement)
                self._stamp()
            return
        stream = self._make_stream()
        with self._transaction():
            for table in _TABLES.split(";\n"):
                self._connection.execute(table)
            self._connection.execute(
                "INSERT INTO stream (stream, pruned_digest) VALUES (?, ?)", (stream, chain.first(stream))
            )
            self._stamp()

    def _stamp(self) -> None:
        self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        self._connection.execute(f"PRAGMA application_id = {READABLE_FROM}")

    def _load(self) -> None:
        """Take the head from the rows: there is no second record of it that could differ."""
        run = self._connection.execute
        self._stream: str
        self._pruned: int
        self._pruned_digest: bytes
        self.starts: int
        self._stream, self._pruned, self._pruned_digest = run(
            "SELECT stream, pruned, pruned_digest FROM stream"
        ).fetchone()
        (self._stored, self._backed_up, self.central_id, self.starts, self.card_numbers_masked) = run(
            f"SELECT {_FACTS} FROM stream"
        ).fetchone()
        self._previous = tuple(
            History(stream=stream, pruned=pruned, newest=newest, digest=digest, agreed=agreed, agreed_digest=at_agreed)
            for stream, pruned, newest, digest, agreed, at_agreed in run(
                "SELECT stream, pruned, newest, digest, agreed, agreed_digest FROM previous ORDER BY id"
            )
        )
        newest = run("SELECT max(sequence) FROM document").fetchone()[0]
        self._newest: int = self._pruned if newest is None else newest
        self._digest: bytes = self.digest_at(self._newest) or self._pruned_digest
        self._stored = min(self._stored, self._newest)  # Rows may be gone that were stored: their numbers come again.
        self._saved = self._facts()
        self._oldest_unsent: tuple[int, int | None] = (0, None)
        self._stored_at: tuple[str, int, bytes | None] = ("", 0, None)

    # -- Appending -------------------------------------------------------------------------------------------------

    def append(self, document_id: str, body: bytes, at_ms: int, *, card_numbers: int = 0) -> Appended:
        """Give one document its number and its place in the chain, and make it durable; one fsync.

        The very same document under the same id is not appended again: it keeps its number. ``body`` is one line,
        ``at_ms`` is epoch milliseconds. Raises OutboxFullError; the outbox is then as before.
        """
        known = self._connection.execute(_KNOWN, (document_id, body)).fetchone()
        if known:
            return Appended(known[0], is_new=False)
        sequence, digest = self._newest + 1, chain.follow(self._digest, body)
        self.card_numbers_masked += card_numbers
        try:
            with self._commit():
                self._connection.execute(_APPEND, (sequence, document_id, body, digest, at_ms))
        except sqlite3.OperationalError as problem:
            self.card_numbers_masked -= card_numbers
            if "full" not in str(problem):
                raise
            raise OutboxFullError(f"no room in {self._path or 'memory'}: {problem}") from problem
        self._newest, self._digest = sequence, digest
        return Appended(sequence, is_new=True)

    # -- Reading ---------------------------------------------------------------------------------------------------

    def head(self) -> Head:
        """Return what the outbox holds now."""
        return Head(
            stream=self._stream,
            oldest=self._pruned + 1,
            newest=self._newest,
            digest=self._digest,
            stored=self._stored,
            oldest_unsent_at_ms=self._unsent_since(),
            previous=self._previous,
            stored_digest=self._digest_stored(),
        )

    def digest_at(self, sequence: int) -> bytes | None:
        """Return the chain's digest at a number, or None if the outbox does not hold it (pruned, or never was)."""
        if sequence == self._pruned:
            return self._pruned_digest
        row: tuple[bytes] | None = self._connection.execute(_DIGEST_AT, (sequence,)).fetchone()
        return bytes(row[0]) if row else None

    def read_after(self, after: int, limit_documents: int, limit_bytes: int) -> list[bytes]:
        """Return the documents that follow ``after``, within both limits; one document always fits.

        Only what follows without a hole: a row that somebody deleted ends it.
        """
        bodies: list[bytes] = []
        size_bytes = 0
        for number, body in self._connection.execute(_READ_AFTER, (after, limit_documents)):
            size_bytes += len(body)
            if number != after + len(bodies) + 1 or (bodies and size_bytes > limit_bytes):
                break
            bodies.append(body)
        return bodies

    def mentions(self, text: str) -> bool:
        """Say whether a stub in the outbox names this digest; reads everything, for the few that are old."""
        found = self._connection.execute("SELECT 1 FROM document WHERE instr(body, ?) LIMIT 1", (text.encode(),))
        return found.fetchone() is not None

    def unsent_documents(self, most: int) -> list[dict[str, Any]]:
        """Return the oldest documents that central is not known to have, for people: number, id, size and time."""
        rows = self._connection.execute(_UNSENT, (self._stored, most))
        names = ("sequence", "document_id", "size_bytes", "appended_at_ms")
        return [dict(zip(names, row, strict=True)) for row in rows]

    def _unsent_since(self) -> int | None:
        """Return when the oldest unsent document was appended; asked for with every head, so remembered."""
        if self._stored >= self._newest:
            return None
        if self._oldest_unsent[0] != self._stored + 1:
            row: tuple[int] | None = self._connection.execute(_OLDEST_UNSENT, (self._stored + 1,)).fetchone()
            self._oldest_unsent = self._stored + 1, row[0] if row else None
        return self._oldest_unsent[1]

    def _digest_stored(self) -> bytes | None:
        """Return the digest at what is stored; asked for with every head, so remembered."""
        if self._stored in (0, self._newest):
            return None
        if self._stored_at[:2] != (self._stream, self._stored):
            self._stored_at = self._stream, self._stored, self.digest_at(self._stored)
        return self._stored_at[2]

    # -- What central has ------------------------------------------------------------------------------------------

    def mark_stored(self, through: int, central_id: str, backed_up: int | None) -> None:
        """Believe that central has everything up to ``through``; written with the next commit.

        A central that says nothing of backups takes nothing back: what it said before still bounds pruning.
        Another central has other backups.
        """
        if backed_up is not None or central_id != self.central_id:
            self._backed_up = backed_up
        self._stored, self.central_id = min(through, self._newest), central_id

    @property
    def backed_up(self) -> int | None:
        """Up to where central has this stream in a verified backup; None where it makes none."""
        backed_up: int | None = self._backed_up
        return backed_up

    def count_start(self) -> int:
        """Return how many times this outbox was put into service, this time included; durable."""
        self.starts += 1
        self.save()
        return self.starts

    def save(self) -> None:
        """Write the few facts that are kept in memory, if they changed.

        A full disk is given the ballast's room; if that is not enough, they go with the next commit that finds some.
        """
        for _ in range(2):
            try:
                if self._facts() != self._saved:
                    with self._commit():
                        pass
            except sqlite3.OperationalError as problem:
                if "full" not in str(problem):
                    raise
                self.make_room()

    def prune(self, before_ms: int, limit_documents: int = 1000, *, now_ms: int | None = None) -> int:
        """Forget documents appended before a time that central has stored (and backed up, if it says so).

        Only the oldest go, up to the first that is too young, in one transaction with the digest at the last of them;
        returns how many. What was appended later than ``now_ms`` was so by a clock that was ahead: its time begins now.
        """
        stored = self._stored if self._backed_up is None else min(self._stored, self._backed_up)
        if now_ms is not None:
            self._begin_anew(stored, limit_documents, now_ms)
        # Not up to the last that is old enough: one that a clock was behind at would take along what came before it.
        (through,) = self._connection.execute(
            "SELECT coalesce(min(CASE WHEN appended_at_ms >= ? THEN sequence END) - 1, max(sequence))"
            f" FROM ({_OLDEST})",
            (before_ms, stored, limit_documents),
        ).fetchone()
        if through is None or through <= self._pruned:
            return 0
        digest, count = self.digest_at(through), int(through - self._pruned)
        with self._slack(), self._commit():
            self._connection.execute(_FORGET, (through,))
            self._connection.execute("DELETE FROM forgotten WHERE sequence <= ?", (through - FORGOTTEN_MAX,))
            self._connection.execute("DELETE FROM document WHERE sequence <= ?", (through,))
            self._connection.execute("UPDATE stream SET pruned = ?, pruned_digest = ?", (through, digest))
        self._pruned, self._pruned_digest = through, digest or self._pruned_digest
        self._keep_ballast()
        return count

    def _begin_anew(self, stored: int, limit_documents: int, now_ms: int) -> None:
        later = self._connection.execute(
            f"SELECT sequence FROM ({_OLDEST}) WHERE appended_at_ms > ?", (stored, limit_documents, now_ms)
        ).fetchall()
        if later:
            with self._slack(), self._commit():
                self._connection.executemany(
                    "UPDATE document SET appended_at_ms = ? WHERE sequence = ?",
                    [(now_ms, number) for (number,) in later],
                )

    def start_stream(self, asked_after: int) -> None:
        """Renumber all retained documents from 1 in a new stream, and name the old one as taken over.

        What the old one can no longer send goes with its name: what was pruned, and everything up to the last place
        where its own chain does not hold, because a row was changed or is gone. ``asked_after`` is where central's
        history of it ends: the old chain's digest there goes along.
        """
        stream = self._make_stream()
        digest = first = chain.first(stream)
        known = self._known_digest(asked_after)
        lost, reached, recorded = self._pruned, self._pruned, self._pruned_digest
        at_lost = recorded
        self._stored, self._backed_up = 0, None
        run = self._connection.execute
        with self._slack(), self._commit():
            for number, (sequence, body, its_digest) in enumerate(self._all_documents(), 1):
                if sequence != reached + 1 or chain.follow(recorded, body) != its_digest:
                    lost, at_lost = sequence, its_digest
                reached, recorded = sequence, its_digest
                digest = chain.follow(digest, body)
                # Ascending order and numbers that only fall: a new number never meets one that is still in use.
                run("UPDATE document SET sequence = ?, digest = ? WHERE sequence = ?", (number, digest, sequence))
            agreed = known if 0 < known[0] < lost else (lost, at_lost)
            run(_TAKE_OVER, (self._stream, lost, self._newest, self._digest, *agreed))
            run(_FORGET_HISTORIES, (HISTORIES_MAX,))
            run("DELETE FROM forgotten")
            run("UPDATE stream SET stream = ?, pruned = 0, pruned_digest = ?", (stream, first))
        self._load()

    def _known_digest(self, sequence: int) -> tuple[int, bytes]:
        """Return a number and the chain's digest there, of a pruned document, too; 0 if that one is not known."""
        found = self._connection.execute("SELECT digest FROM forgotten WHERE sequence = ?", (sequence,)).fetchone()
        digest = self.digest_at(sequence) or (found[0] if found else None)
        return (sequence, digest) if digest else (0, chain.first(self._stream))

    def _all_documents(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield number, body and digest of all documents, a few at a time: they may be larger than the memory."""
        after = self._pruned
        while some := self._connection.execute(_SOME, (after,)).fetchall():
            yield from some
            after = some[-1][0]

    # -- Room ------------------------------------------------------------------------------------------------------

    def make_room(self) -> None:
        """Give the ballast back to a full disk: in WAL mode SQLite cannot even delete without room to write."""
        if ballast := self._ballast():
            ballast.unlink(missing_ok=True)

    def _ballast(self) -> Path | None:
        return self._path.with_suffix(".ballast") if self._path else None

    def _keep_ballast(self) -> None:
        """Lay the ballast down while there is plenty of room."""
        ballast, size = self._ballast(), self._limits.ballast_bytes
        if ballast is None or size == 0 or ballast.exists():
            return
        room = os.statvfs(ballast.parent)
        if room.f_bavail * room.f_frsize >= 4 * size:
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)

    # -- Transactions ----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Save and close; the outbox may then be opened by another process."""
        self.save()
        self._let_go()

    def _let_go(self) -> None:
        self.database.close()
        if self._lock:
            self._lock.close()

    def _facts(self) -> tuple[Any, ...]:
        return self._stored, self._backed_up, self.central_id, self.starts, self.card_numbers_masked

    @contextmanager
    def _commit(self) -> Iterator[None]:
        """One transaction; the facts kept in memory go along if they changed."""
        facts = self._facts()
        with self._transaction():
            yield
            if facts != self._saved:
                self._connection.execute(f"UPDATE stream SET ({_FACTS}) = (?, ?, ?, ?, ?)", facts)
        self._saved = facts

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Begin as a writer at once; a full disk may have rolled back already, and must be heard as what it is."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _slack(self) -> Iterator[None]:
        """Lift the soft limit for a while: pruning and renumbering need room to write, and do not grow the outbox."""
        pages = self._limits.outbox_limit_bytes // PAGE_BYTES
        self._connection.execute(f"PRAGMA max_page_count = {2 * pages}")
        try:
            yield
        finally:
            self._connection.execute(f"PRAGMA max_page_count = {pages}")
