"""Gathers from the database what ``completeness`` judges a business day by. Reads only; models must be bound.

A few statements a till, whatever it sold: the numbers of a stream are compared by the database, on its index, and
documents' bytes are read only of shifts that were closed. The SQL is plain: window functions, no dialect.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import peewee as pw

from wire.documents import RECEIPT_TYPES

from .completeness import DayFacts, Head, Missing, ShiftFacts, StoreDay, TillFacts, judge_store_day, lies_on
from .models import Document, HeardHead, StoreRow, Till, Watermark
from .shift_sums import (
    MONEY_TYPES,
    Header,
    ShiftDocuments,
    ShiftSums,
    decode_counted,
    differences,
    shift_documents,
)
from .store_clock import StoreClock, day_after, store_clock

SHIFT_DAYS_MOST = 3
"""How many days before and behind its own a shift's opening or close is looked for: a weekend."""

IDS_AT_ONCE = 500
"""So many values one statement is given."""
HOLES_MOST = 1_000
"""So many holes of one stream are listed for one day."""

_HEADER = (
    "SELECT d.id, d.till_id, d.stream, d.sequence, d.transaction_type, d.business_day, d.shift_number,"
    " d.receipt_number, d.currency, d.total_minor, d.is_training, d.received_at_ms,"
    " CASE WHEN d.transaction_type = 'shift_close' THEN d.body END"
    " FROM document d JOIN till t ON t.till_id = d.till_id WHERE d.business_day IN ({days}) AND "
)
_ITS_OWN = "d.store_id = ? AND (d.store_id <> '' OR t.store_id = '')"
_BY_ITS_TILL = "d.store_id = '' AND t.store_id = ? AND t.store_id <> ''"
"""A document that names no store is of the store that its till shows itself in."""

_HOMES = (
    "SELECT till_id FROM (SELECT t.till_id, CASE WHEN t.store_id <> '' THEN t.store_id ELSE coalesce("
    "(SELECT d.store_id FROM document d WHERE d.till_id = t.till_id AND d.stream = (SELECT w.stream"
    " FROM watermark w WHERE w.till_id = t.till_id ORDER BY w.id DESC LIMIT 1) ORDER BY d.sequence DESC LIMIT 1),"
    " '') END AS home"
    " FROM till t WHERE t.store_id = ? OR t.store_id = '') AS homes WHERE home = ?"
)
"""A till that shows itself in no store is at home where its newest document is from."""

_NOWHERE = (
    "SELECT d.id FROM document d JOIN till t ON t.till_id = d.till_id"
    " WHERE d.business_day = ? AND d.store_id = '' AND t.store_id = '' LIMIT 1"
)

