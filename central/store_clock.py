"""When a store's business day ends: its time zone and the time at which a day is cut off.

Business day D ends on the next date at ``day_cut_off`` in the store's time zone, whatever time zone a till believes in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DEFAULT_TIME_ZONE, DEFAULT_CUT_OFF = "UTC", "00:00"
_CUT_OFF = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]")
_LAST_DAY = date.max - timedelta(days=2)


class ClockError(ValueError):
    """A time zone, a cut-off or a day that cannot be; the text names the field and what would be right."""


@dataclass(frozen=True, slots=True)
class StoreClock:
    """One store's clock; made by ``store_clock``, which checks it."""

    time_zone: str
    day_cut_off: str
    zone: tzinfo
    cut_off: time

    def ends_at_ms(self, day: str) -> int:
        """Return when this business day is over, in epoch milliseconds; of a cut-off that comes twice, the later."""
        next_date = min(date.fromisoformat(day), _LAST_DAY) + timedelta(days=1)
        ends = [datetime.combine(next_date, self.cut_off.replace(fold=fold), self.zone) for fold in (0, 1)]
        return round(max(end.timestamp() for end in ends) * 1000)

    def day_at(self, at_ms: int) -> str:
        """Return the business day that was open at this time."""
        day = datetime.fromtimestamp(at_ms / 1000, self.zone).date().isoformat()
        before = day_after(day, -1)
        return before if at_ms < self.ends_at_ms(before) else day


def store_clock(time_zone: str = DEFAULT_TIME_ZONE, day_cut_off: str = DEFAULT_CUT_OFF) -> StoreClock:
    """Return a store's clock; raises ClockError."""
    if not _CUT_OFF.fullmatch(day_cut_off):
        raise ClockError(f"day_cut_off must be HH:MM from 00:00 to 23:59, such as 05:00; not {day_cut_off!r}")
    hour, minute = map(int, day_cut_off.split(":"))
    return StoreClock(time_zone, day_cut_off, _zone(time_zone), time(hour, minute))


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC  # Known without a file: a machine may have no time zones installed.
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as problem:
        text = f"time_zone must be a name of the IANA database, such as Europe/Moscow; not {name!r}"
        raise ClockError(text) from problem


def a_day(text: str) -> str:
    """Return a business day as it is written in documents; raises ClockError."""
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError as problem:
        raise ClockError(f"a business day is written YYYY-MM-DD, such as 2026-03-01; not {text!r}") from problem


def day_after(day: str, days: int = 1) -> str:
    """Return the date so many days later, earlier if negative; the calendar's ends stay its ends."""
    ordinal = date.fromisoformat(day).toordinal() + days
    return date.fromordinal(min(max(ordinal, 1), _LAST_DAY.toordinal())).isoformat()


def days_between(first: str, last: str) -> list[str]:
    """Return the dates from first to last."""
    start, end = date.fromisoformat(first).toordinal(), date.fromisoformat(last).toordinal()
    return [date.fromordinal(ordinal).isoformat() for ordinal in range(start, end + 1)]
