"""Reads a POS's database and can do nothing else: SQLite opened read-only, a MySQL or MariaDB session set read-only.

Each page is read in one short transaction, so that a document and its lines are of one moment, and the POS is not held
up while the outbox writes.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from wire.program import ConfigError, read_secret

from .fields import Row
from .mapping import Address, SqlSource, address_of
from .queries import for_pymysql

CONNECT_TIMEOUT_S = 10
QUERY_TIMEOUT_S = 30
BUSY_TIMEOUT_S = 5
STEPS_A_LOOK = 10_000
"""How many of SQLite's steps pass between two looks at the clock."""

Parameters = Mapping[str, int | str]


class DatabaseError(Exception):
    """The database, or one query of it, cannot be read; the text never holds a password."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a query gave."""

    columns: tuple[str, ...]
    rows: list[Row]


class Session(Protocol):
    """A connection that reads."""

    def snapshot(self) -> Any:
        """Return a context in which all that is asked is of one moment."""

    def ask(self, query: str, parameters: Parameters, most: int) -> Found:
        """Return at most ``most`` rows; raises DatabaseError."""

    def close(self) -> None:
        """Let go of the database."""


def connect(source: SqlSource) -> Session:
    """Connect read-only; raises DatabaseError."""
    address = address_of(source)
    return SqliteSession(address) if address.dialect == "sqlite" else MysqlSession(source, address)


def _text(given: bytes) -> str | bytes:
    """Keep what is no UTF-8 as bytes: one bad name must not hold up everything."""
    try:
        return given.decode()
    except UnicodeDecodeError:
        return given


class SqliteSession:
    """SQLite, opened with ``mode=ro``."""

    def __init__(self, address: Address) -> None:
        path = Path(address.path)
        if not path.is_file():
            raise DatabaseError(f"no such file: {path}")
        try:
            self._connection = sqlite3.connect(
                f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_S
            )
        except sqlite3.Error as problem:
            raise DatabaseError(f"{path}: {problem}") from None
        self._path, self._until = path, 0.0
        self._connection.text_factory = _text
        self._connection.set_progress_handler(lambda: time.monotonic() > self._until, STEPS_A_LOOK)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Hold SQLite's read transaction."""
        self._run("BEGIN", {})
        try:
            yield
        finally:
            with suppress(sqlite3.Error):  # What is wrong was told by whatever was asked last.
                self._connection.rollback()

    def ask(self, query: str, parameters: Parameters, most: int) -> Found:
        """Return at most ``most`` rows; raises DatabaseError."""
        with closing(self._run(query, parameters)) as cursor:
            columns = tuple(column[0] for column in cursor.description or ())
            try:
                return Found(columns, [dict(zip(columns, row, strict=True)) for row in cursor.fetchmany(most)])
            except sqlite3.Error as problem:
                raise self._told(problem) from None

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _run(self, query: str, parameters: Parameters) -> sqlite3.Cursor:
        self._until = time.monotonic() + QUERY_TIMEOUT_S
        try:
            return self._connection.execute(query, parameters)
        except sqlite3.Error as problem:
            raise self._told(problem) from None

    def _told(self, problem: sqlite3.Error) -> DatabaseError:
        text = str(problem)
        if text == "interrupted":
            text = f"took longer than {QUERY_TIMEOUT_S} s; is the key indexed?"
        if "unable to open" in text:
            text += " (may the agent's user read it, and write -wal and -shm beside it?)"
        return DatabaseError(f"{self._path}: {text}")


class MysqlSession:
    """MySQL or MariaDB by PyMySQL, in a session that the server itself keeps from writing."""

    _INIT = "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"

    def __init__(self, source: SqlSource, address: Address) -> None:
        try:
            import pymysql  # type: ignore[import-untyped]
        except ModuleNotFoundError:
            raise DatabaseError(
                "PyMySQL is not installed; install it with: pip install 'tillstream[edge-mysql]'"
            ) from None
        self._errors = (pymysql.MySQLError, OSError)
        self._where = f"{address.user}@{source.unix_socket or f'{address.host}:{address.port}'}/{address.database}"
        try:
            self._connection = pymysql.connect(
                host=address.host or "localhost",
                port=address.port,
                unix_socket=source.unix_socket or None,
                user=address.user,
                password=read_secret("", source.password_file, "password"),
                database=address.database,
                charset="utf8mb4",
                init_command=self._INIT,
                autocommit=True,
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=QUERY_TIMEOUT_S,
                write_timeout=QUERY_TIMEOUT_S,
            )
        except (*self._errors, RuntimeError, ConfigError) as problem:
            raise self._told(problem) from None

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Hold one consistent view of InnoDB's tables."""
        self._run("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY", None)
        try:
            yield
        finally:
            with suppress(*self._errors):  # A lost connection was told by whatever was asked last.
                self._connection.rollback()

    def ask(self, query: str, parameters: Parameters, most: int) -> Found:
        """Return at most ``most`` rows; raises DatabaseError."""
        with closing(self._run(for_pymysql(query), parameters)) as cursor:
            columns = tuple(column[0] for column in cursor.description or ())
            try:
                return Found(columns, [dict(zip(columns, row, strict=True)) for row in cursor.fetchmany(most)])
            except self._errors as problem:
                raise self._told(problem) from None

    def close(self) -> None:
        """Say goodbye; a server that is gone needs none."""
        with suppress(*self._errors):
            self._connection.close()

    def _run(self, query: str, parameters: Parameters | None) -> Any:
        try:
            cursor = self._connection.cursor()
            cursor.execute(query, parameters)
        except self._errors as problem:
            raise self._told(problem) from None
        return cursor

    def _told(self, problem: BaseException) -> DatabaseError:
        text = problem.args[1] if len(problem.args) > 1 else problem
        return DatabaseError(f"{self._where}: {text}")
