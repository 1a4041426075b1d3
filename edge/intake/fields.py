"""Turns what a POS keeps in a column into what a document holds. Pure.

A value that cannot be turned into what the field needs stays as it is, as text: a closed document is never refused, and
central names the field that is wrong.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Context, Decimal
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

from msgspec import Struct

Kind = Literal["text", "money", "decimal", "integer", "boolean", "date", "time", "base64"]
Row = Mapping[str, Any]

NUMBER_MAX_LENGTH = 40
WHOLE_DIGITS_MAX, DECIMALS_MAX = 15, 6
"""As central has it: a decimal text has at most so many digits before and after its point."""

EPOCHS = {"epoch_s": 1, "epoch_ms": 1000}
"""Formats of a time that is a number: how many of it make a second."""

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)", re.ASCII)
_SPACES = re.compile(r"[\s\u00a0\u202f]+")
_EXACT = Context(prec=60)
_TRUE = frozenset({"1", "true", "t", "yes", "y", "да"})
_FALSE = frozenset({"0", "false", "f", "no", "n", "нет"})


class Field(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where one value of a document comes from: a column, several joined, or a constant."""

    column: str | tuple[str, ...] = ()
    between: str = " "
    """What stands between the values of several columns."""
    value: str | int | bool | None = None
    map: dict[str, str] = {}
    """What the POS's codes mean."""
    default: str | int | bool | None = None
    """Stands in where the column is NULL or empty, or ``map`` does not know its value."""
    kind: Kind | None = None
    format: str = ""
    """How a date or time is written (strftime), or ``epoch_s`` or ``epoch_ms``; ISO 8601 without it."""
    absolute: bool = False
    """Leave out the sign: direction comes from the type."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that are read."""
        return (self.column,) if isinstance(self.column, str) else self.column


@dataclass(frozen=True, slots=True)
class Notation:
    """How the POS writes money, times and text."""

    minor_units: int
    zone: ZoneInfo
    encoding: str = "utf-8"


class Read(NamedTuple):
    """A value as the document will hold it (None: nothing there), and why it stayed as it was, if it did."""

    value: Any
    problem: str = ""


def read(field: Field, kind: Kind, row: Row, notation: Notation) -> Read:
    """Return the field's value from one row."""
    if field.value is not None:
        return Read(field.value)
    given = _given(field, row, notation)
    if not is_empty(given) and field.map:
        key = as_text(given, notation).strip()
        if key not in field.map:
            return Read(field.default) if field.default is not None else Read(key, f"`map` has no {key!r}")
        given = field.map[key]
    if is_empty(given):
        return Read(field.default)
    try:
        return Read(_CONVERT[kind](given, field, notation))
    except (ValueError, ArithmeticError, UnicodeDecodeError) as problem:
        return Read(as_text(given, notation), str(problem) or f"no {kind}")


def is_empty(given: Any) -> bool:
    """Say whether a column holds nothing: NULL, or nothing but spaces."""
    return given is None or (isinstance(given, str | bytes) and not given.strip())


def _given(field: Field, row: Row, notation: Notation) -> Any:
    columns = field.columns
    if len(columns) == 1:
        return row[columns[0]]
    return field.between.join(as_text(row[name], notation) for name in columns if not is_empty(row[name]))


def as_text(given: Any, notation: Notation) -> str:
    """Return any value as text; what is no text in its encoding keeps its bytes visible."""
    if isinstance(given, bytes | bytearray):
        return bytes(given).decode(notation.encoding, "backslashreplace")
    if isinstance(given, bool):
        return "true" if given else "false"
    if isinstance(given, float):
        return f"{given:.15g}"
    if isinstance(given, Decimal) and given.is_finite() and abs(given.adjusted()) < NUMBER_MAX_LENGTH:
        return format(given, "f")
    return _as_clock(given) if isinstance(given, timedelta) else str(given)


def _as_clock(given: timedelta) -> str:
    """Return MySQL's TIME as ISO 8601 has it; str() would leave out the hour's leading zero."""
    minutes, seconds = divmod(int(given.total_seconds()), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}"


# -- One function for each kind ----------------------------------------------------------------------------------------


def _text(given: Any, _field: Field, notation: Notation) -> str:
    if isinstance(given, bytes | bytearray):
        try:
            return given.decode(notation.encoding)
        except UnicodeDecodeError as problem:
            raise ValueError(f"no {notation.encoding} text: {problem.reason} at byte {problem.start}") from None
    return as_text(given, notation)


