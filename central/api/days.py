"""Business days of stores: which are complete, what proves it, what is missing; and the gaps."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from central import decisions, reports
from central.accounts import Token
from central.completeness import State
from central.console.guard import pool_of
from central.day_rows import explained, till_row
from central.models import Day
from central.service import wall_clock_ms

from . import shapes
from .bearer import covers, who

router = APIRouter(tags=["days"])


@router.get("/days", response_model=shapes.Days)
def days(
    request: Request,
    _token: Annotated[Token, covers("days.see")],
    first: Annotated[shapes.DayQuery, Query(alias="from")] = None,
    last: Annotated[shapes.DayQuery, Query(alias="to")] = None,
    store: shapes.StoreQuery = None,
    state: State | None = None,
    limit: shapes.Limit = 200,
) -> Any:
    """List what was last found of days of stores, newest first; a worker looks again at those that are not settled."""
    query = Day.select().order_by(Day.business_day.desc(), Day.store_id).limit(limit + 1)
    for condition, value in (
        (Day.business_day >= first, first),
        (Day.business_day <= last, last),
        (Day.store_id == store, store),
        (Day.state == state, state),
    ):
        query = query if value is None else query.where(condition)
    with pool_of(request).reading():
        rows = list(query.dicts())
    return {"days": rows[:limit], "more": len(rows) > limit}


@router.get("/days/{business_day}", response_model=shapes.DayExplained)
def explain(
    request: Request,
    _token: Annotated[Token, covers("days.see")],
    business_day: shapes.DayPath,
    store: shapes.StoreQuery = "",
    till: shapes.TillQuery = None,
) -> Any:
    """Judge a store's day by what is stored now: proofs, what is missing and what to do, till by till.

    Without ``store``: the documents that name no store.
    """
    day = shapes.a_day(business_day)
    with pool_of(request).reading():
        found, row = explained(day or "", store or "", till)
    return row | {"tills": [till_row(one) for one in found.tills]}


@router.get("/gaps", response_model=shapes.Gaps)
def gaps(request: Request, _token: Annotated[Token, covers("gaps.see")]) -> Any:
    """List the ranges that tills rang for and can no longer send, and that nobody has closed."""
    with pool_of(request).reading():
        return {"gaps": reports.gaps()}


@router.post("/gaps/{number}/close", response_model=shapes.Decided)
def close_gap(
    request: Request,
    token: Annotated[Token, covers("gaps.close")],
    number: shapes.NumberPath,
    given: shapes.Decision,
) -> Any:
    """Say that what a gap lacks will not come, and how that is known."""
    with pool_of(request).changing(who(token)):
        return {"changed": decisions.close_gap(number, given.note, wall_clock_ms())}
