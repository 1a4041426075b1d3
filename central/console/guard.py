"""Who asks, and whether that person may: sessions, rights, forgery protection, and how often a login may fail.

A page says what it needs by one dependency, which also makes it part of the matrix that the tests walk:

    @router.post("/tills/{till_id}/park")
    def park(request: Request, user: Annotated[User, requires("tills.park")], till_id: str, note: Note) -> Response:
        with pool_of(request).changing(user.name):
            decisions.park(till_id, note, wall_clock_ms())
"""

from __future__ import annotations

import hmac
import threading
from collections import OrderedDict, deque
from typing import Any
from urllib.parse import quote

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from central import accounts
from central.accounts import User
from central.config import CentralConfig
from central.pool import Pool
from central.rights import ACTIONS
from central.service import wall_clock_ms

from .words import say

FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
CSRF_FIELD, CSRF_HEADER = "csrf", "X-CSRF-Token"
POLL_HEADER = "X-Poll"
"""What a page sends that asks again by itself: it keeps no session alive that nobody uses."""
ADDRESSES_MAX = 10_000
"""Of so many names and addresses failures are remembered at most, those of the newest."""


class NotLoggedInError(Exception):
    """Nobody is logged in; ``next_path`` is where to go on after a login."""

    def __init__(self, next_path: str = "") -> None:
        super().__init__("not logged in")
        self.next_path = next_path


class ForbiddenError(Exception):
    """The person may not, or nothing proves that the person meant it; ``detail`` stays as it is in each language."""

    def __init__(self, text: str, detail: str = "") -> None:
        super().__init__(text)
        self.detail = detail


def config_of(request: Request) -> CentralConfig:
    """Return the configuration of the process."""
    config: CentralConfig = request.app.state.config
    return config


def pool_of(request: Request) -> Pool:
    """Return the database of the process."""
    pool: Pool = request.app.state.pool
    return pool


def session_cookie(config: CentralConfig) -> str:
    """Return the name of the cookie; the prefix has browsers take it only from this very host, by TLS."""
    return "__Host-tillstream" if config.console_over_tls else "tillstream"


def look_up(request: Request) -> User | None:
    """Return who is logged in; None if nobody is. Writes down once a minute that the session is in use."""
    config, now_ms = config_of(request), wall_clock_ms()
    if not (secret := request.cookies.get(session_cookie(config))):
        return None
    with pool_of(request).looking():
        user = accounts.user_of(
            secret, now_ms, round(config.console_session_s * 1000), round(config.console_idle_s * 1000)
        )
    if user and POLL_HEADER not in request.headers and accounts.is_due(user.seen_at_ms, now_ms):
        with pool_of(request).noting():
            accounts.saw_session(user.digest, now_ms)
    return user


def require_login(request: Request) -> User:
    """Return who is logged in, also to the page that is made (``request.state.user``); raises NotLoggedInError."""
    user = look_up(request)
    if user is None:
        raise NotLoggedInError(here(request) if request.method in SAFE_METHODS else "")
    request.state.user = user
    return user


def here(request: Request) -> str:
    """Return the path and the query of what was asked for."""
    query = f"?{request.url.query}" if request.url.query else ""
    return quote(request.url.path, safe="/") + query


class Requirement:
    """A dependency that lets a request through if its person may do ``action``; returns the User."""

    def __init__(self, action: str) -> None:
        self.action, self.right = action, ACTIONS[action]

    async def __call__(self, request: Request) -> User:
        """Raise NotLoggedInError or ForbiddenError, or return who it is."""
        user = await run_in_threadpool(require_login, request)
        await refuse_nul(request)
        if request.method not in SAFE_METHODS:
            refuse_forged(request, user.csrf, await _given(request))
        if not user.may(self.action):
            needed = f"{self.action}: {self.right.role}; {user.name}: {user.role}"
            raise ForbiddenError(say("Your role may not do this."), needed)
        return user


async def refuse_nul(request: Request) -> None:
    """Raise HTTPException where a field holds the character NUL: no database keeps it, and PostgreSQL breaks off."""
    fields = [*request.path_params.items(), *request.query_params.multi_items()]
    if request.method not in SAFE_METHODS and request.headers.get("content-type", "").startswith(FORMS):
        fields += (await request.form()).multi_items()
    for name, value in fields:
        if "\0" in str(value):
            raise HTTPException(422, f"{name[:64]}: the character NUL is in it")


def requires(action: str) -> Any:
    """Return the dependency that a route says its action with; it gives the User."""
    return Depends(Requirement(action))


# -- Forgery -----------------------------------------------------------------------------------------------------------


async def _given(request: Request) -> str:
    if given := request.headers.get(CSRF_HEADER, ""):
        return given
    kind = request.headers.get("content-type", "")
    if kind.startswith(FORMS):
        return str((await request.form()).get(CSRF_FIELD, ""))
    return ""


def refuse_forged(request: Request, expected: str, given: str) -> None:
    """Raise ForbiddenError unless the request carries what only our own pages know."""
    site = request.headers.get("sec-fetch-site", "same-origin")
    if site not in ("same-origin", "none") or not hmac.compare_digest(expected.encode(), given.encode()):
        raise ForbiddenError(say("This form was not sent by a page of this session: load the page again and repeat."))


# -- How often a login may fail ----------------------------------------------------------------------------------------


class Failures:
    """Counts failures by name and by address; times are seconds of a monotonic clock. Lost at a restart, on purpose."""

    def __init__(self, most: int, pause_s: float) -> None:
        self._most, self._pause_s = most, pause_s
        self._failed: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait_s(self, keys: tuple[str, ...], now: float) -> float:
        """Return how long nobody is let in there; 0 if a login may be tried."""
        with self._lock:
            return max((self._wait_s(self._failed[key], now) for key in keys if key in self._failed), default=0.0)

    def _wait_s(self, times: deque[float], now: float) -> float:
        return max(0.0, self._pause_s - (now - times[0])) if len(times) == self._most else 0.0

    def add(self, keys: tuple[str, ...], now: float) -> None:
        """Count a failure."""
        with self._lock:
            for key in keys:
                self._failed.setdefault(key, deque(maxlen=self._most)).append(now)
                self._failed.move_to_end(key)
            while len(self._failed) > ADDRESSES_MAX:
                self._failed.popitem(last=False)

    def forget(self, key: str) -> None:
        """Forget the failures of a name that was let in."""
        with self._lock:
            self._failed.pop(key, None)
