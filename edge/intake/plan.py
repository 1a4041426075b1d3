"""Checks a mapping's ``fields`` against the document schema and makes a plan of them. Pure.

A plan follows the schema's order, whatever the order in the file: the same row always gives the same bytes. What kind a
value is (money, time, number …) is known from the field that it goes to.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec

from wire.documents import Date, Decimal, Discount, Document, Fiscal, Flag, Line, Mark, Tax, Tender, Timestamp

from .fields import Field, Kind

OWN_PREFIX = "x_"
"""A field that the schema does not have is carried along under a name that begins so."""

PARTS: Mapping[str, type[msgspec.Struct]] = MappingProxyType(
    {"lines": Line, "discounts": Discount, "tenders": Tender, "taxes": Tax, "fiscal": Fiscal}
)
"""Blocks that come from rows of their own."""

_GIVEN = frozenset({"document_id", "currency", "line_number", "tender_number"})
"""Fields that a document must have and a mapping need not: they are made, counted or said once for all."""

SUMS = ("by_type", "by_tender", "by_tax")
"""Sums of a shift; each row is one code with its count and amount."""

_SUM_KINDS: Mapping[str, Kind] = {"code": "text", "count": "integer", "amount_minor": "money"}


class PlanError(ValueError):
    """``fields`` cannot be used; the text names the field."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One value."""

    name: str
    path: str
    field: Field
    kind: Kind


@dataclass(frozen=True, slots=True)
class Flags:
    """The document's flags, each from a column that says yes or no."""

    name: str
    leaves: tuple[Leaf, ...]


@dataclass(frozen=True, slots=True)
class Branch:
    """A block within a block; with ``many`` a list of blocks, made from the same row."""

    name: str
    path: str
    many: bool
    plans: tuple[Plan, ...]


Plan = tuple["Leaf | Flags | Branch", ...]


def leaves_of(plan: Plan) -> Iterator[Leaf]:
    """Yield every leaf of a plan."""
    for node in plan:
        match node:
            case Leaf():
                yield node
            case Flags(leaves=leaves):
                yield from leaves
            case Branch(plans=plans):
                for inner in plans:
                    yield from leaves_of(inner)


def plan_document(fields: Mapping[str, Any], where: str) -> Plan:
    """Return the plan of a document's head; raises PlanError."""
    return _plan(Document, fields, where, "")


def plan_part(name: str, fields: Mapping[str, Any], where: str) -> Plan:
    """Return the plan of a part, such as ``lines``, or of a shift's sums, such as ``by_tender``; raises PlanError."""
    if name in PARTS:
        return _plan(PARTS[name], fields, where, name)
    for key in fields:
        refuse_unknown(key, _SUM_KINDS, where)
    missing = [key for key in _SUM_KINDS if key not in fields]
    if missing:
        raise PlanError(f"{where}: `{missing[0]}` is missing; a sum needs code, count and amount_minor")
    return tuple(_leaf(key, f"shift.{name}.{key}", fields[key], kind, where) for key, kind in _SUM_KINDS.items())


def nearest(key: str, known: Iterable[str]) -> str:
    """Return a hint at the known name that is nearest, or nothing."""
    close = difflib.get_close_matches(key, list(known), n=1)
    return f"; did you mean `{close[0]}`?" if close else ""


def refuse_unknown(key: str, known: Iterable[str], where: str) -> None:
    """Raise PlanError for a name that is not known, naming the nearest."""
    names = list(known)
    if key not in names:
        raise PlanError(f"{where}: unknown field `{key}`{nearest(key, names)}")


