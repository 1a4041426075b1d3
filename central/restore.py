"""Puts a backup in the place of central's database, so that whenever it is killed one whole database stands there.

What is put there names the same central, so that tills go on believing it, with a higher incarnation, so that they know
that what it said before counts no more. It says of itself what is true: all it holds is in a backup, the one it came
from. The database it replaces is kept beside it under another name.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import peewee as pw

from . import audit, reports
from .backup import sync
from .database import Place, Postgres, Sqlite, a_place, first_cause
from .dump import ToolError, put_in_place, verify_dump
from .lock import locked
from .migrations import migrate
from .models import MODELS, Backup, Central, ConsoleSession, Watermark
from .verify import Tell, Verified, verify

CHUNK_BYTES = 2**20
Key = tuple[str, str]


class RestoreError(Exception):
    """Nothing was restored, and the database is as it was; the text says why."""


@dataclass(frozen=True, slots=True)
class Present:
    """What can be read of the database that is to be replaced."""

    central_id: str
    incarnation: int
    starts: int
    tills_kept: dict[Key, int]
    """Up to where of each stream the tills were free to forget."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What stands in the database's place now, and where the one it replaced is kept; None if there was none."""

    verified: Verified
    incarnation: int
    starts: int
    replaced: str | None
    forgotten: int
    """So many documents at most are not in the backup, and the tills were free to forget them."""


def plan(where: Place | Path | str, backup: Path, tell: Tell) -> Restored:
    """Say what a restore would do, having changed nothing, also while a worker runs; raises as ``restore`` does."""
    place = a_place(where)
    if place.kind == "postgresql":
        with _server(place) as database:
            return _planned(place.url, _look_at_server(database), verify_dump(backup, tell))
    with locked(place.path):
        return _planned(place.url, _look_at_file(place.path), verify(backup, tell))


def restore(where: Place | Path | str, backup: Path, note: str, at_ms: int, tell: Tell) -> Restored:
    """Put a backup in the database's place.

    Raises InUseError while anybody has the database open, NotTrustedError if the backup is damaged, RestoreError.
    """
    place = a_place(where)
    return (_restore_server if place.kind == "postgresql" else _restore_file)(place, backup, note, at_ms, tell)


# -- PostgreSQL --------------------------------------------------------------------------------------------------------


@contextmanager
def _server(place: Place) -> Iterator[Postgres]:
    with reports.connecting(place):
        database = cast("Postgres", place.look(to_write=True))
    try:
        with closing(database):
            yield database
    except (ToolError, pw.DatabaseError) as problem:
        raise RestoreError(f"{place.url}: {first_cause(problem)}") from problem


def _restore_server(place: Place, backup: Path, note: str, at_ms: int, tell: Tell) -> Restored:
    """Put a dump in the schema's place in one transaction; the schema before it is kept under another name."""
    with _server(place) as database:
        database.have_alone()
        present = _look_at_server(database)
        planned = _planned(place.url, present, verify_dump(backup, tell))
        is_empty = not database.get_tables()
        aside = (
            None
            if is_empty
            else f"replaced_{time.strftime('%Y%m%dt%H%M%S', time.gmtime(at_ms / 1000))}_{at_ms % 1000:03d}"
        )
        put_in_place(place, database, backup, aside, _last_words(backup, planned, note, at_ms))
    return replace(planned, replaced=f"schema {aside}" if aside else None)


