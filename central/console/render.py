"""Makes a page of a template: for whom, in which language and theme, with what that person may do.

Every template has ``user`` (None before the login), ``language``, ``theme`` (empty: what the browser says), ``csrf``
for forms, ``_`` for texts, ``may(action)``, ``path``, ``here`` (with the query) and ``told`` (what came of the last
action); what is put into it is escaped. What else there is: ``values.furnish``.
"""

from __future__ import annotations

from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

import jinja2
from fastapi import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from central.accounts import User
from wire.translation import Language

from . import outcome
from .assets import Assets
from .fleet import Fleet, FleetView, denied_names
from .guard import POLL_HEADER, config_of, here
from .values import furnish
from .words import LANGUAGES, say, speaker

HERE = Path(__file__).parent
AS_OF = "as_of_ms"
LANGUAGE_COOKIE = "tillstream_language"

TITLES = {
    401: say("Log in first"),
    403: say("Not allowed"),
    404: say("Not found"),
    422: say("This cannot be done"),
    429: say("Too often"),
    500: say("A fault of the program"),
    503: say("The database does not answer"),
}
"""What stands above an error; any other one has the words of HTTP."""


@cache
def environment() -> jinja2.Environment:
    """Return where the templates are; a name that is not given is an error, not an empty text."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    furnish(made, assets())
    return made


@cache
def assets() -> Assets:
    """Return the console's own files."""
    return Assets()


def language_of(request: Request) -> Language:
    """Return the language to answer in: the person's choice, the cookie's, the browser's, the configured one."""
    user: User | None = getattr(request.state, "user", None)
    for choice in (user.language if user else "", request.cookies.get(LANGUAGE_COOKIE, ""), *_accepted(request)):
        for language in LANGUAGES:
            if choice == language:
                return language
    return config_of(request).language


def _accepted(request: Request) -> list[str]:
    """Return what the browser accepts, in its order: browsers write the best one first."""
    words = request.headers.get("accept-language", "")[:200].split(",")
    return [word.split(";")[0].strip().lower()[:2] for word in words]


def render(request: Request, name: str, /, **told: Any) -> str:
    """Return the HTML of a template."""
    user: User | None = getattr(request.state, "user", None)
    language = language_of(request)
    given = {
        "user": user,
        "language": language,
        "theme": user.theme if user else "",
        "csrf": user.csrf if user else "",
        "may": user.may if user else (lambda _action: False),
        "path": request.url.path,
        "here": here(request),
        "told": outcome.told(request),
        "_": speaker(language),
    }
    return environment().get_template(name).render(given | told)


def answer(request: Request, status: int, text: str, detail: str = "") -> Response:
    """Say that something is not to be had: as a page, or as JSON to whoever asked for a file."""
    title = HTTPStatus(status).phrase
    if request.url.path.endswith((".json", ".csv")):
        said = f"{text} {detail}".strip()
        return JSONResponse({"error": {"status": status, "title": title, "detail": said}}, status)
    return page(request, "error.html", status, title=TITLES.get(status, title), text=text, detail=detail)


def page(request: Request, name: str, /, status: int = 200, **told: Any) -> HTMLResponse:
    """Return a template as the answer to a request; ``as_of_ms`` is of when its figures are, now if it is not given."""
    response = HTMLResponse(render(request, name, **told), status)
    if AS_OF in told:
        response.headers["X-As-Of"] = str(told[AS_OF])
    if POLL_HEADER not in request.headers:
        outcome.forget(request, response)
    return response


def fleet_of(request: Request) -> Fleet:
    """Return all tills as they stand."""
    view: FleetView = request.app.state.fleet
    return view.now()


def fleet_changed(request: Request) -> None:
    """Have the next page read the tills anew: a person decided something."""
    view: FleetView = request.app.state.fleet
    view.changed()


def denied_of(request: Request) -> frozenset[str]:
    """Return the names on the broker's deny list."""
    return denied_names(config_of(request).deny_file)
