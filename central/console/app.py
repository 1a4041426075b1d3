"""Puts the console together: middleware, pages, REST API, and what becomes of errors.

A page module has a ``router`` and stands in ``PAGES``; templates lie in ``templates/``, files in ``static/``.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from urllib.parse import urlencode

import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.types import Lifespan

from central.api.app import ROOM, make_api
from central.api.problems import problem as problem_answer
from central.config import CentralConfig
from central.database import REFUSED, first_cause
from central.lock import InUseError
from central.pool import Pool
from central.reports import NoDatabaseError

from .fleet import FleetView
from .guard import Failures, ForbiddenError, NotLoggedInError
from .headers import BodyLimit, SafeHeaders, Validators
from .monitoring import TokenRefusedError, refuse_token
from .render import answer, assets
from .words import say

log = logging.getLogger("tillstream.console")

PAGES = (
    *("login", "overview", "stores", "tills", "till", "days", "receipts", "actions"),
    *("tasks", "quarantine", "automation", "rollouts", "settings", "users", "history", "consumers", "monitoring"),
)
"""The page modules beside this one; each has a router."""


def make_app(config: CentralConfig, pool: Pool) -> FastAPI:
    """Return the application over an open pool; whoever opened the pool closes it."""
    app = FastAPI(
        title="tillstream", docs_url=None, redoc_url=None, openapi_url=None, lifespan=_lifespan(config),
        redirect_slashes=False,  # It would name whatever host the request names, to anybody.
    )  # fmt: skip
    app.state.config, app.state.pool = config, pool
    app.state.fleet = FleetView(pool, config.deny_file)
    app.state.failures = Failures(config.console_login_failures_max, config.console_login_pause_s)
    for name in PAGES:
        app.include_router(import_module(f"{__package__}.{name}").router)
    app.mount(ROOM, make_api(app.state))
    app.add_route("/static/{name}", assets().answer)
    app.add_middleware(BodyLimit, limit_bytes=config.console_request_limit_bytes)
    app.add_middleware(Validators)
    app.add_middleware(SafeHeaders, over_tls=config.console_over_tls)
    _handle_errors(app)
    return app


def _lifespan(config: CentralConfig) -> Lifespan[FastAPI]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = config.console_threads
        yield
        await anyio.to_thread.run_sync(app.state.fleet.settle)

    return lifespan


# -- Errors ------------------------------------------------------------------------------------------------------------


def _handle_errors(app: FastAPI) -> None:
    app.add_exception_handler(NotLoggedInError, _to_login)
    app.add_exception_handler(TokenRefusedError, refuse_token)
    app.add_exception_handler(ForbiddenError, _forbidden)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_problem)
    app.add_exception_handler(NoDatabaseError, _away)
    app.add_exception_handler(InUseError, _away)
    for kind in REFUSED:
        app.add_exception_handler(kind, _away)
    app.add_exception_handler(Exception, _broken)


async def _to_login(request: Request, problem: Exception) -> Response:
    where = getattr(problem, "next_path", "")
    to = f"/login?{urlencode({'next_path': where})}" if where else "/login"
    if "HX-Request" in request.headers:
        return Response(status_code=401, headers={"HX-Redirect": "/login"})
    if request.url.path.endswith((".json", ".csv")):
        return answer(request, 401, say("Log in first."))
    return RedirectResponse(to, 303)


async def _forbidden(request: Request, problem: Exception) -> Response:
    return answer(request, 403, str(problem), getattr(problem, "detail", ""))


async def _invalid(request: Request, problem: Exception) -> Response:
    found = problem.errors() if isinstance(problem, RequestValidationError) else []
    said = "; ".join(f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in found[:10])
    return answer(request, 422, said or "the request cannot be read")


async def _http_problem(request: Request, problem: Exception) -> Response:
    if not isinstance(problem, HTTPException):
        raise problem
    if request.url.path.startswith(f"{ROOM}/"):  # A path with a line break, which no mount takes.
        return problem_answer(404, "not_found", "there is no such path")
    told = answer(request, problem.status_code, str(problem.detail))
    told.headers.update(problem.headers or {})
    return told


async def _away(request: Request, problem: Exception) -> Response:
    log.warning("database_refused", extra={"also": {"error": first_cause(problem), "path": request.url.path}})
    told = answer(request, 503, say("The database does not answer. What was stored is not touched by that."))
    told.headers["Retry-After"] = "5"
    return told


async def _broken(request: Request, problem: Exception) -> Response:
    log.error("request_failed", exc_info=problem, extra={"also": {"path": request.url.path}})
    return answer(request, 500, say("This is a fault of the program: its log says more."))
