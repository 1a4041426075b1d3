"""One quiet period per till, never longer than a cap. Pure; ``now`` and all waits are in seconds.

Without the cap a busy till could put its upload off for ever.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Ringing:
    first_at: float
    due_at: float
    is_urgent: bool = False


@dataclass(slots=True)
class Debounce:
    """Who rang, and when each has been quiet for long enough."""

    quiet_s: float
    max_wait_s: float
    _ringing: dict[str, _Ringing] = field(default_factory=dict)
    _due: list[tuple[float, str]] = field(default_factory=list)

    def ring(self, till: str, now: float, *, urgent: bool = False) -> None:
        """Note a ring: due once quiet, at latest ``max_wait_s`` after the first; an urgent one at once."""
        ringing = self._ringing.get(till)
        if ringing is None:
            ringing = self._ringing[till] = _Ringing(first_at=now, due_at=now + self.quiet_s)
            heapq.heappush(self._due, (ringing.due_at, till))
        if urgent and not ringing.is_urgent:
            ringing.is_urgent, ringing.due_at = True, now
            heapq.heappush(self._due, (now, till))
        elif not ringing.is_urgent:  # What was urgent stays due: a receipt closed after the shift must not put it off.
            ringing.due_at = min(now + self.quiet_s, ringing.first_at + self.max_wait_s)

    def cancel(self, till: str) -> None:
        """Forget a till's rings: what it rang for is here."""
        self._ringing.pop(till, None)

    def due(self, now: float) -> list[str]:
        """Return the tills that are due, and forget their rings."""
        tills = []
        while self._due and self._due[0][0] <= now:
            _, till = heapq.heappop(self._due)
            ringing = self._ringing.get(till)
            if ringing is None:
                continue
            if ringing.due_at <= now:
                del self._ringing[till]
                tills.append(till)
            else:  # It rang again meanwhile: each till has one entry, which is put back when it comes up.
                heapq.heappush(self._due, (ringing.due_at, till))
        return tills

    def next_deadline(self) -> float | None:
        """Return when to look again; it may be early, never late."""
        return self._due[0][0] if self._due else None
