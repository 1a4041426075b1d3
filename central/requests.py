"""What people ask tills for: all that is new, or a range, a shift, a day or everything once more.

A wish is a task row without a worker; the worker finds it within a second. Asking twice is harmless: a wish that an
unfinished one covers is not made again, and what is sent twice is known by its (till, document_id).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast
from uuid import uuid4

import peewee as pw

from . import audit
from .batch import Span
from .models import Document, Task, Till, Watermark


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
        words = [f"{name} {value}" for name, value in (("till", self.till), ("store", self.store), ("day", self.day))]
        words += [f"shift {self.shift}", f"numbers {self.first}..{self.last}"]
        return ", ".join(word for word in words if "None" not in word) + (", everything" if self.everything else "")


@dataclass(frozen=True, slots=True)
class Wish:
    """An upload to be asked for; without a span, all that is new."""

    till: str
    span: Span | None = None


def plan(scope: Scope) -> list[Wish]:
    """Return what has to be asked for, till by till; raises RequestError where nothing fits."""
    tills = _tills(scope)
    if not tills:
        raise RequestError(f"no till is known for {scope}: see `tillstream central tills`")
    if scope.first is not None and scope.last is not None:
        return [_range(till, scope.first, scope.last) for till in tills]
    if scope.everything:
        return [_whole(till) for till in tills]
    if scope.day is None and scope.shift is None:
        return [Wish(till) for till in tills]
    return [_around(till, scope) for till in tills]


def wish(scope: Scope, at_ms: int, note: str) -> list[str]:
    """Leave wishes for a scope, with one audit row; returns the tasks that will bring it, new or already open."""
    wishes = plan(scope)
    audit.record("request", str(scope), note, at_ms)
    return [_leave(one, at_ms, note) for one in wishes]


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


def _newest(till: str) -> Watermark | None:
    found: Watermark | None = Watermark.select().where(Watermark.till_id == till).order_by(Watermark.id.desc()).first()
    return found


def _whole(till: str) -> Wish:
    mark = _newest(till)
    return Wish(till, Span(mark.stream, 0, mark.through)) if mark and mark.through else Wish(till)


def _range(till: str, first: int, last: int) -> Wish:
    mark = _newest(till)
    through = mark.through if mark else 0
    if mark is None or not 1 <= first <= last <= through:
        raise RequestError(
            f"numbers {first}..{last} of till {till}: central has 1..{through}; what is above comes by itself"
        )
    return Wish(till, Span(mark.stream, first - 1, last))


def _around(till: str, scope: Scope) -> Wish:
    """Ask for the numbers of a day or shift and for the holes beside them; without any, for all that is new.

    Some may stand under an older stream, which can no longer be asked: the present one holds whatever is retained.
    """
    query = Document.select(Document.stream, pw.fn.MIN(Document.sequence), pw.fn.MAX(Document.sequence))
    query = query.where(Document.till_id == till).group_by(Document.stream)
    query = query.where(Document.business_day == scope.day) if scope.day else query
    query = query.where(Document.shift_number == scope.shift) if scope.shift is not None else query
    found, mark = cast("list[tuple[str, int, int]]", list(query.tuples())), _newest(till)
    if mark is None or not found:
        return Wish(till)
    if len(found) > 1 or found[0][0] != mark.stream:
        return _whole(till)
    _, lowest, highest = found[0]
    same = (Document.till_id == till) & (Document.stream == mark.stream)
    before = Document.select(pw.fn.MAX(Document.sequence)).where(same & (Document.sequence < lowest)).scalar()
    behind = Document.select(pw.fn.MIN(Document.sequence)).where(same & (Document.sequence > highest)).scalar()
    return Wish(till, Span(mark.stream, before or 0, behind - 1 if behind else mark.through))


def _leave(wish: Wish, at_ms: int, note: str) -> str:
    if there := _open_one(wish):
        return there
    task_id = f"op.{uuid4().hex[:12]}"
    span = wish.span
    Task.create(
        task_id=task_id,
        till_id=wish.till,
        state="waiting",
        reason="operator",
        created_at_ms=at_ms,
        note=note,
        stream=span.stream if span else None,
        after=span.after if span else None,
        through=span.through if span else None,
    )
    return task_id


def _open_one(wish: Wish) -> str | None:
    """Return the unfinished task that brings all of this wish, if there is one."""
    mine = Task.finished_at_ms.is_null() & (Task.till_id == wish.till) & (Task.reason == "operator")
    open_tasks: Iterable[Task] = Task.select().where(mine)
    for task in open_tasks:
        if wish.span is None and task.stream is None:
            return str(task.task_id)
        if wish.span and task.stream == wish.span.stream and _covers(task, wish.span):
            return str(task.task_id)
    return None


def _covers(task: Task, span: Span) -> bool:
    return (task.after or 0) <= span.after and (task.through or 0) >= span.through
