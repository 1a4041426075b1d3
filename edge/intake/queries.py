"""Reads the named parameters (``:after``, ``:key``) of a mapping's queries and rewrites them for a driver. Pure."""

from __future__ import annotations

import re
from typing import Literal

from .plan import nearest

Dialect = Literal["sqlite", "mysql"]

ABOUT = ("till_id", "store_id")
"""Parameters that any query may use: one database may serve several tills."""

_LITERALS = {
    "sqlite": r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/""",
    "mysql": r"""'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*"|`[^`]*`|--[^\n]*|\#[^\n]*|/\*.*?\*/""",
}
"""Where a colon is text; as each dialect has it (only MySQL knows a backslash and #)."""

_TOKEN = {
    dialect: re.compile(rf"(?P<literal>{literals})|:(?P<name>[A-Za-z_][A-Za-z0-9_]*)|%", re.DOTALL)
    for dialect, literals in _LITERALS.items()
}
_READS = re.compile(r"\s*(?:SELECT|WITH)\b", re.IGNORECASE)


class QueryError(ValueError):
    """A query, or the address of its database, cannot be used; the text names the key."""


def parameters_of(query: str, dialect: Dialect) -> set[str]:
    """Return the names that a query asks for."""
    return {found["name"] for found in _TOKEN[dialect].finditer(query) if found["name"]}


def check_query(query: str, where: str, dialect: Dialect, needed: tuple[str, ...]) -> None:
    """Raise QueryError unless the query reads only, asks for what it must and for nothing that nobody gives."""
    if not _READS.match(query):
        raise QueryError(f"{where}: must begin with SELECT or WITH: the POS's tables are only read")
    asked = parameters_of(query, dialect)
    for name in needed:
        if name not in asked:
            raise QueryError(f"{where}: must use :{name}")
    for name in sorted(asked):
        if name not in (*needed, *ABOUT):
            raise QueryError(f"{where}: nobody gives a value for :{name}{nearest(name, (*needed, *ABOUT))}")


def for_pymysql(query: str) -> str:
    """Return the query as PyMySQL wants it: ``%(name)s`` for ``:name``, and every other ``%`` doubled."""
    return _TOKEN["mysql"].sub(_pyformat, query)


def _pyformat(found: re.Match[str]) -> str:
    return f"%({found['name']})s" if found["name"] else found[0].replace("%", "%%")