def _number(given: Any, notation: Notation) -> Decimal:
    """Return the exact number; of a binary fraction the 15 digits that it really has."""
    if isinstance(given, Decimal):
        number = given
    else:
        text = _SPACES.sub("", as_text(given, notation)).replace(",", ".")
        if isinstance(given, float) and "e" in text:
            text = format(Decimal(text), "f")
        if len(text) > NUMBER_MAX_LENGTH or not _NUMBER.fullmatch(text):
            raise ValueError(f"{text[:NUMBER_MAX_LENGTH]!r} is no number")
        number = Decimal(text)
    if not number.is_finite() or number.adjusted() > NUMBER_MAX_LENGTH:
        raise ValueError(f"{number} is out of bounds")
    return number


def _whole(number: Decimal, field: Field, what: str) -> int:
    if number != number.to_integral_value(context=_EXACT):
        raise ValueError(what)
    return abs(int(number)) if field.absolute else int(number)


def _money(given: Any, field: Field, notation: Notation) -> int:
    amount = _number(given, notation)
    minor = amount.scaleb(notation.minor_units, context=_EXACT)
    return _whole(minor, field, f"{amount} has more than {notation.minor_units} decimals (minor_units)")


def _integer(given: Any, field: Field, notation: Notation) -> int:
    number = _number(given, notation)
    return _whole(number, field, f"{number} is no whole number")


def _decimal(given: Any, field: Field, notation: Notation) -> str:
    """Return the number without needless zeros, so that the same quantity is always the same text."""
    number = _number(given, notation).normalize(_EXACT)
    _, digits, exponent = number.as_tuple()
    if not isinstance(exponent, int) or len(digits) + exponent > WHOLE_DIGITS_MAX or -exponent > DECIMALS_MAX:
        raise ValueError(f"{number} has over {WHOLE_DIGITS_MAX} digits before or {DECIMALS_MAX} after the point")
    if number.is_zero() or field.absolute:
        number = abs(number)
    return format(number, "f")


def _boolean(given: Any, _field: Field, notation: Notation) -> bool:
    if isinstance(given, bytes | bytearray) and len(given) <= 8 and not bytes(given).isdigit():
        return any(given)  # MySQL's BIT.
    text = as_text(given, notation).strip().lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise ValueError(f"{text!r} is neither 0 nor 1, true nor false")


def _moment(given: Any, field: Field, notation: Notation) -> datetime:
    """Return a point in time; one without an offset is the store's local time."""
    if per_second := EPOCHS.get(field.format):
        whole, rest = divmod(_whole(_number(given, notation), field, f"{given} is no whole {field.format}"), per_second)
        moment = datetime.fromtimestamp(whole, notation.zone) + timedelta(milliseconds=rest)
    elif isinstance(given, datetime):
        moment = given
    elif isinstance(given, date):
        moment = datetime(given.year, given.month, given.day)  # noqa: DTZ001 -- its zone is set below
    else:
        text = as_text(given, notation).strip()
        moment = datetime.strptime(text, field.format) if field.format else datetime.fromisoformat(text)  # noqa: DTZ007
    return moment if moment.tzinfo else moment.replace(tzinfo=notation.zone)


def _time(given: Any, field: Field, notation: Notation) -> str:
    try:
        moment = _moment(given, field, notation)
        return moment.isoformat(
            timespec="auto" if moment.microsecond % 1000 or not moment.microsecond else "milliseconds"
        )
    except (OverflowError, OSError) as problem:
        raise ValueError(f"out of bounds: {problem}") from None


def _date(given: Any, field: Field, notation: Notation) -> str:
    if isinstance(given, date) and not isinstance(given, datetime):
        return given.isoformat()
    return _moment(given, field, notation).astimezone(notation.zone).date().isoformat()


def _base64(given: Any, _field: Field, notation: Notation) -> str:
    """Return the exact bytes: a marking code holds control characters."""
    return b64encode(given if isinstance(given, bytes | bytearray) else as_text(given, notation).encode()).decode()


_CONVERT: dict[Kind, Callable[[Any, Field, Notation], Any]] = {
    "text": _text,
    "money": _money,
    "decimal": _decimal,
    "integer": _integer,
    "boolean": _boolean,
    "date": _date,
    "time": _time,
    "base64": _base64,
}
