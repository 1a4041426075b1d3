"""Whose turn it is: at most ``parallel`` tills at once, in classes, and rests outside the slot. Pure; seconds.

Within a class the order is first come, first served. A class is served only while no better one waits. At most
``parallel_backlog`` of the slots are for who owes much: what such tills send is taken before a receipt that is closed
just now. Half of these are left free by what is asked for once more, and by whoever did not answer last time: tills
that do not answer must not keep what is new waiting.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field

URGENT, LIVE, BACKLOG, REPEAT = range(4)


@dataclass(slots=True)
class Alarms:
    """A deadline for each till, the earliest first; setting it anew replaces it."""

    _deadlines: dict[str, float] = field(default_factory=dict)
    _heap: list[tuple[float, str]] = field(default_factory=list)

    def set(self, till: str, at: float) -> None:
        """Wake this till at a time."""
        self._deadlines[till] = at
        heapq.heappush(self._heap, (at, till))

    def clear(self, till: str) -> None:
        """Forget this till's deadline."""
        self._deadlines.pop(till, None)

    def due(self, now: float) -> list[str]:
        """Return the tills whose deadline has passed, and forget them."""
        tills = []
        while self._heap and self._heap[0][0] <= now:
            at, till = heapq.heappop(self._heap)
            if self._deadlines.get(till) == at:  # Otherwise it was cleared or set anew since.
                del self._deadlines[till]
                tills.append(till)
        return tills

    def tills(self) -> list[str]:
        """Return whom a deadline is set for, in the order of setting."""
        return list(self._deadlines)

    def next_deadline(self) -> float | None:
        """Return when to look again; it may be early, never late."""
        return self._heap[0][0] if self._heap else None

    def __len__(self) -> int:
        return len(self._deadlines)

    def __contains__(self, till: str) -> bool:
        return till in self._deadlines


@dataclass(slots=True)
class Turns:
    """The queues, the slots and the rests. A till stands in at most one queue, slot or rest at a time."""

    parallel: int
    parallel_backlog: int
    _queues: tuple[deque[tuple[str, int]], ...] = field(default_factory=lambda: (deque(), deque(), deque(), deque()))
    _tickets: dict[str, int] = field(default_factory=dict)
    _last_ticket: int = 0
    _ranks: dict[str, int] = field(default_factory=dict)
    _slow: set[str] = field(default_factory=set)
    """Who has a turn, and owes much or was silent."""
    asked: Alarms = field(default_factory=Alarms)
    resting: Alarms = field(default_factory=Alarms)

    def queue(self, till: str, rank: int) -> None:
        """Put a till at the end of its class, whatever it was doing."""
        self.leave(till)
        self._last_ticket += 1
        self._tickets[till], self._ranks[till] = self._last_ticket, rank
        self._queues[rank].append((till, self._last_ticket))

    def next(self) -> str | None:
        """Return whose turn it is, or None if nobody waits or no slot is free."""
        if len(self.asked) >= self.parallel:
            return None
        for queue in self._queues[: self._worst_served() + 1]:
            while queue:
                till, ticket = queue.popleft()
                if self._tickets.get(till) == ticket:  # A place that was given up is skipped when it comes up.
                    del self._tickets[till]
                    return till
        return None

    def _worst_served(self) -> int:
        slots = min(self.parallel, self.parallel_backlog)
        if self.asked_slow >= slots:
            return LIVE
        return BACKLOG if 2 * self.asked_slow >= slots else REPEAT

    def ask(self, till: str, until: float) -> None:
        """Give a till whose turn it is a slot, for so long at most."""
        self.asked.set(till, until)
        if self._ranks[till] >= BACKLOG:
            self._slow.add(till)

    def timed_out(self, now: float) -> list[str]:
        """Take their slots from those who did not answer in time, and return them."""
        tills = self.asked.due(now)
        self._slow.difference_update(tills)
        return tills

    def leave(self, till: str) -> None:
        """Take a till out of queue, slot and rest."""
        self._tickets.pop(till, None)
        self._ranks.pop(till, None)
        self._slow.discard(till)
        self.asked.clear(till)
        self.resting.clear(till)

    def next_deadline(self) -> float | None:
        """Return when a slot runs out or a rest ends."""
        return min(
            (due for due in (self.asked.next_deadline(), self.resting.next_deadline()) if due is not None), default=None
        )

    @property
    def asked_slow(self) -> int:
        """How many have a turn, and owe much or were silent."""
        return len(self._slow)

    @property
    def waiting(self) -> int:
        """How many tills stand in a queue."""
        return len(self._tickets)
