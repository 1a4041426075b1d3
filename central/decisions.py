"""What people decide about tills and stores: parked, approved, a store's clock. Each decision leaves one audit row.

Deciding the same again changes nothing and writes nothing. Models must be bound in a transaction (``reports.writing``).
"""

from __future__ import annotations

from typing import Any

from . import audit
from .models import Gap, StoreRow, Till
from .store_clock import DEFAULT_CUT_OFF, DEFAULT_TIME_ZONE, store_clock

STORE_ID_MAX = 64


class DecisionError(ValueError):
    """Nothing of the kind can be decided; the text says why and what is needed."""


class NotThereError(DecisionError):
    """There is no such thing to decide about."""


def park(till_id: str, note: str, at_ms: int) -> bool:
    """Say that a till is not expected to report, and why; False if it was parked already."""
    if not note.strip():
        raise DecisionError("parking needs a note: why is the till not expected to report?")
    if _till(till_id).parked_at_ms is not None:
        return False
    _decide(till_id, "park", note, at_ms, parked_at_ms=at_ms, parked_note=audit.a_note(note))
    return True


def unpark(till_id: str, note: str, at_ms: int) -> bool:
    """Expect a till again; False if it was not parked."""
    if _till(till_id).parked_at_ms is None:
        return False
    _decide(till_id, "unpark", note, at_ms, parked_at_ms=None, parked_note="")
    return True


def approve(till_id: str, note: str, at_ms: int) -> bool:
    """Let central ask a till for its sales; False if it was approved already."""
    if _till(till_id).is_approved:
        return False
    _decide(till_id, "approve", note, at_ms, is_approved=True)
    return True


def close_gap(number: int, note: str, at_ms: int) -> bool:
    """Say that what a gap lacks will not come, and why that is known; False if it was closed already."""
    if not note.strip():
        raise DecisionError("this needs a note: how is it known, and by whom?")
    found = Gap.get_or_none(Gap.id == number)
    if found is None:
        raise NotThereError(f"there is no number {number} there")
    if found.closed_at_ms is not None:
        return False
    Gap.update(closed_at_ms=at_ms, note=audit.a_note(note)).where(Gap.id == number).execute()
    audit.record("close gap", f"{number}, till {found.till_id}", note, at_ms)
    return True


def set_store_clock(store_id: str, time_zone: str | None, day_cut_off: str | None, at_ms: int, note: str = "") -> bool:
    """Set when a store's business day ends; None leaves a part as it is. False if nothing changed.

    Raises ClockError that names the field.
    """
    if len(store_id) > STORE_ID_MAX:
        raise DecisionError(f"a store id has at most {STORE_ID_MAX} characters, this one has {len(store_id)}")
    there = StoreRow.get_or_none(StoreRow.store_id == store_id)
    before = (there.time_zone, there.day_cut_off) if there else (DEFAULT_TIME_ZONE, DEFAULT_CUT_OFF)
    after = (time_zone or before[0], day_cut_off or before[1])
    store_clock(*after)
    if there and after == before:
        return False
    values = {"time_zone": after[0], "day_cut_off": after[1]}
    insert = StoreRow.insert(store_id=store_id, **values)
    insert.on_conflict(conflict_target=[StoreRow.store_id], update=values).execute()
    audit.record("set_store_clock", f"store {store_id}: {after[0]}, day ends at {after[1]}", note, at_ms)
    return True


def store_clocks() -> list[dict[str, Any]]:
    """Return the stores whose clock was set."""
    query: Any = StoreRow.select().order_by(StoreRow.store_id).dicts()
    return list(query)


def _till(till_id: str) -> Till:
    found: Till | None = Till.get_or_none(Till.till_id == till_id)
    if found is None:
        raise NotThereError(f"no till named {till_id} has ever connected; see: tillstream central tills")
    return found


def _decide(till_id: str, action: str, note: str, at_ms: int, **fields: object) -> None:
    Till.update(**fields).where(Till.till_id == till_id).execute()
    audit.record(action, f"till {till_id}", note, at_ms)
