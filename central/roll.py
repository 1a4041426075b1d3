"""Keeps the table ``worker``: which processes answer for which tills, and whether they agree on how many they are."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .database import Postgres, Sqlite
from .share import Share

CALL_EVERY_S = 30
LIVE_MS = 90_000
"""Whoever was not seen for so long does not run any more."""
KEPT_MS = 86_400_000

_CALL = (
    "INSERT INTO worker (process, number, workers, host, pid, started_at_ms, seen_at_ms) VALUES (?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (process) DO UPDATE SET seen_at_ms = excluded.seen_at_ms"
)
_FORGET = "DELETE FROM worker WHERE seen_at_ms < ?"
_LEAVE = "DELETE FROM worker WHERE process = ?"
_SEEN = (
    "SELECT process, number, workers, host, pid, started_at_ms, seen_at_ms FROM worker"
    " ORDER BY workers, number, process"
)


@dataclass(frozen=True, slots=True)
class Seen:
    """A process that runs, or ran not long ago; times are epoch milliseconds."""

    process: int
    number: int
    workers: int
    host: str
    pid: int
    started_at_ms: int
    seen_at_ms: int

    def __str__(self) -> str:
        return f"{self.number}/{self.workers} ({self.host}, process {self.pid})"


def seen(database: Sqlite | Postgres) -> list[Seen]:
    """Return the processes that were seen within a day."""
    return [Seen(*row) for row in database.run(_SEEN).fetchall()]


def live(rows: Iterable[Seen], now_ms: int) -> list[Seen]:
    """Return those that run."""
    rows = list(rows)
    return [one for one in rows if now_ms - one.seen_at_ms <= LIVE_MS and not any(_replaced(one, by) for by in rows)]


def _replaced(one: Seen, by: Seen) -> bool:
    """Say whether one ended without a word and the other took its number: it has not called since."""
    is_later = by.number == one.number and by.process > one.process
    return is_later and one.seen_at_ms <= by.started_at_ms + CALL_EVERY_S * 1000


def disagreements(running: list[Seen]) -> Iterator[str]:
    """Say what is wrong among the processes that run; nothing of it loses a document."""
    numbers = {one.workers for one in running}
    if len(numbers) > 1:
        yield f"they were told different numbers of workers: {_named(running)}"
    for number in dict.fromkeys(one.number for one in running):  # 1/2 and 1/4 log in under one name, too.
        same = [one for one in running if one.number == number]
        if len(same) > 1:
            yield f"two have one number, and throw each other out: {_named(same)}"
    most = max(numbers, default=0)
    there = {one.number for one in running if one.workers == most}
    if missing := [f"{number}/{most}" for number in range(1, most + 1) if number not in there]:
        yield f"nobody answers for the tills of {', '.join(missing)}"


def _named(some: Iterable[Seen]) -> str:
    return ", ".join(map(str, some))


class Roll:
    """Writes down that this process runs, and reads who else does. Used by one thread only."""

    def __init__(self, database: Sqlite | Postgres, share: Share, process: int, started_at_ms: int) -> None:
        self._database, self._process = database, process
        self._who = (process, share.number, share.workers, socket.gethostname(), os.getpid(), started_at_ms)
        self._told: tuple[str, ...] = ()

    def call(self, now_ms: int) -> tuple[str, ...]:
        """Say that this process runs, and return what is wrong that was not wrong at the last call."""
        with self._database.writing():
            self._database.run(_CALL, (*self._who, now_ms))
            self._database.run(_FORGET, (now_ms - KEPT_MS,))
        told = tuple(disagreements(live(seen(self._database), now_ms)))
        news, self._told = tuple(one for one in told if one not in self._told), told
        return news

    def leave(self) -> None:
        """Say that this process runs no more."""
        with self._database.writing():
            self._database.run(_LEAVE, (self._process,))
