"""What a POS's column becomes in a document: exactly that, or the value as it was with the reason."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.intake.fields import Field, Notation, read

MOSCOW = Notation(2, ZoneInfo("Europe/Moscow"))
BERLIN = Notation(2, ZoneInfo("Europe/Berlin"))


def converted(kind, given, notation=MOSCOW, **field):
    return read(Field(column="c", **field), kind, {"c": given}, notation)


@pytest.mark.parametrize(
    ("kind", "given", "value"),
    [
        ("money", Decimal("123.45"), 12345),
        ("money", 19.99, 1999),
        ("money", 0.1 + 0.2, 30),
        ("money", "1 234,5", 123450),
        ("money", "1\u00a0234.50", 123450),
        ("money", 7, 700),
        ("money", "-0.10", -10),
        ("decimal", Decimal("1.500"), "1.5"),
        ("decimal", Decimal("0E-10"), "0"),
        ("decimal", 1200.0, "1200"),
        ("decimal", "0,375", "0.375"),
        ("integer", "42", 42),
        ("integer", 42.0, 42),
        ("integer", Decimal(42), 42),
        ("boolean", 1, True),
        ("boolean", "Нет", False),
        ("boolean", b"\x01", True),
        ("boolean", b"\x00", False),
        ("text", 17, "17"),
        ("text", Decimal("5.50"), "5.50"),
        ("text", "как есть ", "как есть "),
        ("text", "имя".encode(), "имя"),
        ("date", "2026-03-01", "2026-03-01"),
        ("date", "2026-03-01 23:59:59", "2026-03-01"),
        ("date", date(2026, 3, 1), "2026-03-01"),
        ("date", datetime(2026, 2, 28, 22, 0, tzinfo=UTC), "2026-03-01"),
        ("time", "2026-03-01 10:00:00", "2026-03-01T10:00:00+03:00"),
        ("time", "2026-03-01T10:00:00.5", "2026-03-01T10:00:00.500+03:00"),
        ("time", "2026-03-01T10:00:00+05:00", "2026-03-01T10:00:00+05:00"),
        ("time", datetime(2026, 3, 1, 10, 0, 0, 250_000), "2026-03-01T10:00:00.250+03:00"),  # noqa: DTZ001
        ("base64", b"\x1d93", "HTkz"),
        ("base64", "\x1d93", "HTkz"),
    ],
)  # fmt: skip
def test_a_value_becomes_what_its_field_needs(kind, given, value):
    """Databases, drivers and files write the same thing in many ways."""
    assert (value, "") == converted(kind, given)
    assert type(value) is type(converted(kind, given).value)


@pytest.mark.parametrize(
    ("kind", "given", "kept"),
    [
        ("money", Decimal("12.345"), "12.345"),
        ("money", "12.3456789", "12.3456789"),
        ("money", "1,234.56", "1,234.56"),
        ("money", "free", "free"),
        ("money", float("nan"), "nan"),
        ("money", "1" * 41, "1" * 41),
        ("money", "1_000", "1_000"),
        ("decimal", "0.1234567", "0.1234567"),
        ("decimal", Decimal(10) ** 15, "1000000000000000"),
        ("integer", "1.5", "1.5"),
        ("boolean", "maybe", "maybe"),
        ("date", "01.03.2026", "01.03.2026"),
        ("date", "0000-00-00", "0000-00-00"),
        ("time", "10:00", "10:00"),
        ("time", timedelta(hours=9), "09:00:00"),
        ("text", b"\xff\xfe", "\\xff\\xfe"),
    ],
)
def test_a_value_that_cannot_be_converted_stays_as_it_is(kind, given, kept):
    """A closed document is never refused here: central gets the value and names the field; the reason is told."""
    value, problem = converted(kind, given)

    assert kept == value
    assert problem


@given(st.decimals(allow_nan=True, allow_infinity=True) | st.floats() | st.text() | st.binary() | st.integers())
def test_nothing_that_a_column_may_hold_breaks_a_conversion(value):
    """Whatever comes, there is a value for JSON, and either it is of the kind or there is a reason."""
    wanted = {"money": int, "integer": int, "boolean": bool}
    for kind in ("text", "money", "decimal", "integer", "boolean", "date", "time", "base64"):
        got, problem = converted(kind, value)
        assert problem or got is None or isinstance(got, wanted.get(kind, str))


def test_nothing_is_nothing():
    """NULL, an empty text and spaces leave the field out, or let the default stand in."""
    for nothing in (None, "", "  ", b""):
        assert (None, "") == converted("money", nothing)
        assert ("other", "") == converted("text", nothing, default="other")


def test_codes_mean_what_the_map_says():
    """A code that the map does not know is kept, or the default stands in."""
    codes = {"1": "sale", "2": "return"}

    assert ("sale", "") == converted("text", 1, map=codes)
    assert ("return", "") == converted("text", "2 ", map=codes)
    assert converted("text", 7, map=codes) == ("7", "`map` has no '7'")
    assert ("other", "") == converted("text", 7, map=codes, default="other")


def test_the_sign_can_be_left_out_and_another_format_be_named():
    """Many a POS writes returns below zero, and dates as people do."""
    assert (1250, "") == converted("money", "-12,50", absolute=True)
    assert ("1.5", "") == converted("decimal", -1.5, absolute=True)
    assert ("2026-03-01", "") == converted("date", "01.03.26", format="%d.%m.%y")
    assert ("2026-03-01T10:00:00+03:00", "") == converted("time", 1_772_348_400, format="epoch_s")
    assert ("2026-03-01T10:00:00.007+03:00", "") == converted("time", 1_772_348_400_007, format="epoch_ms")


def test_several_columns_make_one_value():
    """A date and a time of their own, also MySQL's TIME, whose hour has no leading zero as text."""
    field = Field(column=("day", "clock"))
    for clock in ("09:05:00", timedelta(hours=9, minutes=5)):
        row = {"day": date(2026, 3, 1), "clock": clock}
        assert read(field, "time", row, MOSCOW) == ("2026-03-01T09:05:00+03:00", "")
    assert read(field, "time", {"day": None, "clock": ""}, MOSCOW) == (None, "")


def test_the_hour_that_comes_twice_is_always_read_the_same_way():
    """In the night when clocks go back, a local time is ambiguous; the same row must give the same bytes."""
    summer, twice = "2026-10-25T01:30:00", "2026-10-25T02:30:00"

    assert converted("time", summer, BERLIN).value == "2026-10-25T01:30:00+02:00"
    assert converted("time", twice, BERLIN).value == "2026-10-25T02:30:00+02:00"
