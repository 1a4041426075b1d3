"""A business day as programs read it: what the commands print as JSON and the REST API answers."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from . import days as business_days
from .completeness import ShiftFound, StoreDay, TillDay
from .models import Day
from .service import wall_clock_ms

Row = dict[str, Any]


class AskError(ValueError):
    """Nothing can be shown for what was asked; the text says why."""


def day_row(day: StoreDay) -> Row:
    """Return a store's day with its figures; what a till is not expected to bring does not count."""
    noted = Day.get_or_none((Day.store_id == day.store_id) & (Day.business_day == day.business_day))
    return {
        "store_id": day.store_id,
        "business_day": day.business_day,
        "state": day.state,
        "is_over": day.is_over,
        "ends_at_ms": day.ends_at_ms,
        "tills_complete": sum(till.state == "complete" for till in day.tills),
        "tills": len(day.expected),
        "tills_not_expected": len(day.tills) - len(day.expected),
        "documents": sum(till.documents for till in day.tills),
        "missing": day.missing_count,
        "totals_minor": day.totals_minor,
        "completed_at_ms": noted.completed_at_ms if noted else None,
        "reopened_at_ms": noted.reopened_at_ms if noted else None,
    }


def explained(day: str, store: str, till: str | None) -> tuple[StoreDay, Row]:
    """Judge a day of a store, or of one of its tills; raises AskError where nothing is known."""
    found = business_days.store_day(store, day, wall_clock_ms(), till)
    if not found.tills:
        who = f"till {till}" if till else "any till"
        raise AskError(f"nothing is known of {who} in store {store!r} on {day}; see: tillstream central days")
    return found, day_row(found)


def till_row(till: TillDay) -> Row:
    """Return a till's day: its proofs, what is missing, and what to do."""
    return {
        "till_id": till.till_id,
        "state": till.state,
        "proofs": asdict(till.proofs),
        "documents": till.documents,
        "missing_at_least": till.missing_count,
        "missing": [asdict(one) | {"count": one.count} for one in till.missing],
        "shifts": [_shift_row(one) for one in till.shifts],
        "notes": till.notes,
        "next": till.next_steps,
    }


def _shift_row(shift: ShiftFound) -> Row:
    different = [
        asdict(one) | {"difference_count": one.difference_count, "difference_minor": one.difference_minor}
        for one in shift.differences
    ]
    return asdict(shift) | {"differences": different}
