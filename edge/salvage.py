"""Makes a whole outbox of a damaged one, which is kept beside it, and owns up to what could not be read.

A new stream goes on over everything that was read. What the digest chain does not prove is named as lost, so that
central shows a gap: a hole, a row whose bytes changed, and what only the index still knows of. The new file is made
whole under another name first, and put in place by steps that the next start goes on with, wherever a crash stops them.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import peewee as pw

from wire import chain
from wire.program import notify_systemd

from .outbox import SCHEMA_VERSION, Outbox, OutboxLimits, OutboxUnsafeError, hold
from .pages import PAGE_BYTES, ROW_MIN_BYTES, TABLE_LEAF, Cell, Pages, TornError

log = logging.getLogger("tillstream.edge")

KEPT_MAX = 3
"""So many damaged files stay beside the outbox; the oldest goes first."""
ROOM_MIN_BYTES = 2**20
"""Free beside twice what the damaged file takes: the new one, and its log while it is renumbered."""
START_MIN_S, SALVAGED_MIN_BYTES_PER_S = 60, 2**20
"""How long systemd is asked to wait for a start: salvaging went at 8 MiB a second on a busy machine."""
NAMED_MAX = 100
"""So many lost documents are named."""
_DAMAGE = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
"""What SQLite says of a file that is not as it wrote it; a word of the schema that is torn is a mere error."""
_STREAM = ("stream", "pruned", "pruned_digest", "stored", "backed_up", "central_id", "starts", "card_numbers_masked")
_SHAPES: dict[str, tuple[tuple[type, ...], ...]] = {
    "stream": ((str,), (int,), (bytes,), (int,), (int, type(None)), (str, type(None)), (int,), (int,)),
    "previous": ((type(None),), (str,), (int,), (int,), (bytes,), (int,), (bytes, type(None))),
    "document": ((type(None),), (str,), (bytes,), (bytes,), (int,)),
}
_TAKE = f"UPDATE stream SET ({', '.join(_STREAM)}) = (?, ?, ?, ?, ?, ?, ?, ?)"
_APPEND = "INSERT INTO document (sequence, document_id, body, digest, appended_at_ms) VALUES (?, ?, ?, ?, ?)"
_IS_THERE = "SELECT 1 FROM document WHERE document_id = ? AND body = ?"
_PREVIOUS = "INSERT INTO previous (stream, pruned, newest, digest, agreed, agreed_digest) VALUES (?, ?, ?, ?, ?, ?)"
_OWN_UP = "UPDATE previous SET pruned = ?, newest = ?, agreed = ?, agreed_digest = ? WHERE stream = ?"
_AGREED = "SELECT sequence, digest FROM document WHERE sequence <= ? ORDER BY sequence DESC LIMIT 1"


class Row(NamedTuple):
    """One document as it was read; ``is_proven`` says that its digest follows from the document before it."""

    sequence: int
    document_id: str
    body: bytes
    digest: bytes
    appended_at_ms: int
    is_proven: bool


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What was wrong, what was read, and what was not; ``kept`` is where the damaged file lies."""

    problem: str
    read: int
    lost: int
    """Documents that are known to be gone, or of which it is not proven that they are as they were."""
    lost_ids: tuple[str, ...]
    old_stream: str | None
    """None: its name could not be read, so nothing can be said of what it lost."""
    kept: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether everything is there, as far as anybody can know."""
        return not self.lost and self.old_stream is not None


@dataclass(slots=True)
class Found:
    """What stands on the pages of a damaged outbox: where its documents are, and its few facts."""

    facts: dict[str, Any] = field(default_factory=dict)
    """The stream's row by column; empty if it could not be read, or cannot be true."""
    previous: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    cells: dict[int, list[Cell]] = field(default_factory=dict)
    """Of each number; more than one where a page is stale and the list of free pages could not be read."""
    indexed: dict[int, str] = field(default_factory=dict)

    @property
    def pruned(self) -> int:
        """Up to where nothing was left: told by the stream, or by what there is."""
        return int(self.facts.get("pruned", min(self.cells, default=1) - 1))

    def newest(self) -> int:
        """Return the newest number that there was: what the index alone knows counts as long as it has no hole."""
        newest = max(self.cells, default=self.pruned)
        while newest + 1 in self.indexed:
            newest += 1
        return newest


# -- Is it damaged? ----------------------------------------------------------------------------------------------------