def _last_words(backup: Path, planned: Restored, note: str, at_ms: int) -> Iterator[str]:
    """Say what ``_prepare`` does to a file; names are in full, for a dump leaves no schema to look them up in."""
    from psycopg.sql import quote

    yield f"UPDATE public.central SET incarnation = {planned.incarnation}, starts = {planned.starts}"
    yield "UPDATE public.watermark SET backed_up = through"
    # Who logged out since would be logged in again; a dump of an earlier version has no such table.
    sessions = "public.console_session"
    there = f"to_regclass('{sessions}') IS NOT NULL"
    yield f"DO $$ BEGIN IF {there} THEN DELETE FROM {sessions}; END IF; END $$"
    for one in planned.verified.problems:
        mine = f"till_id = {quote(one.till_id)} AND stream = {quote(one.stream)}"
        yield f"UPDATE public.watermark SET backed_up = 0 WHERE {mine}"
    found, name = backup.stat(), str(backup.resolve())
    figures = f"{found.st_mtime_ns // 10**6}, {at_ms}, {found.st_size}, {planned.verified.documents}"
    into = "public.backup (path, made_at_ms, verified_at_ms, size_bytes, documents)"
    yield f"INSERT INTO {into} VALUES ({quote(name)}, {figures})"
    what = quote(f"{name} as incarnation {planned.incarnation}")
    told = f"{at_ms}, {quote(audit.who())}, 'restore', {what}, {quote(audit.a_note(note))}"
    yield f"INSERT INTO public.audit (at_ms, who, action, object, note) VALUES ({told})"


def _look_at_server(database: Postgres) -> Present | None:
    """Read what the database says of itself; None if there is nothing in it yet. Raises RestoreError."""
    tables = set(database.get_tables())
    if tables and "central" not in tables:
        raise RestoreError(
            f"{database.place.url} holds what is not central's (table {min(tables)}): give the URL of an empty database"
        )
    if not {"central", "watermark", "backup"} <= tables:
        return None
    row: tuple[str, int, int] | None = database.run("SELECT central_id, incarnation, starts FROM central").fetchone()
    has_backup = database.run("SELECT count(*) FROM backup").fetchone()[0]
    rows = database.run(f"SELECT till_id, stream, {_bound(has_backup)} FROM watermark")
    kept = {(till, stream): through for till, stream, through in rows}
    return Present(row[0], row[1], row[2], kept) if row else None


# -- SQLite ------------------------------------------------------------------------------------------------------------


def _restore_file(place: Place, backup: Path, note: str, at_ms: int, tell: Tell) -> Restored:
    database = place.path
    if database.exists() and database.samefile(backup):
        raise RestoreError(f"{backup} is the database itself")
    with locked(database, alone=True):
        part = database.with_name(f"{database.name}.restoring")
        try:
            _copy(backup, part, tell)
            planned = _planned(place.url, _look_at_file(database), verify(part, tell))
            _prepare(part, backup, planned, note, at_ms)
            _inherit_owner(database, part)
            sync(part)
            replaced = _put_aside(database, at_ms)
            part.replace(database)
            sync(database.parent)
        except (OSError, pw.DatabaseError) as problem:
            raise RestoreError(f"{database}: {problem}") from problem
        finally:
            _remove(part)
    return replace(planned, replaced=str(replaced) if replaced else None)


def _planned(database: str, present: Present | None, verified: Verified) -> Restored:
    if present and present.central_id != verified.central_id:
        raise RestoreError(
            f"the backup is of central {verified.central_id}, {database} is central {present.central_id}: no till"
            " would believe it. If that is meant, move the database away first"
        )
    there = {(one.till_id, one.stream): one.through for one in verified.streams}
    kept = present.tills_kept if present else {}
    forgotten = sum(max(0, through - there.get(key, 0)) for key, through in kept.items())
    incarnation = max(verified.incarnation, present.incarnation if present else 0) + 1
    starts = max(verified.starts, present.starts if present else 0)
    return Restored(verified, incarnation, starts, None, forgotten)


def _bound(has_backup: object) -> str:
    """Return up to where of each stream tills were free to forget: without any backup, what is stored."""
    return "coalesce(backed_up, 0)" if has_backup else "through"


