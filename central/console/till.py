"""One till: why it is as it is and what to do, the six steps of its documents, and all that is known of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from central.days import rows
from central.late import known
from central.reasons import Limits, reasons_of
from central.service import wall_clock_ms
from wire.reasons import RANKS, Reason, foremost
from wire.translation import tell

from .fleet import TillNow
from .guard import pool_of, requires
from .receipts import KIND_NAMES
from .render import denied_of, language_of, page
from .tills import STATE_NAMES
from .words import say

router = APIRouter(include_in_schema=False)

Severity = Literal["fine", "wait", "act", "unknown"]
Row = dict[str, Any]
TABS = (
    ("now", say("Now")),
    ("receipts", say("Documents")),
    ("days", say("Days")),
    ("tasks", say("Tasks")),
    ("connection", say("Connection")),
    ("health", say("Health")),
    ("audit", say("Audit")),
)
SHOWN_MOST = 50
"""So many documents, tasks, streams and audit rows a tab shows."""
DAYS_SHOWN = 14


# -- The six steps -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """A step on the documents' way: how many are there, since when, and whether that is as it should be."""

    title: str
    figure: int | None
    text: str
    at_ms: int | None
    severity: Severity


def steps_of(till: TillNow, consumers: list[int], newest_id: int | None) -> list[Step]:
    """Return the six steps; a figure that nobody knows is None. ``consumers``: what each has taken over."""
    facts, through, owed = till.known.facts, till.known.through, till.known.facts.behind
    task, upload = facts.task, _upload(till)
    closed = None if through is None else through + (owed or 0)
    stored: Severity = "unknown" if through is None else "fine" if facts.is_verified else "wait"
    asked = say("attempts of a task") if task else say("nothing is asked for")
    since_ms = task.created_at_ms if task else None
    return [
        Step(say("Closed"), closed, say("documents that are known of"), facts.head_heard_at_ms, stored),
        _outbox(till),
        Step(say("Rung for"), owed, say("known to be owed"), facts.head_heard_at_ms, upload),
        Step(say("Requested"), task.attempts if task else 0, asked, since_ms, upload),
        Step(say("Stored"), through, say("numbers, one after the other"), facts.moved_at_ms, stored),
        _taken_over(consumers, newest_id),
    ]


def _upload(till: TillNow) -> Severity:
    owed = till.known.facts.behind
    if owed is None:
        return "unknown"
    return "fine" if owed == 0 else "act" if till.severity == "act" else "wait"


def _outbox(till: TillNow) -> Step:
    presence, seen_ms = till.known.presence, till.known.facts.presence_at_ms
    if presence is None:
        return Step(say("In the outbox"), None, say("the till has not said"), None, "unknown")
    is_old = till.is_online is not True
    severity: Severity = "unknown" if is_old else "wait" if presence.unsent else "fine"
    text = say("not confirmed when it was last seen; unknown since") if is_old else say("not confirmed yet")
    return Step(say("In the outbox"), presence.unsent, text, seen_ms, severity)


def _taken_over(consumers: list[int], newest_id: int | None) -> Step:
    title = say("Taken over")
    if not consumers:
        return Step(title, None, say("no consumer is named"), None, "unknown")
    if newest_id is None:
        return Step(title, None, say("nothing of the till is stored"), None, "unknown")
    have = sum(acknowledged >= newest_id for acknowledged in consumers)
    return Step(title, have, say("consumers have all of it"), None, "fine" if have == len(consumers) else "wait")


# -- What each tab shows -----------------------------------------------------------------------------------------------

_DOCUMENTS = (
    "SELECT id, sequence, transaction_type, business_day, receipt_number, closed_at_ms, received_at_ms, total_minor,"
    " currency FROM document WHERE till_id = ? AND stream = ? ORDER BY sequence DESC LIMIT ?"
)
_DAYS = (
    "SELECT business_day, state, since_ms, completed_at_ms, reopened_at_ms FROM day WHERE store_id = ?"
    " ORDER BY business_day DESC LIMIT ?"
)
_TASKS = (
    "SELECT task_id, state, reason, attempts, created_at_ms, finished_at_ms, note, after, through FROM task"
    " WHERE till_id = ? ORDER BY created_at_ms DESC LIMIT ?"
)
_STREAMS = (
    "SELECT stream, through, opened_at_ms, moved_at_ms, verified_at_ms, backed_up FROM watermark WHERE till_id = ?"
    " ORDER BY id DESC LIMIT ?"
)
_AUDIT = (
    "SELECT at_ms, who, action, object, note FROM audit"
    " WHERE object = ? OR substr(object, 1, CAST(? AS INTEGER)) IN (?, ?)"
    " OR substr(object, length(object) - CAST(? AS INTEGER)) = ? ORDER BY id DESC LIMIT ?"
)
"""What is said of ``till 7``, ``till 7, day 2026-03-01``, ``till 7: tag`` and ``5, till 7``, and of no ``till 77``."""
_GAPS = (
    "SELECT id, stream, first, last, reason, found_at_ms FROM gap WHERE till_id = ? AND closed_at_ms IS NULL"
    " ORDER BY id LIMIT ?"
)
_NEWEST = "SELECT max(id) FROM document WHERE till_id = ? AND stream = ? AND sequence <= ?"
"""The number of its newest document among all: a consumer that is there has everything of the till."""
_TAKEN = "SELECT acknowledged FROM consumer WHERE incarnation = (SELECT incarnation FROM central)"


