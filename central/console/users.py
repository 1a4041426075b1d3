"""Users and tokens: who may log in as what, and which programs may use the REST API."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Form, Path, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from central import accounts
from central.accounts import PASSWORD_CHARS_MAX, User
from central.rights import ROLES, SCOPES
from central.service import wall_clock_ms

from . import lists
from .acts import Back, Note, deciding, done
from .guard import config_of, pool_of, requires
from .lists import Column, Empty, Shape, Wanted
from .render import page
from .words import say

router = APIRouter(include_in_schema=False)

DAY_MS = 86_400_000
TOKEN_DAYS_MAX = 3_650
SHAPE = Shape(
    "/users",
    say("Users"),
    (
        Column("name", say("Name"), is_sorted=True),
        Column("role", say("Role"), is_sorted=True),
        Column("made_at_ms", say("Made"), "time"),
        Column("seen_at_ms", say("Last active"), "time", is_sorted=True),
    ),
    sort="name",
)
TOKENS = Shape(
    "/tokens",
    say("Tokens"),
    (
        Column("name", say("Name")),
        Column("scopes", say("Scopes")),
        Column("made_at_ms", say("Made"), "time"),
        Column("expires_at_ms", say("Expires"), "time"),
        Column("used_at_ms", say("Last used"), "time"),
        Column("revoked_at_ms", say("Revoked"), "time"),
    ),
)
EMPTY = Empty(say("Nobody may log in."))
NO_TOKENS = Empty(say("No program has a token."), say("Issue one below; its secret is shown once."))

Administrator = Annotated[User, requires("users.see")]
Word = Annotated[str, Form(max_length=64)]
Named = Annotated[str, Path(max_length=64)]
Password = Annotated[str, Form(max_length=PASSWORD_CHARS_MAX)]


# -- Looking -----------------------------------------------------------------------------------------------------------


@router.get("/users")
def show(request: Request, _user: Administrator) -> Response:
    """Show who may log in, and the programs' tokens."""
    return _page(request)


def _page(request: Request, **told: Any) -> Response:
    wanted, of_tokens = Wanted.of(SHAPE, request), Wanted(TOKENS, {}, "", 1)
    with pool_of(request).reading():
        users, tokens = lists.arrange(wanted, accounts.listed()), accounts.tokens()
    shown = {"listed": lists.part(wanted, users), "tokens": lists.Listed(of_tokens, tokens, len(tokens))}
    given = {"empty": EMPTY, "no_tokens": NO_TOKENS, "roles": ROLES, "scopes": SCOPES, "secret": "", "secret_name": ""}
    return page(request, "users.html", **{**given, **shown, **told})


@router.get("/users.{form}")
def as_file(request: Request, _user: Administrator, form: lists.Form) -> Response:
    """Return who may log in."""
    with pool_of(request).reading():
        return lists.file(SHAPE, accounts.listed(), form)


@router.get("/tokens.{form}")
def tokens_as_file(request: Request, _user: Administrator, form: lists.Form) -> Response:
    """Return the programs' tokens, without their secrets."""
    with pool_of(request).reading():
        return lists.file(TOKENS, accounts.tokens(), form)


# -- Users -------------------------------------------------------------------------------------------------------------


@router.post("/users/add")
def add(
    request: Request, user: Annotated[User, requires("users.add")], name: Word, role: Word, password: Password,
    note: Note = "", back: Back = "",
) -> Response:  # fmt: skip
    """Let a person log in."""
    with deciding():
        kept = accounts.hash_password(password, config_of(request).console_password_chars_min)
        with pool_of(request).changing(user.name):
            accounts.add(name, role, kept, wall_clock_ms(), note)
    return done(request, back, say("User {name} may log in now."), otherwise="/users", name=name)


@router.post("/users/{name}/role")
def set_role(
    request: Request, user: Annotated[User, requires("users.set_role")], name: Named, role: Word,
    note: Note = "", back: Back = "",
) -> Response:  # fmt: skip
    """Give a person another role."""
    with deciding(), pool_of(request).changing(user.name):
        accounts.set_role(name, role, wall_clock_ms(), note)
    return done(request, back, say("User {name}: the role is {role}."), otherwise="/users", name=name, role=role)


@router.post("/users/{name}/password")
def set_password(
    request: Request, user: Annotated[User, requires("users.set_password")], name: Named, password: Password,
    note: Note = "", back: Back = "",
) -> Response:  # fmt: skip
    """Give a person another password; all its sessions end."""
    with deciding():
        kept = accounts.hash_password(password, config_of(request).console_password_chars_min)
        with pool_of(request).changing(user.name):
            accounts.set_password(name, kept, wall_clock_ms(), note)
    return done(request, back, say("User {name} has another password."), otherwise="/users", name=name)


@router.post("/users/{name}/remove")
def remove(
    request: Request, user: Annotated[User, requires("users.remove")], name: Named, note: Note = "", back: Back = ""
) -> Response:
    """Let a person in no more."""
    with deciding(), pool_of(request).changing(user.name):
        accounts.remove(name, wall_clock_ms(), note)
    return done(request, back, say("User {name} may log in no more."), otherwise="/users", name=name)


# -- Tokens ------------------------------------------------------------------------------------------------------------


@router.post("/tokens/issue")
def issue(
    request: Request, user: Annotated[User, requires("tokens.issue")], name: Word,
    scope: Annotated[list[str] | None, Form(max_length=len(SCOPES))] = None,
    days: Annotated[str, Form(max_length=5)] = "", note: Note = "",
) -> Response:  # fmt: skip
    """Make a token and show its secret, this once: it is kept nowhere."""
    at_ms = wall_clock_ms()
    expires_at_ms = at_ms + _days(days) * DAY_MS if days else None
    with deciding(), pool_of(request).changing(user.name):
        secret = accounts.issue(name, scope or [], expires_at_ms, at_ms, note)
    response = _page(request, secret=secret, secret_name=name)
    response.headers["Cache-Control"] = "no-store"
    return response


def _days(given: str) -> int:
    if not (given.isascii() and given.isdigit() and 1 <= int(given) <= TOKEN_DAYS_MAX):
        raise HTTPException(422, f"days: 1 to {TOKEN_DAYS_MAX} are right, or nothing for no end")
    return int(given)


@router.post("/tokens/{name}/revoke")
def revoke(
    request: Request, user: Annotated[User, requires("tokens.revoke")], name: Named, note: Note = "", back: Back = ""
) -> Response:
    """Take a token back, at once."""
    with deciding(), pool_of(request).changing(user.name):
        accounts.revoke(name, wall_clock_ms(), note)
    return done(request, back, say("Token {name} is revoked."), otherwise="/users", name=name)
