"""Shows a document to a person as lines of JSON, with those fields marked that a reason for quarantine names. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from wire.documents import Document

LINES_MOST = 120
"""A longer document is shown around its marks; ``--bytes`` has all of it."""
AROUND = 12
DEPTH_MOST = 12
VALUE_MOST = 200
_FIELDS = frozenset(field.encode_name for field in msgspec.structs.fields(Document))
_OF_CODE = {"conflict": "$.document_id", "card_number": "$.tenders", "wrong_till": "$.till_id"}
_MISSING = re.compile(r"missing required field `(\w+)`")
_PATH = re.compile(r"\$(?:\.\w+|\[[^\]]*\])*")
_WORD = re.compile(r"[a-z_]+(?:\.\w+)*")
_QUOTED = re.compile(r": '(.+)'$")

Line = tuple[str, str]
"""Where a line stands in the document (``$.lines[0].quantity``), and its text."""


def wrong_fields(document: Any, code: str, reason: str) -> list[str]:
    """Return the paths that a reason for quarantine names."""
    missing = _MISSING.search(reason)
    paths = [path for path in _PATH.findall(reason) if path != "$"] or (["$"] if missing else [])
    if paths:
        return [paths[-1] + (f".{missing[1]}" if missing else "")]
    if quoted := _QUOTED.search(reason):
        return [path for path, text in _leaves(document, "$") if text == quoted[1]]
    named = [f"$.{word}" for word in _WORD.findall(reason) if word.partition(".")[0] in _FIELDS]
    return named or ([_OF_CODE[code]] if code in _OF_CODE else [])


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    left = [(value, path)]
    while left:
        one, where = left.pop()
        items = _items(one, where)
        left += [(inner, inner_path) for inner_path, _, inner in reversed(items)]
        if not items:
            yield where, one


# -- Lines -------------------------------------------------------------------------------------------------------------


def marked_lines(document: Any, wrong: list[str]) -> list[str]:
    """Return the document's lines, each wrong one marked; of one that is not there the nearest that is."""
    lines = list(_lines(document, "$", ""))
    there = {path for path, _ in lines}
    marks: dict[str, str] = {}
    for path in wrong:
        nearest = path
        while nearest not in there:
            nearest = nearest[: max(nearest.rfind("."), nearest.rfind("["))]
        rest = path[len(nearest) :].lstrip(".")
        marks[nearest] = f" {rest} is missing" if rest and not rest.startswith("[") else ""
    return list(_cut(lines, marks))


def _cut(lines: list[Line], marks: dict[str, str]) -> Iterator[str]:
    """Yield the lines, and where they are too many only those near a mark."""
    first_of = {path: number for number, (path, _) in reversed(list(enumerate(lines)))}
    marked = {first_of[path]: text for path, text in marks.items()}
    is_cut = False
    for number, (_, text) in enumerate(lines):
        if len(lines) > LINES_MOST and not any(abs(number - near) <= AROUND for near in (0, *marked)):
            if not is_cut:
                yield "      …"
            is_cut = True
            continue
        is_cut = False
        yield f"{'>>>' if number in marked else '   '} {text}{'   <--' + marked[number] if number in marked else ''}"


def _lines(value: Any, path: str, name: str, indent: int = 0) -> Iterator[Line]:
    pad, items = "  " * indent, _items(value, path)
    if not items or indent > DEPTH_MOST:
        yield path, f"{pad}{name}{_short(value)}"
        return
    opened, closed = "{}" if isinstance(value, dict) else "[]"
    yield path, f"{pad}{name}{opened}"
    for inner_path, inner_name, inner in items:
        yield from _lines(inner, inner_path, inner_name, indent + 1)
    yield "", f"{pad}{closed}"


def _items(value: Any, path: str) -> list[tuple[str, str, Any]]:
    if isinstance(value, dict):
        return [(f"{path}.{key}", f"{_short(key)}: ", inner) for key, inner in value.items()]
    if isinstance(value, list):
        return [(f"{path}[{number}]", "", inner) for number, inner in enumerate(value)]
    return []


def _short(value: Any) -> str:
    """Return a value on one line that commands no terminal."""
    text = json.dumps(value, ensure_ascii=False)
    text = text if text.isprintable() else json.dumps(value)
    return text if len(text) <= VALUE_MOST else f"{text[:VALUE_MOST]}…"
