"""Logging in and out, and what a person chooses for himself: language, theme, another password."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from central import accounts
from central.accounts import AccountError, User
from central.service import wall_clock_ms

from .guard import Failures, config_of, look_up, pool_of, refuse_forged, requires, session_cookie
from .outcome import is_inside
from .render import answer, page
from .words import say

log = logging.getLogger("tillstream.console")

router = APIRouter(include_in_schema=False)

FORM_COOKIE = "tillstream_form"
AT_ONCE = 2
"""So many passwords are checked at once: each takes a core for 50 ms, and 64 MiB."""
WAIT_S = 2.0
"""So long a login waits for its turn."""
_turns = threading.BoundedSemaphore(AT_ONCE)

Text = Annotated[str, Form(max_length=accounts.PASSWORD_CHARS_MAX)]
Next = Annotated[str, Form()]
"""Where to go on; what is no page of the console, or too long, leads to the first page (``outcome.is_inside``)."""


@router.get("/login")
def ask(request: Request, next_path: str = "") -> Response:
    """Show the form; whoever is logged in goes on."""
    if look_up(request):
        return RedirectResponse(_inside(next_path), 303)
    return _form(request, next_path)


@router.post("/login")
def log_in(request: Request, name: Text = "", password: Text = "", csrf: Text = "", next_path: Next = "") -> Response:
    """Let a person in whose password is right; say no more than that it was wrong."""
    refuse_forged(request, request.cookies.get(FORM_COOKIE, "") or secrets.token_hex(), csrf)
    is_right, wait_s = _try(request, name, password)
    if wait_s > 0:
        return _refused(request, 429, next_path, wait_s=round(wait_s) + 1)
    if not is_right:
        log.warning("login_failed", extra={"also": {"user": name[:64], "address": _address(request)}})
        return _refused(request, 401, next_path, wait_s=0)
    _failures(request).forget(f"name {name}")
    return _let_in(request, name, _address(request), next_path)


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _failures(request: Request) -> Failures:
    found: Failures = request.app.state.failures
    return found


def _try(request: Request, name: str, password: str) -> tuple[bool, float]:
    """Return whether a password is right, and for how many seconds none is looked at; counts what is wrong."""
    failures, keys = _failures(request), (f"name {name}", f"address {_address(request)}")
    if (wait_s := failures.wait_s(keys, time.monotonic())) > 0:
        return False, wait_s
    if not _turns.acquire(timeout=WAIT_S):
        return False, 1.0
    try:
        # Once more, in one's turn: many that come at once have all seen the count of before.
        if (wait_s := failures.wait_s(keys, time.monotonic())) > 0:
            return False, wait_s
        if is_right := _is_right(request, name, password):
            return is_right, 0.0
        failures.add(keys, time.monotonic())
        return False, 0.0
    finally:
        _turns.release()


def _is_right(request: Request, name: str, password: str) -> bool:
    with pool_of(request).looking():
        kept = accounts.password_hash_of(name)
    return accounts.is_password(password, kept)


def _let_in(request: Request, name: str, address: str, next_path: str) -> Response:
    config = config_of(request)
    with pool_of(request).noting():
        secret = accounts.open_session(name, address, wall_clock_ms(), round(config.console_session_s * 1000))
    log.info("logged_in", extra={"also": {"user": name, "address": address}})
    answer = RedirectResponse(_inside(next_path), 303)
    _set_cookie(request, answer, session_cookie(config), secret, round(config.console_session_s))
    answer.delete_cookie(FORM_COOKIE)
    return answer


@router.post("/logout")
def log_out(request: Request, user: Annotated[User, requires("self.change")]) -> Response:
    """End this session."""
    with pool_of(request).noting():
        accounts.end_session(user.digest)
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(session_cookie(config_of(request)), secure=config_of(request).console_over_tls)
    return answer


@router.post("/choices")
def choose(
    request: Request,
    user: Annotated[User, requires("self.change")],
    language: Annotated[str | None, Form()] = None,
    theme: Annotated[str | None, Form()] = None,
    next_path: Next = "",
) -> Response:
    """Keep the language and the theme that a person wants."""
    try:
        with pool_of(request).noting():
            accounts.choose(user.name, language, theme)
    except AccountError as problem:
        return answer(request, 422, str(problem))
    return RedirectResponse(_inside(next_path), 303)


@router.post("/password")
def change_password(
    request: Request, user: Annotated[User, requires("self.change")], old: Text = "", new: Text = ""
) -> Response:
    """Give oneself another password; every session of the person ends. Who holds a session only may not guess it."""
    is_right, wait_s = _try(request, user.name, old)
    if wait_s > 0:
        return answer(request, 429, text=say("Try again in a moment."))
    if not is_right:
        return answer(request, 422, say("The old password is another one."))
    try:
        kept = accounts.hash_password(new, config_of(request).console_password_chars_min)
    except AccountError as problem:
        return answer(request, 422, str(problem))
    with pool_of(request).changing(user.name):
        accounts.set_password(user.name, kept, wall_clock_ms())
    return RedirectResponse("/login", 303)


def _form(request: Request, next_path: str, status: int = 200, **told: object) -> Response:
    """Return the form with a secret of its own, so that no other site can log anybody in as somebody else."""
    csrf = request.cookies.get(FORM_COOKIE) or secrets.token_urlsafe(32)
    answer = page(request, "login.html", status, **{"next_path": next_path, "csrf": csrf, "problem": "", **told})
    _set_cookie(request, answer, FORM_COOKIE, csrf, 3600)
    return answer


def _refused(request: Request, status: int, next_path: str, wait_s: int) -> Response:
    problem = "wait" if wait_s else "wrong"
    answer = _form(request, next_path, status, problem=problem, wait_s=wait_s)
    if wait_s:
        answer.headers["Retry-After"] = str(wait_s)
    return answer


def _set_cookie(request: Request, answer: Response, name: str, value: str, age_s: int) -> None:
    over_tls = config_of(request).console_over_tls
    answer.set_cookie(name, value, max_age=age_s, path="/", secure=over_tls, httponly=True, samesite="lax")


def _inside(path: str) -> str:
    """Return a path of this console; one that leads elsewhere becomes the first page."""
    return path if is_inside(path) else "/"
