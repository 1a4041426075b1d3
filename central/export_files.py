"""Owns the forms in which rows go into a file: CSV, CSV as Excel wants it, JSON lines, Parquet."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

Form = Literal["csv", "excel", "jsonl", "parquet"]
What = Literal["documents", "lines", "tenders", "taxes", "days"]
Row = Sequence[Any]

READ_AT_ONCE = 1 << 20
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A text that begins so is a formula to a spreadsheet, and the name of an article is whatever a till said
(https://owasp.org/www-community/attacks/CSV_Injection)."""


class NoParquetError(Exception):
    """Parquet needs a library that is not installed; the text says which."""


class Writer(Protocol):
    """Takes rows until it is closed."""

    def write(self, rows: Sequence[Row]) -> None:
        """Add rows."""

    def close(self) -> None:
        """Write what is left."""


def file_name(what: str, form: Form) -> str:
    """Return what a file is called."""
    return f"{what}.{'csv' if form == 'excel' else form}"


def writer(path: Path, columns: str, form: Form) -> Writer:
    """Return what writes a file; columns are ``name type, name type``. Raises NoParquetError and OSError."""
    kinds = [column.split() for column in columns.split(",")]
    if form == "parquet":
        return _Parquet(path, kinds)
    names = [name for name, _ in kinds]
    return _JsonLines(path, names) if form == "jsonl" else _Csv(path, names, for_excel=form == "excel")


@contextmanager
def replaced(path: Path, before: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """Yield a path to write to; it takes the place of the other one when all is on the disk, after ``before``."""
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        before()
        part.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        part.unlink(missing_ok=True)


def measured(path: Path) -> tuple[int, str]:
    """Return a file's size in bytes and its SHA-256."""
    digest, size = sha256(), 0
    with path.open("rb") as file:
        while some := file.read(READ_AT_ONCE):
            digest.update(some)
            size += len(some)
    return size, digest.hexdigest()


class _Csv:
    """RFC 4180; for Excel with a byte order mark, semicolons, and no text that it would take for a formula."""

    def __init__(self, path: Path, names: Sequence[str], *, for_excel: bool) -> None:
        self._for_excel = for_excel
        self._file = path.open("w", encoding="utf-8-sig" if for_excel else "utf-8", newline="")
        self._csv = csv.writer(self._file, delimiter=";" if for_excel else ",")
        self._csv.writerow(names)

    def write(self, rows: Sequence[Row]) -> None:
        self._csv.writerows([self._cell(one) for one in row] for row in rows)

    def _cell(self, value: Any) -> Any:
        if isinstance(value, bool):
            return "true" if value else "false"
        if self._for_excel and isinstance(value, str) and value.startswith(FORMULA) and not _is_number(value):
            return f"'{value}"
        return value

    def close(self) -> None:
        self._file.close()


class _JsonLines:
    """One object a line."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self._names, self._file = names, path.open("wb")

    def write(self, rows: Sequence[Row]) -> None:
        self._file.writelines(msgspec.json.encode(dict(zip(self._names, row, strict=True))) + b"\n" for row in rows)

    def close(self) -> None:
        self._file.close()


class _Parquet:
    """Columns with their types, one group of rows for each that is written."""

    def __init__(self, path: Path, kinds: Sequence[Sequence[str]]) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as problem:
            raise NoParquetError("Parquet needs pyarrow: pip install 'tillstream[parquet]'") from problem
        types = {"text": pa.string(), "bigint": pa.int64(), "boolean": pa.bool_()}
        self._schema = pa.schema([(name, types[kind]) for name, kind in kinds])
        self._table, self._writer = pa.table, pq.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, rows: Sequence[Row]) -> None:
        if rows:
            columns = [list(column) for column in zip(*rows, strict=True)]
            self._writer.write_table(self._table(columns, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
