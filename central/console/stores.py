"""The list of stores: each as its worst till, what it waits for, and whether its tills are connected."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Request
from starlette.responses import Response

from central.models import StoreRow
from wire.translation import Language, tell

from .fleet import Fleet, TillNow, waiting
from .guard import pool_of, requires
from .lists import Column, Empty, Filter, Form, Row, Shape, Wanted, file, lazily
from .lists import arrange as in_order
from .render import fleet_of, language_of, page
from .tills import STATE_NAMES, STATES
from .words import say, speaker

router = APIRouter(include_in_schema=False)

SHAPE = Shape(
    "/stores",
    say("Stores"),
    (
        Column("state", say("State"), "badge"),
        Column("store_id", say("Store"), is_sorted=True),
        Column("tills", say("Tills"), "count", is_sorted=True),
        Column("troubled", say("With a problem"), "count", is_sorted=True),
        Column("offline", say("Not connected"), "count", is_sorted=True),
        Column("parked", say("Parked"), "count", is_sorted=True),
        Column("waiting", say("Waiting"), "count", is_sorted=True),
        Column("title", say("Worst")),
        Column("last_ms", say("Last documents"), "time", is_sorted=True),
        Column("time_zone", say("Time zone")),
        Column("day_cut_off", say("Day ends"), is_hidden=True),
    ),
    (
        Filter("state", say("State"), STATES),
        Filter("link", say("Link"), (("all", say("no till connected")), ("some", say("some till not connected")))),
        Filter("store", say("Store")),
    ),
)
EMPTY = Empty(say("No store is known: a store shows up with its first till."), say("See the tills"), "/tills")


def row_of(store_id: str, tills: list[TillNow], clock: tuple[str, str] | None, language: Language) -> Row:
    """Return a store as a row."""
    worst, expected = tills[0], [till for till in tills if not till.is_parked]
    state = worst.severity if expected else "parked"
    owed, is_unknown = waiting(tills)
    return {
        "id": store_id,
        "store_id": store_id,
        "state": speaker(language)(STATE_NAMES[state]),
        "state_code": state,
        "severity": worst.severity,
        "tills": len(tills),
        "troubled": sum(till.severity == "act" for till in tills),
        "offline": sum(till.is_online is not True for till in expected),
        "parked": len(tills) - len(expected),
        "waiting": None if is_unknown and not owed else owed,
        "at_least": is_unknown and owed > 0,
        "title": tell(worst.reason, language)[0],
        "worst": worst.till_id,
        "last_ms": max((till.known.facts.moved_at_ms or 0 for till in tills), default=0) or None,
        "time_zone": clock[0] if clock else "UTC",
        "day_cut_off": clock[1] if clock else "00:00",
    }


Store = tuple[str, list[TillNow]]


def _asked(request: Request) -> tuple[Wanted, Fleet, list[Store], Callable[[Store], Row]]:
    """Return the stores that fit, worst first, and what makes a row of one."""
    language, fleet, wanted = language_of(request), fleet_of(request), Wanted.of(SHAPE, request)
    with pool_of(request).reading():
        clocks = {row.store_id: (row.time_zone, row.day_cut_off) for row in StoreRow.select()}

    def make(store: Store) -> Row:
        return row_of(store[0], store[1], clocks.get(store[0]), language)

    stores = list(fleet.stores.items())
    return wanted, fleet, [one for one in stores if not wanted.is_filtered or _fits(make(one), wanted)], make


def _fits(row: Row, wanted: Wanted) -> bool:
    asked, expected = wanted.chosen, row["tills"] - row["parked"]
    links = {"": True, "some": row["offline"] > 0, "all": row["offline"] == expected > 0}
    return (
        asked["state"] in ("", row["state_code"])
        and links[asked["link"]]
        and asked["store"].lower() in row["store_id"].lower()
    )


@router.get("/stores", dependencies=[requires("stores.see")])
def show(request: Request) -> Response:
    """Show the stores."""
    wanted, fleet, stores, make = _asked(request)
    listed = lazily(wanted, stores, make)
    return page(request, "stores.html", listed=listed, empty=EMPTY, problems=fleet.in_trouble, as_of_ms=fleet.as_of_ms)


@router.get("/stores.{form}", dependencies=[requires("stores.see")])
def as_file(request: Request, form: Form) -> Response:
    """Return the stores as a file."""
    wanted, _, stores, make = _asked(request)
    return file(SHAPE, in_order(wanted, map(make, stores)), form)
