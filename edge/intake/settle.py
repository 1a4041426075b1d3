"""Decides which integer keys of a POS's table were taken, so that one that commits late is not skipped. Pure.

Keys are handed out when a transaction begins and seen when it commits: 7 may be there before 6. So the position is not
the highest key but ``through``, up to which all is settled, and the keys taken above it. A missing key is waited for:
``through`` moves over it only when a higher key has been seen for ``late_commit_s``.

Keys alone do not tell a table from one that was put in its place and counts anew. So the newest row that was taken is
the *anchor*: while it is the same document, all below it was read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Annotated

from msgspec import Meta

from .fields import Row

TAKEN_MAX = 10_000
"""So many keys above ``through`` are remembered; more force the lowest to be settled."""
ID_KEPT_MAX = 200
"""So much of a document's id is kept of the anchor."""

Key = Annotated[int, Meta(ge=-1, le=2**63 - 1)]
MomentMs = Annotated[int, Meta(ge=0, lt=253_402_300_800_000)]
"""Up to the year 9999."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a table was read."""

    through: int
    taken: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Anchor:
    """The newest row that was taken, and which document it was."""

    key: Key
    document_id: str
    digest: str = ""
    """Of what stood in ``columns``: an id that is made from the key is the next table's too."""
    columns: tuple[str, ...] = ()
    """The columns that were mapped then, where the id was made from the key; a mapping that says more is no new row."""

    def is_same(self, found: Anchor) -> bool:
        """Say whether what stands under this key now is what was taken."""
        return found.digest == self.digest if self.columns else found.document_id == self.document_id


@dataclass(frozen=True, slots=True)
class WentBack:
    """The anchor's row was found to be gone or another document."""

    key: Key
    since_ms: MomentMs


@dataclass(frozen=True, slots=True)
class Footing:
    """Whether the table is still the one that was read. That it went back stays until a person says otherwise."""

    anchor: Anchor | None = None
    went_back: WentBack | None = None

    def on_taken(self, taken: Anchor) -> Footing:
        """Return the footing after this row was taken; one that commits late is no newer."""
        is_newer = self.anchor is None or taken.key > self.anchor.key
        return replace(self, anchor=taken) if is_newer else self

    def on_looked(self, key: int, found: Anchor | None, older: Callable[[], bool], now_ms: int) -> Footing:
        """Return the footing after a look at the newest row that was taken; ``older`` says whether rows are below it.

        A table whose older rows are gone too was tidied up: nothing stands there that was not read.
        """
        if self.went_back:
            return self
        if found is not None and (self.anchor is None or self.anchor.is_same(found)):
            return replace(self, anchor=self.anchor or found)
        is_tidy = found is None and not older()
        return self if is_tidy else replace(self, went_back=WentBack(key, now_ms))


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

    def newest(self) -> int:
        """Return the highest key that was taken, or where reading began."""
        return max(self._seen_at, default=self.through)

    def go_back(self, key: int) -> None:
        """Hold nothing above this key for taken: what comes there is read."""
        self.through = min(self.through, key)
        self._seen_at = {seen: at for seen, at in self._seen_at.items() if seen <= key}

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


def anchor_of(key: int, document_id: str, row: Row, columns: tuple[str, ...]) -> Anchor:
    """Return the anchor of a row; ``columns`` only where its id is made from the key."""
    kept = document_id.encode("utf-8", "backslashreplace").decode()[:ID_KEPT_MAX]
    given = repr([row.get(column) for column in columns]).encode()
    return Anchor(key, kept, blake2b(given, digest_size=16).hexdigest() if columns else "", columns)
