"""Reads what is in a file that a POS left: JSON documents as they are, or CSV rows made into documents.

Whatever is in a file is handed over: what cannot be read in the declared encoding or format is handed over as it is,
wrapped and numbered by ``prepare``, and central shows it.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import msgspec

from .fields import Row
from .mapping import CsvDocuments, FolderSource
from .mapping import Mapping as MappingFile
from .plan import leaves_of, nearest
from .prepare import id_from
from .rows import Built, Problem, add_part, begin, finish

ROW_NUMBERS_SHOWN = 5
_Objects = list[msgspec.Raw]


@dataclass(frozen=True, slots=True)
class Given:
    """One document of a file."""

    body: bytes
    derived_id: str
    problems: tuple[Problem, ...] = ()

    def make_id(self) -> str:
        """Name it if it has no id of its own: taken up twice, it is the same document."""
        return self.derived_id


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a file; a complaint sends it to ``failed`` after its documents were taken."""

    documents: list[Given] = field(default_factory=list)
    complaint: str = ""


def read_contents(mapping: MappingFile, name: str, given: bytes, about: Mapping[str, str]) -> Contents:
    """Return the documents in a file of this name."""
    source = mapping.source
    assert isinstance(source, FolderSource)  # noqa: S101 -- whoever reads a folder has such a mapping
    if not given.removeprefix(codecs.BOM_UTF8).strip():
        return Contents([], "the file is empty: nothing was closed in it")
    try:
        text = given.decode("utf-8-sig" if source.encoding == "utf-8" else source.encoding)
        if source.format == "csv":
            return Contents([_as_given(built) for built in _read_csv(mapping, source, text, about)])
        return _read_json(text, partial(_derive, mapping.name, name))
    except (UnicodeDecodeError, ValueError, csv.Error) as problem:
        made = id_from(mapping.name.encode(), os.fsencode(name), given)
        return Contents([Given(given, made)], _told(source, problem))


def read_plain(name: str, given: bytes) -> Contents:
    """Return the JSON documents of a file that no mapping is for."""
    if not given.removeprefix(codecs.BOM_UTF8).strip():
        return Contents([], "the file is empty")
    derive = partial(_derive, "", name)
    try:
        return _read_json(given.decode("utf-8-sig"), derive)
    except (UnicodeDecodeError, ValueError) as problem:
        return Contents([derive(1, given)], str(problem))


def _told(source: FolderSource, problem: Exception) -> str:
    if isinstance(problem, UnicodeDecodeError):
        return f"no {source.encoding} text: {problem.reason} at byte {problem.start}; is `encoding` right?"
    return f"no {source.format} as the mapping has it: {problem}"


# -- JSON --------------------------------------------------------------------------------------------------------------


def _derive(source: str, file: str, place: int, body: bytes) -> Given:
    """Name a document by its source, its file, its place in it and its bytes."""
    return Given(body, id_from(source.encode(), os.fsencode(file), str(place).encode(), body))


def _read_json(text: str, derive: partial[Given]) -> Contents:
    """Read one object, an array of objects, or one object a line; the bytes of each stay as they are."""
    body = text.strip()
    if body.startswith("["):
        items = [bytes(item) for item in msgspec.json.decode(body, type=_Objects)]
        return _complain([derive(place, item) for place, item in enumerate(items, 1)], "item")
    if _is_json(body):
        return _complain([derive(1, body.encode())], "document")
    lines = [(place, line) for place, line in enumerate(body.split("\n"), 1) if line.strip()]
    if not lines or not _is_json(lines[0][1]):
        raise ValueError("neither one object, nor an array of objects, nor one object a line")
    return _complain([derive(place, line.strip().encode()) for place, line in lines], "line")


