"""Owns PostgreSQL's own programs: pg_dump makes a backup, pg_restore and psql put one in the place of the schema.

What a dump holds is read from the dump itself, into a scratch file that is checked as every other backup is: what the
server would make of it is not asked.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO

from wire.program import read_secret

from .database import Place, Postgres
from .verify import NotTrustedError, Tell, Verified, verify

SCHEMA = "public"
SCRATCH = ".tillstream-verify-"
"""How the folders begin in which dumps are verified, each beside its dump."""
_READ = ("migration", "central", "watermark", "document", "quarantine", "held_before")
"""What is looked at to verify a dump."""
_NUMBERS = {"id", "number", "sequence", "through", "incarnation", "starts", "in_sequence"}
_BYTES = {"body", "digest", "body_digest", "chain_digest"}
_COPY = re.compile(rb"COPY (?:\w+\.)?(\w+) \(([^)]+)\) FROM stdin;\n")
_LEFT_OUT = (f"CREATE SCHEMA {SCHEMA};\n".encode(), b"SET transaction_timeout = 0;\n")
"""What a restore does itself, and what pg_restore 17 and newer write though an older server does not know it."""
_ESCAPES = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
ROWS_AT_ONCE = 1_000


class ToolError(Exception):
    """One of PostgreSQL's programs is missing, too old, or could not do it; the text says which and why."""


def _program(name: str) -> str:
    if found := shutil.which(name):
        return found
    raise ToolError(f"{name} is not installed: apt-get install postgresql-client")


