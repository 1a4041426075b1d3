"""The list of tills, worst first, and what may be done to many of them at once."""

from __future__ import annotations

from functools import cache
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from wire.reasons import KINDS, Reason
from wire.translation import Language, tell

from .fleet import Fleet, TillNow
from .guard import requires
from .lists import Column, Empty, Filter, Form, Row, Shape, Wanted, file, lazily
from .lists import arrange as in_order
from .render import fleet_of, language_of, page
from .words import say, speaker

router = APIRouter(include_in_schema=False)

STATES = (("act", say("problem")), ("wait", say("waits")), ("fine", say("fine")), ("parked", say("parked")))
"""What a till's badge says: whether a person should do something, time will mend it, or nothing is owed."""
STATE_NAMES = dict(STATES)
_LINKS = (("on", say("connected")), ("off", say("not connected")), ("unknown", say("unknown")))
EMPTY = Empty(
    say("No till has ever connected."),
    say("Install the agent on a till and give it the broker's address; it shows up here by itself."),
    commands=("tillstream broker token 042-01", "tillstream edge run", "tillstream edge doctor"),
)


@cache
def shape(language: Language) -> Shape:
    """Return the list's columns and filters; the reasons' names are those of the language."""
    reasons = tuple((code, tell(Reason(code), language)[0]) for code in KINDS)
    return Shape(
        "/tills",
        say("Tills"),
        (
            Column("state", say("State"), "badge"),
            Column("till_id", say("Till"), is_sorted=True),
            Column("store_id", say("Store"), is_sorted=True),
            Column("waiting", say("Waiting"), "count", is_sorted=True),
            Column("since_ms", say("Since"), "time", is_sorted=True),
            Column("title", say("Why")),
            Column("last_ms", say("Last documents"), "time", is_sorted=True),
            Column("seen_ms", say("Last seen"), "time", is_sorted=True),
            Column("version", say("Version"), is_sorted=True),
            Column("reason", say("Reason's code"), is_hidden=True),
            Column("next_step", say("Next step"), is_hidden=True),
            Column("online", say("Connected"), is_hidden=True),
            Column("through", say("Stored up to"), is_hidden=True),
            Column("parked_note", say("Parked because"), is_hidden=True),
        ),
        (
            Filter("state", say("State"), STATES),
            Filter("reason", say("Why"), reasons),
            Filter("link", say("Link"), _LINKS),
            Filter("till", say("Till")),
            Filter("store", say("Store")),
            Filter("version", say("Version")),
        ),
    )


def row_of(till: TillNow, language: Language) -> Row:
    """Return a till as a row; what nobody knows is None."""
    facts, presence = till.known.facts, till.known.presence
    title, next_step = tell(till.reason, language)
    state = "parked" if till.is_parked else till.severity
    return {
        "id": till.till_id,
        "till_id": till.till_id,
        "store_id": till.store_id,
        "state": speaker(language)(STATE_NAMES[state]),
        "severity": till.severity,
        "waiting": facts.behind,
        "since_ms": till.reason.since_ms,
        "title": title,
        "next_step": next_step,
        "reason": till.reason.code,
        "last_ms": facts.moved_at_ms,
        "seen_ms": facts.presence_at_ms,
        "online": till.is_online,
        "version": presence.agent_version if presence else None,
        "through": till.known.through,
        "parked_note": till.known.parked_note,
    }


def chosen(fleet: Fleet, wanted: Wanted) -> list[TillNow]:
    """Return the tills that fit what was asked, worst first."""
    if not wanted.is_filtered:
        return list(fleet.tills)
    return [till for till in fleet.tills if _fits(till, wanted.chosen)]


def _fits(till: TillNow, asked: Any) -> bool:
    link = {True: "on", False: "off", None: "unknown"}[till.is_online]
    presence = till.known.presence
    return (
        asked["state"] in ("", "parked" if till.is_parked else till.severity)
        and asked["reason"] in ("", till.reason.code)
        and asked["link"] in ("", link)
        and asked["till"].lower() in till.till_id.lower()
        and asked["store"] in ("", till.store_id)
        and asked["version"] in ("", presence.agent_version if presence else "")
    )


def _asked(request: Request) -> tuple[Wanted, Fleet, list[TillNow]]:
    fleet, wanted = fleet_of(request), Wanted.of(shape(language_of(request)), request)
    return wanted, fleet, chosen(fleet, wanted)


@router.get("/tills", dependencies=[requires("tills.see")])
def show(request: Request) -> Response:
    """Show the tills; without another order asked for only the page's own are made rows of."""
    language = language_of(request)
    wanted, fleet, tills = _asked(request)
    listed = lazily(wanted, tills, lambda till: row_of(till, language))
    return page(request, "tills.html", listed=listed, empty=EMPTY, problems=fleet.in_trouble, as_of_ms=fleet.as_of_ms)


@router.get("/tills.{form}", dependencies=[requires("tills.see")])
def as_file(request: Request, form: Form) -> Response:
    """Return the tills as a file."""
    language = language_of(request)
    wanted, _, tills = _asked(request)
    return file(wanted.shape, in_order(wanted, (row_of(till, language) for till in tills)), form)
