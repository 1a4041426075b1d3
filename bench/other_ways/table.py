"""Where the other ways put receipts: SQLite as durable as ours (WAL, synchronous=full), one commit for each."""

from __future__ import annotations

import sqlite3


class Table:
    """Receipts by their bytes; nothing is unique, so that what comes twice can be counted."""

    def __init__(self, path: str) -> None:
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode=wal")
        self._database.execute("PRAGMA synchronous=full")
        self._database.execute("CREATE TABLE IF NOT EXISTS receipt (body BLOB)")

    def insert(self, body: bytes) -> None:
        """Store one receipt."""
        self._database.execute("INSERT INTO receipt VALUES (?)", (body,))

    def counted(self) -> tuple[int, int]:
        """Return how many rows there are, and how many receipts."""
        return self._database.execute("SELECT count(*), count(DISTINCT body) FROM receipt").fetchone()
