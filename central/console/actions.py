"""What people decide and ask for on the pages of tills and days: by the functions the command line uses, with a note.

Each answers by sending the browser back to where it was, and that page says what came of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi import Form as FromForm
from starlette.responses import Response

from central import decisions, requests
from central.accounts import User
from central.cli_base import NUMBER_MAX
from central.decisions import DecisionError
from central.requests import RequestError, Scope, Wish
from central.service import wall_clock_ms
from central.store_clock import ClockError, a_day

from .acts import Back, Note
from .guard import pool_of, requires
from .outcome import back
from .render import fleet_changed, language_of
from .words import say, speaker

router = APIRouter(include_in_schema=False)

TILLS_MOST = 1_000
"""So many tills are decided about at once; a page of a list has fewer."""
Tills = Annotated[list[str], FromForm(max_length=TILLS_MOST)]
Text = Annotated[str, FromForm(max_length=64)]
Number = Annotated[int | None, FromForm(ge=0, le=2**53 - 1)]

PROBLEMS = (say("parking needs a note: why is the till not expected to report?"),)
"""What the deciding functions say to people most often; all else is shown in English, as the command line does."""


def _told(request: Request, where: str, text: str, **figures: object) -> Response:
    fleet_changed(request)
    return back(where, speaker(language_of(request))(text).format(**figures))


def _failed(request: Request, where: str, problem: Exception) -> Response:
    return back(where, speaker(language_of(request))(str(problem)))


# -- Tills -------------------------------------------------------------------------------------------------------------


def _decide(
    request: Request, user: User, till: list[str], note: str, where: str, decision: Callable[[str, str, int], bool]
) -> Response:
    at_ms = wall_clock_ms()
    try:
        with pool_of(request).changing(user.name):
            changed = [one for one in till if decision(one, note, at_ms)]
    except (DecisionError, ValueError) as problem:
        return _failed(request, where, problem)
    return _told(request, where, say("Done for {done} of {of} tills."), done=len(changed), of=len(till))


@router.post("/tills/park")
def park(
    request: Request, user: Annotated[User, requires("tills.park")], till: Tills, note: Note = "", back: Back = "/tills"
) -> Response:
    """Say that tills are not expected to report."""
    return _decide(request, user, till, note, back, decisions.park)


@router.post("/tills/unpark")
def unpark(
    request: Request,
    user: Annotated[User, requires("tills.unpark")],
    till: Tills,
    note: Note = "",
    back: Back = "/tills",
) -> Response:
    """Expect tills again."""
    return _decide(request, user, till, note, back, decisions.unpark)


@router.post("/tills/approve")
def approve(
    request: Request,
    user: Annotated[User, requires("tills.approve")],
    till: Tills,
    note: Note = "",
    back: Back = "/tills",
) -> Response:
    """Let central ask tills for their sales."""
    return _decide(request, user, till, note, back, decisions.approve)


# -- Requests ----------------------------------------------------------------------------------------------------------


@router.post("/tills/request")
def request_new(
    request: Request,
    user: Annotated[User, requires("tills.request")],
    till: Tills,
    note: Note = "",
    back: Back = "/tills",
) -> Response:
    """Ask tills for all that is new."""
    return _ask(request, user, [Scope(till=one) for one in till], note, back)


@router.post("/request")
def request_again(
    request: Request,
    user: Annotated[User, requires("tills.request")],
    till: Text = "",
    store: Text = "",
    day: Text = "",
    first: Number = None,
    last: Number = None,
    note: Note = "",
    back: Back = "/tasks",
) -> Response:
    """Ask for a day of a store or a till, or for numbers of a till, once more; what is here already changes nothing."""
    try:
        scope = _scope(till, store, day, first, last)
    except (RequestError, ClockError) as problem:
        return _failed(request, back, problem)
    return _ask(request, user, [scope], note, back)


def _scope(till: str, store: str, day: str, first: int | None, last: int | None) -> Scope:
    if not till and (not (store or day) or first is not None):
        raise RequestError("name a till, a store or a day; numbers need a till: each till numbers for itself")
    if first is not None and day:
        raise RequestError("give numbers or a day, not both")
    if (first is None) != (last is None):
        raise RequestError("give the first and the last number")
    return Scope(till or None, store or None, a_day(day) if day else None, None, first, last)


def _ask(request: Request, user: User, scopes: list[Scope], note: str, where: str) -> Response:
    """Plan by reading only, in which a worker can commit; then leave all wishes in one short transaction."""
    try:
        with pool_of(request).reading():
            planned: list[tuple[Scope, list[Wish]]] = [(scope, requests.plan(scope)) for scope in scopes]
    except RequestError as problem:
        return _failed(request, where, problem)
    at_ms = wall_clock_ms()
    with pool_of(request).changing(user.name):
        tasks = [one for scope, wishes in planned for one in requests.leave(scope, wishes, at_ms, note)]
    return _told(
        request,
        where,
        say("Asked for: {tasks} tasks. What is here already changes nothing."),
        tasks=len(tasks),
    )


# -- Gaps --------------------------------------------------------------------------------------------------------------


@router.post("/gaps/{number}/close")
def close_gap(
    request: Request,
    user: Annotated[User, requires("gaps.close")],
    number: Annotated[int, Path(ge=1, le=NUMBER_MAX)],
    note: Note = "",
    back: Back = "/days",
) -> Response:
    """Say that what a gap lacks will not come, and how that is known."""
    try:
        with pool_of(request).changing(user.name):
            is_new = decisions.close_gap(number, note, wall_clock_ms())
    except (DecisionError, ValueError) as problem:
        return _failed(request, back, problem)
    text = say("Gap {number} is closed.") if is_new else say("Gap {number} was closed before; nothing changed.")
    return _told(request, back, text, number=number)
