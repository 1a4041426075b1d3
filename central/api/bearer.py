"""Which program asks, and whether its token covers that: ``Authorization: Bearer ts_…`` and nothing else."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, Request

from central import accounts
from central.accounts import Token
from central.console.guard import pool_of
from central.rights import ACTIONS
from central.service import wall_clock_ms

from .problems import FieldError, ProblemError

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="tillstream"'}
SECRET_CHARS_MAX = 256


class TokenRequirement:
    """A dependency that lets a request through if its token covers ``action``; returns the Token."""

    def __init__(self, action: str) -> None:
        self.action, self.right = action, ACTIONS[action]

    def __call__(self, request: Request) -> Token:
        """Raise ProblemError 401 or 403, or return whose token it is."""
        kind, _, secret = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not 0 < len(secret) <= SECRET_CHARS_MAX:
            raise ProblemError(401, "no_token", "send Authorization: Bearer and a token", _CHALLENGE)
        token = _look_up(request, secret.strip())
        if token is None:
            raise ProblemError(401, "token_unknown", "this token is unknown, expired or revoked", _CHALLENGE)
        if not token.covers(self.action):
            needed = f"{self.action} needs the scope {self.right.scope}; token {token.name} has others"
            raise ProblemError(403, "scope_missing", needed)
        _refuse_unknown(request)
        return token


def _refuse_unknown(request: Request) -> None:
    """Refuse a parameter that the route does not have: a filter that is misspelt would show everything."""
    known = {field.alias for field in request.scope["route"].dependant.query_params}
    if unknown := sorted(set(request.query_params) - known):
        told = FieldError(
            field=f"query.{unknown[0][:64]}", message=f"is not known here; known: {', '.join(sorted(known))}"
        )
        raise ProblemError(422, "invalid", f"{told.field}: {told.message}")


def _look_up(request: Request, secret: str) -> Token | None:
    """Return whose token it is; once a minute it is written down that it is in use."""
    now_ms = wall_clock_ms()
    with pool_of(request).looking():
        token = accounts.token_of(secret, now_ms)
    if token and accounts.is_due(token.used_at_ms, now_ms):
        with pool_of(request).noting():
            accounts.saw_token(token.number, now_ms)
    return token


def covers(action: str) -> Any:
    """Return the dependency that a route of the API says its action with; it gives the Token."""
    return Depends(TokenRequirement(action))


def who(token: Token) -> str:
    """Return what the audit names a program by."""
    return f"token {token.name}"
