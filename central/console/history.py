"""The audit: who did what to what, when and why."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from central.accounts import User
from central.models import Audit

from . import lists
from .guard import pool_of, requires
from .lists import ONE_MORE, ROWS_PER_PAGE, Column, Empty, Filter, Listed, Shape, Wanted
from .render import page
from .words import say

router = APIRouter(include_in_schema=False)

SHAPE = Shape(
    "/audit",
    say("Audit"),
    (
        Column("at_ms", say("When"), "time"),
        Column("who", say("Who")),
        Column("action", say("Action")),
        Column("object", say("What")),
        Column("note", say("Note")),
        Column("id", say("Number"), "count"),
    ),
    (Filter("who", say("Who")), Filter("action", say("Action")), Filter("object", say("What"))),
)
EMPTY = Empty(say("Nobody has decided anything yet."), say("Each action of a person leaves a row here."))

Reader = Annotated[User, requires("audit.see")]


def _chosen(wanted: Wanted) -> Any:
    """Return the rows that are chosen, the newest first."""
    query: Any = Audit.select().order_by(Audit.id.desc())
    for name, column in (("who", Audit.who), ("action", Audit.action)):
        query = query.where(column == wanted.chosen[name]) if wanted.chosen[name] else query
    return query.where(Audit.object.contains(wanted.chosen["object"])) if wanted.chosen["object"] else query


@router.get("/audit")
def show(request: Request, _user: Reader) -> Response:
    """Show what people decided, the newest first."""
    wanted = Wanted.of(SHAPE, request)
    with pool_of(request).reading():
        some = _chosen(wanted).limit(ROWS_PER_PAGE + 1).offset((wanted.page - 1) * ROWS_PER_PAGE)
        rows = list(some.dicts())
    listed = Listed(wanted, rows[:ROWS_PER_PAGE], has_more=len(rows) > ROWS_PER_PAGE)
    return page(request, "audit.html", listed=listed, empty=EMPTY)


@router.get("/audit.{form}")
def as_file(request: Request, _user: Reader, form: lists.Form) -> Response:
    """Return the rows that are chosen."""
    with pool_of(request).reading():
        rows = list(_chosen(Wanted.of(SHAPE, request)).limit(ONE_MORE).dicts())
    return lists.file(SHAPE, rows, form)
