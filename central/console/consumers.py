"""Consumers: which programs take documents over, how far each has come; and having one read again, asked twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Form, Path, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from central import consumer, consumers
from central.accounts import User
from central.consumer import Cursor, CursorError
from central.consumers import COUNTED_MAX, ConsumerError
from central.database import Postgres, Sqlite
from central.service import wall_clock_ms
from central.store_clock import a_day

from . import lists
from .acts import Back, Note, deciding, done
from .guard import config_of, pool_of, requires
from .lists import Column, Empty, Row, Shape, Wanted
from .render import page
from .words import say

router = APIRouter(include_in_schema=False)

SHAPE = Shape(
    "/consumers",
    say("Consumers"),
    (
        Column("name", say("Name"), "link", is_sorted=True),
        Column("behind", say("Behind"), "badge", is_sorted=True),
        Column("waiting_since_ms", say("Oldest not taken over"), "time", is_sorted=True),
        Column("acknowledged_at_ms", say("Last acknowledged"), "time", is_sorted=True),
        Column("cursor", say("Stands at")),
        Column("made_at_ms", say("Made"), "time"),
        Column("note", say("Note")),
        Column("is_further_behind", say("Further behind than counted"), is_hidden=True),
        Column("must_rewind", say("Has to begin anew"), is_hidden=True),
    ),
    sort="name",
)
EMPTY = Empty(
    say("No program takes documents over yet."),
    say("Name one below, issue a token with the scope export, and see docs/api.md for its first page."),
)
_FIRST_OF_DAY = "SELECT min(id + 0) FROM document WHERE business_day = ?"
"""By the index over days: left to itself, PostgreSQL walks all older documents in the order of their numbers."""
_AGAIN = (
    f"SELECT count(*) FROM (SELECT 1 AS one FROM document WHERE id > ? AND id <= ? LIMIT {COUNTED_MAX + 1}) AS again"
)


# -- Looking -----------------------------------------------------------------------------------------------------------


def rows(database: Sqlite | Postgres, wanted: Wanted) -> list[Row]:
    """Return the consumers with how bad their lag is; by one statement."""
    found = [row | {"id": row["name"], "severity": _severity(row)} for row in consumers.listed(database)]
    return lists.arrange(wanted, found)


def _severity(row: Row) -> str:
    if row["must_rewind"]:
        return "act"
    return "wait" if row["behind"] else "fine"


@dataclass(frozen=True, slots=True)
class Rewind:
    """What having a consumer read again would do."""

    name: str
    before: Cursor
    to: Cursor
    again: int | None
    """How many documents it would read again; None where nobody can say, because its numbers were given out anew."""
    is_more: bool
    """Whether it is more than were counted."""


def rewinding(database: Sqlite | Postgres, name: str, cursor: str, day: str) -> Rewind:
    """Return what rewinding to a cursor, to a day's first document or to the beginning would do.

    Raises ConsumerError or CursorError, and ClockError for a day that is none.
    """
    before = consumers.place_of(name)
    to = _target(database, cursor.strip(), day)
    consumer.check(database, to)
    if to.incarnation != before.incarnation:
        return Rewind(name, before, to, None, is_more=False)
    if to.number > before.number:
        raise CursorError(f"{to} is ahead of {before}, where {name} stands: what is between would never be read")
    ((again,),) = database.run(_AGAIN, (to.number, before.number)).fetchall()
    return Rewind(name, before, to, min(again, COUNTED_MAX), is_more=again > COUNTED_MAX)


def _target(database: Sqlite | Postgres, cursor: str, day: str) -> Cursor:
    incarnation = consumer.incarnation_of(database)
    if day:
        ((first,),) = database.run(_FIRST_OF_DAY, (a_day(day),)).fetchall()
        if first is None:
            raise CursorError(f"no document of the day {day} is stored")
        return Cursor(incarnation, first - 1)
    return Cursor.parse(cursor or "0") or Cursor(incarnation, 0)


# -- The pages ---------------------------------------------------------------------------------------------------------

Reader = Annotated[User, requires("consumers.see")]
Named = Annotated[str, Path(max_length=64)]
Word = Annotated[str, Form(max_length=64)]


@router.get("/consumers")
def show(request: Request, _user: Reader) -> Response:
    """Show the consumers and how far behind each is."""
    wanted = Wanted.of(SHAPE, request)
    with pool_of(request).reading() as database:
        found = rows(database, wanted)
    return page(request, "consumers.html", listed=lists.part(wanted, found), empty=EMPTY)


@router.get("/consumers.{form}")
def as_file(request: Request, _user: Reader, form: lists.Form) -> Response:
    """Return the consumers."""
    with pool_of(request).reading() as database:
        return lists.file(SHAPE, rows(database, Wanted.of(SHAPE, request)), form)


@router.get("/consumers/{name}")
def show_one(
    request: Request, _user: Reader, name: Named, cursor: str = "", day: str = "", ask: bool = False
) -> Response:
    """Show one consumer; with ``ask`` what rewinding it there would do, before it is done."""
    rewind, problem = None, ""
    with pool_of(request).reading() as database:
        found = consumers.listed(database, name)
        if not found:
            raise HTTPException(404, f"there is no consumer {name!r}")
        try:
            rewind = rewinding(database, name, cursor, day) if ask else None
        except (ConsumerError, ValueError) as refused:
            problem = str(refused)
    told: dict[str, Any] = {"row": found[0] | {"severity": _severity(found[0])}, "rewind": rewind, "problem": problem}
    return page(request, "consumer.html", 422 if problem else 200, **told, asked={"cursor": cursor, "day": day})


@router.post("/consumers")
def create(
    request: Request, user: Annotated[User, requires("consumers.create")], name: Word, begin: Word = "beginning",
    note: Note = "", back: Back = "",
) -> Response:  # fmt: skip
    """Name a consumer that reads all that is stored, or only what comes from now on."""
    with deciding():
        with pool_of(request).looking() as database:
            place = _begin(database, begin, config_of(request).consumer_wait_s)
        with pool_of(request).changing(user.name):
            is_new = consumers.create(name, place, wall_clock_ms(), note)
    told = say("Consumer {name} begins at {place}.") if is_new else say("Consumer {name} was there before.")
    return done(request, back, told, otherwise="/consumers", name=name, place=place)


def _begin(database: Sqlite | Postgres, begin: str, wait_s: float) -> Cursor:
    if begin not in ("beginning", "now"):
        raise ConsumerError("begin: beginning or now is right")
    return consumer.newest(database, wait_s) if begin == "now" else Cursor(consumer.incarnation_of(database), 0)


@router.post("/consumers/{name}/rewind")
def rewind_it(
    request: Request, user: Annotated[User, requires("consumers.rewind")], name: Named, to: Word, confirm: Word = "",
    note: Note = "",
) -> Response:  # fmt: skip
    """Have a consumer read again what a preview showed; its name has to be typed, for it is asked twice."""
    if confirm != name:
        raise HTTPException(422, f"confirm: type the consumer's name, {name}, to rewind it")
    with deciding(), pool_of(request).changing(user.name) as database:
        place = consumers.rewind(database, name, Cursor.parse(to), wall_clock_ms(), note)
    return done(
        request, "", say("Consumer {name} reads on behind {place}."), otherwise="/consumers", name=name, place=place
    )


@router.post("/consumers/{name}/remove")
def remove(
    request: Request,
    user: Annotated[User, requires("consumers.remove")],
    name: Named,
    confirm: Word = "",
    note: Note = "",
) -> Response:
    """Forget a consumer and where it stands."""
    if confirm != name:
        raise HTTPException(422, f"confirm: type the consumer's name, {name}, to remove it")
    with deciding(), pool_of(request).changing(user.name):
        consumers.remove(name, wall_clock_ms(), note)
    return done(request, "", say("Consumer {name} is removed."), otherwise="/consumers", name=name)
