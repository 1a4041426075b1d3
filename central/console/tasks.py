"""Tasks: what central wants from tills, how far each upload is and why it was asked for; and asking once more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import peewee as pw
from fastapi import APIRouter, Form, Request
from starlette.responses import Response

from central import requests
from central.accounts import User
from central.models import Task, Watermark
from central.requests import RequestError, Scope
from central.service import wall_clock_ms

from . import lists
from .acts import PICKED_MAX, Back, Note, deciding, done
from .guard import pool_of, requires
from .lists import ONE_MORE, ROWS_PER_PAGE, Column, Empty, Filter, Listed, Row, Shape, Wanted
from .render import page
from .words import say

router = APIRouter(include_in_schema=False)

STATES = (
    ("waiting", say("waiting")),
    ("queued", say("queued")),
    ("requested", say("requested")),
    ("resting", say("resting")),
    ("done", say("done")),
    ("failed", say("failed")),
    ("expired", say("expired")),
    ("cancelled", say("cancelled")),
)
REASONS = (
    ("doorbell", say("the till rang")),
    ("sweep", say("the regular look")),
    ("operator", say("a person asked")),
    ("retry", say("once more after a failure")),
    ("new_stream", say("the till shall begin a new stream")),
    ("repeat", say("a range once more")),
)
SHAPE = Shape(
    "/tasks",
    say("Tasks"),
    (
        Column("state", say("State"), "badge"),
        Column("till_id", say("Till"), "link"),
        Column("scope", say("What")),
        Column("reason", say("Reason")),
        Column("attempts", say("Attempts"), "count"),
        Column("created_at_ms", say("Made"), "time"),
        Column("finished_at_ms", say("Ended"), "time"),
        Column("note", say("Note")),
        Column("task_id", say("Task")),
    ),
    (Filter("state", say("State"), STATES), Filter("reason", say("Reason"), REASONS), Filter("till", say("Till"))),
    sort="-created_at_ms",
)
EMPTY = Empty(
    say("No task is known. Tasks that are done within a second leave no row."),
    say("Ask a till for its documents on its page."),
    "/tills",
)
_SEVERITY = {"done": "fine", "failed": "act", "expired": "act", "cancelled": "fine"}


# -- Looking -----------------------------------------------------------------------------------------------------------


def part_of(wanted: Wanted) -> Listed:
    """Return a page of tasks, the newest first."""
    start = (wanted.page - 1) * ROWS_PER_PAGE
    rows = [*_rows(_chosen(wanted).limit(ROWS_PER_PAGE + 1).offset(start))]
    return Listed(wanted, rows[:ROWS_PER_PAGE], has_more=len(rows) > ROWS_PER_PAGE)


def everything(wanted: Wanted, most: int) -> list[Row]:
    """Return the tasks that are chosen, for a file."""
    return [*_rows(_chosen(wanted).limit(most))]


def open_by_state() -> dict[str, int]:
    """Return how many tasks are under way, by state; only states that some are in."""
    open_ones = Task.finished_at_ms.is_null()
    query: Any = Task.select(Task.state, pw.fn.COUNT(Task.task_id)).where(open_ones).group_by(Task.state).tuples()
    return dict(query)


def _chosen(wanted: Wanted) -> Any:
    columns = {"state": Task.state, "reason": Task.reason, "till": Task.till_id}
    query: Any = Task.select().order_by(Task.created_at_ms.desc(), Task.task_id.desc())
    for name, column in columns.items():
        if value := wanted.chosen[name]:
            query = query.where(column == value)
    return query


def _rows(query: Any) -> Iterator[Row]:
    for row in query.dicts():
        is_range = row["stream"] is not None
        scope = f"{row['after'] + 1}..{row['through']}" if is_range else ""
        yield row | {"id": row["task_id"], "scope": scope, "severity": _SEVERITY.get(row["state"], "wait")}


# -- Doing -------------------------------------------------------------------------------------------------------------


def again(task_ids: Sequence[str], note: str, at_ms: int) -> list[str]:
    """Ask once more for what these tasks were to bring, and return the tasks that will; safe to repeat.

    A range of a stream that the till has left since can no longer be named: then everything is asked for, which finds
    what is still there. Raises RequestError where a task or its till is not known.
    """
    tasks = list(Task.select().where(Task.task_id.in_(list(task_ids))).order_by(Task.task_id))
    if missing := sorted(set(task_ids) - {task.task_id for task in tasks}):
        raise RequestError(f"there is no task {missing[0][:64]!r}")
    made: list[str] = []
    for scope in dict.fromkeys(_scope(task) for task in tasks):
        made += requests.leave(scope, requests.plan(scope), at_ms, note)
    return made


def _scope(task: Any) -> Scope:
    if task.stream is None or task.after >= task.through:
        return Scope(till=task.till_id)  # Nothing of a range is left: what is new, if anything is.
    present = Watermark.select().where(Watermark.till_id == task.till_id).order_by(Watermark.id.desc()).first()
    if present is None or present.stream != task.stream:
        return Scope(till=task.till_id, everything=True)
    return Scope(till=task.till_id, first=task.after + 1, last=task.through)


# -- The page ----------------------------------------------------------------------------------------------------------

Reader = Annotated[User, requires("tasks.see")]


@router.get("/tasks")
def show(request: Request, _user: Reader) -> Response:
    """Show the tasks, and how many are under way."""
    wanted = Wanted.of(SHAPE, request)
    with pool_of(request).reading():
        listed, under_way = part_of(wanted), open_by_state()
    counts = [(state, name, under_way.get(state, 0)) for state, name in STATES]
    told: dict[str, Any] = {"listed": listed, "empty": EMPTY, "under_way": counts}
    return page(request, "tasks.html", **told, states=dict(STATES), reasons=dict(REASONS))


@router.get("/tasks.{form}")
def as_file(request: Request, _user: Reader, form: lists.Form) -> Response:
    """Return the tasks that are chosen."""
    with pool_of(request).reading():
        return lists.file(SHAPE, everything(Wanted.of(SHAPE, request), ONE_MORE), form)


@router.post("/tasks/again")
def ask_again(
    request: Request,
    user: Annotated[User, requires("tills.request")],
    task: Annotated[list[str], Form(max_length=PICKED_MAX)],
    note: Note = "",
    back: Back = "",
) -> Response:
    """Ask the tills of these tasks once more."""
    with deciding(), pool_of(request).changing(user.name):
        made = again(task, note, wall_clock_ms())
    return done(
        request, back, say("Asked again: {count}. Asking twice is harmless."), otherwise="/tasks", count=len(made)
    )


@router.post("/tasks/cancel")
def cancel(
    request: Request,
    user: Annotated[User, requires("tasks.cancel")],
    task: Annotated[list[str], Form(max_length=PICKED_MAX)],
    note: Note = "",
    back: Back = "",
) -> Response:
    """Take back wishes that nobody has taken up yet."""
    with deciding(), pool_of(request).changing(user.name):
        found = requests.cancel(task, note, wall_clock_ms())
    told = say("Cancelled: {count} of {of}. What a worker has taken up goes on.")
    return done(request, back, told, otherwise="/tasks", count=len(found), of=len(set(task)))
