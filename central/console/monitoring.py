"""What monitoring asks the console: the fleet's figures, whether the process is alive, whether it can show anything."""

from __future__ import annotations

import logging
from typing import Annotated

import peewee as pw
from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from central import reports
from central.accounts import User
from central.api.bearer import TokenRequirement
from central.api.problems import ProblemError
from central.database import first_cause
from central.health import Check, answer
from central.lock import InUseError
from central.metrics import fleet as figures
from central.pool import Pool

from .fleet import FleetView
from .guard import Requirement, config_of, pool_of

log = logging.getLogger("tillstream.console")

router = APIRouter(include_in_schema=False)

TEXT = "text/plain; version=0.0.4; charset=utf-8"


class TokenRefusedError(Exception):
    """A program showed no token that counts (401), or one that is not for this (403)."""

    def __init__(self, problem: ProblemError) -> None:
        super().__init__(str(problem))
        self.status, self.headers = problem.status, problem.headers


class Scraper(Requirement):
    """Lets in who may do ``action``: a program by its token (``Authorization: Bearer``), or a person's session."""

    async def __call__(self, request: Request) -> User | None:  # type: ignore[override]
        """Return the person, None for a program; raises TokenRefusedError, NotLoggedInError or ForbiddenError."""
        if not request.headers.get("authorization", "").lower().startswith("bearer"):
            return await super().__call__(request)
        try:
            await run_in_threadpool(TokenRequirement(self.action), request)
        except ProblemError as problem:
            raise TokenRefusedError(problem) from problem
        return None


async def refuse_token(_request: Request, problem: Exception) -> Response:
    """Answer a program whose token does not count here: it must not be led to a login page."""
    if not isinstance(problem, TokenRefusedError):
        raise problem
    return JSONResponse({"detail": str(problem)}, problem.status, problem.headers)


@router.get("/metrics")
def metrics(request: Request, _who: Annotated[User | None, Depends(Scraper("metrics.see"))]) -> Response:
    """Tell the fleet's figures; those of workers are told by the workers."""
    view: FleetView = request.app.state.fleet
    now = view.now()
    codes = {till.till_id: till.reason.code for till in now.tills}
    fleet = figures.Fleet(now.as_of_ms, [till.known for till in now.tills], codes)
    with pool_of(request).reading():
        text = figures.exposition(fleet, is_per_till=config_of(request).metrics_per_till)
    return Response(text, media_type=TEXT)


@router.get("/healthz")
async def healthz() -> Response:
    """Say that the process answers."""
    return _told([Check("console")])


@router.get("/readyz")
def readyz(request: Request) -> Response:
    """Say whether the database answers and has the schema that this version reads.

    Whoever may ask learns which part fails; why, with the database's address, stands in the log.
    """
    return _told(database_checks(pool_of(request)))


def _told(checks: list[Check]) -> Response:
    status, said = answer(checks)
    return JSONResponse(said, status)


def database_checks(pool: Pool) -> list[Check]:
    """Ask the database something, and which schema it has."""
    away, other = "does not answer; the log says why", "is not what this version reads; the log says more"
    try:
        with pool.looking() as database:
            database.run("SELECT 1")
            reports.check_schema(pool.place, database)
    except (pw.DatabaseError, InUseError, reports.UnreachableError) as problem:
        log.warning("not_ready", extra={"also": {"part": "database", "error": first_cause(problem)}})
        return [Check("database", away), Check("schema", away)]
    except reports.NoDatabaseError as problem:
        log.warning("not_ready", extra={"also": {"part": "schema", "error": str(problem)}})
        return [Check("database"), Check("schema", other)]
    return [Check("database"), Check("schema")]