def _look_at_file(database: Path) -> Present | None:
    """Read what the database says of itself; None if it cannot be read, which may be why a backup is put there."""
    try:
        with closing(sqlite3.connect(f"file:{database.resolve()}?mode=ro", uri=True)) as there:
            run = there.execute
            central_id, incarnation, starts = run("SELECT central_id, incarnation, starts FROM central").fetchone()
            is_known = run("SELECT count(*) FROM sqlite_master WHERE name = 'backup'").fetchone()[0]
            has_backup = is_known and run("SELECT count(*) FROM backup").fetchone()[0]
            rows = run(f"SELECT till_id, stream, {_bound(has_backup)} FROM watermark")
            kept = {(till, stream): through for till, stream, through in rows}
    except (sqlite3.Error, TypeError):
        return None
    return Present(central_id, incarnation, starts, kept)


def _copy(backup: Path, part: Path, tell: Tell) -> None:
    _remove(part)
    size_bytes, copied = backup.stat().st_size, 0
    log = backup.with_name(f"{backup.name}-wal")
    if log.exists() and log.stat().st_size:
        raise RestoreError(f"{backup} is no backup: a database in use, its newest documents are in {log.name}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as to, backup.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            to.write(chunk)
            copied += len(chunk)
            tell("copying", copied, size_bytes)


def _prepare(part: Path, backup: Path, planned: Restored, note: str, at_ms: int) -> None:
    """Make the copy what the database is to be, in a journal that leaves no second file behind."""
    database = Sqlite(Place(str(part)), str(part), {"journal_mode": "delete", "synchronous": "full"})
    with closing(database), database.bind_ctx(MODELS):
        migrate(database)
        with database.writing():
            # Task names are made of the number of starts: none may be given out a second time.
            Central.update(incarnation=planned.incarnation, starts=planned.starts).execute()
            Watermark.update(backed_up=Watermark.through).execute()
            ConsoleSession.delete().execute()  # Who logged out since would be logged in again.
            for one in planned.verified.problems:
                mine = (Watermark.till_id == one.till_id) & (Watermark.stream == one.stream)
                Watermark.update(backed_up=0).where(mine).execute()
            found = backup.stat()
            row = {"path": str(backup.resolve()), "size_bytes": found.st_size, "made_at_ms": found.st_mtime_ns // 10**6}
            Backup.create(**row, documents=planned.verified.documents, verified_at_ms=at_ms)
            audit.record("restore", f"{backup.resolve()} as incarnation {planned.incarnation}", note, at_ms)


def _inherit_owner(database: Path, part: Path) -> None:
    """Give the copy to whoever has the database, or its folder: a restore by root must not lock the worker out."""
    if os.geteuid() == 0:
        owner = (database if database.exists() else database.parent).stat()
        os.chown(part, owner.st_uid, owner.st_gid)
    if database.exists():
        shutil.copymode(database, part)


def _put_aside(database: Path, at_ms: int) -> Path | None:
    """Give the database a second name, and leave no log beside it that SQLite would take for the new one's."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(at_ms / 1000))
    aside = database.with_name(f"{database.name}.replaced-{stamp}{at_ms % 1000:03d}Z")
    is_there = database.exists()
    if is_there:
        _fold(database)
        for second in database.parent.glob(f"{database.name}.replaced-*Z"):
            if second.samefile(database):
                second.unlink()  # Only a second name, of a restore that was killed right here.
        os.link(database, aside)
    for end in ("-wal", "-shm", "-journal"):
        if (log := Path(f"{database}{end}")).exists():
            log.rename(f"{aside}{end}")  # Of a database that cannot be read, or is gone: it belongs to that one.
    sync(database.parent)
    return aside if is_there else None


def _fold(database: Path) -> None:
    """Write the log into the database, so that one file holds all of it; a damaged one stays as it is."""
    try:
        with closing(sqlite3.connect(f"file:{database.resolve()}?mode=rw", uri=True, isolation_level=None)) as there:
            there.execute("PRAGMA synchronous = full")
            there.execute("PRAGMA journal_mode = delete")
    except sqlite3.Error:
        return


def _remove(part: Path) -> None:
    for end in ("", "-journal", "-wal", "-shm"):
        Path(f"{part}{end}").unlink(missing_ok=True)
