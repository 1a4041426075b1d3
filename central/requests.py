"""What people ask tills for: all that is new, or a range, a shift, a day or everything once more.

A wish is a task row without a worker; the worker finds it within a second. Asking twice is harmless: a wish that an
unfinished one covers is not made again, and what is sent twice is known by its (till, document_id). What to ask for is
planned by reading only: of ten thousand tills that takes seconds, in which a worker must be able to commit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from . import audit
from .batch import Span
from .days import SHIFT_DAYS_MOST, rows
from .models import Document, Task, Till, Watermark
from .store_clock import day_after

INSERTED_AT_ONCE = 1_000
NAMED_MOST = 20
"""So many wishes that were taken back are named in an audit row."""
_STRETCHES = (
    "SELECT n.till_id, n.stream,"
    " (SELECT max(b.sequence) FROM document b"
    " WHERE b.till_id = n.till_id AND b.stream = n.stream AND b.sequence < n.lowest),"
    " (SELECT min(b.sequence) FROM document b"
    " WHERE b.till_id = n.till_id AND b.stream = n.stream AND b.sequence > n.highest)"
    " FROM (SELECT till_id, stream, min(sequence) AS lowest, max(sequence) AS highest FROM document"
    " WHERE {which} GROUP BY till_id, stream) AS n"
)
_NEAREST = (
    "SELECT sequence FROM document WHERE till_id = ? AND stream = ? AND sequence > ? AND business_day {side} LIMIT 1"
)


class RequestError(Exception):
    """Nothing can be asked for like this; the text says what could."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a person asks for; what is None does not narrow it."""

    till: str | None = None
    store: str | None = None
    day: str | None = None
    shift: int | None = None
    first: int | None = None
    last: int | None = None
    everything: bool = False

    def __str__(self) -> str:
        named = {"till": self.till, "store": self.store, "day": self.day, "shift": self.shift}
        words = [f"{name} {value}" for name, value in named.items() if value is not None]
        words += [f"numbers {self.first}..{self.last}"] if self.first is not None else []
        return ", ".join([*words, "everything"] if self.everything else words)


@dataclass(frozen=True, slots=True)
class Wish:
    """An upload to be asked for; without a span, all that is new."""

    till: str
    span: Span | None = None


def check(scope: Scope) -> None:
    """Raise RequestError for what no till can be asked for, whatever is known of it."""
    if not (scope.till or scope.store or scope.day or scope.everything):
        raise RequestError("name a till, a store, a day, or everything for the whole fleet")
    if scope.till is None and (scope.shift is not None or scope.first is not None):
        raise RequestError("a shift and a range need a till: each till numbers for itself")
    if sum((scope.first is not None, scope.everything, scope.day is not None or scope.shift is not None)) > 1:
        raise RequestError("give a range, or everything, or a day and a shift")


def plan(scope: Scope) -> list[Wish]:
    """Return what has to be asked for, till by till; raises RequestError where nothing fits."""
    tills = _tills(scope)
    if not tills:
        raise RequestError(f"no till is known for {scope}: see `tillstream central tills`")
    marks = _newest(scope)
    if scope.first is not None and scope.last is not None:
        return [_range(till, marks.get(till), scope.first, scope.last) for till in tills]
    if scope.everything:
        return [_whole(till, marks.get(till)) for till in tills]
    if scope.day is None and scope.shift is None:
        return [Wish(till) for till in tills]
    stretches: dict[str, list[_Stretch]] = defaultdict(list)
    for till, *stretch in _stretches(scope, tills):
        stretches[till].append(_Stretch(*stretch))
    return [_around(till, marks.get(till), stretches[till], scope) for till in tills]


def leave(scope: Scope, wishes: list[Wish], at_ms: int, note: str) -> list[str]:
    """Leave wishes for a scope, with one audit row; returns the tasks that will bring it, new or already open."""
    audit.record("request", str(scope), note, at_ms)
    there = _open_tasks()
    tasks = [next((task.task_id for task in there[wish.till] if _brings(task, wish)), None) for wish in wishes]
    made = [
        _row(wish, f"op.{uuid4().hex[:12]}", at_ms, note)
        for wish, task in zip(wishes, tasks, strict=True)
        if task is None
    ]
    for start in range(0, len(made), INSERTED_AT_ONCE):
        Task.insert_many(made[start : start + INSERTED_AT_ONCE]).execute()
    names = iter(made)
    return [str(task or next(names)["task_id"]) for task in tasks]


def cancel(task_ids: Collection[str], note: str, at_ms: int) -> list[str]:
    """Take back wishes that no worker has taken up yet, with one audit row; returns those that were.

    A worker that takes one up in that very moment goes on with it: what comes is stored like anything else.
    """
    mine = Task.task_id.in_(list(task_ids)) & Task.worker.is_null() & Task.finished_at_ms.is_null()
    found = [task.task_id for task in Task.select(Task.task_id).where(mine).order_by(Task.task_id)]
    if found:
        taken_back = {"state": "cancelled", "finished_at_ms": at_ms}
        Task.update(taken_back | ({"note": audit.a_note(note)} if note.strip() else {})).where(mine).execute()
        audit.record("cancel", f"{len(found)} wishes: {', '.join(found[:NAMED_MOST])}", note, at_ms)
    return found


