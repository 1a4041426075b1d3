"""Lists: columns, sort order, filters and pages, all kept in the URL; and each list as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from .values import at, query

Row = Mapping[str, Any]
Kind = Literal["text", "count", "time", "money", "badge", "link"]
Form = Literal["csv", "json"]
Thing = TypeVar("Thing")

ROWS_PER_PAGE = 50
"""So many rows a page shows; 50 of the widest list are well under 60 KB of HTML."""
ROWS_IN_FILE_MOST = 20_000
"""So many rows a .csv or .json has at most; whoever wants all receipts takes an export."""
ONE_MORE = ROWS_IN_FILE_MOST + 1
"""So many rows are read for a file: it is refused rather than cut off in silence."""
TOO_MANY = f"more than {ROWS_IN_FILE_MOST} rows: choose fewer by the filters, or take `tillstream central export`"
SEARCH_MAX = 200
"""So many characters of a filter are taken."""
PAGE_DIGITS = 6
"""So many digits the number of a page may have."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its key in the rows, its title, and how its values are shown."""

    key: str
    title: str
    kind: Kind = "text"
    is_sorted: bool = False
    """Whether a click on the head sorts by it."""
    is_hidden: bool = False
    """Whether it is in the files only."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter: its name in the URL, its title, and what may be chosen; without choices it is a field to type into."""

    name: str
    title: str
    choices: tuple[tuple[str, str], ...] = ()
    kind: Literal["text", "date", "number"] = "text"


@dataclass(frozen=True, slots=True)
class Shape:
    """What a list is, before anybody asks for it."""

    path: str
    title: str
    columns: tuple[Column, ...]
    filters: tuple[Filter, ...] = ()
    sort: str = ""
    """The column it is sorted by at first; a leading minus turns it round."""

    @property
    def shown(self) -> list[Column]:
        """Return the columns that a page has."""
        return [column for column in self.columns if not column.is_hidden]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a reader asked of a list, as the URL says it; what the list does not know is passed over."""

    shape: Shape
    chosen: Mapping[str, str]
    sort: str
    page: int

    @classmethod
    def of(cls, shape: Shape, request: Request) -> Wanted:
        """Read it from a request."""
        given = request.query_params
        chosen = {one.name: _value(one, given.get(one.name, "")) for one in shape.filters}
        sorts = {sign + column.key for column in shape.columns if column.is_sorted for sign in ("", "-")}
        sort = given.get("sort", "")
        return cls(shape, chosen, sort if sort in sorts else shape.sort, _number(given.get("page", "")))

    def url(self, **changes: Any) -> str:
        """Return where the same list is with other filters, sort order or page."""
        page = {"page": "" if changes.get("page", 1) == 1 else changes["page"]}
        sort = {"sort": self.sort if self.sort != self.shape.sort else ""}
        return self.shape.path + query({**self.chosen, **sort, **changes, **page})

    def file_url(self, form: Form) -> str:
        """Return where the rows that are chosen are as a file."""
        sort = {"sort": self.sort if self.sort != self.shape.sort else ""}
        return f"{self.shape.path}.{form}" + query({**self.chosen, **sort}).removesuffix("?")

    def sort_url(self, column: Column) -> str:
        """Return where the list is sorted by a column, the other way round if it is already."""
        return self.url(sort=f"-{column.key}" if self.sort == column.key else column.key)

    def direction(self, column: Column) -> str:
        """Return what ``aria-sort`` says of a column."""
        return {column.key: "ascending", f"-{column.key}": "descending"}.get(self.sort, "none")

    @property
    def is_filtered(self) -> bool:
        """Say whether some rows may have been left out."""
        return any(self.chosen.values())


@dataclass(frozen=True, slots=True)
class Listed:
    """The rows that a page shows; ``total`` is None where nobody counted them."""

    wanted: Wanted
    rows: Sequence[Row]
    total: int | None = None
    has_more: bool = False
    per_page: int = ROWS_PER_PAGE

    @property
    def first(self) -> int:
        """Return the number of the first row that is shown, counted from 1."""
        return (self.wanted.page - 1) * self.per_page + 1


def arrange(wanted: Wanted, rows: Iterable[Row], order: Callable[[Row], Any] | None = None) -> list[Row]:
    """Return rows that are all in memory in the order that is wanted; what is unknown comes last."""
    found = sorted(rows, key=order) if order else list(rows)
    name = wanted.sort.removeprefix("-")
    if not any(column.key == name and column.is_sorted for column in wanted.shape.columns):
        return found
    known = [row for row in found if row[name] is not None]
    known.sort(key=lambda row: row[name], reverse=wanted.sort.startswith("-"))
    return known + [row for row in found if row[name] is None]


def part(wanted: Wanted, rows: Sequence[Row]) -> Listed:
    """Return the page that is wanted of rows that are all in memory."""
    start = (wanted.page - 1) * ROWS_PER_PAGE
    return Listed(wanted, rows[start : start + ROWS_PER_PAGE], len(rows), len(rows) > start + ROWS_PER_PAGE)


def lazily(wanted: Wanted, things: Sequence[Thing], make: Callable[[Thing], Row]) -> Listed:
    """Return the page that is wanted of things in their own order; all are made rows of only to be sorted otherwise."""
    if wanted.sort:
        return part(wanted, arrange(wanted, map(make, things)))
    start = (wanted.page - 1) * ROWS_PER_PAGE
    rows = [make(one) for one in things[start : start + ROWS_PER_PAGE]]
    return Listed(wanted, rows, len(things), len(things) > start + ROWS_PER_PAGE)


def file(shape: Shape, rows: Iterable[Row], form: Form) -> Response:
    """Return rows as a file: every column, machine names, times as epoch milliseconds in JSON and as text in CSV.

    Raises HTTPException 413 where there are more rows than a file may have.
    """
    some = [row for row, _ in zip(rows, range(ONE_MORE), strict=False)]
    if len(some) > ROWS_IN_FILE_MOST:
        raise HTTPException(413, TOO_MANY)
    name = shape.path.strip("/").replace("/", "-") or "overview"
    if form == "json":
        named = [{column.key: _plain(row.get(column.key)) for column in shape.columns} for row in some]
        return Response(json.dumps(named, ensure_ascii=False), media_type="application/json")
    attached = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
    return Response(_csv(shape, some), media_type="text/csv", headers=attached)


def _csv(shape: Shape, rows: Iterable[Row]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([column.key for column in shape.columns])
    for row in rows:
        writer.writerow([_cell(column, row.get(column.key)) for column in shape.columns])
    return text.getvalue().encode()


def _cell(column: Column, value: Any) -> str:
    if value is None:
        return ""
    if column.kind == "time":
        return at(value)
    text = str(value)
    # A spreadsheet runs what begins like a formula: names come from tills, so it is shown as text.
    return f"'{text}" if isinstance(value, str) and text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _number(given: str) -> int:
    """Return a page's number, 1 where it is none."""
    return int(given) if given.isascii() and given.isdigit() and len(given) <= PAGE_DIGITS and int(given) else 1


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _value(one: Filter, given: str) -> str:
    """Return what was chosen of a filter; nothing where it is none of the choices."""
    value = given.strip()[:SEARCH_MAX]
    return value if not one.choices or value in {choice for choice, _ in one.choices} else ""


@dataclass(frozen=True, slots=True)
class Empty:
    """What a list without rows says: what that means, and the next step."""

    text: str
    next_step: str = ""
    url: str = ""
    commands: tuple[str, ...] = field(default=())