def _named(names: str, statement: str, *values: object) -> list[Row]:
    return [dict(zip(names.split(), row, strict=True)) for row in rows(statement, *values)]


def _documents(till: TillNow) -> Row:
    names = "id sequence kind business_day receipt_number closed_at_ms received_at_ms total_minor currency"
    found = _named(names, _DOCUMENTS, till.till_id, till.known.stream or "", SHOWN_MOST)
    return {"documents": found, "kinds": KIND_NAMES}


def _days(till: TillNow) -> Row:
    names = "business_day state since_ms completed_at_ms reopened_at_ms"
    return {"days": _named(names, _DAYS, till.store_id, DAYS_SHOWN)}


def _tasks(till: TillNow) -> Row:
    names = "task_id state reason attempts created_at_ms finished_at_ms note after through"
    return {"tasks": _named(names, _TASKS, till.till_id, SHOWN_MOST)}


def _connection(till: TillNow) -> Row:
    names = "stream through opened_at_ms moved_at_ms verified_at_ms backed_up"
    return {"streams": _named(names, _STREAMS, till.till_id, SHOWN_MOST)}


def _health(till: TillNow) -> Row:
    return {"wanted": rows("SELECT wanted, state, why, told_at_ms FROM till_release WHERE till_id = ?", till.till_id)}


def _audit(till: TillNow) -> Row:
    own = f"till {till.till_id}"
    begin, end = (len(own) + 1, f"{own},", f"{own}:"), (len(own) + 1, f", {own}")
    return {"audit": _named("at_ms who action object note", _AUDIT, own, *begin, *end, SHOWN_MOST)}


def _now(till: TillNow) -> Row:
    through = till.known.through or 0
    ((newest_id,),) = rows(_NEWEST, till.till_id, till.known.stream or "", through)
    consumers = [acknowledged for (acknowledged,) in rows(_TAKEN)]
    gaps = _named("id stream first last reason found_at_ms", _GAPS, till.till_id, SHOWN_MOST)
    return {"steps": steps_of(till, consumers, newest_id), "gaps": gaps}


_READ: dict[str, Callable[[TillNow], Row]] = {
    "now": _now,
    "receipts": _documents,
    "days": _days,
    "tasks": _tasks,
    "connection": _connection,
    "health": _health,
    "audit": _audit,
}


# -- The page ----------------------------------------------------------------------------------------------------------


def find(till_id: str, denied: frozenset[str], now_ms: int) -> tuple[TillNow, list[Reason]] | None:
    """Return a till as it is now, and every reason that holds; None if there is none of this name."""
    found = known(denied, till_id)
    if not found:
        return None
    reasons = sorted(reasons_of(found[0].facts, now_ms, Limits()), key=lambda one: RANKS[one.code])
    return TillNow(found[0], foremost(reasons)), reasons


@router.get("/tills/{till_id}", dependencies=[requires("tills.see")])
def show(request: Request, till_id: str, tab: str = "now") -> Response:
    """Show a till; ``tab`` names a part of what is known."""
    may_see_audit = request.state.user.may("audit.see")
    tabs = [one for one in TABS if one[0] != "audit" or may_see_audit]
    tab = tab if tab in dict(tabs) else "now"
    with pool_of(request).reading():
        found = find(till_id, denied_of(request), wall_clock_ms())
        if found is None:
            raise HTTPException(404, f"no till named {till_id[:64]} has ever connected")
        till, reasons = found
        shown = _READ[tab](till)
    language = language_of(request)
    title, next_step = tell(till.reason, language)
    also = [tell(one, language) for one in reasons if one.code != till.reason.code]
    state = STATE_NAMES["parked" if till.is_parked else till.severity]
    told: Row = {"till": till, "reason_title": title, "next_step": next_step, "also": also, "state": state}
    return page(request, "till.html", tabs=tabs, tab=tab, **told, **shown)
