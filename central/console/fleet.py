"""All tills as they stand, read once for everybody who looks: lists, counters and stores are made of it in memory.

Thousands of tills take a fifth of a second to read and to judge, which no page waits for: what was read in the last few
seconds is shown, and a newer one is made beside. After a decision it is read anew at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import peewee as pw

from central.late import Known, known, read_denied
from central.pool import Pool
from central.reasons import reason_of
from central.reports import NoDatabaseError
from central.service import wall_clock_ms
from wire.program import ConfigError
from wire.reasons import RANKS, Reason

log = logging.getLogger("tillstream.console")

FRESH_S = 2.5
"""A younger fleet is shown as it is: half the time between two polls of a page. To read and judge 5,000 tills takes a
tenth of a second of a processor, which those who store receipts can use better."""
STALE_S = 10.0
"""An older one is not shown: whoever asks waits until it is read anew."""
SEVERITIES = ("act", "wait", "fine")


@dataclass(frozen=True, slots=True)
class TillNow:
    """A till, and the one reason that explains why it is as it is."""

    known: Known
    reason: Reason

    @property
    def till_id(self) -> str:
        """The till."""
        return self.known.till_id

    @property
    def store_id(self) -> str:
        """The store that it shows itself in."""
        return self.known.store_id

    @property
    def severity(self) -> str:
        """Whether a person should act."""
        return self.reason.kind.severity

    @property
    def is_parked(self) -> bool:
        """Whether it is not expected to report."""
        return self.known.facts.parked_at_ms is not None

    @property
    def is_online(self) -> bool | None:
        """Whether it is connected, and shows itself; None where it never has."""
        if self.reason.code == "agent_silent":
            return None
        return self.known.facts.is_online

    @property
    def place(self) -> tuple[Any, ...]:
        """Where it stands in a list that begins with the worst: who owes documents before who does not."""
        facts, since_ms = self.known.facts, self.reason.since_ms
        is_owing = 0 if facts.behind else 1
        rank = SEVERITIES.index(self.severity), is_owing, RANKS[self.reason.code]
        return (*rank, since_ms if since_ms is not None else float("inf"), self.till_id)


@dataclass(frozen=True)
class Fleet:
    """All tills at one moment, the worst first; what pages ask of all of them is worked out once."""

    as_of_ms: int
    tills: tuple[TillNow, ...]
    by_id: dict[str, TillNow] = field(default_factory=dict)

    @cached_property
    def expected(self) -> list[TillNow]:
        """Return the tills that are expected to report."""
        return [till for till in self.tills if not till.is_parked]

    @cached_property
    def in_trouble(self) -> int:
        """Return how many tills need a person."""
        return sum(till.severity == "act" for till in self.tills)

    @cached_property
    def owed(self) -> tuple[int, bool]:
        """Return how many documents are known to be owed by all tills, and whether of some nobody knows."""
        return waiting(self.tills)

    @cached_property
    def reasons(self) -> list[tuple[Reason, int, int]]:
        """Return the reasons of the tills that are expected, with tills and documents owed."""
        return by_reason(self.expected)

    @cached_property
    def stores(self) -> dict[str, list[TillNow]]:
        """Return each store's tills, worst first; the stores in the order of their worst till."""
        found: dict[str, list[TillNow]] = {}
        for till in self.tills:
            found.setdefault(till.store_id, []).append(till)
        return found

    @cached_property
    def versions(self) -> dict[str, str]:
        """Return the version that each till last showed, of those that are expected."""
        return {one.till_id: one.known.presence.agent_version for one in self.expected if one.known.presence}


def read(now_ms: int, denied: Iterable[str] = ()) -> Fleet:
    """Read and judge all tills; the models are bound by the caller."""
    tills = sorted((TillNow(one, reason_of(one.facts, now_ms)) for one in known(frozenset(denied))), key=_place)
    return Fleet(now_ms, tuple(tills), {till.till_id: till for till in tills})


def _place(till: TillNow) -> tuple[Any, ...]:
    return till.place


def waiting(tills: Iterable[TillNow]) -> tuple[int, bool]:
    """Return how many documents are known to be owed, and whether of some till nobody knows."""
    owed = [till.known.facts.behind for till in tills if not till.is_parked]
    is_unknown = any(till.is_online is not True for till in tills if not till.is_parked)
    return sum(one or 0 for one in owed), is_unknown or None in owed


def by_reason(tills: Iterable[TillNow]) -> list[tuple[Reason, int, int]]:
    """Return the reasons that hold, each with the number of tills and of documents owed; since the oldest."""
    counts, owed, oldest = Counter[str](), Counter[str](), dict[str, Reason]()
    for till in tills:
        code = till.reason.code
        counts[code] += 1
        owed[code] += till.known.facts.behind or 0
        oldest[code] = min(oldest.get(code, till.reason), till.reason, key=_since)
    order = sorted(oldest.values(), key=lambda one: (SEVERITIES.index(one.kind.severity), RANKS[one.code]))
    return [(one, counts[one.code], owed[one.code]) for one in order]


def _since(reason: Reason) -> float:
    return float("inf") if reason.since_ms is None else reason.since_ms


class FleetView:
    """Keeps the newest fleet for all requests; one thread at a time reads a newer one."""

    def __init__(
        self, pool: Pool, deny_file: str = "", *, clock: Callable[[], float] = time.monotonic, fresh_s: float = FRESH_S
    ) -> None:
        self._pool, self._deny_file, self._clock, self._fresh_s = pool, deny_file, clock, fresh_s
        self._seen: tuple[float, Fleet] | None = None
        self._reading = threading.Lock()
        self._changes = 0
        self._beside: threading.Thread | None = None

    def now(self) -> Fleet:
        """Return the fleet, at most STALE_S old; raises what the database raises where nothing is that young."""
        seen, now_s = self._seen, self._clock()
        if seen is None or now_s - seen[0] > STALE_S:
            return self._anew()
        if now_s - seen[0] > self._fresh_s and not self._reading.locked():
            self._beside = threading.Thread(target=self._try, name="fleet")
            self._beside.start()
        return seen[1]

    def changed(self) -> None:
        """Forget what was seen: a person decided something, and wants to see what became of it."""
        self._changes += 1
        self._seen = None

    def settle(self) -> None:
        """Wait until nothing is read beside any more: whoever closes the database asks for this first."""
        if self._beside is not None:
            self._beside.join()

    def _anew(self) -> Fleet:
        asked_s = self._clock()
        with self._reading:
            if self._seen is not None and self._seen[0] >= asked_s:
                return self._seen[1]  # Somebody else read it while this one waited.
            began_s, changes = self._clock(), self._changes
            with self._pool.reading():
                fleet = read(wall_clock_ms(), denied_names(self._deny_file))
            if changes == self._changes:
                self._seen = began_s, fleet
            return fleet

    def _try(self) -> None:
        try:
            self._anew()
        except (pw.DatabaseError, NoDatabaseError, OSError) as problem:
            log.warning("fleet_not_read", extra={"also": {"error": str(problem)}})


def denied_names(path: str) -> frozenset[str]:
    """Return the deny list; one that cannot be read is logged, and shows nobody as revoked."""
    try:
        return read_denied(path)
    except ConfigError as problem:
        log.warning("deny_file", extra={"also": {"error": str(problem)}})
        return frozenset()
