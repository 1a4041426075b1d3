"""Lets many threads read and change central's database at once, each for a moment on a connection of its own.

The models are bound once, for as long as the pool is open. A connection is borrowed for one piece of work and given
back; one that failed is closed instead, and none grows old, so that a schema that was changed meanwhile is noticed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Self

import peewee as pw

from . import audit, reports
from .database import Place, Postgres, Sqlite
from .models import MODELS

CONNECTION_AGE_S = 60.0
"""An older connection is made anew, and the schema is looked at."""


class Pool:
    """Central's database for threads; used as a context. Raises reports.NoDatabaseError where none can be had."""

    def __init__(self, place: Place, clock: Callable[[], float] = time.monotonic) -> None:
        self.place, self._clock = place, clock
        self._idle: list[tuple[float, Any]] = []
        self._lock = threading.Lock()
        self._leaving = ExitStack()

    def __enter__(self) -> Self:
        if self.place.is_file and not self.place.path.exists():
            raise reports.NoDatabaseError(
                f"no database at {self.place.path}: has `tillstream central run` been started?"
            )
        with ExitStack() as leaving:
            with reports.connecting(self.place):
                self._database = self.place.look(to_write=True, any_thread=True)
            leaving.callback(self._close)
            self._check_in()
            leaving.enter_context(self._database.bind_ctx(MODELS))
            self._leaving = leaving.pop_all()
        return self

    def _check_in(self) -> None:
        """Give the first connection to whoever asks first: it belongs to no thread."""
        database: Any = self._database
        reports.check_schema(self.place, database)
        self._idle.append((self._clock(), database._state.conn))  # noqa: SLF001 -- as playhouse.pool does
        database._state.reset()  # noqa: SLF001 -- as above

    def __exit__(self, *_: object) -> None:
        self._leaving.close()

    @contextmanager
    def reading(self) -> Iterator[Sqlite | Postgres]:
        """Read what is in the database at one moment."""
        with self._borrowed() as database, database.reading():
            yield database

    @contextmanager
    def changing(self, who: str) -> Iterator[Sqlite | Postgres]:
        """Make what a person decides, in one transaction; the audit names ``who``."""
        with self._borrowed() as database, audit.acting_as(who), database.changing():
            yield database

    @contextmanager
    def noting(self) -> Iterator[Sqlite | Postgres]:
        """Note what nobody decides, such as that a session is in use: in a transaction that holds up nobody."""
        with self._borrowed() as database, database.atomic():
            yield database

    def looking(self) -> AbstractContextManager[Sqlite | Postgres]:
        """Read without a transaction: each statement sees what is committed by then."""
        return self._borrowed()

    @contextmanager
    def _borrowed(self) -> Iterator[Sqlite | Postgres]:
        database: Any = self._database
        if not database.is_closed():
            raise RuntimeError("one piece of work at a time: this thread has borrowed a connection already")
        born_s, connection = self._take()
        database._state.set_connection(connection)  # noqa: SLF001 -- as playhouse.pool does
        try:
            yield database
        except pw.DatabaseError:
            born_s = float("-inf")  # Whatever state it is in: the next one shall not meet it.
            raise
        finally:
            database._state.reset()  # noqa: SLF001 -- as above
            self._give_back(born_s, connection)

    def _take(self) -> tuple[float, Any]:
        while True:
            with self._lock:
                if not self._idle:
                    break
                born_s, connection = self._idle.pop()
            if self._is_young(born_s) and self._database.is_alive(connection):
                return born_s, connection
            self._database.end(connection)
        return self._clock(), self._new()

    def _new(self) -> Any:
        database: Any = self._database
        with reports.connecting(self.place), pw.__exception_wrapper__:  # type: ignore[attr-defined]
            connection = database._connect()  # noqa: SLF001 -- as above
        database._state.set_connection(connection)  # noqa: SLF001 -- as above
        try:
            reports.check_schema(self.place, database)
        except BaseException:
            database.end(connection)
            raise
        finally:
            database._state.reset()  # noqa: SLF001 -- as above
        return connection

    def _is_young(self, born_s: float) -> bool:
        return self._clock() - born_s < CONNECTION_AGE_S

    def _give_back(self, born_s: float, connection: Any) -> None:
        if not self._is_young(born_s):
            self._database.end(connection)
            return
        with self._lock:
            self._idle.append((born_s, connection))

    def _close(self) -> None:
        while self._idle:
            self._database.end(self._idle.pop()[1])
        self._database.close()