def _tills(scope: Scope) -> list[str]:
    query = Till.select(Till.till_id).order_by(Till.till_id)
    if scope.till is not None:
        query = query.where(Till.till_id == scope.till)
    if scope.store is not None:
        is_there = Till.store_id == scope.store
        if scope.day:
            that_day = (Document.business_day == scope.day) & (Document.store_id == scope.store)
            is_there = is_there | Till.till_id.in_(Document.select(Document.till_id).where(that_day))
        query = query.where(is_there)
    return [row.till_id for row in query]


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Where a stream's documents of a day or shift lie: between these numbers, if there are any on either side."""

    stream: str
    before: int | None
    behind: int | None


def _newest(scope: Scope) -> dict[str, Watermark]:
    """Return the watermark of each till's present stream."""
    query = Watermark.select().order_by(Watermark.id)
    chosen = query if scope.till is None else query.where(Watermark.till_id == scope.till)
    return {mark.till_id: mark for mark in chosen}


def _whole(till: str, mark: Watermark | None) -> Wish:
    return Wish(till, Span(mark.stream, 0, mark.through)) if mark and mark.through else Wish(till)


def _range(till: str, mark: Watermark | None, first: int, last: int) -> Wish:
    through = mark.through if mark else 0
    if mark is None or not 1 <= first <= last <= through:
        raise RequestError(
            f"numbers {first}..{last} of till {till}: central has 1..{through}; what is above comes by itself"
        )
    return Wish(till, Span(mark.stream, first - 1, last))


def _stretches(scope: Scope, tills: list[str]) -> Iterator[tuple[Any, ...]]:
    """Look up a day of the whole fleet at once, and of some tills till by till: each has its index."""
    if scope.till is None and scope.store is None:
        yield from rows(_STRETCHES.format(which="business_day = ?"), scope.day)
        return
    for till in tills:
        if scope.shift is None:
            yield from rows(_STRETCHES.format(which="till_id = ? AND business_day = ?"), till, scope.day)
            continue
        first, last = (scope.day, scope.day) if scope.day else _newest_days(till, scope.shift)
        which = "till_id = ? AND shift_number = ? AND business_day BETWEEN ? AND ?"
        yield from rows(_STRETCHES.format(which=which), till, scope.shift, first, last)


def _newest_days(till: str, shift: int) -> tuple[str, str]:
    """Return the days of the newest shift of this number: numbers come again, in a year or every morning."""
    statement = "SELECT max(business_day) FROM document WHERE till_id = ? AND shift_number = ?"
    ((last,),) = rows(statement, till, shift)
    return (day_after(last, -SHIFT_DAYS_MOST), last) if last else ("", "")


def _around(till: str, mark: Watermark | None, stretches: list[_Stretch], scope: Scope) -> Wish:
    """Ask for the numbers of a day or shift and for the holes beside them; without any, for all that is new.

    Some may stand under an older stream, which can no longer be asked: the present one holds whatever is retained.
    """
    if mark is None:
        return Wish(till)
    found = stretches or ([_where_it_was(till, mark.stream, scope.day)] if scope.day and scope.shift is None else [])
    if not found:
        return Wish(till)
    if len(found) > 1 or found[0].stream != mark.stream:
        return _whole(till, mark)
    after = found[0].before or 0
    through = found[0].behind - 1 if found[0].behind else mark.through
    return Wish(till, Span(mark.stream, after, through) if after < through else None)


def _where_it_was(till: str, stream: str, day: str) -> _Stretch:
    """Return the numbers between the documents of earlier and later days: a day may have been lost as a whole."""
    before = rows(_NEAREST.format(side="< ? ORDER BY sequence DESC"), till, stream, 0, day)
    after = before[0][0] if before else 0
    behind = rows(_NEAREST.format(side="> ? ORDER BY sequence"), till, stream, after, day)
    return _Stretch(stream, after, behind[0][0] if behind else None)


def _row(wish: Wish, task_id: str, at_ms: int, note: str) -> dict[str, object]:
    span = wish.span
    return {
        "task_id": task_id,
        "till_id": wish.till,
        "state": "waiting",
        "reason": "operator",
        "created_at_ms": at_ms,
        "note": note,
        "stream": span.stream if span else None,
        "after": span.after if span else None,
        "through": span.through if span else None,
    }


def _open_tasks() -> dict[str, list[Task]]:
    found: dict[str, list[Task]] = defaultdict(list)
    for task in Task.select().where(Task.finished_at_ms.is_null() & (Task.reason == "operator")):
        found[task.till_id].append(task)
    return found


def _brings(task: Task, wish: Wish) -> bool:
    """Say whether an unfinished task brings all of this wish."""
    span = wish.span
    if span is None or task.stream != span.stream:
        return span is None and task.stream is None
    return (task.after or 0) <= span.after and (task.through or 0) >= span.through
