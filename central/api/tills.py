"""Tills and stores: how they stand, what is decided about them, and asking them for documents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Request

from central import decisions, requests, settings
from central.accounts import Token
from central.console.fleet import Fleet, FleetView, TillNow
from central.console.guard import pool_of
from central.requests import RequestError, Scope
from central.service import wall_clock_ms

from . import shapes
from .bearer import covers, who
from .problems import ProblemError, not_found

router = APIRouter(tags=["tills"])
See = Annotated[Token, covers("tills.see")]


def fleet_of(request: Request) -> Fleet:
    """Return all tills as they stand."""
    view: FleetView = request.app.state.fleet
    return view.now()


@router.get("/tills", response_model=shapes.Tills)
def tills(
    request: Request,
    _token: See,
    store: shapes.StoreQuery = None,
    *,
    behind: bool = False,
    after: shapes.TillQuery = None,
    limit: shapes.Limit = 200,
) -> Any:
    """List the tills by id, of one store or only those that owe documents; ``next`` is the next page's ``after``."""
    fleet = fleet_of(request)
    chosen = sorted((one for one in fleet.tills if _is_meant(one, store, behind=behind, after=after)), key=_id)
    page = chosen[:limit]
    more = page[-1].till_id if len(chosen) > limit else None
    return {"tills": [_till(one) for one in page], "next": more, "as_of_ms": fleet.as_of_ms}


def _id(till: TillNow) -> str:
    return till.till_id


def _is_meant(till: TillNow, store: str | None, *, behind: bool, after: str | None) -> bool:
    is_behind = not behind or bool(till.known.facts.behind)
    return is_behind and store in (None, till.store_id) and till.till_id > (after or "")


@router.get("/tills/{till_id}", response_model=shapes.TillShape)
def till(request: Request, _token: See, till_id: shapes.TillPath) -> Any:
    """Return one till as it stands."""
    found = fleet_of(request).by_id.get(till_id)
    if found is None:
        raise not_found(f"till {till_id}")
    return _till(found)


def _till(till: TillNow) -> dict[str, Any]:
    known, facts, reason = till.known, till.known.facts, till.reason
    return {
        "till_id": till.till_id,
        "store_id": till.store_id,
        "is_online": till.is_online,
        "is_approved": facts.is_approved,
        "is_parked": till.is_parked,
        "parked_note": known.parked_note,
        "stream": known.stream,
        "through": known.through,
        "behind": facts.behind,
        "is_verified": facts.is_verified,
        "verified_at_ms": known.verified_at_ms,
        "presence_at_ms": facts.presence_at_ms,
        "quarantined": facts.quarantined,
        "missing": facts.missing,
        "agent_version": known.presence.agent_version if known.presence else None,
        "reason": {
            "code": reason.code,
            "severity": reason.kind.severity,
            "since_ms": reason.since_ms,
            "detail": reason.detail,
        },
    }


@router.get("/stores", response_model=shapes.Stores)
def stores(request: Request, _token: Annotated[Token, covers("stores.see")]) -> Any:
    """List the stores, summed up over the tills that show themselves in them."""
    fleet = fleet_of(request)
    of_store: dict[str, list[TillNow]] = defaultdict(list)
    for one in fleet.tills:
        of_store[one.store_id].append(one)
    return {"stores": [_store(*one) for one in sorted(of_store.items())], "as_of_ms": fleet.as_of_ms}


def _store(store_id: str, there: list[TillNow]) -> dict[str, Any]:
    expected = [one for one in there if not one.is_parked]
    owed = [one.known.facts.behind for one in expected]
    return {
        "store_id": store_id,
        "tills": len(there),
        "tills_parked": len(there) - len(expected),
        "tills_online": sum(one.is_online is True for one in there),
        "tills_in_trouble": sum(one.severity == "act" for one in expected),
        "behind": None if None in owed else sum(filter(None, owed)),
    }


# -- What is decided ---------------------------------------------------------------------------------------------------


def _decide(request: Request, token: Token, decision: Callable[[str, str, int], bool], till_id: str, note: str) -> Any:
    with pool_of(request).changing(who(token)):
        changed = decision(till_id, note, wall_clock_ms())
    request.app.state.fleet.changed()
    return {"changed": changed}


@router.post("/tills/{till_id}/park", response_model=shapes.Decided)
def park(
    request: Request,
    token: Annotated[Token, covers("tills.park")],
    till_id: shapes.TillPath,
    given: shapes.Decision,
) -> Any:
    """Say that a till is not expected to report: a day can be complete without it. Sales it sends still count."""
    return _decide(request, token, decisions.park, till_id, given.note)


@router.post("/tills/{till_id}/unpark", response_model=shapes.Decided)
def unpark(
    request: Request,
    token: Annotated[Token, covers("tills.unpark")],
    till_id: shapes.TillPath,
    given: shapes.Remark,
) -> Any:
    """Expect a till again."""
    return _decide(request, token, decisions.unpark, till_id, given.note)


@router.post("/tills/{till_id}/approve", response_model=shapes.Decided)
def approve(
    request: Request,
    token: Annotated[Token, covers("tills.approve")],
    till_id: shapes.TillPath,
    given: shapes.Remark,
) -> Any:
    """Let central ask a till for its sales; needed only with ``approve_tills``."""
    return _decide(request, token, decisions.approve, till_id, given.note)


@router.post("/tills/{till_id}/tags", response_model=shapes.Decided)
def tag(
    request: Request,
    token: Annotated[Token, covers("tills.tag")],
    till_id: shapes.TillPath,
    given: shapes.Tagged,
) -> Any:
    """Put a tag on a till, or take it off: settings and rollouts go by tags."""
    try:
        with pool_of(request).changing(who(token)):
            changed = settings.tag(till_id, given.tag, wall_clock_ms(), given.note, remove=given.remove)
    except LookupError as problem:
        raise ProblemError(404, "not_found", str(problem)) from problem
    return {"changed": changed}


# -- Asking ------------------------------------------------------------------------------------------------------------


@router.post("/requests", response_model=shapes.Requested, status_code=202)
def ask(request: Request, token: Annotated[Token, covers("tills.request")], given: shapes.Asked) -> Any:
    """Ask tills for everything central lacks, or for what they had sent before once more.

    Safe to repeat: what is stored already changes nothing, and a wish that is still open is not made twice.
    """
    scope = _scope(given)
    with pool_of(request).reading():
        wishes = requests.plan(scope)
    with pool_of(request).changing(who(token)):
        return {"task_ids": requests.leave(scope, wishes, wall_clock_ms(), given.note)}


def _scope(given: shapes.Asked) -> Scope:
    if (given.first is None) != (given.last is None):
        raise ProblemError(422, "invalid", "first and last go together: give both or neither")
    named = given.model_dump(exclude={"note", "day"})
    scope = Scope(**named, day=shapes.a_day(given.day))
    try:
        requests.check(scope)
    except RequestError as problem:
        raise ProblemError(422, "invalid", str(problem)) from problem
    return scope
