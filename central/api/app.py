"""Puts the REST API together, and describes it: OpenAPI 3.1 with every answer that may come."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.datastructures import State
from starlette.responses import JSONResponse, Response

from .problems import MEDIA_TYPE, Problem, handle

ROOM = "/api/v1"
ROUTERS = ("work", "tills", "days", "documents", "consumers")
DESCRIPTION = """Every receipt that a till closed, exactly once, and whether a day is complete.

Send `Authorization: Bearer <token>`; an administrator issues tokens: `tillstream central tokens issue`. Every error is
`application/problem+json`, whose `type` ends in a code that never changes its meaning. What is read has an `ETag`: send
it back as `If-None-Match` and get 304 while nothing has changed. Times are epoch milliseconds UTC, money is minor
units, null is unknown."""

OCTETS = "application/octet-stream"

_ALWAYS = {
    401: "No token, or one that counts no more",
    403: "The token lacks the scope",
    422: "A field is wrong, or not known",
    503: "The database is away",
}
_ABOUT_SOMETHING = {404: "There is no such thing"}
_CHANGES = {400: "The body cannot be read", 409: "Not as things stand", 413: "The body is too long"}
_ELSEWHERE = {409: "The cursor is of another incarnation of the database, or of what is not there yet"}
_GONE = {410: "The bytes were forgotten"}


def make_api(state: State) -> FastAPI:
    """Return the application that is mounted at ``ROOM``; it shares the console's state."""
    api = FastAPI(title="tillstream", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    api.state = state
    state.reading_on = threading.BoundedSemaphore(max(1, state.config.console_threads // 2))
    for name in ROUTERS:
        api.include_router(import_module(f"{__package__}.{name}").router)
    api.add_api_route("/openapi.json", _described, include_in_schema=False)
    handle(api)
    return api


def _described() -> Response:
    return JSONResponse(describe())


@cache
def describe() -> dict[str, Any]:
    """Return the OpenAPI document."""
    api = FastAPI()
    for name in ROUTERS:
        api.include_router(import_module(f"{__package__}.{name}").router)
    told = get_openapi(title="tillstream", version="1", openapi_version="3.1.0", routes=api.routes,
                       description=DESCRIPTION, servers=[{"url": ROOM}])  # fmt: skip
    for method, path, operation in _operations(told):
        _complete(method, path, operation)
    schemas = told["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= problem.pop("$defs", {}) | {"Problem": problem}
    told["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return told


def _operations(told: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def _complete(method: str, path: str, operation: dict[str, Any]) -> None:
    """Say what else may be answered, and that a token is needed."""
    operation["security"] = [{"token": []}]
    may_come = dict(_ALWAYS)
    may_come |= _ABOUT_SOMETHING if "{" in path or path in ("/quarantine/retry", "/quarantine/discard") else {}
    may_come |= _CHANGES if method != "get" else {}
    may_come |= _ELSEWHERE if path in ("/documents", "/consumers/{name}/documents") else {}
    may_come |= _GONE if path == "/documents/{number}/bytes" else {}
    answers = operation["responses"]
    answers |= {str(status): _problem(text) for status, text in sorted(may_come.items())}
    if method == "get":
        answers["304"] = {"description": "What you have is as it is"}
    if path.endswith("/bytes"):
        exact = {
            "application/octet-stream": {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
        }
        answers["200"] = {"description": "The exact bytes", "content": exact}


def _problem(text: str) -> dict[str, Any]:
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": text, "content": content}