_NUMBERED = ("document", "quarantine", "held_before")
_BESIDE = (
    "(SELECT {end}(n.sequence) FROM {table} n WHERE n.till_id = w.till_id AND n.stream = w.stream"
    " AND n.sequence {to} ?)"
)
_EDGES = (
    "SELECT w.through, "
    + ", ".join(_BESIDE.format(end="max", table=table, to="<") for table in _NUMBERED)
    + ", "
    + ", ".join(_BESIDE.format(end="min", table=table, to=">") for table in _NUMBERED)
    + " FROM watermark w WHERE w.till_id = ? AND w.stream = ?"
)
_DAY_BEFORE = (
    "(SELECT d.business_day FROM document d WHERE d.till_id = {of}till_id AND d.stream = {of}stream"
    " AND d.sequence < {number} ORDER BY d.sequence DESC LIMIT 1)"
)
_DAY_BEHIND = (
    "(SELECT d.business_day FROM document d WHERE d.till_id = {of}till_id AND d.stream = {of}stream"
    " AND d.sequence > {number} ORDER BY d.sequence LIMIT 1)"
)
_HOLES = (
    "WITH numbers AS (SELECT CAST(? AS BIGINT) AS sequence UNION SELECT CAST(? AS BIGINT)"
    + "".join(
        f" UNION SELECT sequence FROM {table} WHERE till_id = ? AND stream = ? AND sequence > ? AND sequence < ?"
        for table in _NUMBERED
    )
    + "), edges AS (SELECT sequence + 1 AS first, LEAD(sequence) OVER (ORDER BY sequence) - 1 AS last FROM numbers)"
    " SELECT e.first, e.last, w.opened_at_ms, w.moved_at_ms, "
    + _DAY_BEFORE.format(of="w.", number="e.first")
    + ", "
    + _DAY_BEHIND.format(of="w.", number="e.last")
    + " FROM edges e, watermark w WHERE e.last >= e.first AND w.till_id = ? AND w.stream = ? ORDER BY e.first LIMIT ?"
)
_UNSEEN = (
    "SELECT u.till_id, u.stream, u.kind, u.first, u.last, u.code, u.reason, u.seen_at_ms,"
    " (SELECT w.opened_at_ms FROM watermark w WHERE w.till_id = u.till_id AND w.stream = u.stream), "
    + _DAY_BEFORE.format(of="u.", number="u.first")
    + ", "
    + _DAY_BEHIND.format(of="u.", number="u.last")
    + " FROM (SELECT till_id, stream, 'gap' AS kind, first, last, '' AS code, reason, found_at_ms AS seen_at_ms"
    " FROM gap WHERE closed_at_ms IS NULL UNION ALL"
    " SELECT till_id, stream, 'quarantined', sequence, sequence, code, reason, received_at_ms FROM quarantine q"
    " WHERE q.discarded_at_ms IS NULL AND (q.code = 'conflict' OR NOT EXISTS (SELECT 1 FROM document s"
    " WHERE s.till_id = q.till_id AND s.document_id = q.document_id))) AS u"
    " WHERE u.till_id IN ({tills}) ORDER BY u.till_id, u.stream, u.first"
)
"""Gaps that nobody closed; quarantine that nobody discarded, less what came again under its id and was accepted."""


# -- A store's day -----------------------------------------------------------------------------------------------------


def store_day(store_id: str, day: str, now_ms: int, only: str | None = None) -> StoreDay:
    """Judge a store's business day by what is stored now; ``only`` narrows it to one till."""
    with _database().atomic():  # One view of everything, whatever a worker commits meanwhile.
        clock = clock_of(store_id)
        facts = DayFacts(store_id, day, clock.ends_at_ms(day), now_ms)
        return judge_store_day(facts, _gather(store_id, day, clock, only))


def clock_of(store_id: str) -> StoreClock:
    """Return when the store's days end; UTC and midnight unless set."""
    row = StoreRow.get_or_none(StoreRow.store_id == store_id)
    return store_clock(row.time_zone, row.day_cut_off) if row else store_clock()


def known_days(most: int) -> list[str]:
    """Return the newest business days that have documents, newest first."""
    days: list[str] = []
    while len(days) < most:
        ((day,),) = rows("SELECT max(business_day) FROM document WHERE business_day < ?", days[-1] if days else "a")
        if day is None:
            break
        days.append(day)
    return days


def stores_on(day: str) -> list[str]:
    """Return the stores that have tills, or documents of this day."""
    stores = {row.store_id for row in Till.select(Till.store_id).distinct() if row.store_id}
    last = ""
    while True:
        statement = "SELECT min(store_id) FROM document WHERE business_day = ? AND store_id > ?"
        ((store,),) = rows(statement, day, last)
        if store is None:
            break
        stores.add(last := store)
    return ([""] if rows(_HOMES, "", "") or rows(_NOWHERE, day) else []) + sorted(stores)


def _gather(store_id: str, day: str, clock: StoreClock, only: str | None) -> Iterator[TillFacts]:
    documents: dict[str, list[Header]] = defaultdict(list)
    for one in _documents(store_id, [day]):
        if only in (None, one.till_id):
            documents[one.till_id].append(one)
    at_home = {till_id for (till_id,) in rows(_HOMES, store_id, store_id) if only in (None, till_id)}
    tills = sorted(at_home | documents.keys())
    known = _Known(tills, day, clock)
    around = _around(store_id, day, documents)
    for till in known.tills:
        own = documents.get(till.till_id, [])
        yield known.facts(till, own, [*own, *around.get(till.till_id, ())])


def _documents(store_id: str, days: Sequence[str], narrower: str = "", *values: object) -> list[Header]:
    select = _HEADER.format(days=_places(days))
    statement = f"{select}{_ITS_OWN}{narrower} UNION ALL {select}{_BY_ITS_TILL}{narrower}"
    once = (*days, store_id, *values)
    return [Header(*[*row[:-1], _said(row[-1])]) for row in rows(statement, *once, *once)]


