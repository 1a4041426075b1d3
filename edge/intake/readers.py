"""Runs the readers of a POS's own records, each in a thread of its own: one that cannot read stops no other."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .mapping import FolderSource, MappingError, read_mapping
from .sql import SqlReader
from .taking import NUMBERS_WENT_BACK, PASS_DOCUMENTS, UNREADABLE, IntakeError, NotDurableError, Reader, Take
from .watched import FolderReader

log = logging.getLogger("tillstream.edge")

MAPPINGS_MAX = 32
RETRY_MIN_S, RETRY_MAX_S = 1.0, 300.0
STOP_WITHIN_S = 5.0
ERROR_MAX_LENGTH = 500

NOT_TAKEN = "not_taken"
"""The outbox takes nothing."""
TROUBLES = (UNREADABLE, NUMBERS_WENT_BACK)
"""Findings that mean that documents do not come in."""

OnTaken = Callable[[int, bool], object]
"""``on_taken(count, was_rung)``: so many were taken; ``was_rung`` if the POS had said so, and it was not only time."""
Open = Callable[[Path], Reader]


@dataclass(slots=True)
class Standing:
    """How one reader stands. Written by its own thread; each field is replaced as a whole."""

    name: str
    taken: int = 0
    errors: int = 0
    """Passes that failed."""
    last_read_at_ms: int | None = None
    last_error: str = ""
    trouble: str = ""
    """Why documents do not come in, as a code; empty while they do."""
    since_ms: int | None = None
    findings: Mapping[str, str] = field(default_factory=dict)
    problems: Mapping[str, int] = field(default_factory=dict)


def mappings_in(folder: Path) -> list[Path]:
    """Return the mapping files of a till, by name; raises MappingError for more than MAPPINGS_MAX."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".toml")
    except FileNotFoundError:
        return []
    except OSError as problem:
        raise MappingError(f"{folder}: {problem.strerror}; the agent's user must be able to list it") from None
    if len(paths) > MAPPINGS_MAX:
        raise MappingError(f"{folder}: {len(paths)} mappings; at most {MAPPINGS_MAX} are read")
    return paths


def open_reader(path: Path, positions: Path, about: Mapping[str, str], clock_ms: Callable[[], int]) -> Reader:
    """Return the reader of one mapping file; raises MappingError.

    ``positions`` is the folder that keeps how far each database was read, ``about`` is what the till says of itself
    (``till_id``, ``store_id``).
    """
    mapping = read_mapping(path)
    if isinstance(mapping.source, FolderSource):
        return FolderReader(mapping, about)
    return SqlReader(mapping, positions, about, clock_ms=clock_ms)


class Readers:
    """All readers of a till."""

    def __init__(
        self,
        paths: Iterable[Path],
        positions: Path,
        about: Mapping[str, str],
        take: Take,
        on_taken: OnTaken,
        clock_ms: Callable[[], int],
    ) -> None:
        self._positions, self._about, self._clock_ms = positions, about, clock_ms
        self._names: dict[str, Path] = {}
        self._stopping = threading.Event()
        self._turns = [_Turn(path, self._open, take, on_taken, clock_ms, self._stopping) for path in paths]

    def start(self) -> None:
        """Begin to read."""
        for turn in self._turns:
            turn.start()

    def wake(self) -> None:
        """Read now: the POS said that it closed something."""
        for turn in self._turns:
            turn.wake()

    def stop(self, within_s: float = STOP_WITHIN_S) -> bool:
        """Read no more; say whether all ended in time. One that did not dies with the process and loses nothing."""
        self._stopping.set()
        self.wake()
        until = time.monotonic() + within_s
        for turn in self._turns:
            if turn.ident is not None:
                turn.join(max(0.0, until - time.monotonic()))
        return not any(turn.is_alive() for turn in self._turns)

    def troubles(self) -> dict[str, int]:
        """Return the sources that documents do not come in from, and since when (epoch milliseconds)."""
        standings = [turn.standing for turn in self._turns]
        return {one.name: one.since_ms for one in standings if one.trouble and one.since_ms is not None}

    def status(self) -> list[dict[str, Any]]:
        """Return how each reader stands, for people and their scripts."""
        return [
            {
                "name": one.name,
                "taken": one.taken,
                "errors": one.errors,
                "last_read_at_ms": one.last_read_at_ms,
                "last_error": one.last_error,
                "trouble": one.trouble,
                "since_ms": one.since_ms,
                "findings": dict(one.findings),
                "problems": dict(one.problems),
            }
            for one in (turn.standing for turn in self._turns)
        ]

    def _open(self, path: Path) -> Reader:
        """Open one; two mappings of one name would take each other's position."""
        reader = open_reader(path, self._positions, self._about, self._clock_ms)
        owner = self._names.setdefault(reader.name, path)
        if owner != path:
            raise MappingError(f"{path}: name: {reader.name!r} is the name of {owner}; each needs its own")
        return reader


