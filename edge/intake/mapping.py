"""Reads a mapping: the one TOML file that says where a POS keeps its documents and what its columns mean."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping as Table
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints
from urllib.parse import unquote, urlsplit
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta, Struct

from .fields import Notation
from .plan import PARTS, SUMS, Plan, PlanError, nearest, plan_document, plan_part, refuse_unknown
from .queries import Dialect, QueryError, check_query
from .taking import IntakeError

MAPPING_LIMIT_BYTES = 256 * 1024
MYSQL_PORT = 3306

Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$(?!\n)")]
"""Names the source's position and is part of the ids made for its documents: it stays as it is for ever."""
Seconds = Annotated[float, Meta(ge=0.1, le=86_400)]
Fields = dict[str, Any]


class MappingError(IntakeError):
    """A mapping cannot be used; the text names the file, the key and what would be right."""


class SqlPart(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rows that belong to one document: ``query`` is asked with ``:key``."""

    query: str
    fields: Fields


class SqlDocuments(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The documents: ``query`` gives one row each, with a key over ``:after``, in its order, at most ``:limit``."""

    query: str
    key: str
    fields: Fields


class Source(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every mapping says."""

    kind: str
    name: Name
    poll_s: Seconds = 5
    minor_units: Annotated[int, Meta(ge=0, le=4)] = 2
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}$(?!\n)")] = ""
    time_zone: str = ""
    """Where the store's clock stands; times without an offset are that clock's."""


class SqlSource(Source, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A POS's database, read by queries."""

    kind: Literal["sql"]
    database: str
    password_file: str = ""
    unix_socket: str = ""
    limit_documents: Annotated[int, Meta(ge=1, le=1000)] = 200
    late_commit_s: Annotated[float, Meta(ge=0, le=7 * 86_400)] = 3600
    start_after: Annotated[int, Meta(ge=-1, le=2**63 - 1)] = 0
    documents: SqlDocuments
    lines: SqlPart | None = None
    discounts: SqlPart | None = None
    tenders: SqlPart | None = None
    taxes: SqlPart | None = None
    fiscal: SqlPart | None = None
    by_type: SqlPart | None = None
    by_tender: SqlPart | None = None
    by_tax: SqlPart | None = None


class CsvPart(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rows of a document that make one part of it: all of them, or those ``where`` a column has a value."""

    where: dict[str, str] = {}
    fields: Fields


class CsvDocuments(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The documents: rows with the same ``key`` are one, and the first of them (``where`` …) is its head."""

    key: str | tuple[str, ...]
    where: dict[str, str] = {}
    fields: Fields

    @property
    def keys(self) -> tuple[str, ...]:
        """Return the columns that together name a document."""
        return (self.key,) if isinstance(self.key, str) else self.key


class FolderSource(Source, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A folder that a POS leaves files in."""

    kind: Literal["folder"]
    folder: str
    pattern: str = "*"
    format: Literal["json", "csv"]
    encoding: Literal["utf-8", "cp1251", "cp866"] = "utf-8"
    commit: Literal["rename", "flag"] = "rename"
    flag_suffix: Annotated[str, Meta(min_length=1, max_length=32)] = ".flag"
    delimiter: Annotated[str, Meta(min_length=1, max_length=1)] = ";"
    columns: tuple[str, ...] = ()
    file_limit_bytes: Annotated[int, Meta(ge=1024, le=64 * 2**20)] = 8 * 2**20
    done_keep_days: Annotated[float, Meta(ge=0, le=3650)] = 7
    failed_keep_days: Annotated[float, Meta(ge=1, le=3650)] = 90
    documents: CsvDocuments | None = None
    lines: CsvPart | None = None
    discounts: CsvPart | None = None
    tenders: CsvPart | None = None
    taxes: CsvPart | None = None
    fiscal: CsvPart | None = None
    by_type: CsvPart | None = None
    by_tender: CsvPart | None = None
    by_tax: CsvPart | None = None


@dataclass(frozen=True, slots=True)
class Mapping:
    """A mapping that was checked."""

    path: Path
    source: SqlSource | FolderSource
    notation: Notation
    documents: Plan
    parts: Table[str, Plan]

    @property
    def name(self) -> str:
        """Return the source's name."""
        return self.source.name

    def fail(self, where: str, text: object) -> MappingError:
        """Return the error that something in this file is wrong."""
        return MappingError(f"{self.path}: {where}: {text}")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a database is."""

    dialect: Dialect
    path: str = ""
    host: str = ""
    port: int = MYSQL_PORT
    user: str = ""
    database: str = ""


def read_mapping(path: Path) -> Mapping:
    """Read and check a mapping file; raises MappingError."""
    values = _read_toml(path)
    kinds: dict[Any, type[SqlSource | FolderSource]] = {"sql": SqlSource, "folder": FolderSource}
    if values.get("kind") not in kinds:
        raise MappingError(f'{path}: `kind` must be "sql" or "folder", not {values.get("kind")!r}')
    source_type = kinds[values["kind"]]
    _refuse_unknown(values, source_type, path, "")
    try:
        source = msgspec.convert(values, source_type)
    except msgspec.ValidationError as problem:
        raise MappingError(f"{path}: {problem}") from None
    try:
        return _checked(path, source)
    except (PlanError, QueryError) as problem:
        raise MappingError(f"{path}: {problem}") from None


def address_of(source: SqlSource) -> Address:
    """Return where the database is; raises QueryError for an address that is none."""
    url = urlsplit(source.database)
    if url.scheme == "sqlite" and source.database.startswith("sqlite:///"):
        return Address("sqlite", path="/" + unquote(source.database.removeprefix("sqlite://")).lstrip("/"))
    if url.scheme != "mysql" or not url.username or not url.path.strip("/"):
        raise QueryError("database: write sqlite:///var/lib/pos/pos.db or mysql://user@host:3306/name")
    if url.password is not None:
        raise QueryError("database: a password does not belong here; put it into a file and name it as password_file")
    try:
        port = url.port or MYSQL_PORT
    except ValueError as problem:
        raise QueryError(f"database: {problem}") from None
    database = unquote(url.path.strip("/"))
    return Address("mysql", host=url.hostname or "", port=port, user=unquote(url.username), database=database)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            given = file.read(MAPPING_LIMIT_BYTES + 1)
        if len(given) > MAPPING_LIMIT_BYTES:
            raise MappingError(f"{path}: over {MAPPING_LIMIT_BYTES} bytes; this is no mapping")
        return tomllib.loads(given.decode())
    except OSError as problem:
        raise MappingError(f"{path}: {problem.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise MappingError(f"{path}: no TOML: {problem}") from None


def _refuse_unknown(values: Table[str, Any], struct: type[Struct], path: Path, where: str) -> None:
    """Refuse an unknown key with the nearest known one, which msgspec's own error does not name."""
    hints = get_type_hints(struct)
    for key, value in values.items():
        if key not in hints:
            raise MappingError(f"{path}: unknown key `{where}{key}`{nearest(key, hints)}")
        for inner in (hints[key], *get_args(hints[key])):
            if isinstance(inner, type) and issubclass(inner, Struct) and isinstance(value, dict):
                _refuse_unknown(value, inner, path, f"{where}{key}.")


def _checked(path: Path, source: SqlSource | FolderSource) -> Mapping:
    notation = Notation(source.minor_units, _zone(source.time_zone or "UTC"))
    if isinstance(source, SqlSource):
        _check_queries(source)
    else:
        _check_folder(source)
    if source.documents is None:
        return Mapping(path, source, notation, (), {})
    if not source.time_zone:
        raise PlanError('time_zone: say where the store\'s clock stands, such as "Europe/Moscow"')
    if not source.currency and "currency" not in source.documents.fields:
        raise PlanError('currency: say it once for all, such as "RUB", or map it in [documents.fields]')
    parts = {name: part for name in (*PARTS, *SUMS) if (part := getattr(source, name)) is not None}
    plans = {name: plan_part(name, part.fields, f"{name}.fields") for name, part in parts.items()}
    return Mapping(path, source, notation, plan_document(source.documents.fields, "documents.fields"), plans)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise PlanError(f"time_zone: no time zone {name!r} here; is tzdata installed?") from None


def _check_queries(source: SqlSource) -> None:
    dialect = address_of(source).dialect
    check_query(source.documents.query, "documents.query", dialect, ("after", "limit"))
    for name in (*PARTS, *SUMS):
        if (part := getattr(source, name)) is not None:
            check_query(part.query, f"{name}.query", dialect, ("key",))


def _check_folder(source: FolderSource) -> None:
    if not Path(source.folder).is_absolute():
        raise PlanError(f"folder: {source.folder!r} must begin at the root, such as /srv/pos/out")
    if not re.fullmatch(r"[^/\0]+", source.pattern):
        raise PlanError(f"pattern: {source.pattern!r} must be a file name with * or ?, such as *.csv")
    if source.format == "json":
        given = [name for name in ("documents", *PARTS, *SUMS) if getattr(source, name) is not None]
        if given or source.columns:
            raise PlanError(f"{(*given, 'columns')[0]}: a JSON file holds documents as they are; only csv is mapped")
    elif source.documents is None:
        raise PlanError("documents: format csv needs a section [documents] with `key` and [documents.fields]")
    else:
        _check_csv(source, source.documents)


def _check_csv(source: FolderSource, documents: CsvDocuments) -> None:
    if not documents.keys or "" in documents.keys:
        raise PlanError("documents.key: name the column, or the columns, that together name a document for ever")
    doubled = [name for name in source.columns if source.columns.count(name) > 1]
    if doubled:
        raise PlanError(f"columns: {doubled[0]!r} comes twice")
    if source.columns:
        for key in documents.keys:
            refuse_unknown(key, source.columns, "documents.key")
