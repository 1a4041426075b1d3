"""Programs that take documents over under a name: read a page, keep it, acknowledge its cursor."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from central import consumer, consumers
from central.accounts import Token
from central.console.guard import config_of, pool_of
from central.consumer import Cursor
from central.service import wall_clock_ms

from . import shapes
from .bearer import covers, who
from .documents import reading_on, shown
from .problems import ProblemError, not_found

router = APIRouter(tags=["consumers"])
See = Annotated[Token, covers("consumers.see")]


@router.get("/consumers", response_model=shapes.Consumers)
def listed(request: Request, _token: See) -> Any:
    """List the consumers, where each stands and how far behind it is."""
    with pool_of(request).reading() as database:
        return {"consumers": consumers.listed(database)}


@router.post("/consumers", response_model=shapes.ConsumerShape, status_code=201)
def create(request: Request, token: Annotated[Token, covers("consumers.create")], given: shapes.NewConsumer) -> Any:
    """Name a consumer that reads from the beginning or from now on; one that is there already is an error."""
    with reading_on(request) as database:
        begin = Cursor(consumer.incarnation_of(database), 0)
        if given.begin == "now":
            begin = consumer.newest(database, config_of(request).consumer_wait_s)
    with pool_of(request).changing(who(token)) as database:
        if not consumers.create(given.name, begin, wall_clock_ms(), given.note):
            raise ProblemError(409, "exists", f"consumer {given.name} is there already; to read again, rewind it")
        return consumers.listed(database, given.name)[0]


@router.get("/consumers/{name}", response_model=shapes.ConsumerShape)
def one(request: Request, _token: See, name: shapes.ConsumerPath) -> Any:
    """Return where a consumer stands."""
    with pool_of(request).reading() as database:
        found = consumers.listed(database, name)
    if not found:
        raise not_found(f"consumer {name}")
    return found[0]


@router.get("/consumers/{name}/documents", response_model=shapes.Documents)
def page(
    request: Request,
    _token: Annotated[Token, covers("consumers.read")],
    name: shapes.ConsumerPath,
    limit: shapes.Limit = 200,
) -> Any:
    """Return what follows what the consumer has acknowledged; asked again without that, the same once more."""
    with reading_on(request) as database:
        wait_s = config_of(request).consumer_wait_s
        begin = consumers.place_of(name)
        return shown(consumers.read(database, begin, limit, wait_s), begin)


@router.post("/consumers/{name}/acknowledge", response_model=shapes.Decided)
def acknowledge(
    request: Request,
    _token: Annotated[Token, covers("consumers.acknowledge")],
    name: shapes.ConsumerPath,
    given: shapes.Acknowledged,
) -> Any:
    """Say that the consumer has everything up to a page's cursor. Never moves back; safe to repeat."""
    cursor = Cursor.parse(given.cursor) or Cursor(0, 0)
    after = Cursor.parse(given.after) if given.after else None
    with pool_of(request).noting() as database:
        return {"changed": consumers.acknowledge(database, name, cursor, wall_clock_ms(), after)}


@router.post("/consumers/{name}/rewind", response_model=shapes.ConsumerShape)
def rewind(
    request: Request,
    token: Annotated[Token, covers("consumers.rewind")],
    name: shapes.ConsumerPath,
    given: shapes.Rewound,
) -> Any:
    """Have the consumer read again what follows a cursor; 0 is the beginning."""
    with pool_of(request).changing(who(token)) as database:
        consumers.rewind(database, name, Cursor.parse(given.cursor), wall_clock_ms(), given.note)
        return consumers.listed(database, name)[0]


@router.delete("/consumers/{name}", status_code=204)
def remove(
    request: Request,
    token: Annotated[Token, covers("consumers.remove")],
    name: shapes.ConsumerPath,
    note: Annotated[str, Query(max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")] = "",
) -> None:
    """Forget a consumer and where it stands."""
    with pool_of(request).changing(who(token)):
        consumers.remove(name, wall_clock_ms(), note)