class _Turn(threading.Thread):
    """One reader's thread: reads when its time has come or it is woken, and goes on trying, ever less often."""

    def __init__(
        self,
        path: Path,
        open_: Open,
        take: Take,
        on_taken: OnTaken,
        clock_ms: Callable[[], int],
        stopping: threading.Event,
    ) -> None:
        super().__init__(name=f"intake-{path.stem}", daemon=True)
        self.standing = Standing(path.stem)
        self._path, self._open, self._take_in, self._on_taken = path, open_, take, on_taken
        self._clock_ms, self._stopping = clock_ms, stopping
        self._woken = threading.Event()
        self._reader: Reader | None = None
        self._retry_s = 0.0
        self._is_rung = False
        """The POS rang and nothing was read since."""

    def wake(self) -> None:
        """Read now."""
        self._woken.set()

    def run(self) -> None:
        """Read until told to stop."""
        while not self._stopping.is_set():
            wait_s = self._turn()
            if self._woken.wait(wait_s):
                self._woken.clear()
                self._is_rung = True
        if self._reader is not None:
            self._reader.close()

    def _turn(self) -> float:
        """Make one pass; return how long to wait for the next."""
        before, was_rung = self.standing.taken, self._is_rung
        try:
            return self._succeed(self._read())
        except NotDurableError as problem:
            return self._fail(NOT_TAKEN, problem)
        except IntakeError as problem:
            return self._fail(UNREADABLE, problem)
        except Exception as problem:
            log.exception("intake_broke", extra={"also": {"mapping": str(self._path)}})
            return self._fail(UNREADABLE, problem)
        finally:
            if taken := self.standing.taken - before:
                self._on_taken(taken, was_rung)

    def _read(self) -> int:
        reader = self._reader = self._reader or self._open(self._path)
        self.standing.name = reader.name
        return reader.read(self._take)

    def _take(self, given: bytes, make_id: Callable[[], str]) -> None:
        if self._stopping.is_set():
            raise NotDurableError("the agent stops")
        self._take_in(given, make_id)
        self.standing.taken += 1

    def _succeed(self, count: int) -> float:
        reader, standing = self._reader, self.standing
        assert reader is not None  # noqa: S101 -- it has just read
        if standing.last_error:
            log.info("intake_back", extra={"also": {"intake": standing.name}})
        standing.last_error, self._retry_s = "", 0.0
        standing.last_read_at_ms = self._clock_ms()
        standing.findings, standing.problems = reader.findings(), dict(reader.problems)
        trouble = next((code for code in TROUBLES if code in standing.findings), "")
        self._set_trouble(trouble, reader.went_back_at_ms() if isinstance(reader, SqlReader) else None)
        if count >= PASS_DOCUMENTS:
            return 0.0
        self._is_rung = False
        return reader.poll_s

    def _fail(self, reason: str, problem: Exception) -> float:
        standing, text = self.standing, str(problem)[:ERROR_MAX_LENGTH]
        if text != standing.last_error and not self._stopping.is_set():
            log.warning(reason, extra={"also": {"intake": standing.name, "error": text}})
        standing.last_error = text
        standing.errors += 1
        self._set_trouble(reason)
        self._retry_s = min(RETRY_MAX_S, max(RETRY_MIN_S, self._retry_s * 2))
        return self._retry_s

    def _set_trouble(self, trouble: str, since_ms: int | None = None) -> None:
        """Write down the trouble, since it began or since the reader remembers it."""
        standing = self.standing
        if not trouble:
            standing.since_ms = None
        elif since_ms is not None:
            standing.since_ms = since_ms
        elif not standing.trouble:
            standing.since_ms = self._clock_ms()
        standing.trouble = trouble