def _complain(documents: list[Given], what: str) -> Contents:
    places = [
        place for place, one in enumerate(documents, 1) if not one.body.startswith(b"{") or not _is_json(one.body)
    ]
    if not places:
        return Contents(documents)
    shown = ", ".join(map(str, places[:ROW_NUMBERS_SHOWN])) + (", …" if len(places) > ROW_NUMBERS_SHOWN else "")
    return Contents(documents, f"{len(places)} of {len(documents)} are no JSON objects: {what} {shown}")


def _is_json(given: str | bytes) -> bool:
    try:
        msgspec.json.decode(given, type=msgspec.Raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return False
    return True


# -- CSV ---------------------------------------------------------------------------------------------------------------


def _read_csv(mapping: MappingFile, source: FolderSource, text: str, about: Mapping[str, str]) -> Iterator[Built]:
    documents = source.documents
    assert documents is not None  # noqa: S101 -- checked with the mapping
    rows = _rows(mapping, source, text)
    told = {"time_zone": source.time_zone, "currency": source.currency, **about}
    for key, group in _grouped(rows, documents).items():
        yield _build(mapping, documents, key, group, told)


def _rows(mapping: MappingFile, source: FolderSource, text: str) -> list[Row]:
    """Return the rows by column; raises ValueError where the file is not as the mapping has it."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=source.delimiter, strict=True)
    lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    if source.columns:
        columns = source.columns
    elif lines:
        columns = tuple(cell.strip() for cell in lines.pop(0)[1])
    else:
        raise ValueError("no row in it")
    _check_columns(mapping, columns)
    for number, cells in lines:
        if len(cells) != len(columns):
            raise ValueError(f"line {number} has {len(cells)} cells, not {len(columns)}")
    if not lines:
        raise ValueError("a heading and no row")
    return [dict(zip(columns, cells, strict=True)) for _, cells in lines]


def _check_columns(mapping: MappingFile, columns: tuple[str, ...]) -> None:
    for column in _columns_used(mapping):
        if column not in columns:
            raise ValueError(f"no column {column!r}; there are {', '.join(columns)[:300]}{nearest(column, columns)}")
        if columns.count(column) > 1:
            raise ValueError(f"two columns {column!r}")


def _columns_used(mapping: MappingFile) -> list[str]:
    """Return every column that the mapping names."""
    source = mapping.source
    assert isinstance(source, FolderSource)  # noqa: S101 -- as above
    sections = [source.documents, *(getattr(source, name) for name in mapping.parts)]
    wheres = [column for section in sections for column in section.where]
    plans = [mapping.documents, *mapping.parts.values()]
    mapped = [column for plan in plans for leaf in leaves_of(plan) for column in leaf.field.columns]
    return [*(source.documents.keys if source.documents else ()), *wheres, *mapped]


def _grouped(rows: list[Row], documents: CsvDocuments) -> dict[tuple[str, ...], list[Row]]:
    """Return the rows of each document, in the order in which the documents begin."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for number, row in enumerate(rows, 1):
        key = tuple(row[column].strip() for column in documents.keys)
        if not all(key):
            raise ValueError(f"row {number} has no {', '.join(documents.keys)}: it belongs to no document")
        groups.setdefault(key, []).append(row)
    return groups


def _build(
    mapping: MappingFile, documents: CsvDocuments, key: tuple[str, ...], group: list[Row], about: Mapping[str, str]
) -> Built:
    heads = _those(group, documents.where)
    if not heads:
        raise ValueError(f"document {' '.join(key)} has no row where {documents.where}")
    draft = begin(mapping.documents, heads[0], mapping.notation)
    for name, plan in mapping.parts.items():
        if draft.takes(name):
            add_part(draft, name, plan, _those(group, getattr(mapping.source, name).where))
    return finish(draft, id_from(mapping.name.encode(), *(part.encode() for part in key)), about)


def _those(rows: list[Row], where: Mapping[str, str]) -> list[Row]:
    return [row for row in rows if all(row[column].strip() == value for column, value in where.items())]


def _as_given(built: Built) -> Given:
    return Given(built.body, built.document_id, built.problems)
