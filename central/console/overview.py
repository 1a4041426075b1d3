"""The first screen: the five questions of a chain's head office, what is worst first.

Which tills are behind, by how much, since when and why; is the last day complete; who is not connected, and is that
expected; did the release arrive; has each consumer got it all.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate, islice, pairwise
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from central.days import rows
from central.service import wall_clock_ms
from wire.reasons import Reason
from wire.translation import Language, tell

from .days import STATE_SEVERITY, newest_days
from .fleet import Fleet, TillNow
from .guard import pool_of, requires
from .lists import SEARCH_MAX
from .render import fleet_of, language_of, page
from .tills import row_of

router = APIRouter(include_in_schema=False)

Row = dict[str, Any]
WORST_SHOWN = 10
DAYS_SHOWN = 7
CHART_POINTS, SLOT_MS = 96, 900_000
"""The chart shows so many slots of a quarter of an hour: a day."""
_RELEASES = "SELECT wanted, till_id, state FROM till_release WHERE wanted <> ''"
_CONSUMERS = (
    "SELECT c.name, c.acknowledged, c.acknowledged_at_ms, c.incarnation = n.incarnation,"
    " (SELECT max(id) FROM document) FROM consumer c, central n ORDER BY c.name"
)
FIRST_STEPS = ("tillstream broker token 042-01", "tillstream edge run", "tillstream edge enable per-receipt-upload")


@router.get("/", dependencies=[requires("overview.see")])
def show(request: Request) -> Response:
    """Show how the chain stands."""
    fleet, language = fleet_of(request), language_of(request)
    with pool_of(request).reading():
        told: Row = {
            "days": newest_days(DAYS_SHOWN),
            "versions": _versions(fleet),
            "consumers": _consumers(),
            "chart": json.dumps(arrivals(wall_clock_ms())),
        }
    worst = [row_of(till, language) for till in islice(_not_fine(fleet), WORST_SHOWN)]
    figures = _figures(fleet)
    behind = [one["behind"] for one in told["consumers"]]
    figures["consumers_behind"] = sum(one != 0 for one in behind) if behind else None
    told |= {"figures": figures, "reasons": _reasons(fleet, language), "worst": worst, "first_steps": FIRST_STEPS}
    told |= {
        "problems": fleet.in_trouble,
        "as_of_ms": fleet.as_of_ms,
        "severities": STATE_SEVERITY,
    }
    return page(request, "overview.html", **told)


def _not_fine(fleet: Fleet) -> Iterator[TillNow]:
    return (till for till in fleet.tills if not till.is_parked and till.severity != "fine")


def _figures(fleet: Fleet) -> Row:
    owed, is_unknown = fleet.owed
    owing = [till.known.facts.head_heard_at_ms for till in fleet.expected if till.known.facts.behind]
    return {
        "tills": len(fleet.tills),
        "expected": len(fleet.expected),
        "act": fleet.in_trouble,
        "wait": sum(till.severity == "wait" for till in fleet.expected),
        "fine": sum(till.severity == "fine" for till in fleet.expected),
        "offline": sum(till.is_online is not True for till in fleet.expected),
        "parked": len(fleet.tills) - len(fleet.expected),
        "waiting": owed,
        "is_at_least": is_unknown,
        "oldest_ms": min((at_ms for at_ms in owing if at_ms is not None), default=None),
        "last_ms": max((till.known.facts.moved_at_ms or 0 for till in fleet.tills), default=0) or None,
    }


def _reasons(fleet: Fleet, language: Language) -> list[Row]:
    found = []
    for reason, tills, owed in fleet.reasons:
        if reason.kind.severity != "fine":
            title, _ = tell(Reason(reason.code), language)
            one = {"code": reason.code, "severity": reason.kind.severity, "title": title}
            found.append({**one, "tills": tills, "waiting": owed, "since_ms": reason.since_ms})
    return found


def _versions(fleet: Fleet) -> Row:
    """Return which versions run, and how many tills do not run what they are to run."""
    running = fleet.versions
    wanted = {till_id: version for version, till_id, _ in rows(_RELEASES)}
    differ = sum(running.get(till_id) != version for till_id, version in wanted.items() if till_id in fleet.by_id)
    counted = Counter(version or "?" for version in running.values())
    return {"running": counted.most_common(5), "wanted": len(wanted), "differ": differ if wanted else None}


def _consumers() -> list[Row]:
    """Return the programs that take documents over, and how many numbers each is behind; None where nobody knows."""
    return [
        # At PostgreSQL numbers that were handed out in vain may lie ahead of the newest document.
        {"name": name, "at_ms": at_ms, "behind": max(0, (newest or 0) - done) if is_same else None}
        for name, done, at_ms, is_same, newest in rows(_CONSUMERS)
    ]


# -- What came in ------------------------------------------------------------------------------------------------------


def arrivals(now_ms: int) -> Row:
    """Return how many documents came in each quarter of an hour: by their numbers, of which a few are looked up.

    Numbers are handed out as documents come, so two of them with their times say how many came between. A number that
    was handed out in vain counts: what is drawn is a shape, not a proof.
    """
    ((newest,),) = rows("SELECT max(id) FROM document")
    end_ms = -(-now_ms // SLOT_MS) * SLOT_MS  # The same for a quarter of an hour: a page without news stays the same.
    begin_ms = end_ms - CHART_POINTS * SLOT_MS
    if newest is None:
        return {"x": [], "y": []}
    first = _first_since(newest, begin_ms)
    step = max(1, (newest - first) // CHART_POINTS)
    points = _times([*range(first, newest, step), newest])
    return _per_slot([(at_ms, number) for number, at_ms in points if at_ms >= begin_ms], begin_ms)


def _first_since(newest: int, begin_ms: int) -> int:
    """Return a number not far before the first one since a time: going back in steps that double."""
    backwards = [newest - 2**n for n in range(newest.bit_length()) if newest - 2**n > 0]
    return next((number for number, at_ms in sorted(_times(backwards), reverse=True) if at_ms < begin_ms), 1)


def _times(numbers: list[int]) -> list[tuple[int, int]]:
    if not numbers:
        return []
    places = ", ".join("?" * len(numbers))
    return [(n, at) for n, at in rows(f"SELECT id, received_at_ms FROM document WHERE id IN ({places})", *numbers)]


def _per_slot(points: list[tuple[int, int]], begin_ms: int) -> Row:
    """Spread what came between two points evenly over the slots between them."""
    counted = [0.0] * CHART_POINTS
    points.sort()
    for (from_ms, before), (to_ms, after) in pairwise(points):
        first, last = int((from_ms - begin_ms) // SLOT_MS), int((to_ms - begin_ms) // SLOT_MS)
        slots = range(max(0, first), min(CHART_POINTS - 1, last) + 1)
        for slot in slots:
            counted[slot] += (after - before) / len(slots)
    x = [round((begin_ms + SLOT_MS * slot) / 1000) for slot in range(CHART_POINTS)]
    through = [0, *(round(one) for one in accumulate(counted))]  # Rounded sums: what is drawn adds up to what came.
    return {"x": x, "y": [[after - before for before, after in pairwise(through)]]}


# -- Search ------------------------------------------------------------------------------------------------------------


@router.get("/find", dependencies=[requires("tills.see")])
def find(request: Request, q: str = "") -> Response:
    """Lead to what was typed: a till, a store, a receipt number, or a document's id."""
    asked, fleet = q.strip()[:SEARCH_MAX], fleet_of(request)
    if not asked:
        return RedirectResponse("/tills", 303)
    if asked in fleet.by_id:
        return RedirectResponse(f"/tills/{quote(asked, safe='')}", 303)
    if any(till.store_id == asked for till in fleet.tills):
        return RedirectResponse(f"/tills?store={quote(asked, safe='')}", 303)
    if any(asked.lower() in till.till_id.lower() for till in fleet.tills):
        return RedirectResponse(f"/tills?till={quote(asked, safe='')}", 303)
    name = "number" if asked.isascii() and asked.isdigit() else "document"
    return RedirectResponse(f"/receipts?{name}={quote(asked, safe='')}", 303)
