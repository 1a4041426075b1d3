"""Builds a document from the rows that a POS keeps of it. Pure: the same rows always give the same bytes.

Which blocks a document has follows from its type: a cash movement has ``cash``, a shift's document ``shift``, a receipt
``totals``, lines and tenders. So one column for "the sum" may be mapped to all of them. Of a type that is not known
everything is kept, and central names what is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, get_args

from wire.documents import CASH_TYPES, RECEIPT_TYPES, SHIFT_TYPES, TransactionType

from .fields import Notation, Row, is_empty, read
from .plan import SUMS, Branch, Flags, Leaf, Plan, leaves_of

Rows = Sequence[Row]

_TYPES = frozenset(get_args(TransactionType))
_PAID_TYPES = RECEIPT_TYPES | {"cancelled"}
_BELONG: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "totals": _PAID_TYPES,
        "lines": _PAID_TYPES,
        "discounts": _PAID_TYPES,
        "tenders": _PAID_TYPES,
        "taxes": _PAID_TYPES,
        "cash": CASH_TYPES,
        **dict.fromkeys(("shift", *SUMS), SHIFT_TYPES),
    }
)
_NUMBERED: Mapping[str, str] = MappingProxyType({"lines": "line_number", "tenders": "tender_number"})
_BY_TYPE = ("totals", "cash", "shift")
"""In these a zero is a value; any other block that holds nothing but zeros is not there."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A value that was put in as it is."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Built:
    """A document made from rows."""

    document_id: str
    body: bytes
    problems: tuple[Problem, ...]

    def make_id(self) -> str:
        """Return its id, for whoever asks for one."""
        return self.document_id


@dataclass(slots=True)
class Draft:
    """A document's head, before the rows of its parts are read."""

    fields: dict[str, Any]
    notation: Notation
    problems: list[Problem] = field(default_factory=list)

    def takes(self, name: str) -> bool:
        """Say whether a block or part of this name belongs into a document of this type."""
        kind = self.fields.get("transaction_type")
        return name not in _BELONG or kind not in _TYPES or kind in _BELONG[name]


def begin(plan: Plan, row: Row, notation: Notation) -> Draft:
    """Return a document's head from its row."""
    draft = Draft({}, notation)
    for node in sorted(plan, key=lambda node: node.name != "transaction_type"):
        if draft.takes(node.name):
            _put(draft, draft.fields, node, row)
    if any(node.name == "document_id" for node in plan) and is_empty(draft.fields.get("document_id")):
        draft.problems.append(Problem("document_id", "the column is empty; an id made from the key stands in"))
    return draft


def add_part(draft: Draft, name: str, plan: Plan, rows: Rows) -> None:
    """Add the blocks of one part, one for each row, or a shift's sums."""
    if name in SUMS:
        _add_sums(draft, name, plan, rows)
        return
    blocks = draft.fields.setdefault(name, [])
    blocks += [_block(draft, plan, row) for row in rows]
    if not blocks:
        del draft.fields[name]


def finish(draft: Draft, derived_id: str, about: Mapping[str, str]) -> Built:
    """Return the document; ``about`` stands in for what the mapping leaves out, such as the currency."""
    given = draft.fields.pop("document_id", None)
    if is_empty(given):
        given = derived_id
    for name, first in _NUMBERED.items():
        for number, block in enumerate(draft.fields.get(name, ()), 1):
            block.setdefault(first, number)
    ordered = {"document_id": given, **draft.fields}
    for name, text in about.items():
        if text:
            ordered.setdefault(name, text)
    # Half of a UTF-16 pair cannot be written as UTF-8; as an escape it can, and central judges it.
    body = json.dumps(ordered, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
    return Built(str(given), body, tuple(draft.problems))


def _put(draft: Draft, block: dict[str, Any], node: Leaf | Flags | Branch, row: Row) -> None:
    match node:
        case Leaf():
            value = _value(draft, node, row)
            if value is not None:
                block[node.name] = value
        case Flags(name=name, leaves=leaves):
            values = [(leaf.name, _value(draft, leaf, row)) for leaf in leaves]
            # Neither yes nor no: central gets the value itself, and refuses it by name.
            if set_flags := [flag if value is True else value for flag, value in values if value]:
                block[name] = set_flags
        case Branch(name=name, many=many, plans=plans):
            shown = [plan for plan in plans if _is_there(name, plan, row)]
            made = [_block(draft, plan, row) for plan in shown]
            if made:
                block[name] = made if many else made[0]


def _block(draft: Draft, plan: Plan, row: Row) -> dict[str, Any]:
    block: dict[str, Any] = {}
    for node in plan:
        _put(draft, block, node, row)
    return block


def _value(draft: Draft, leaf: Leaf, row: Row) -> Any:
    value, problem = read(leaf.field, leaf.kind, row, draft.notation)
    if problem:  # A tender's value may be a card number, which is shown to nobody.
        told = f"no {leaf.kind}" if leaf.path.startswith("tenders.") else problem
        draft.problems.append(Problem(leaf.path, told))
    return value


def _is_there(name: str, plan: Plan, row: Row) -> bool:
    """Say whether a block holds anything that this row says, and not only constants and nothing."""
    columns = {column for leaf in leaves_of(plan) for column in leaf.field.columns}
    return not columns or any(not _is_nothing(row[column], zero_too=name not in _BY_TYPE) for column in columns)


def _is_nothing(given: Any, *, zero_too: bool) -> bool:
    if is_empty(given):
        return True
    if not zero_too:
        return False
    if isinstance(given, str):
        return not given.strip(" 0.,") and "0" in given
    return not isinstance(given, bytes | bytearray) and given == 0


def _add_sums(draft: Draft, name: str, plan: Plan, rows: Rows) -> None:
    """Add up rows under one code; the POS may tell two cards apart where a document does not."""
    sums: dict[str, dict[str, Any]] = {}
    for row in rows:
        one = _block(draft, plan, row)
        code = str(one.pop("code", ""))
        before = sums.setdefault(code, {})
        for key, value in one.items():
            known = before.get(key)
            before[key] = known + value if isinstance(known, int) and isinstance(value, int) else value
    if sums:
        draft.fields.setdefault("shift", {})[name] = dict(sorted(sums.items()))
