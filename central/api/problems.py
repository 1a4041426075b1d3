"""What the REST API answers when it does not do what was asked: RFC 9457, with a code that keeps its meaning."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from central.accounts import AccountError
from central.consumer import CursorError, OtherIncarnationError
from central.consumers import ConsumerError, MovedError, NoConsumerError
from central.database import REFUSED, UnsafeDatabaseError, first_cause
from central.day_rows import AskError
from central.decisions import DecisionError, NotThereError
from central.lock import InUseError
from central.reports import NoDatabaseError
from central.requests import RequestError
from central.store_clock import ClockError

log = logging.getLogger("tillstream.api")

MEDIA_TYPE = "application/problem+json"
TYPE = "urn:tillstream:problem:"
RETRY_AFTER_S = 5
ERRORS_MOST = 20
"""So many fields are named in one answer."""


class FieldError(BaseModel):
    """One field that is wrong."""

    field: str
    message: str


class Problem(BaseModel):
    """RFC 9457: why it was not done. ``type`` ends in a code that programs may go by; texts are for people."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldError] = []


class ProblemError(Exception):
    """Ends a request with a problem."""

    def __init__(self, status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.code, self.headers = status, code, headers


def not_found(what: str) -> ProblemError:
    """Say that there is no such thing."""
    return ProblemError(404, "not_found", f"there is no {what}")


def problem(
    status: int,
    code: str,
    detail: str,
    errors: Sequence[FieldError] = (),
    headers: dict[str, str] | None = None,
) -> Response:
    """Return the answer."""
    told = Problem(type=TYPE + code, title=HTTPStatus(status).phrase, status=status, detail=detail, errors=list(errors))
    return JSONResponse(told.model_dump(), status, headers, media_type=MEDIA_TYPE)


_REFUSALS: dict[type[Exception], tuple[int, str]] = {
    NoConsumerError: (404, "not_found"),
    ConsumerError: (422, "invalid"),
    AccountError: (422, "invalid"),
    OtherIncarnationError: (409, "other_incarnation"),
    MovedError: (409, "moved"),
    CursorError: (409, "cursor_unknown"),
    NotThereError: (404, "not_found"),
    DecisionError: (409, "not_decidable"),
    RequestError: (409, "nothing_to_ask"),
    AskError: (404, "not_found"),
    ClockError: (422, "invalid"),
}
"""What our own functions raise when nothing of the kind can be done."""


def handle(app: FastAPI) -> None:
    """Have every error of an application answered as a problem."""
    for kind, (status, code) in _REFUSALS.items():
        app.add_exception_handler(kind, _refusal(status, code))
    app.add_exception_handler(ProblemError, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    for away in (NoDatabaseError, InUseError, UnsafeDatabaseError, *REFUSED):
        app.add_exception_handler(away, _away)
    app.add_exception_handler(Exception, _broken)


def _refusal(status: int, code: str) -> Any:
    async def refuse(_request: Request, raised: Exception) -> Response:
        return problem(status, code, str(raised))

    return refuse


async def _problem(_request: Request, raised: Exception) -> Response:
    if not isinstance(raised, ProblemError):
        raise raised
    return problem(raised.status, raised.code, str(raised), headers=raised.headers)


async def _invalid(_request: Request, raised: Exception) -> Response:
    found = raised.errors() if isinstance(raised, RequestValidationError) else []
    errors = [FieldError(field=".".join(map(str, one["loc"])), message=one["msg"]) for one in found[:ERRORS_MOST]]
    return problem(422, "invalid", "; ".join(f"{one.field}: {one.message}" for one in errors), errors)


async def _http(_request: Request, raised: Exception) -> Response:
    if not isinstance(raised, HTTPException):
        raise raised
    code = {404: "not_found", 405: "method_not_allowed", 413: "too_long"}.get(raised.status_code, "refused")
    return problem(raised.status_code, code, str(raised.detail), headers=dict(raised.headers or {}))


async def _away(request: Request, raised: Exception) -> Response:
    log.warning("database_refused", extra={"also": {"error": first_cause(raised), "path": request.url.path}})
    said = "the database does not answer; nothing was changed, try again"
    return problem(503, "database_away", said, headers={"Retry-After": str(RETRY_AFTER_S)})


async def _broken(request: Request, raised: Exception) -> Response:
    log.error("request_failed", exc_info=raised, extra={"also": {"path": request.url.path}})
    return problem(500, "fault", "this is a fault of the program: its log says more")
