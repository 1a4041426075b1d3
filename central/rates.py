"""How much one till may say before it is heard more slowly: none may keep the others waiting. Pure; ``now`` in seconds.

What only the newest of counts (doorbells, presences) is held back, the newest in the place of the one before, and
handed out when there is room: it is never lost. Other things are let go: whoever sent them is asked again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from .turns import Alarms

Item = TypeVar("Item")

HOUR_S = 3600.0
TELL_AGAIN_S = 60.0


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float
    told_at: float = -TELL_AGAIN_S


class Rates(Generic[Item]):
    """A bucket for each key (a topic: one till and what it says): ``burst`` at once, then ``per_s``."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s, self._burst = per_s, float(burst)
        self._buckets: dict[str, _Bucket] = {}
        self._held: dict[str, Item] = {}
        self._alarms = Alarms()
        self.over = 0
        """How many there was no room for."""

    def takes(self, key: str, now: float) -> bool:
        """Say whether there is room for one more, and count it; an older one that was held back is past then."""
        bucket = self._filled(key, now)
        if bucket.tokens < 1:
            self.over += 1
            return False
        bucket.tokens -= 1
        self._forget(key)
        return True

    def hold(self, key: str, item: Item) -> None:
        """Keep what there was no room for, in the place of the one before, until there is room."""
        self._held[key] = item
        if key not in self._alarms:
            bucket = self._buckets[key]
            self._alarms.set(key, bucket.at + (1 - bucket.tokens) / self._per_s)

    def due(self, now: float) -> list[Item]:
        """Return what was held back and has room now, and count it."""
        items = []
        for key in self._alarms.due(now):
            item = self._held.pop(key)
            self._filled(key, now).tokens -= 1
            items.append(item)
        return items

    def give(self, key: str) -> None:
        """Take back what was counted: it was worth it."""
        if bucket := self._buckets.get(key):
            bucket.tokens = min(self._burst, bucket.tokens + 1)

    def is_news(self, key: str, now: float) -> bool:
        """Say whether it is time to tell of a key that there is no room for: once a minute, or the log is flooded."""
        bucket = self._buckets[key]
        if now < bucket.told_at + TELL_AGAIN_S:
            return False
        bucket.told_at = now
        return True

    def next_deadline(self) -> float:
        """Return when there is room for something that was held back; it may be early, never late."""
        at = self._alarms.next_deadline()
        return float("inf") if at is None else at

    def _filled(self, key: str, now: float) -> _Bucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(self._burst, now)
        bucket.tokens = min(self._burst, bucket.tokens + max(0.0, now - bucket.at) * self._per_s)
        bucket.at = now
        return bucket

    def _forget(self, key: str) -> None:
        if self._held.pop(key, None) is not None:
            self._alarms.clear(key)


class Hourly:
    """At most ``most`` of something for each till in any hour; who had no room is named once there is some."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._times: dict[str, deque[float]] = {}
        self._waiting = Alarms()

    def takes(self, till: str, now: float) -> bool:
        """Say whether there is room for one more, and count it."""
        times = self._times.setdefault(till, deque(maxlen=self._most))
        if len(times) == self._most and now < times[0] + HOUR_S:
            if till not in self._waiting:
                self._waiting.set(till, times[0] + HOUR_S)
            return False
        times.append(now)
        self._waiting.clear(till)
        return True

    def give(self, till: str) -> None:
        """Take back what was counted last: nothing came of it."""
        self._times[till].pop()

    def due(self, now: float) -> list[str]:
        """Return the tills that had no room and have some now."""
        return self._waiting.due(now)

    def next_deadline(self) -> float:
        """Return when somebody has room again; it may be early, never late."""
        at = self._waiting.next_deadline()
        return float("inf") if at is None else at
