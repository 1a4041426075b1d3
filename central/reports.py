"""What people ask central's database; everything is read without stopping a worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import peewee as pw

from wire.reasons import Reason

from .database import Place, Postgres, Sqlite, a_place, first_cause
from .lock import InUseError
from .migrations import MIGRATIONS, applied
from .models import (
    MODELS,
    Backup,
    Central,
    Document,
    Gap,
    HeardHead,
    Quarantine,
    Task,
    Till,
    Watermark,
    still_quarantined,
)

Row = dict[str, Any]
_BYTES = ("body", "body_digest", "chain_digest")


class NoDatabaseError(Exception):
    """There is no central database at the path, or none that this version can read; the text says what to do."""


class UnreachableError(NoDatabaseError):
    """The server that has the database does not answer, or lets nobody in."""


@contextmanager
def reading(where: Place | str) -> Iterator[None]:
    """Bind the models to the database for reading only, as it is at one moment."""
    with _bound(a_place(where), to_write=False) as database, database.reading():
        yield


@contextmanager
def at_work(where: Place | str) -> Iterator[None]:
    """Bind the models to the database for a longer work, which makes its transactions itself."""
    with _bound(a_place(where), to_write=True):
        yield


@contextmanager
def looking(where: Place | str) -> Iterator[Sqlite | Postgres]:
    """Bind the models to the database for reading only; each statement sees what is committed by then."""
    with _bound(a_place(where), to_write=False) as database:
        yield database


@contextmanager
def writing(where: Place | str) -> Iterator[None]:
    """Bind the models to the database for a short change, in one transaction."""
    with _bound(a_place(where), to_write=True) as database, database.changing():
        yield


def is_there(place: Place) -> bool:
    """Say whether a central has ever stood there; raises peewee's errors where that cannot be told."""
    if place.is_file:
        return place.path.exists()
    with closing(place.look(to_write=False)) as database:
        return "migration" in database.get_tables()


@contextmanager
def connecting(place: Place) -> Iterator[None]:
    """Let NoDatabaseError or UnreachableError say why a database could not be opened."""
    try:
        yield
    except (InUseError, OSError) as problem:
        raise NoDatabaseError(str(problem)) from problem
    except pw.DatabaseError as problem:
        raise (_unreadable(place, problem) if place.kind == "sqlite" else _unreachable(place, problem)) from problem


@contextmanager
def _bound(place: Place, *, to_write: bool) -> Iterator[Sqlite | Postgres]:
    if place.is_file and not place.path.exists():
        raise NoDatabaseError(f"no database at {place.path}: has `tillstream central run` been started?")
    with connecting(place):
        database = place.look(to_write=to_write)
    # Closed by hand: peewee's own `with database` begins a deferred transaction, in which a person's change fails at
    # once when a worker commits between its first look and its first word, instead of waiting for its turn.
    with closing(database), database.bind_ctx(MODELS):
        check_schema(place, database)
        yield database


def check_schema(place: Place, database: Sqlite | Postgres) -> None:
    """Raise NoDatabaseError unless the schema is the one that this version knows."""
    try:
        done = applied(database)
    except pw.DatabaseError as problem:
        raise _unreadable(place, problem) from problem
    if done != len(MIGRATIONS):
        what_to_do = "restart `tillstream central run`" if done < len(MIGRATIONS) else "upgrade this program"
        raise NoDatabaseError(f"{place.url} has migration {done}, this version reads {len(MIGRATIONS)}: {what_to_do}")


def _unreachable(place: Place, problem: Exception) -> UnreachableError:
    return UnreachableError(f"{place.url} does not answer: {first_cause(problem)}")


def _unreadable(place: Place, problem: Exception) -> NoDatabaseError:
    return NoDatabaseError(f"{place.url} cannot be read as central's database: {str(problem).strip()}")


def status() -> Row:
    """Return the figures of the first screen."""
    central = Central.get()
    rows = tills()
    return {
        "central_id": central.central_id,
        "incarnation": central.incarnation,
        "tills": len(rows),
        "online": sum(row["online"] is True for row in rows),
        "verified": sum(row["verified"] for row in rows),
        "behind": sum(row["behind"] > 0 for row in rows),
        "documents": Document.select().count(),
        "quarantined": Quarantine.select().where(still_quarantined()).count(),
        "open_tasks": Task.select().where(Task.finished_at_ms.is_null()).count(),
        "open_gaps": Gap.select().where(Gap.closed_at_ms.is_null()).count(),
        "newest_received_at_ms": Document.select(Document.received_at_ms)
        .order_by(Document.id.desc())
        .limit(1)
        .scalar(),
        "verified_backup_at_ms": Backup.select(Backup.verified_at_ms).order_by(Backup.id.desc()).limit(1).scalar(),
    }


