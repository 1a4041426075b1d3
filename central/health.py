"""Whether a program of central's is alive and can do its work, part by part: facts in, one line a part out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """One part and what keeps it from working; empty if nothing does."""

    part: str
    problem: str = ""

    @property
    def is_good(self) -> bool:
        """Say whether the part works."""
        return not self.problem


@dataclass(frozen=True, slots=True)
class WorkerSeen:
    """What is seen of a worker; durations in seconds."""

    since_turn_s: float
    """Since it last finished what waited."""
    waiting: int
    """How many messages wait for it."""
    database_error: str
    link_error: str


def alive(seen: WorkerSeen, turn_max_s: float) -> list[Check]:
    """Say whether a worker's one thread still turns: a supervisor ends and starts one that does not."""
    stuck = f"the worker has not finished a turn for {seen.since_turn_s:.0f} s"
    return [Check("worker", stuck if seen.since_turn_s > turn_max_s else "")]


def ready(seen: WorkerSeen, turn_max_s: float) -> list[Check]:
    """Say whether a worker can take what tills send: database, broker, and that what waits is taken."""
    still = f"{seen.waiting} messages wait, and nothing was finished for {seen.since_turn_s:.0f} s"
    return [
        Check("database", seen.database_error),
        Check("mqtt", seen.link_error),
        Check("inbox", still if seen.since_turn_s > turn_max_s else ""),
    ]


def answer(checks: Sequence[Check]) -> tuple[int, dict[str, object]]:
    """Return the HTTP status and what is said: ``{"status": …, "checks": {part: "ok" or why not}}``."""
    is_good = all(check.is_good for check in checks)
    told = {check.part: check.problem or "ok" for check in checks}
    return (200 if is_good else 503), {"status": "ok" if is_good else "failing", "checks": told}


def failing(checks: Iterable[Check]) -> list[str]:
    """Return the names of the parts that do not work."""
    return [check.part for check in checks if not check.is_good]
