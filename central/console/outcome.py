"""What came of an action: a browser is sent back to where it was, and that page says it, once."""

from __future__ import annotations

from urllib.parse import quote, unquote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

COOKIE = "tillstream_told"
TEXT_MAX = 300
"""So many characters are carried to the next page."""
KEPT_S = 60
PATH_MAX = 16_000
"""So many characters the way back may have: an address with every filter full of Cyrillic letters has as many."""


def back(where: str, text: str, *, otherwise: str = "/") -> Response:
    """Send a browser to a page of this console after an action, and let that page say what came of it."""
    response = RedirectResponse(where if is_inside(where) else otherwise, 303)
    response.set_cookie(COOKIE, quote(text[:TEXT_MAX]), max_age=KEPT_S, httponly=True, samesite="strict")
    return response


def is_inside(where: str) -> bool:
    """Say whether a place to go back to is a page of this console, and not of another host."""
    is_path = where.startswith("/") and not where.startswith("//") and "\\" not in where
    return is_path and where.isprintable() and len(where) <= PATH_MAX


def told(request: Request) -> str:
    """Return what came of the last action, for the page that is made now."""
    return unquote(request.cookies.get(COOKIE, ""))[:TEXT_MAX]


def forget(request: Request, response: Response) -> None:
    """Say it once only: a page that was asked for by a person takes it away, one that polls does not."""
    if COOKIE in request.cookies:
        response.delete_cookie(COOKIE)
