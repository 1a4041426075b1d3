"""The hours of a day within which waves may go: ``22:00-06:00 Europe/Moscow``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, time, tzinfo

from .store_clock import DEFAULT_TIME_ZONE, ClockError, store_clock

_HOURS = re.compile(r"([0-9]{2}:[0-9]{2})-([0-9]{2}:[0-9]{2})(?: (\S+))?")


@dataclass(frozen=True, slots=True)
class Hours:
    """From ``first`` until before ``last``, over midnight where that is earlier; made by ``parse``."""

    text: str
    first: time
    last: time
    zone: tzinfo

    @classmethod
    def parse(cls, text: str) -> Hours | None:
        """Return what a text says; None if it says nothing. Raises ClockError."""
        if not text:
            return None
        found = _HOURS.fullmatch(text)
        if not found or found[1] == found[2]:
            raise ClockError(f"hours are written HH:MM-HH:MM and a time zone, such as 22:00-06:00 UTC; not {text!r}")
        first, last = (store_clock(found[3] or DEFAULT_TIME_ZONE, one) for one in found.group(1, 2))
        return cls(text, first.cut_off, last.cut_off, first.zone)

    def include(self, at_ms: int) -> bool:
        """Say whether a moment lies within them."""
        now = datetime.fromtimestamp(at_ms / 1000, self.zone).time()
        if self.first < self.last:
            return self.first <= now < self.last
        return now >= self.first or now < self.last

    def __str__(self) -> str:
        return self.text