def _said(body: Any) -> Any:
    return decode_counted(bytes(body)).shift if body is not None else None


def _around(store_id: str, day: str, documents: dict[str, list[Header]]) -> dict[str, list[Header]]:
    """Return the documents, on the days around, of shifts that were not both opened and closed on this day."""
    before, behind = set(), set()
    for till_id, own in documents.items():
        numbers = set(_shift_numbers(own))
        opened, closed = (
            {one.shift_number for one in own if one.kind == kind} for kind in ("shift_open", "shift_close")
        )
        before |= {(till_id, number) for number in numbers - opened}
        behind |= {(till_id, number) for number in numbers - closed}
    days = [day_after(day, -n) for n in range(1, SHIFT_DAYS_MOST + 1)] if before else []
    days += [day_after(day, n) for n in range(1, SHIFT_DAYS_MOST + 1)] if behind else []
    wanted = before | behind
    found: dict[str, list[Header]] = defaultdict(list)
    for some in _chunks(sorted({number for _, number in wanted})):
        narrower = f" AND d.shift_number IN ({_places(some)})"
        for one in _documents(store_id, days, narrower, *some):
            if (one.till_id, one.shift_number) in wanted:
                found[one.till_id].append(one)
    return found


def _shift_numbers(documents: Iterable[Header]) -> Iterator[int]:
    return (one.shift_number for one in documents if one.shift_number is not None)


# -- One till ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Unseen:
    missing: Missing
    seen_at_ms: int
    opened_at_ms: int | None
    day_before: str | None
    day_behind: str | None


class _Known:
    """What is asked once for all tills of a store, and then till by till."""

    def __init__(self, tills: Sequence[str], day: str, clock: StoreClock) -> None:
        self.day, self._clock = day, clock
        self.tills: list[Till] = []
        self._marks: dict[str, list[Watermark]] = defaultdict(list)
        self._heads: dict[str, list[HeardHead]] = defaultdict(list)
        self._unseen: dict[str, list[_Unseen]] = defaultdict(list)
        for some in _chunks(tills):
            self.tills.extend(Till.select().where(Till.till_id.in_(some)).order_by(Till.till_id))
            for mark in Watermark.select().where(Watermark.till_id.in_(some)).order_by(Watermark.id):
                self._marks[mark.till_id].append(mark)
            for head in HeardHead.select().where(HeardHead.till_id.in_(some)).order_by(HeardHead.id):
                self._heads[head.till_id].append(head)
            for till_id, stream, kind, first, last, code, reason, seen, opened, before, behind in rows(
                _UNSEEN.format(tills=_places(some)), *some
            ):
                missing = Missing(kind, first, last, stream, code=code, reason=reason)
                self._unseen[till_id].append(_Unseen(missing, seen, opened, before, behind))

    def facts(self, till: Till, own: list[Header], around: list[Header]) -> TillFacts:
        """Return one till's facts; ``around`` has its documents of the day and of the shifts that reach beyond it."""
        marks = self._marks[till.till_id]
        through = {mark.stream: mark.through for mark in marks}
        unseen = [*self._holes(till.till_id, own, marks), *self._unseen[till.till_id]]
        numbers = sorted(set(_shift_numbers(own)))
        return TillFacts(
            till.till_id,
            till.first_seen_ms,
            bool(till.is_approved),
            till.parked_at_ms,
            till.parked_note,
            max((mark.verified_at_ms for mark in marks if mark.verified_at_ms is not None), default=None),
            marks[-1].moved_at_ms or marks[-1].opened_at_ms if marks else None,
            tuple(
                Head(one.stream, through.get(one.stream, 0), one.newest, one.heard_at_ms)
                for one in self._heads[till.till_id]
            ),
            len(own),
            max((one.received_at_ms for one in own), default=None),
            tuple(one.missing for one in unseen if self._may_be_of_the_day(one)),
            tuple(_shift(shift_documents(number, self.day, around)) for number in numbers),
            sum(one.shift_number is None and one.kind in MONEY_TYPES and not one.is_training for one in own),
            _totals(own),
        )

    def _may_be_of_the_day(self, one: _Unseen) -> bool:
        opened_at_ms = one.seen_at_ms if one.opened_at_ms is None else one.opened_at_ms
        opened_on, seen_on = self._clock.day_at(opened_at_ms), self._clock.day_at(one.seen_at_ms)
        return lies_on(self.day, one.day_before, one.day_behind, opened_on, seen_on)

    def _holes(self, till_id: str, own: list[Header], marks: list[Watermark]) -> Iterator[_Unseen]:
        """Look at the numbers that the day's documents have in each stream, and at those right beside them.

        Of a stream without documents that day every number is looked at, unless it ended before: a day may have gone
        as a whole.
        """
        numbers: dict[str, list[int]] = defaultdict(list)
        for one in own:
            numbers[one.stream].append(one.sequence)
        for mark in marks:
            if mark.stream not in numbers and self._clock.day_at(mark.moved_at_ms or mark.opened_at_ms) >= self.day:
                yield from _holes_between(till_id, mark.stream, 0, mark.through + 1)
        for stream, there in numbers.items():
            low, high = _edges(till_id, stream, min(there), max(there))
            if high - low - 1 > len(there):
                yield from _holes_between(till_id, stream, low, high)