def tills(till: str | None = None, *, behind: bool = False, reasons: Mapping[str, Reason] | None = None) -> list[Row]:
    """Return the tills, worst first: how far each has come, and whether that is all it ever rang for, and the reason.

    ``verified`` says that the last doorbell was exactly the watermark and no head is open; ``behind`` counts documents
    that are known to be missing, and is None where nothing is known.
    """
    newest = {row.till_id: row for row in Watermark.select().order_by(Watermark.id)}
    heads: dict[str, list[HeardHead]] = {}
    for head in HeardHead.select():
        heads.setdefault(head.till_id, []).append(head)
    query = Till.select().order_by(Till.till_id)
    chosen = query.where(Till.till_id == till) if till else query
    rows = [_till(one, newest.get(one.till_id), heads.get(one.till_id, [])) for one in chosen]
    for row in rows if reasons else ():
        row["reason"] = reasons[row["till_id"]] if reasons else None
    rows.sort(key=lambda row: (-(row["behind"] or 0), row["verified"]))
    return [row for row in rows if row["behind"]] if behind else rows


def _till(till: Till, mark: Watermark | None, heads: list[HeardHead]) -> Row:
    missing = [head.newest - mark.through for head in heads if mark and head.stream == mark.stream]
    verified_at_ms = mark.verified_at_ms if mark else None
    return {
        "till_id": till.till_id,
        "store_id": till.store_id,
        "approved": bool(till.is_approved),
        "online": till.is_online,
        "stream": mark.stream if mark else None,
        "through": mark.through if mark else None,
        "behind": max(missing, default=0) if mark else None,
        "verified": bool(mark and not heads and verified_at_ms and verified_at_ms >= (mark.moved_at_ms or 0)),
        "verified_at_ms": verified_at_ms,
        "moved_at_ms": mark.moved_at_ms if mark else None,
        "presence_at_ms": till.presence_at_ms,
        "presence": till.presence,
    }


def tasks(most: int, *, is_open: bool = False) -> list[Row]:
    """Return the newest tasks; those that lasted under a second were never written."""
    query = Task.select().order_by(Task.created_at_ms.desc()).limit(most)
    return _dicts(query.where(Task.finished_at_ms.is_null()) if is_open else query)


def quarantine(most: int, till: str | None = None, code: str | None = None, *, everything: bool = False) -> list[Row]:
    """Return the newest documents in quarantine, without their bytes; those that wait for nobody on demand only."""
    columns = [column for column in Quarantine._meta.sorted_fields if column.name not in _BYTES]  # noqa: SLF001 -- peewee's documented way to a model's fields
    query = Quarantine.select(*columns).order_by(Quarantine.id.desc()).limit(most)
    query = query if everything else query.where(still_quarantined())
    query = query.where(Quarantine.code == code) if code else query
    return _dicts(query.where(Quarantine.till_id == till) if till else query)


def quarantined(number: int) -> Row | None:
    """Return one document in quarantine with its exact bytes, None if there is no such number."""
    rows = _dicts(Quarantine.select().where(Quarantine.id == number))
    return rows[0] | {"body": bytes(rows[0]["body"])} if rows else None


def documents(most: int, **wanted: str | None) -> list[Row]:
    """Return the newest documents by till_id, store_id, business_day, transaction_type or document_id; no bytes."""
    columns = [column for column in Document._meta.sorted_fields if column.name not in _BYTES]  # noqa: SLF001 -- as above
    query = Document.select(*columns).order_by(Document.id.desc()).limit(most)
    for name, value in wanted.items():
        if value is not None:
            query = query.where(getattr(Document, name) == value)
    return _dicts(query)


def document_bytes(document_id: str) -> list[bytes]:
    """Return the exact bytes of the documents with this id (one for each till that used it), unless forgotten."""
    is_there = (Document.document_id == document_id) & Document.body_digest.is_null()
    query = Document.select(Document.body).where(is_there)
    return [bytes(row.body) for row in query]


def gaps() -> list[Row]:
    """Return the ranges that were rung for and can no longer come, open ones only."""
    return _dicts(Gap.select().where(Gap.closed_at_ms.is_null()).order_by(Gap.id))


def _dicts(query: Any) -> list[Row]:
    return list(query.dicts())