def damage_of(path: Path, *, thoroughly: bool, checks_tree: bool = True) -> str:
    """Return what is wrong with an outbox, nothing if nothing is seen; changes nothing.

    ``thoroughly`` also goes by the index and the whole chain. Raises sqlite3.Error for what is no damage, as a lock.
    """
    if not path.stat().st_size:
        is_logged = _log_of(path).exists() and _log_of(path).stat().st_size
        return "the file is empty, and its log is not" if is_logged else ""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=10)) as database:
            return _damage_in(database, thoroughly=thoroughly, checks_tree=checks_tree)
    except sqlite3.DatabaseError as problem:
        if problem.sqlite_errorcode & 0xFF not in _DAMAGE and "decode" not in str(problem):
            raise
        return str(problem)


def _damage_in(database: sqlite3.Connection, *, thoroughly: bool, checks_tree: bool) -> str:
    (version,) = database.execute("PRAGMA user_version").fetchone()
    tables = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if version > SCHEMA_VERSION or (version == 0 and tables == 0):
        return ""  # A newer version's business, or an outbox that is yet to be made.
    if checks_tree or thoroughly:
        check = "integrity_check" if thoroughly else "quick_check"
        (found,) = database.execute(f"PRAGMA {check}(1)").fetchone()
        if found != "ok":
            return str(found)
    if not version:
        return "its version is gone"
    rows = database.execute(f"SELECT {', '.join(_STREAM)} FROM stream").fetchall()
    database.execute("SELECT stream FROM previous").fetchall()
    if len(rows) != 1 or not _is_stream(rows[0]):
        return "the stream's row cannot be true"
    return _broken_chain(database, *rows[0][1:3]) if thoroughly else ""


def _broken_chain(database: sqlite3.Connection, reached: int, digest: bytes) -> str:
    query = "SELECT sequence, body, digest FROM document ORDER BY sequence"
    for sequence, body, its_digest in database.execute(query):
        reached, digest = reached + 1, chain.follow(digest, body)
        if (reached, digest) != (sequence, its_digest):
            return f"the digest chain does not hold at number {sequence}"
    return ""


def _is_stream(values: tuple[Any, ...]) -> bool:
    """Say whether these values can be the stream's row; a name that a bit was turned in has another first digest."""
    if not _has_shape(values, "stream"):
        return False
    name, pruned, digest = str(values[0]), values[1], values[2]
    return name.isascii() and name.isalnum() and (pruned != 0 or digest == chain.first(name))


def _has_shape(values: tuple[Any, ...], table: str) -> bool:
    shape = _SHAPES[table]
    return len(values) == len(shape) and all(isinstance(one, kinds) for one, kinds in zip(values, shape, strict=True))


# -- Reading -----------------------------------------------------------------------------------------------------------


