"""What is under way and what waits for a person: status, tasks, quarantine, audit."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import peewee as pw
from fastapi import APIRouter, Request
from starlette.responses import Response

from central import audit, quarantine, reports
from central.accounts import Token
from central.console.guard import pool_of
from central.judge import Code
from central.models import Backup, Central, Document, Gap, Quarantine, Task, still_quarantined
from central.quarantine import Chosen
from central.service import wall_clock_ms

from . import shapes
from .bearer import covers, who
from .problems import not_found
from .tills import fleet_of

router = APIRouter(tags=["work"])


@router.get("/status", response_model=shapes.Status)
def status(request: Request, _token: Annotated[Token, covers("overview.see")]) -> Any:
    """Return the first screen in figures."""
    fleet = fleet_of(request)
    with pool_of(request).reading():
        counted = _counted()
    return {
        **counted,
        "version": _version(),
        "tills": len(fleet.tills),
        "tills_parked": len(fleet.tills) - len(fleet.expected),
        "tills_online": sum(one.is_online is True for one in fleet.tills),
        "tills_verified": sum(one.known.facts.is_verified for one in fleet.tills),
        "tills_in_trouble": sum(one.severity == "act" for one in fleet.expected),
        "as_of_ms": fleet.as_of_ms,
    }


def _counted() -> dict[str, Any]:
    central = Central.get()
    newest = Document.select(Document.id, Document.received_at_ms).order_by(Document.id.desc()).limit(1).first()
    return {
        "central_id": central.central_id,
        "incarnation": central.incarnation,
        "open_tasks": Task.select().where(Task.finished_at_ms.is_null()).count(),
        "open_gaps": Gap.select().where(Gap.closed_at_ms.is_null()).count(),
        "quarantined": Quarantine.select().where(still_quarantined()).count(),
        "newest_document": newest.id if newest else None,
        "newest_received_at_ms": newest.received_at_ms if newest else None,
        "verified_backup_at_ms": Backup.select(pw.fn.MAX(Backup.verified_at_ms)).scalar(),
    }


def _version() -> str:
    try:
        return version("tillstream")
    except PackageNotFoundError:
        return "unknown"


@router.get("/tasks", response_model=shapes.Tasks)
def tasks(
    request: Request,
    _token: Annotated[Token, covers("tasks.see")],
    *,
    is_open: bool = False,
    till: shapes.TillQuery = None,
    limit: shapes.Limit = 200,
) -> Any:
    """List upload tasks, newest first."""
    query = Task.select().order_by(Task.created_at_ms.desc(), Task.task_id).limit(limit)
    query = query.where(Task.finished_at_ms.is_null()) if is_open else query
    query = query.where(Task.till_id == till) if till else query
    with pool_of(request).reading():
        return {"tasks": list(query.dicts())}


@router.get("/quarantine", response_model=shapes.Quarantined)
def quarantined(
    request: Request,
    _token: Annotated[Token, covers("quarantine.see")],
    till: shapes.TillQuery = None,
    code: Code | None = None,
    *,
    everything: bool = False,
    limit: shapes.Limit = 200,
) -> Any:
    """List documents that could not be accepted, newest first; with ``everything`` also those that wait for nobody."""
    with pool_of(request).reading():
        return {"quarantine": reports.quarantine(limit, till, code, everything=everything)}


@router.get("/quarantine/{number}/bytes", response_class=Response)
def quarantined_bytes(
    request: Request, _token: Annotated[Token, covers("quarantine.bytes")], number: shapes.NumberPath
) -> Response:
    """Return the exact bytes that came."""
    with pool_of(request).reading():
        row = reports.quarantined(number)
    if row is None:
        raise not_found(f"number {number} in quarantine")
    return Response(row["body"], media_type="application/octet-stream")


@router.post("/quarantine/retry", response_model=shapes.Retried)
def retry(request: Request, token: Annotated[Token, covers("quarantine.retry")], given: shapes.Numbers) -> Any:
    """Have documents judged again by today's rules, and store those that are accepted; safe to repeat."""
    with pool_of(request).changing(who(token)):
        numbers = quarantine.numbers_of(Chosen(tuple(given.numbers)))
        tried = quarantine.retry(numbers, given.note, wall_clock_ms())
    request.app.state.fleet.changed()
    return {"documents": [asdict(one) for one in tried]}


@router.post("/quarantine/discard", response_model=shapes.Discarded)
def discard(request: Request, token: Annotated[Token, covers("quarantine.discard")], given: shapes.NumbersNoted) -> Any:
    """Say that nothing more will come of documents, and why; their bytes stay, and days can be complete."""
    with pool_of(request).changing(who(token)):
        done = quarantine.discard(Chosen(tuple(given.numbers)), given.note, wall_clock_ms())
    request.app.state.fleet.changed()
    return {"discarded": done}


@router.get("/audit", response_model=shapes.AuditRows)
def audit_rows(request: Request, _token: Annotated[Token, covers("audit.see")], limit: shapes.Limit = 200) -> Any:
    """List who did what to what and why, newest first."""
    with pool_of(request).reading():
        return {"audit": audit.listed(limit)}
