"""Makes a copy of central's database while it is in use, verifies it, and notes in the database what it holds.

What is noted is told to the tills: they forget nothing that is in no verified backup. So it is noted last, when the
copy has its name and is on the disk.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import audit, reports
from .database import Kind, Place, Postgres, Sqlite, a_place
from .dump import SCRATCH, ToolError, dump, verify_dump
from .models import Backup, Central, Watermark
from .verify import Tell, Verified, verify

PAGES_A_STEP = 4096
SUFFIXES: dict[Kind, str] = {"sqlite": ".db", "postgresql": ".dump"}
_NOTE = (
    "UPDATE watermark SET backed_up = ? WHERE till_id = ? AND stream = ? AND through >= ?"
    " AND coalesce(backed_up, -1) < ?"
)


class BackupError(Exception):
    """No backup was made; the text says why. What was there before is as it was."""


@dataclass(frozen=True, slots=True)
class Made:
    """A backup that stands under its name, and the older ones that made room for it."""

    path: Path
    size_bytes: int
    made_at_ms: int
    verified_at_ms: int
    verified: Verified
    removed: tuple[Path, ...]


def make(where: Place | str, to: Path, keep: int, note: str, clock_ms: Callable[[], int], tell: Tell) -> Made:
    """Back a database up into a folder, or to a file of that name; of the ones in the folder ``keep`` stay.

    Raises BackupError, NotTrustedError if the copy is not whole, and what reading the database may raise.
    """
    place = a_place(where)
    with reports.reading(place):
        central = Central.get_or_none()
    if central is None:
        raise BackupError(f"{place.url} is still being made; try again")
    made_at_ms, prefix, suffix = clock_ms(), f"central-{central.central_id}-", SUFFIXES[place.kind]
    target = _target(to, place, prefix, suffix, made_at_ms)
    part = target.with_name(f".{target.name}.part")
    with closing(place.look(to_write=False)) as database:  # Held: a restore has to wait.
        try:
            with _own(part):
                _copy_of(database, part, tell)
                sync(part)
                verified = verify_any(part, place.kind, tell)
                part.replace(target)
            sync(target.parent)
        except (OSError, ToolError, sqlite3.Error) as problem:
            raise BackupError(f"{target}: {problem}") from problem
        size_bytes, verified_at_ms = target.stat().st_size, clock_ms()
        with reports.writing(place):
            _note(target, size_bytes, made_at_ms, verified_at_ms, verified, note)
    removed = _remove_older(target, prefix, suffix, keep) if to.is_dir() else ()
    return Made(target, size_bytes, made_at_ms, verified_at_ms, verified, removed)


def _copy_of(database: Sqlite | Postgres, part: Path, tell: Tell) -> None:
    if isinstance(database, Postgres):
        tell("dumping", 0, 1)
        dump(database.place, database, part)
    else:
        _copy(database.place.path, part, tell)


def verify_any(file: Path, kind: Kind, tell: Tell) -> Verified:
    """Check a backup of either kind; raises NotTrustedError and ToolError."""
    return verify(file, tell) if kind == "sqlite" else verify_dump(file, tell)


@contextmanager
def _own(part: Path) -> Iterator[None]:
    """Make an empty file that is gone after an error; only its owner may read what stores sold.

    Its lock tells others that this backup still lives. Nothing is emptied that another one has just given its name.
    """
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not _take(descriptor, part):
        os.close(descriptor)
        raise BackupError(f"another backup writes there: {part}")
    try:
        os.ftruncate(descriptor, 0)
        yield
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _take(descriptor: int, part: Path) -> bool:
    """Lock a part; False if another backup has it, or gave it its name before it was locked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), part.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def sync(path: Path) -> None:
    """Have the disk hold what a file contains, or which names a folder has."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _target(to: Path, place: Place, prefix: str, suffix: str, at_ms: int) -> Path:
    if not to.is_dir():
        if not to.parent.is_dir() or not to.suffix:
            missing = to.parent if to.suffix else to
            raise BackupError(f"there is no folder {missing}; a file is named with an ending, as in backup{suffix}")
        if place.is_file and to.exists() and to.samefile(place.path):
            raise BackupError(f"{to} is the database itself")
        return to.parent.resolve() / to.name
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(at_ms / 1000))
    target = to.resolve() / f"{prefix}{stamp}{at_ms % 1000:03d}Z{suffix}"
    if target.exists():
        raise BackupError(f"{target} is there already")
    return target


def _copy(database: Path, part: Path, tell: Tell) -> None:
    """Copy the database as it is at one moment, while others go on writing."""
    room = os.statvfs(part.parent)
    needed, free = database.stat().st_size, room.f_bavail * room.f_frsize
    if needed > free:
        raise BackupError(f"{part.parent} has room for {free} bytes, the database has {needed}")
    source = sqlite3.connect(f"file:{database.resolve()}?mode=ro", uri=True, isolation_level=None)
    with closing(source), closing(sqlite3.connect(part, isolation_level=None)) as copy:
        copy.execute("PRAGMA synchronous = off")  # The whole file is synced afterwards.
        # One reading transaction from beginning to end: without it the copy would begin anew at each commit.
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM migration").fetchone()
        source.backup(
            copy,
            pages=PAGES_A_STEP,
            progress=lambda _, left, pages: tell("copying pages", pages - left, pages),
        )
        source.execute("ROLLBACK")


def _note(target: Path, size_bytes: int, made_at_ms: int, verified_at_ms: int, verified: Verified, note: str) -> None:
    """Note in one transaction how far each stream is in the backup; one that is not whole stays where it was."""
    central = Central.get()
    if (central.central_id, central.incarnation) != (verified.central_id, verified.incarnation):
        raise BackupError(f"{target} is of another database than the one that is there now")
    database: Sqlite | Postgres = Watermark._meta.database  # noqa: SLF001 -- peewee's documented way
    whole = sorted((one.till_id, one.stream, one.through) for one in verified.streams if not one.problem)
    database.run_many(_NOTE, [(through, till, stream, through, through) for till, stream, through in whole])
    row: dict[str, Any] = {"path": str(target), "size_bytes": size_bytes, "documents": verified.documents}
    Backup.create(**row, made_at_ms=made_at_ms, verified_at_ms=verified_at_ms)
    audit.record("backup", str(target), note, verified_at_ms)


def _remove_older(target: Path, prefix: str, suffix: str, keep: int) -> tuple[Path, ...]:
    """Remove this central's older backups beside the one just made, and what backups that were killed left there."""
    for part in filter(_is_abandoned, target.parent.glob(f".{prefix}*.part")):
        part.unlink(missing_ok=True)
        part.with_name(f"{part.name}-journal").unlink(missing_ok=True)
    for scratch in filter(_is_abandoned, target.parent.glob(f"{SCRATCH}*")):
        shutil.rmtree(scratch, ignore_errors=True)
    others = sorted((one for one in target.parent.glob(f"{prefix}*{suffix}") if one != target), reverse=True)
    too_many = tuple(others[keep - 1 :])
    for one in too_many:
        one.unlink()
    return too_many


def _is_abandoned(left: Path) -> bool:
    """Say whether nobody works any more at a file, or in a folder; False where that cannot be known."""
    try:
        descriptor = os.open(left, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return _take(descriptor, left)
    finally:
        os.close(descriptor)
