"""Business days: the matrix of stores and days, and one store's day with all that is missing and what to do.

The matrix shows what the worker noted of each day when it last looked; one store's day is worked out when it is asked
for, from what is stored then.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from central import days as business_days
from central.completeness import STATES as DAY_STATES
from central.completeness import Missing, StoreDay, TillDay
from central.days import rows
from central.service import wall_clock_ms
from central.store_clock import ClockError, a_day, day_after

from .guard import pool_of, requires
from .lists import Column, Empty, Filter, Form, Listed, Shape, Wanted, file
from .notes import translated
from .receipts import KIND_NAMES
from .render import page
from .words import say

router = APIRouter(include_in_schema=False)

Row = dict[str, Any]
DAYS_SHOWN, STORES_PER_PAGE = 14, 30
"""So many fields fit into a page of 60 KB."""
STATE_NAMES = {
    "complete": say("complete"),
    "open": say("open"),
    "partial": say("partial"),
    "mismatch": say("mismatch"),
    "not expected": say("not expected"),
}
STATE_SEVERITY = {"complete": "fine", "open": "wait", "partial": "act", "mismatch": "act", "not expected": "unknown"}
STATE_SIGNS = {"complete": "●", "open": "○", "partial": "■", "mismatch": "≠", "not expected": "–"}
_NEWEST = (
    "WITH RECURSIVE newest(day) AS (SELECT max(business_day) FROM day WHERE business_day <= ? UNION ALL"
    " SELECT (SELECT max(d.business_day) FROM day d WHERE d.business_day < newest.day) FROM newest"
    " WHERE newest.day IS NOT NULL)"
    " SELECT n.day, d.state, count(d.state) FROM (SELECT day FROM newest WHERE day IS NOT NULL LIMIT ?) n"
    " JOIN day d ON d.business_day = n.day GROUP BY n.day, d.state"
)
"""The newest days there are, each found by the index, and how many stores are in which state."""


def newest_days(most: int, through: str = "9999") -> list[Row]:
    """Return the newest days, newest first, with the number of stores by state."""
    found: dict[str, dict[str, int]] = {}
    for day, state, stores in rows(_NEWEST, through, most):
        found.setdefault(day, {})[state] = stores
    return [
        {"day": day, "states": states, "stores": sum(states.values()), "severity": _worst(states)}
        for day, states in sorted(found.items(), reverse=True)
    ]


def _worst(states: dict[str, int]) -> str:
    return next((STATE_SEVERITY[state] for state in DAY_STATES if states.get(state)), "unknown")


# -- The matrix --------------------------------------------------------------------------------------------------------

SHAPE = Shape(
    "/days",
    say("Days"),
    (
        Column("business_day", say("Business day")),
        Column("store_id", say("Store")),
        Column("state", say("State")),
        Column("since_ms", say("Since"), "time"),
        Column("completed_at_ms", say("Complete"), "time"),
        Column("reopened_at_ms", say("Opened again"), "time"),
    ),
    (
        Filter("to", say("Up to"), kind="date"),
        Filter("state", say("State"), tuple(STATE_NAMES.items())),
        Filter("store", say("Store")),
    ),
)
EMPTY = Empty(
    say("No business day has any document yet."),
    say("A day shows up with its first document: close a receipt at a till, or see why none comes."),
    "/tills",
)
_WORST = " ".join(f"WHEN '{state}' THEN {rank}" for rank, state in enumerate(DAY_STATES))
_STORES = (
    f"SELECT store_id FROM day WHERE business_day BETWEEN ? AND ?{{narrower}} GROUP BY store_id"
    f" ORDER BY min(CASE state {_WORST} END), store_id LIMIT ? OFFSET ?"
)
"""The stores that had documents on these days, the one with the worst day first."""
_CELLS = (
    "SELECT business_day, store_id, state, since_ms, completed_at_ms, reopened_at_ms FROM day"
    " WHERE business_day BETWEEN ? AND ?{narrower} ORDER BY business_day DESC, store_id LIMIT ?"
)
CELLS_MOST = 10_000
NO_STORE = "~"
"""What stands in a path for documents of no store."""


def _narrower(wanted: Wanted) -> tuple[str, list[object]]:
    asked = {name: wanted.chosen[f] for name, f in (("state", "state"), ("store_id", "store")) if wanted.chosen[f]}
    return "".join(f" AND {name} = ?" for name in asked), list(asked.values())


def _through(wanted: Wanted) -> str:
    try:
        return a_day(wanted.chosen["to"]) if wanted.chosen["to"] else "9999"
    except ClockError:
        return "9999"


@router.get("/days", dependencies=[requires("days.see")])
def show(request: Request) -> Response:
    """Show the stores and their days, the worst store first."""
    wanted = Wanted.of(SHAPE, request)
    with pool_of(request).reading():
        days = newest_days(DAYS_SHOWN, _through(wanted))
        stores = _stores(wanted, days)
        cells = _cells(days, stores[:STORES_PER_PAGE])
    shown = [{"store_id": store} for store in stores[:STORES_PER_PAGE]]
    listed = Listed(wanted, shown, None, len(stores) > STORES_PER_PAGE, STORES_PER_PAGE)
    told: Row = {"days": days, "cells": cells, "signs": STATE_SIGNS, "severities": STATE_SEVERITY, "empty": EMPTY}
    return page(request, "days.html", listed=listed, names=STATE_NAMES, no_store=NO_STORE, **told)


def _stores(wanted: Wanted, days: list[Row]) -> list[str]:
    if not days:
        return []
    narrower, values = _narrower(wanted)
    span, part = (days[-1]["day"], days[0]["day"]), (STORES_PER_PAGE + 1, (wanted.page - 1) * STORES_PER_PAGE)
    return [store for (store,) in rows(_STORES.format(narrower=narrower), *span, *values, *part)]


def _cells(days: list[Row], stores: list[str]) -> dict[tuple[str, str], Row]:
    if not stores:
        return {}
    narrower = f" AND store_id IN ({', '.join('?' * len(stores))})"
    found = rows(_CELLS.format(narrower=narrower), days[-1]["day"], days[0]["day"], *stores, CELLS_MOST)
    names = [column.key for column in SHAPE.columns]
    return {(row[1], row[0]): dict(zip(names, row, strict=True)) for row in found}


@router.get("/days.{form}", dependencies=[requires("days.see")])
def as_file(request: Request, form: Form) -> Response:
    """Return the noted days as a file, one row for a store's day."""
    wanted = Wanted.of(SHAPE, request)
    narrower, values = _narrower(wanted)
    with pool_of(request).reading():
        days = newest_days(DAYS_SHOWN, _through(wanted))
        span = (days[-1]["day"], days[0]["day"]) if days else ("", "")
        found = rows(_CELLS.format(narrower=narrower), *span, *values, CELLS_MOST)
    names = [column.key for column in SHAPE.columns]
    return file(SHAPE, [dict(zip(names, row, strict=True)) for row in found], form)