def _check_version(name: str, server: int) -> None:
    said = subprocess.run([_program(name), "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603 -- a program of the system, no text of anybody's
    found = re.search(r"(\d+)(?:\.\d+)?", said)
    if not found or int(found[1]) < server:
        raise ToolError(
            f"{name} is of version {found[1] if found else '?'}, the server of {server}: install a newer one"
        )


def _environment(place: Place) -> dict[str, str]:
    """Return what the programs are told beside the URL: of several servers the one that is not a standby is meant."""
    password = read_secret("", place.password_file, "database_password")
    told = {"PGAPPNAME": place.program, "PGTARGETSESSIONATTRS": "read-write"}
    return {**os.environ, **told, **({"PGPASSWORD": password} if password else {})}


def dump(place: Place, database: Postgres, part: Path) -> None:
    """Write all that belongs to central into a file, as it is at one moment; raises ToolError."""
    _check_version("pg_dump", database.version())
    command = [_program("pg_dump"), "--format=custom", "--no-owner", "--no-privileges", f"--schema={SCHEMA}"]
    command += [f"--file={part}", f"--dbname={place.url}"]
    done = subprocess.run(command, env=_environment(place), capture_output=True, text=True, check=False)  # noqa: S603 -- as above
    if done.returncode:
        raise ToolError(f"pg_dump: {' '.join(done.stderr.split())}")


# -- Reading one back --------------------------------------------------------------------------------------------------


def verify_dump(file: Path, tell: Tell) -> Verified:
    """Read a dump from end to end and check what is in it; raises NotTrustedError and ToolError."""
    beside = file.parent if os.access(file.parent, os.W_OK) else None
    with _scratch(beside) as folder:
        scratch = folder / "scratch.db"
        _load(file, scratch, tell)
        try:
            return verify(scratch, tell)
        except NotTrustedError as problem:
            raise NotTrustedError(str(problem).replace(str(scratch), str(file))) from problem


@contextmanager
def _scratch(beside: Path | None) -> Iterator[Path]:
    """Make a folder that is gone afterwards; its lock tells the next backup that this one still works in it."""
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=beside) as folder:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield Path(folder)
        finally:
            os.close(descriptor)


def _load(file: Path, scratch: Path, tell: Tell) -> None:
    tables = [word for table in _READ for word in ("--table", table)]
    with closing(sqlite3.connect(scratch)) as database, _restored(file, "--data-only", *tables) as lines:
        database.execute("PRAGMA synchronous = off")  # Gone in a moment.
        database.execute("PRAGMA journal_mode = off")
        found = {_load_table(database, *header, lines, tell) for header in _headers(lines)}
        if missing := set(_READ) - found:
            raise NotTrustedError(f"{file} is no backup of central's database: there is no table {min(missing)} in it")
        for table in ("document", "quarantine", "held_before"):
            database.execute(f"CREATE INDEX {table}_by_sequence ON {table} (till_id, stream, sequence)")
        database.commit()


@contextmanager
def _restored(file: Path, *what: str) -> Iterator[IO[bytes]]:
    """Yield a dump as SQL; raises NotTrustedError if it ended in an error."""
    command = [_program("pg_restore"), "--no-owner", "--no-privileges", *what, "--file=-", str(file)]
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process:  # noqa: S603 -- as above
            assert process.stdout is not None  # noqa: S101 -- for the type: a pipe was asked for
            yield process.stdout
            process.stdout.read()
        if process.returncode:
            errors.seek(0)
            raise NotTrustedError(f"{file} cannot be read: {errors.read().decode(errors='replace').strip()}")


def _headers(lines: Iterable[bytes]) -> Iterator[tuple[str, list[str]]]:
    for line in lines:
        if header := _COPY.fullmatch(line):
            yield header[1].decode(), [name.strip(' "') for name in header[2].decode().split(",")]


def _load_table(
    database: sqlite3.Connection, table: str, columns: list[str], lines: Iterable[bytes], tell: Tell
) -> str:
    kinds = ", ".join(f'"{name}" INTEGER' if name in _NUMBERS else f'"{name}"' for name in columns)
    database.execute(f"CREATE TABLE {table} ({kinds})")
    insert = f"INSERT INTO {table} VALUES ({', '.join('?' * len(columns))})"
    blobs, rows = [name in _BYTES for name in columns], []
    for count, line in enumerate(lines, 1):
        if line == b"\\.\n":
            break
        fields = line[:-1].split(b"\t")
        rows.append([_value(field, is_bytes) for field, is_bytes in zip(fields, blobs, strict=True)])
        if len(rows) == ROWS_AT_ONCE:
            database.executemany(insert, rows)
            rows.clear()
            tell(f"reading {table}", count, count)
    database.executemany(insert, rows)
    return table


def _value(field: bytes, is_bytes: bool) -> bytes | str | None:
    r"""Return what a field of COPY's text format stands for; bytes are written as \\x and hexadecimal digits."""
    if field == b"\\N":
        return None
    if is_bytes:
        return bytes.fromhex(field[3:].decode("ascii"))
    if b"\\" in field:
        field = re.sub(rb"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), field, flags=re.DOTALL)
    return field.decode()


# -- Putting one in place ----------------------------------------------------------------------------------------------


def put_in_place(place: Place, database: Postgres, file: Path, aside: str | None, last: Iterable[str]) -> None:
    """Put a dump in the place of the schema, in one transaction: whenever it is killed, one whole schema stands there.

    The schema before it is kept under the name ``aside``, None if there was nothing in it; ``last`` are statements
    that end the transaction. Raises ToolError and NotTrustedError.
    """
    _check_version("psql", database.version())
    command = [_program("psql"), "--no-psqlrc", "--quiet", "--output=/dev/null", "--set=ON_ERROR_STOP=1"]
    first = ["BEGIN", f"ALTER SCHEMA {SCHEMA} RENAME TO {aside}" if aside else f"DROP SCHEMA {SCHEMA}"]
    first += [f"CREATE SCHEMA {SCHEMA}"]
    command += [f"--dbname={place.url}"]
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(command, env=_environment(place), stdin=subprocess.PIPE, stderr=errors) as process:  # noqa: S603 -- as above
            assert process.stdin is not None  # noqa: S101 -- for the type: a pipe was asked for
            try:
                _feed(process.stdin, first, file, [*last, "COMMIT"])
            except BrokenPipeError:
                pass  # It ended, and has said why.
            except BaseException:
                process.kill()  # No COMMIT has reached it.
                raise
            finally:
                with suppress(BrokenPipeError):  # Here, or the end of the process raises it in place of what was said.
                    process.stdin.close()
        if process.returncode:
            errors.seek(0)
            raise ToolError(f"psql: {' '.join(errors.read().decode(errors='replace').split())}")


def _feed(to: IO[bytes], first: Iterable[str], file: Path, last: Iterable[str]) -> None:
    to.writelines(f"{statement};\n".encode() for statement in first)
    with _restored(file) as lines:
        to.writelines(line for line in lines if line not in _LEFT_OUT)  # No row is such a line.
    to.writelines(f"{statement};\n".encode() for statement in last)
