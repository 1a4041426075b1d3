"""Decides which integer keys of a POS's table were taken, so that one that commits late is not skipped. Pure.

Keys are handed out when a transaction begins and seen when it commits: 7 may be there before 6. So the position is not
the highest key but ``through``, up to which all is settled, and the keys taken above it. A missing key is waited for:
``through`` moves over it only when a higher key has been seen for ``late_commit_s``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

TAKEN_MAX = 10_000
"""So many keys above ``through`` are remembered; more force the lowest to be settled."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a table was read."""

    through: int
    taken: tuple[int, ...] = ()


class Settling:
    """The position of one table while it is read; ``now`` is a monotonic clock in seconds."""

    def __init__(self, position: Position, late_commit_s: float, now: float, taken_max: int = TAKEN_MAX) -> None:
        self.through = position.through
        self._late_commit_s, self._taken_max = late_commit_s, taken_max
        # How long a key was seen before a restart is not known, so its wait starts anew.
        self._seen_at = {key: now for key in sorted(position.taken) if key > self.through}

    def is_taken(self, key: int) -> bool:
        """Say whether the document under this key was taken, or is no longer waited for."""
        return key <= self.through or key in self._seen_at

    def take(self, key: int, now: float) -> None:
        """Remember that the document under this key is durable."""
        self._seen_at[key] = now

    def advance(self) -> None:
        """Move ``through`` over the keys that follow it without a gap."""
        while self.through + 1 in self._seen_at:
            self._move_to(self.through + 1)

    def settle(self, began_at: float) -> int:
        """Move ``through`` after a pass that began then and read all keys above ``through``.

        Returns how many missing keys are no longer waited for.

        The pass's beginning counts and not its end: what commits during a pass is seen by the next one only.
        """
        passed_over = 0
        for key in sorted(self._seen_at):
            if key != self.through + 1 and began_at - self._seen_at[key] < self._late_commit_s:
                break
            passed_over += self._move_to(key)
        return passed_over

    def make_room(self) -> int:
        """Settle the lowest keys for want of room; return how many missing keys are no longer waited for."""
        forced = 0
        surplus = len(self._seen_at) - self._taken_max
        for key in sorted(self._seen_at)[: max(0, surplus)]:
            forced += self._move_to(key)
        self.advance()
        return forced

    def position(self) -> Position:
        """Return what is to be saved."""
        return Position(self.through, tuple(sorted(self._seen_at)))

    def _move_to(self, key: int) -> int:
        missing = key - self.through - 1
        self.through = key
        del self._seen_at[key]
        return missing


def start(through: int, taken: Iterable[int] = ()) -> Position:
    """Return a position from what was written down."""
    return Position(through, tuple(sorted(key for key in set(taken) if key > through)))