# -- One store's day ---------------------------------------------------------------------------------------------------

_GAPS = (
    "SELECT g.id, g.till_id, g.first, g.last, g.reason, g.found_at_ms FROM gap g JOIN till t ON t.till_id = g.till_id"
    " WHERE g.closed_at_ms IS NULL AND t.store_id = ? ORDER BY g.id LIMIT 100"
)
_NEWEST_STREAMS = (
    "SELECT till_id, stream FROM watermark WHERE id IN (SELECT max(w.id) FROM watermark w JOIN till t"
    " ON t.till_id = w.till_id WHERE t.store_id = ? GROUP BY w.till_id)"
)


@router.get("/days/{day}/{store:path}", dependencies=[requires("days.see")])
def show_store(request: Request, day: str, store: str) -> Response:
    """Show one store's day, worked out now: till by till what is proven, what is missing, what to do."""
    store_id = "" if store == NO_STORE else store
    try:
        day = a_day(day)
    except ClockError as problem:
        raise HTTPException(404, str(problem)) from problem
    with pool_of(request).reading():
        found = business_days.store_day(store_id, day, wall_clock_ms())
        names = ("id", "till_id", "first", "last", "reason", "found_at_ms")
        gaps = [dict(zip(names, row, strict=True)) for row in rows(_GAPS, store_id)]
        streams = dict(rows(_NEWEST_STREAMS, store_id))
    if not found.tills:
        raise HTTPException(404, f"store {store_id[:64]} has no till and no document on {day}")
    told: Row = {"found": found, "gaps": gaps, "before": day_after(day, -1), "after": day_after(day)}
    told |= {"steps": {till.till_id: steps_of(found, till) for till in found.tills}, "streams": streams}
    told |= {"names": STATE_NAMES, "severities": STATE_SEVERITY, "missing_words": MISSING_WORDS, "kinds": KIND_NAMES}
    return page(request, "day.html", store=store, note=translated, can_be_asked=can_be_asked, **told)


MISSING_WORDS = {
    "sequence": say("central holds nothing under it"),
    "rung_for": say("the till has it, central not yet"),
    "gap": say("rung for and can no longer come"),
    "quarantined": say("in quarantine"),
    "receipt_number": say("a receipt number that is not here"),
}


def steps_of(day: StoreDay, till: TillDay) -> set[str]:
    """Return what a person can do about a till's day, as words that the page makes buttons of."""
    if till.state == "complete":
        return set()
    kinds = {one.kind for one in till.missing}
    is_short = any(one.difference_count < 0 or one.difference_minor < 0 for s in till.shifts for one in s.differences)
    found = {"compare"} if any(shift.differences for shift in till.shifts) and not is_short else set()
    found |= {"again"} if kinds & {"sequence", "receipt_number"} or is_short else set()
    found |= {"new"} if "rung_for" in kinds else set()
    found |= kinds & {"quarantined", "gap"}
    found |= {"close_shift"} if day.is_over and any(not shift.is_closed for shift in till.shifts) else set()
    return found | ({"park"} if day.is_over and not till.documents and till.state != "not expected" else set())


def can_be_asked(missing: Missing, streams: dict[str, str], till_id: str) -> bool:
    """Say whether these very numbers can be asked for: only the present stream can."""
    return missing.kind == "sequence" and streams.get(till_id) == missing.stream