def _edges(till_id: str, stream: str, first: int, last: int) -> tuple[int, int]:
    """Return the nearest numbers outside the day's that stand somewhere: 0 and one above the watermark always do."""
    for through, *beside in rows(_EDGES, *[first] * len(_NUMBERED), *[last] * len(_NUMBERED), till_id, stream):
        below, above = beside[: len(_NUMBERED)], beside[len(_NUMBERED) :]
        low = max((number for number in below if number is not None), default=0)
        return low, min((number for number in above if number is not None), default=max(through, last) + 1)
    return first - 1, last + 1


def _holes_between(till_id: str, stream: str, low: int, high: int) -> Iterator[_Unseen]:
    spans = (till_id, stream, low, high) * len(_NUMBERED)
    for first, last, opened, moved, before, behind in rows(_HOLES, low, high, *spans, till_id, stream, HOLES_MOST):
        yield _Unseen(Missing("sequence", first, last, stream), moved or opened, opened, before, behind)


# -- Its shifts and sums -----------------------------------------------------------------------------------------------


def _shift(documents: ShiftDocuments) -> ShiftFacts:
    spans: dict[str, list[int]] = defaultdict(list)
    for one in (*documents.members, *documents.closes):
        spans[one.stream].append(one.sequence)
    said = documents.closes[0].shift if len(documents.closes) == 1 else None
    return ShiftFacts(
        documents.number,
        len(documents.members) + len(documents.closes),
        len(documents.closes),
        said,
        frozenset(one.receipt_number for one in documents.members if one.receipt_number is not None),
        differences(said, _add_up(documents)) if said else None,
        tuple((stream, min(numbers), max(numbers)) for stream, numbers in spans.items()),
    )


def _add_up(documents: ShiftDocuments) -> ShiftSums:
    sums = ShiftSums()
    for ids in _chunks([one.id for one in documents.members]):
        for (body,) in rows(f"SELECT body FROM document WHERE id IN ({_places(ids)})", *ids):
            sums.add(decode_counted(bytes(body)))
    return sums


def _totals(own: Iterable[Header]) -> tuple[tuple[str, str, int], ...]:
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for one in own:
        if one.kind in RECEIPT_TYPES and not one.is_training:
            sums[one.currency, one.kind] += one.total_minor or 0
    return tuple((currency, kind, amount_minor) for (currency, kind), amount_minor in sorted(sums.items()))


# -- Statements --------------------------------------------------------------------------------------------------------


def rows(statement: str, *values: object) -> list[tuple[Any, ...]]:
    """Run a statement that has ``?`` where a value goes, whatever the database itself writes there."""
    database = _database()
    return list(database.execute_sql(statement.replace("?", database.param), values).fetchall())


def _database() -> pw.Database:
    found: pw.Database = Document._meta.database  # noqa: SLF001 -- peewee's documented way to a model's database
    return found


def _places(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def _chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), IDS_AT_ONCE):
        yield values[start : start + IDS_AT_ONCE]