def look_through(pages: Pages) -> Found:
    """Note what stands on the pages; bodies are read again when they are needed, for they may be large."""
    found = Found()
    for cell in pages.cells():
        with suppress(TornError):
            number, values = pages.row(cell)
            if cell.kind != TABLE_LEAF:
                _note_indexed(found, values)
            elif _is_stream(values):
                found.facts = dict(zip(_STREAM, values, strict=True))
            elif _has_shape(filled := (*values, 0, None)[:7], "previous"):  # A row of schema 1 is shorter.
                found.previous[number] = filled[1:]
            elif _has_shape(values, "document") and len(values[3]) == chain.DIGEST_BYTES and number > 0:
                found.cells.setdefault(number, []).append(cell)
    # A number that a bit was turned in may be larger than any that the file has room for.
    numbers = range(found.pruned + 1, found.pruned + pages.count * PAGE_BYTES // ROW_MIN_BYTES)
    found.cells = {number: cells for number, cells in sorted(found.cells.items()) if number in numbers}
    return found


def _note_indexed(found: Found, values: tuple[Any, ...]) -> None:
    if len(values) == 2 and isinstance(values[0], str) and isinstance(values[1], int):
        found.indexed[values[1]] = values[0]


def documents(pages: Pages, found: Found) -> Iterator[Row]:
    """Yield the documents that can be read, in order; of several with one number, the one that the chain proves."""
    name = found.facts.get("stream")
    reached, digest = found.pruned, found.facts.get("pruned_digest", b"") if name else b""
    for number, cells in found.cells.items():
        rows = [_document(pages, number, cell, digest if number == reached + 1 else b"") for cell in cells]
        row = max(rows, key=lambda one: one.is_proven)
        reached, digest = number, row.digest
        yield row


def _document(pages: Pages, number: int, cell: Cell, before: bytes) -> Row:
    _, (_, document_id, body, digest, at_ms) = pages.row(cell)
    is_proven = bool(before) and chain.follow(before, body) == digest
    return Row(number, document_id, body, digest, at_ms, is_proven)


# -- Writing -----------------------------------------------------------------------------------------------------------


def salvage(path: Path, problem: str, limits: OutboxLimits, make_stream: Callable[[], str]) -> Salvaged:
    """Put a whole outbox in the place of a damaged one, whose lock is held; tells what was read and what was not.

    Raises OutboxUnsafeError where there is no room for it, even with the ballast's; the damaged one is then untouched.
    """
    needed = 2 * sum(file.stat().st_size for file in (path, _log_of(path)) if file.exists()) + ROOM_MIN_BYTES
    refused = OutboxUnsafeError(
        f"{path} is damaged ({problem}), and there is no room to salvage it:"
        f" {needed} bytes are needed in {path.parent}; nothing was changed"
    )
    if _room_bytes(path) < needed:
        path.with_suffix(".ballast").unlink(missing_ok=True)
    if _room_bytes(path) < needed:
        raise refused
    try:
        told = _make(path, problem, limits, make_stream)
    except (sqlite3.Error, pw.DatabaseError, OSError) as trouble:
        _remove_unfinished(path)
        if getattr(trouble, "errno", None) == errno.ENOSPC or "full" in str(trouble):
            raise refused from trouble
        raise
    return replace(told, kept=str(finish(path) or ""))


def _room_bytes(path: Path) -> int:
    room = os.statvfs(path.parent)
    return room.f_bavail * room.f_frsize


def _make(path: Path, problem: str, limits: OutboxLimits, make_stream: Callable[[], str]) -> Salvaged:
    """Make the new outbox whole and durable, under the name that says so."""
    _remove_unfinished(path)
    made = _beside(path, "salvage")
    with closing(Pages(path)) as pages:
        found = look_through(pages)
        told = _fill(made, pages, found, replace(limits, ballast_bytes=0), make_stream, problem)
    _sync(made)
    made.rename(_beside(path, "salvaged"))
    _sync(path.parent)
    return told


def _fill(
    made: Path, pages: Pages, found: Found, limits: OutboxLimits, make_stream: Callable[[], str], problem: str
) -> Salvaged:
    """Write what was found as it was, and let the outbox itself go on from there in a new stream."""
    limits = replace(limits, outbox_limit_bytes=2 * limits.outbox_limit_bytes)  # It was full, perhaps.
    Outbox(made, limits, make_stream).close()
    with closing(sqlite3.connect(made, isolation_level=None)) as database:
        told = told_of(found, _copy(database, pages, found), problem)
        agreed = database.execute(_AGREED, (found.facts.get("stored", 0),)).fetchone()
    agreed = agreed or (found.pruned, found.facts.get("pruned_digest", b""))
    with closing(Outbox(made, limits, make_stream)) as outbox:
        stream = outbox.head().stream
        outbox.start_stream(agreed[0])
    with closing(sqlite3.connect(made, isolation_level=None)) as database:
        if not found.facts:
            database.execute("DELETE FROM previous WHERE stream = ?", (stream,))
        elif (newest := found.newest()) > max(found.cells, default=found.pruned):
            database.execute(_OWN_UP, (newest, newest, *agreed, stream))
    return told


def _copy(database: sqlite3.Connection, pages: Pages, found: Found) -> Iterator[Row]:
    """Write the facts and the documents, a thousand a transaction so that the log stays small; yields each document."""
    database.execute("BEGIN")
    if found.facts:
        database.execute(_TAKE, tuple(found.facts.values()))
    else:
        database.execute("UPDATE stream SET pruned = ?", (found.pruned,))
    database.executemany(_PREVIOUS, [found.previous[number] for number in sorted(found.previous)])
    for count, row in enumerate(documents(pages, found), 1):
        is_there = database.execute(_IS_THERE, row[1:3]).fetchone()  # Under another number: of a stale page.
        if not is_there:
            database.execute(_APPEND, row[:5])
        yield row
        if count % 1000 == 0:
            database.execute("COMMIT")
            database.execute("BEGIN")
    database.execute("COMMIT")


def told_of(found: Found, rows: Iterable[Row], problem: str) -> Salvaged:
    """Count what is there and what is not."""
    proven, read = set[int](), 0
    for row in rows:
        read += 1
        if row.is_proven:
            proven.add(row.sequence)
    numbers = range(found.pruned + 1, found.newest() + 1)
    lost_ids = [name for number, name in sorted(found.indexed.items()) if number in numbers and number not in proven]
    lost = len(numbers) - len(proven)
    return Salvaged(problem, read, lost, tuple(lost_ids[:NAMED_MAX]), found.facts.get("stream"))


# -- Putting it in place -----------------------------------------------------------------------------------------------


def finish(path: Path) -> Path | None:
    """Put a finished outbox in the damaged one's place, if there is one; returns where that one is kept.

    Until the last step the damaged file has its name, and the next start begins here again. Its log goes before: beside
    the new file SQLite would take it for that one's.
    """
    done = _beside(path, "salvaged")
    if not done.exists():
        return None
    kept = _keep(path)
    _sync(path.parent)
    for name in ("-wal", "-shm"):
        path.with_name(f"{path.name}{name}").unlink(missing_ok=True)
    _sync(path.parent)
    _remove_unfinished(path)
    done.rename(path)
    _sync(path.parent)
    for old in damaged_files(path)[:-KEPT_MAX]:
        old.unlink()
        _log_of(old).unlink(missing_ok=True)
    return kept


def _keep(path: Path) -> Path:
    """Give the damaged file and its log a second name; once, however often this is begun."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    named = [one for one in damaged_files(path) if one.samefile(path)]
    kept = named[0] if named else _beside(path, f"damaged-{stamp}")
    for file, name in ((path, kept), (_log_of(path), _log_of(kept))):
        if file.exists() and not name.exists():
            file.chmod(0o600)
            name.hardlink_to(file)
    return kept


def damaged_files(path: Path) -> list[Path]:
    """Return the damaged files that are kept beside an outbox, the oldest first."""
    return sorted(path.parent.glob(f"{path.stem}.damaged-*{path.suffix}"))


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f"{path.stem}.{what}{path.suffix}")


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _remove_unfinished(path: Path) -> None:
    for file in path.parent.glob(f"{path.stem}.salvage.*"):
        file.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- By hand -----------------------------------------------------------------------------------------------------------


def repair(path: Path, limits: OutboxLimits, make_stream: Callable[[], str], *, dry_run: bool) -> Salvaged | None:
    """Salvage an outbox that is damaged anywhere at all, or tell what would be; None if nothing is.

    Raises OutboxBusyError while an agent has it.
    """
    with hold(path):
        if not dry_run:
            finish(path)
        problem = damage_of(path, thoroughly=True)
        if problem and dry_run:
            with closing(Pages(path)) as pages:
                found = look_through(pages)
                return told_of(found, documents(pages, found), problem)
        return salvage(path, problem, limits, make_stream) if problem else None


# -- At a start --------------------------------------------------------------------------------------------------------


def mend(path: Path, limits: OutboxLimits, make_stream: Callable[[], str], check_limit_bytes: int) -> Salvaged | None:
    """Look at the outbox before the agent opens it, and salvage it if it is damaged.

    The whole file is read only if it is small, or if the last run ended by what it read. Raises OutboxBusyError,
    OutboxUnsafeError, or sqlite3.Error for what is no damage.
    """
    with hold(path):
        if kept := finish(path):
            log.warning("outbox_salvaged", extra={"also": {"kept": str(kept), "begun": "at an earlier start"}})
        mark = _suspicion(path)
        is_suspect = mark.exists()
        takes_s = START_MIN_S + path.stat().st_size // SALVAGED_MIN_BYTES_PER_S
        notify_systemd(f"EXTEND_TIMEOUT_USEC={takes_s * 1_000_000}")
        checks_tree = path.stat().st_size <= check_limit_bytes
        problem = damage_of(path, thoroughly=is_suspect, checks_tree=checks_tree)
        told = salvage(path, problem, limits, make_stream) if problem else None
        mark.unlink(missing_ok=True)
    if told:
        log.error("outbox_salvaged", extra={"also": asdict(told)})
    return told


def suspect(path: Path) -> None:
    """Have the next start look at all of it, however large it is."""
    with suppress(OSError):  # The disk fails, perhaps; then that is found anew.
        _suspicion(path).touch(0o600)


def _suspicion(path: Path) -> Path:
    return path.with_suffix(".suspect")
