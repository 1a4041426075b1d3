"""What central counts since its start. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

DELAYS_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0)
"""From a moment to a day: a lone receipt takes under a second, a till that was off for a night hours."""
UPLOADS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
COMMITS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


@dataclass(slots=True)
class Histogram:
    """How many values lay at or below each bound, each counted once, and what they make together."""

    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass(slots=True)
class Counters:
    """Health figures that central counts since its start."""

    doorbells: int = 0
    coalesced: int = 0
    """Doorbells that led to no upload of their own, because one was under way or about to be: what debouncing saves."""
    requests: int = 0
    unanswered: int = 0
    """Requests that the broker acknowledged and no answer followed: the most telling health figure there is."""
    uploads: int = 0
    documents: int = 0
    repeated: int = 0
    quarantined: int = 0
    not_next: int = 0
    bad_digests: int = 0
    unasked: int = 0
    ended: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Tasks that ended, by what they were made for and how they ended."""
    upload_s: Histogram = field(default_factory=lambda: Histogram(UPLOADS_S))
    """From a request to the answer that was committed."""


@dataclass(slots=True)
class Ingested:
    """What was committed since the start, and how long that took; nothing that was rolled back."""

    documents: int = 0
    duplicates: int = 0
    """Documents that came and were there already."""
    quarantined: Counter[str] = field(default_factory=Counter)
    delay_s: Histogram = field(default_factory=lambda: Histogram(DELAYS_S))
    """From the closing at the till, by its clock, to the commit here; of uploads in which nothing was there before."""
    commit_s: Histogram = field(default_factory=lambda: Histogram(COMMITS_S))

    def add(self, given: int, inserted: int, codes: Iterable[str], closed_at_ms: Iterable[int], at_ms: int) -> None:
        """Count one transaction's documents: so many given, so many of them new; ``at_ms`` is when it began."""
        aside = Counter(codes)
        self.documents += inserted
        self.duplicates += max(0, given - inserted - aside["conflict"])
        self.quarantined.update(aside)
        if inserted == given:
            for one in closed_at_ms:
                self.delay_s.observe(max(0, at_ms - one) / 1000)


@dataclass(slots=True)
class Traffic:
    """What went over the link to the broker since the start, and whether it stands."""

    is_linked: bool = False
    why_not: str = "not connected yet"
    ended: Counter[str] = field(default_factory=Counter)
    """Connections that ended or could not be made: ``refused``, ``asked`` (by this program) or ``lost``."""
    messages: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By direction (``received``, ``sent``) and kind of topic."""

    def begin(self) -> None:
        """Note that the broker let us in."""
        self.is_linked, self.why_not = True, ""

    def end(self, why: str, *, is_refused: bool, is_asked: bool) -> None:
        """Note that a connection ended or was never made, and why."""
        self.is_linked, self.why_not = False, why
        self.ended["refused" if is_refused else "asked" if is_asked else "lost"] += 1
