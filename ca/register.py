"""What was issued, what was revoked and which enrolment tokens wait: one SQLite file. Decides nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import peewee as pw

from wire.files import make_file
from wire.program import ConfigError

REGISTER_FILE = "register.db"


class Row(pw.Model):
    """What all rows have in common."""


class Issued(Row):
    """One certificate; ``serial`` in hexadecimal, times in epoch milliseconds."""

    serial = pw.TextField(primary_key=True)
    name = pw.TextField(index=True)
    kind = pw.TextField()
    not_before_ms = pw.IntegerField()
    not_after_ms = pw.IntegerField()
    issued_at_ms = pw.IntegerField()
    issued_by = pw.TextField()
    key_fingerprint = pw.TextField()
    pem = pw.TextField()
    revoked_at_ms = pw.IntegerField(null=True)
    reason = pw.TextField(default="")

    class Meta:
        table_name = "certificate"


class EnrolToken(Row):
    """A token, as its SHA-256 only, with the one till it is for and the one key that has used it."""

    digest = pw.TextField(primary_key=True)
    name = pw.TextField()
    expires_at_ms = pw.IntegerField()
    key_fingerprint = pw.TextField(default="")
    serial = pw.TextField(default="")

    class Meta:
        table_name = "enrol_token"


MODELS = (Issued, EnrolToken)
_ONE_AT_A_TIME = threading.Lock()
"""Models know one database at a time; transactions that write take turns anyway."""


class Register:
    """The rows of one authority; any number of processes and threads may have it open."""

    def __init__(self, folder: Path) -> None:
        path = folder / REGISTER_FILE
        self._database = pw.SqliteDatabase(str(path), pragmas={"journal_mode": "wal", "synchronous": 2}, timeout=10)
        try:
            make_file(path, 0o600)
            with self.transaction():
                self._database.create_tables(MODELS)
        except (pw.DatabaseError, OSError) as problem:
            raise ConfigError(f"cannot use the register {path}: {problem}") from problem

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Open a transaction, beside which no other process writes; all rows are read and written in one."""
        database = self._database
        with _ONE_AT_A_TIME, database.bind_ctx(MODELS), database.connection_context(), database.atomic("IMMEDIATE"):
            yield
