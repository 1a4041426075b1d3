"""Rollouts: which release and settings each till is to run and which it does, what became of the last attempt."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Form, Path, Request
from starlette.responses import Response

from central import rollouts, settings
from central.accounts import User
from central.cli_base import NUMBER_MAX
from central.rollouts import NEEDS_A_PERSON, RolloutError
from central.service import wall_clock_ms

from . import lists
from .acts import Back, Note, deciding, done
from .guard import pool_of, requires
from .lists import Column, Empty, Filter, Row, Shape, Wanted
from .render import page
from .words import say

router = APIRouter(include_in_schema=False)

ROLLOUTS_MOST = 5
"""So many past rollouts are shown; the report of each names every till, and the page is asked for every few seconds."""
STATES = (
    ("upgraded", say("upgraded")),
    ("same", say("was there already")),
    ("rolled_back", say("went back by itself")),
    ("failed", say("failed")),
    ("unreached", say("not reached")),
    ("not_tried", say("not tried")),
    ("returned", say("taken back")),
)
WHICH = (
    ("missed", say("to be caught up with")),
    ("failed", say("need a person")),
    ("drift", say("run another release than wanted")),
    ("settings", say("run other settings than wanted")),
)
SHAPE = Shape(
    "/rollouts",
    say("Rollouts"),
    (
        Column("till_id", say("Till"), "link", is_sorted=True),
        Column("store_id", say("Store"), is_sorted=True),
        Column("wanted", say("Release wanted"), is_sorted=True),
        Column("runs", say("Release shown"), is_sorted=True),
        Column("state", say("Last attempt"), "badge"),
        Column("why", say("Why")),
        Column("told_at_ms", say("Told"), "time"),
        Column("settings_wanted", say("Settings wanted"), "count"),
        Column("settings_run", say("Settings shown"), "count"),
        Column("online", say("Connected"), is_hidden=True),
    ),
    (
        Filter("which", say("Which"), WHICH),
        Filter("state", say("Last attempt"), STATES),
        Filter("wanted", say("Release wanted")),
        Filter("store", say("Store")),
    ),
    sort="till_id",
)
EMPTY = Empty(
    say("No till is known yet."),
    say("The first rollout brings the agent to the tills:"),
    commands=("ansible/bin/rollout --version 1.0.0",),
)
_SEVERITY = {"upgraded": "fine", "same": "fine", "": "unknown"}


def tills(wanted: Wanted) -> list[Row]:
    """Return, till by till, what it is to run and what it shows; by three statements whatever the number of tills."""
    revisions = settings.wanted_revisions()
    rows = [_row(row, revisions) for row in rollouts.releases(wanted.chosen["wanted"] or None)]
    return [row for row in rows if _is_chosen(row, wanted)]


def _row(row: dict[str, Any], revisions: settings.Revisions) -> Row:
    return row | {
        "settings_wanted": revisions.of(row["till_id"]),
        "severity": "act" if row["state"] in NEEDS_A_PERSON else _SEVERITY.get(row["state"], "wait"),
    }


def _is_chosen(row: Row, wanted: Wanted) -> bool:
    chosen = wanted.chosen
    same = all(row[key] == chosen[name] for name, key in (("state", "state"), ("store", "store_id")) if chosen[name])
    return same and (not chosen["which"] or _IS_WHICH[chosen["which"]](row))


def _has_other_settings(row: Row) -> bool:
    return row["settings_run"] is not None and row["settings_run"] != row["settings_wanted"]


_IS_WHICH = {
    "missed": lambda row: rollouts.is_missed(dict(row)),
    "failed": lambda row: row["state"] in NEEDS_A_PERSON,
    "drift": lambda row: bool(row["wanted"] and row["runs"]) and row["wanted"] != row["runs"],
    "settings": _has_other_settings,
}


def limit_file(rows: Iterable[Row]) -> bytes:
    """Return tills as Ansible's ``--limit @file`` reads them: one a line."""
    return "".join(f"{row['till_id']}\n" for row in rows).encode()


