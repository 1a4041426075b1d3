"""Who has central's database in use: whoever opens it shares a lock beside it, a restore has it alone."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InUseError(Exception):
    """Somebody else has the database in use; the text says what to stop or to wait for."""


def _opened(path: str) -> int:
    """Open the file, making it first if there is none: whoever may only read the database shares it, too."""
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        return os.open(path, flags | os.O_CREAT, 0o644)


class Lock:
    """Holds a database's lock until it is closed; the system takes it back from a process that dies.

    The lock's file stays: one that was removed could be held twice, under one name.
    """

    def __init__(self, database: Path | str, *, alone: bool = False) -> None:
        """Take the lock or raise InUseError; several may share it, unless one is to have it ``alone``."""
        self._file: int | None = _opened(f"{database}.lock")
        try:
            fcntl.flock(self._file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            what = "stop `tillstream central run` and what else has it open" if alone else "a restore is under way"
            raise InUseError(f"{database} is in use: {what}") from None

    def close(self) -> None:
        """Let go; twice is once."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    __del__ = close


@contextmanager
def locked(database: Path | str, *, alone: bool = False) -> Iterator[None]:
    """Hold a database's lock for a while; raises InUseError."""
    lock = Lock(database, alone=alone)
    try:
        yield
    finally:
        lock.close()
