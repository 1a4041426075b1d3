"""Keeps the table ``day``: which store's days are complete, since when, and which were opened again.

The state itself is a function of facts (``days.store_day``); what is kept here is when it changed. A day is looked at
once it is over: when something of it arrived since the last look, and again and again until it is settled.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from . import days
from .completeness import State
from .consumer import Horizon
from .database import Postgres, Sqlite
from .models import MODELS, Day
from .store_clock import ClockError, StoreClock, day_after, store_clock

log = logging.getLogger("tillstream.central")

LOOK_DOCUMENTS = 10_000
"""So many new documents one look takes; the first look goes back so many, for what came before a crash."""

LOOK_AGAIN_DAYS = 35
"""A day that is not settled is looked at for so long; tills retain their documents no longer."""

STORE_TILLS_MOST = 100
"""A store of more tills is only worked out when somebody asks: a look at it would hold up the worker for long."""

_SETTLED: tuple[State, ...] = ("complete", "not expected")
_TILLS = (
    "SELECT till_id FROM till WHERE store_id = ? UNION"
    " SELECT till_id FROM document WHERE business_day = ? AND store_id = ? LIMIT ?"
)
_ARRIVED = (
    "SELECT DISTINCT d.business_day, CASE WHEN d.store_id <> '' THEN d.store_id ELSE t.store_id END"
    " FROM document d JOIN till t ON t.till_id = d.till_id WHERE d.id > ? AND d.id <= ?"
)
_BESIDE = (
    "SELECT DISTINCT d.business_day, CASE WHEN d.store_id <> '' THEN d.store_id ELSE t.store_id END"
    " FROM {table} u JOIN document d ON d.id IN ("
    "(SELECT n.id FROM document n WHERE n.till_id = u.till_id AND n.stream = u.stream"
    " AND n.sequence < u.{first} ORDER BY n.sequence DESC LIMIT 1), "
    "(SELECT n.id FROM document n WHERE n.till_id = u.till_id AND n.stream = u.stream"
    " AND n.sequence > u.{last} ORDER BY n.sequence LIMIT 1))"
    " JOIN till t ON t.till_id = d.till_id WHERE u.id > ? AND u.id <= ?"
)
_LOOKS = {
    "document": _ARRIVED,
    "quarantine": _BESIDE.format(table="quarantine", first="sequence", last="sequence"),
    "gap": _BESIDE.format(table="gap", first="first", last="last"),
}
"""Where new rows come, and of which days they are; one that cannot say its day, of those of the documents beside it."""


@dataclass(frozen=True, slots=True)
class Transition:
    """A day that is in another state than it was at the last look."""

    store_id: str
    business_day: str
    before: str
    state: State

    @property
    def event(self) -> str:
        """Return the word for the log: ``day_complete``, ``day_reopened``, ``day_partial`` and so on."""
        is_reopened = self.before == "complete" and self.state not in _SETTLED
        return "day_reopened" if is_reopened else "day_" + self.state.replace(" ", "_")


class DayNotes:
    """Looks at days and notes what changed; keeps in memory how far it has looked. Used by one thread only."""

    def __init__(self, database: Sqlite | Postgres) -> None:
        self._database = database
        self._seen: dict[str, int] = {}
        self._horizons = {table: Horizon(database, table) for table in _LOOKS}
        self._touched: dict[tuple[str, str], None] = {}
        self._last = ("", "")
        self._large: set[str] = set()

    def note_days(self, now_ms: int, limit: int) -> list[Transition]:
        """Look at so many days at most and return those that changed; a look costs about 0.1 s for 20 tills."""
        with self._database.bind_ctx(MODELS):
            for table, statement in _LOOKS.items():
                self._look(table, statement, now_ms)
            found = [self._judge(key, now_ms) for key in self._due(now_ms, limit)]
            changed = [one for one in found if one.state != one.before]
            with self._database.atomic():
                for one in changed:
                    _write(one, now_ms)
        return changed

    def _look(self, table: str, statement: str, now_ms: int) -> None:
        """Note the days of which something arrived; the rows make sure that a restart forgets none.

        Only up to where no other worker's transaction can still bring an older number: it would never be looked at.
        """
        if not (newest := self._horizons[table].look()):
            return
        after = self._seen.get(table, max(0, newest - LOOK_DOCUMENTS))
        through = min(newest, after + LOOK_DOCUMENTS)
        if through > after:
            arrived = days.rows(statement, after, through)
            opened = [(store_id, day, "open", now_ms) for day, store_id in arrived]
            fields = [Day.store_id, Day.business_day, Day.state, Day.since_ms]
            for start in range(0, len(opened), days.IDS_AT_ONCE):
                some = opened[start : start + days.IDS_AT_ONCE]
                Day.insert_many(some, fields).on_conflict_ignore().execute()
            self._touched.update(dict.fromkeys(arrived))
        self._seen[table] = through

    def _due(self, now_ms: int, limit: int) -> list[tuple[str, str]]:
        """Return what was touched and is over, then the unsettled ones, going on where the last look ended."""
        horizon = day_after(store_clock().day_at(now_ms), -LOOK_AGAIN_DAYS)
        unsettled = Day.select().where(Day.state.not_in(_SETTLED) & (Day.business_day >= horizon))
        keys = sorted((row.business_day, row.store_id) for row in unsettled)
        turned = [key for key in keys if key > self._last] + [key for key in keys if key <= self._last]
        over = dict.fromkeys(_over([*self._touched, *turned], now_ms))
        due = list(islice((key for key in over if not self._is_too_large(*key)), limit))
        rotated = [key for key in due if key not in self._touched]
        self._last = rotated[-1] if rotated else self._last
        self._touched = {key: None for key in self._touched if key in over and key not in due}
        return due

    def _is_too_large(self, day: str, store_id: str) -> bool:
        """Say whether a store has too many tills to be looked at by the way; it is told once."""
        if store_id not in self._large and len(days.rows(_TILLS, store_id, day, store_id, STORE_TILLS_MOST + 1)) > (
            STORE_TILLS_MOST
        ):
            log.warning("store_too_large", extra={"also": {"store": store_id, "tills_most": STORE_TILLS_MOST}})
            self._large.add(store_id)
        return store_id in self._large

    def _judge(self, key: tuple[str, str], now_ms: int) -> Transition:
        day, store_id = key
        before = Day.get((Day.store_id == store_id) & (Day.business_day == day))
        return Transition(store_id, day, before.state, days.store_day(store_id, day, now_ms).state)


def _over(keys: Iterable[tuple[str, str]], now_ms: int) -> Iterator[tuple[str, str]]:
    clocks: dict[str, StoreClock | None] = {}
    for day, store_id in keys:
        if store_id not in clocks:
            clocks[store_id] = _clock(store_id)
        clock = clocks[store_id]
        if clock and clock.ends_at_ms(day) <= now_ms:
            yield day, store_id


def _clock(store_id: str) -> StoreClock | None:
    """Return a store's clock; None, with a word in the log, if this machine has no such time zone: its days wait."""
    try:
        return days.clock_of(store_id)
    except ClockError as problem:
        log.warning("store_clock", extra={"also": {"store": store_id, "error": str(problem)}})
        return None


def _write(one: Transition, now_ms: int) -> None:
    values: dict[str, object] = {"state": one.state, "since_ms": now_ms}
    if one.event == "day_complete":
        values["completed_at_ms"] = now_ms
    if one.event == "day_reopened":
        values["reopened_at_ms"] = now_ms
    same = (Day.store_id == one.store_id) & (Day.business_day == one.business_day)
    Day.update(values).where(same).execute()