def moment(field: str, given: str) -> int:
    """Return a time that a person typed, by this machine's clock unless it says otherwise; raises RolloutError."""
    try:
        return round(datetime.fromisoformat(given).astimezone().timestamp() * 1000)
    except (ValueError, OverflowError) as problem:
        raise RolloutError(f"{field}: {given[:40]!r} is no time; right is 2026-12-20T22:00") from problem


# -- The page ----------------------------------------------------------------------------------------------------------

OUTCOMES = {
    "all": say("all tills"), "some": say("some tills"), "stopped": say("stopped"), "nothing": say("nothing was done"),
    "abandoned": say("abandoned"), "under way": say("under way"),
}  # fmt: skip
KINDS = {"rollout": say("rollout"), "catchup": say("catching up"), "rollback": say("rollback")}
Reader = Annotated[User, requires("rollouts.see")]
Administrator = Annotated[User, requires("rollouts.freeze")]
Number = Annotated[int, Path(ge=1, le=NUMBER_MAX)]
Moment = Annotated[str, Form(max_length=40)]


@router.get("/rollouts")
def show(request: Request, _user: Reader) -> Response:
    """Show which release each till is to run, the rollouts, and when there may be none."""
    wanted = Wanted.of(SHAPE, request)
    with pool_of(request).reading():
        rows = lists.arrange(wanted, tills(wanted))
        past, freezes = rollouts.rollouts(ROLLOUTS_MOST), rollouts.freezes(wall_clock_ms())
    names: dict[str, Any] = {"states": dict(STATES), "outcomes": OUTCOMES, "kinds": KINDS}
    told: dict[str, Any] = {"listed": lists.part(wanted, rows), "empty": EMPTY, "past": past, "freezes": freezes}
    return page(request, "rollouts.html", **told, **names, limit_url="/rollouts/limit.txt" + wanted.url()[9:])


@router.get("/rollouts.{form}")
def as_file(request: Request, _user: Reader, form: lists.Form) -> Response:
    """Return the tills that are chosen."""
    wanted = Wanted.of(SHAPE, request)
    with pool_of(request).reading():
        return lists.file(SHAPE, lists.arrange(wanted, tills(wanted)), form)


@router.get("/rollouts/limit.txt")
def as_limit(request: Request, _user: Reader) -> Response:
    """Return the tills that are chosen as Ansible's limit file; without a choice those to be caught up with."""
    wanted = Wanted.of(SHAPE, request)
    if not wanted.is_filtered:
        wanted = Wanted(SHAPE, {**wanted.chosen, "which": "missed"}, wanted.sort, 1)
    with pool_of(request).reading():
        body = limit_file(lists.arrange(wanted, tills(wanted)))
    attached = {"Content-Disposition": 'attachment; filename="limit.txt"'}
    return Response(body, media_type="text/plain", headers=attached)


@router.post("/rollouts/{number}/abandon")
def abandon(request: Request, user: Administrator, number: Number, note: Note = "", back: Back = "") -> Response:
    """End a rollout that nobody does any more."""
    with deciding(), pool_of(request).changing(user.name):
        rollouts.abandon(number, note, wall_clock_ms())
    return done(request, back, say("Rollout {number} is abandoned."), otherwise="/rollouts", number=number)


@router.post("/rollouts/freeze")
def freeze(
    request: Request, user: Administrator, from_: Annotated[str, Form(alias="from", max_length=40)],
    until: Moment, note: Note = "", back: Back = "",
) -> Response:  # fmt: skip
    """Let nothing be rolled out within a time."""
    with deciding(), pool_of(request).changing(user.name):
        number = rollouts.freeze(moment("from", from_), moment("until", until), note, wall_clock_ms())
    return done(request, back, say("Freeze {number} is set."), otherwise="/rollouts", number=number)


@router.post("/rollouts/freezes/{number}/thaw")
def thaw(request: Request, user: Administrator, number: Number, note: Note = "", back: Back = "") -> Response:
    """Lift a freeze."""
    with deciding(), pool_of(request).changing(user.name):
        rollouts.thaw(number, note, wall_clock_ms())
    return done(request, back, say("Freeze {number} is lifted."), otherwise="/rollouts", number=number)
