"""Owns what a demo shows while it runs: closed, stored, verified and the lag, from the POS's and central's side."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from .proof import open_to_read

LAGS_KEPT = 20_000
_NEW = "SELECT id, till_id, document_id, received_at_ms FROM document WHERE id > ? ORDER BY id"
_VERIFIED = (
    "SELECT count(DISTINCT till_id) FROM watermark w WHERE verified_at_ms >= coalesce(moved_at_ms, 0)"
    " AND NOT EXISTS (SELECT 1 FROM heard_head h WHERE h.till_id = w.till_id)"
    " AND id = (SELECT max(id) FROM watermark WHERE till_id = w.till_id)"
)


@dataclass(slots=True)
class Figures:
    """One look at the run."""

    tills: int
    connected: int | None = None
    closed: int = 0
    wanted: int = 0
    stored: int = 0
    verified: int = 0
    lag_p50_s: float | None = None
    lag_p99_s: float | None = None
    link_bytes: int = 0
    kills: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def unsent(self) -> int:
        """Return how many documents were closed and are not at central."""
        return max(0, self.closed - self.stored)

    @property
    def bytes_per_document(self) -> float | None:
        """Return the bytes on the tills' links, everything included, for each stored document."""
        return self.link_bytes / self.stored if self.stored and self.link_bytes else None


class Stored:
    """What central's database has, read step by step; used by one thread."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._last_id = 0
        self.total = 0
        self.by_till: dict[str, int] = {}
        self.lags_s: deque[float] = deque(maxlen=LAGS_KEPT)
        self.closed_at_ms: dict[str, int] = {}
        """When each document was closed, by ``document_id``; whoever closes puts it here first."""

    def look(self) -> None:
        """Count what was committed since the last look; a database that is not there yet has nothing."""
        try:
            with closing(open_to_read(self._database)) as connection:
                rows = connection.execute(_NEW, (self._last_id,)).fetchall()
        except sqlite3.OperationalError:
            return
        for number, till, document_id, received_at_ms in rows:
            self._last_id = number
            self.total += 1
            self.by_till[till] = self.by_till.get(till, 0) + 1
            if (closed_at_ms := self.closed_at_ms.pop(document_id, None)) is not None:
                self.lags_s.append((received_at_ms - closed_at_ms) / 1000)

    def verified(self) -> int:
        """Return how many tills are proven complete at this moment."""
        try:
            with closing(open_to_read(self._database)) as connection:
                return int(connection.execute(_VERIFIED).fetchone()[0])
        except sqlite3.OperationalError:
            return 0


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the value below which this share lies; None of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else None