def _plan(struct: type[msgspec.Struct], fields: Mapping[str, Any], where: str, path: str) -> Plan:
    hints = _hints(struct)
    for needed in msgspec.structs.fields(struct):
        if needed.required and needed.name not in fields and needed.name not in _GIVEN:
            raise PlanError(f"{where}: `{needed.name}` is missing; central refuses what lacks it")
    own = sorted(key for key in fields if key.startswith(OWN_PREFIX)) if struct is Document else []
    for key in fields:
        if key not in own:
            refuse_unknown(key, hints, where)
    nodes: list[Leaf | Flags | Branch] = []
    for name, hint in hints.items():
        if name in fields:
            nodes.append(_node(struct, name, hint, fields[name], f"{where}.{name}", f"{path}.{name}".lstrip(".")))
    nodes += [_leaf(name, name, fields[name], "text", f"{where}.{name}") for name in own]
    return tuple(nodes)


def _node(
    struct: type[msgspec.Struct], name: str, hint: Any, given: Any, where: str, path: str
) -> Leaf | Flags | Branch:
    if name == "flags":
        for key in given if isinstance(given, dict) else ():
            refuse_unknown(key, get_args(Flag), where)
        table = _table(given, where)
        return Flags(name, tuple(_leaf(key, "flags", table[key], "boolean", where) for key in sorted(table)))
    if name in SUMS:
        raise PlanError(f"{where}: sums come from rows of their own; write a section [{name}]")
    inner, many = _struct_of(hint)
    if inner is None:
        return _leaf(name, path, given, "base64" if struct is Mark and name == "code" else _kind(name, hint), where)
    tables = given if many and isinstance(given, list) else [given]
    return Branch(name, path, many, tuple(_plan(inner, _table(table, where), where, path) for table in tables))


def _table(given: Any, where: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise PlanError(f"{where}: a table of fields is needed here, not {given!r}")
    return given


def _leaf(name: str, path: str, given: Any, kind: Kind, where: str) -> Leaf:
    """Return a leaf; a text alone is a column's name."""
    spec = {"column": given} if isinstance(given, str | list) else _table(given, where)
    for key in spec:
        refuse_unknown(key, Field.__struct_fields__, where)
    try:
        field = msgspec.convert(spec, Field)
    except msgspec.ValidationError as problem:
        raise PlanError(f"{where}: {problem}") from None
    if (field.value is None) == (not field.columns or "" in field.columns):
        raise PlanError(f"{where}: give either `column` or a constant `value`, such as {{ value = 1 }}")
    chosen = field.kind or kind
    for constant in (field.value, field.default):
        _check_constant(constant, chosen, where)
    return Leaf(name, path, field, chosen)


def _check_constant(constant: str | int | bool | None, kind: Kind, where: str) -> None:
    needed = {"money": int, "integer": int, "boolean": bool}.get(kind, str)
    if constant is not None and type(constant) is not needed:
        told = "a whole number of minor units" if kind == "money" else f"of type {needed.__name__}"
        raise PlanError(f"{where}: the constant {constant!r} must be {told}, as the field is {kind}")


# -- What the schema says ----------------------------------------------------------------------------------------------


@cache
def _hints(struct: type[msgspec.Struct]) -> dict[str, Any]:
    hints = get_type_hints(struct, include_extras=True)
    return {name: hints[name] for name in struct.__struct_fields__}


def _struct_of(hint: Any) -> tuple[type[msgspec.Struct] | None, bool]:
    """Return the struct that a hint holds, and whether it is a list of them."""
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True
    for one in (hint, *get_args(hint)):
        if isinstance(one, type) and issubclass(one, msgspec.Struct):
            return one, False
    return None, False


_KINDS_OF_TEXT: tuple[tuple[Any, Kind], ...] = ((Timestamp, "time"), (Date, "date"), (Decimal, "decimal"))


def _kind(name: str, hint: Any) -> Kind:
    if name.endswith("_minor"):
        return "money"
    options = [one for one in get_args(hint) if one is not type(None)] if get_origin(hint) is not Annotated else [hint]
    one = options[0] if len(options) == 1 else hint
    if one is bool:
        return "boolean"
    for schema, kind in _KINDS_OF_TEXT:
        if one == schema:
            return kind
    return "integer" if get_origin(one) is Annotated and get_args(one)[0] is int else "text"
