"""How values are shown to a person, and what every template can use: filters, tests, the addresses of files. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import jinja2

from .assets import Assets
from .words import LANGUAGES

POLL_S = 5
"""How often a page that is looked at asks whether it has changed."""


def furnish(environment: jinja2.Environment, assets: Assets) -> None:
    """Give an environment what the templates of the console use."""
    environment.globals |= {"asset": assets.url, "poll_s": POLL_S, "languages": LANGUAGES, "polls": True, "problems": 0}
    environment.filters |= {"time": at, "count": count, "money": money, "query": query}
    environment.tests |= {"allowed": _is_allowed}


def at(value_ms: int | None) -> str:
    """Return a time as central's clock shows it; a dash where nobody knows it."""
    return "–" if value_ms is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value_ms / 1000))


def count(value: int | None) -> str:
    """Return a number with thin spaces between thousands; unknown is never shown as zero."""
    return "?" if value is None else f"{value:,}".replace(",", "\u202f")


def money(value_minor: int | None, currency: str = "") -> str:
    """Return an amount of minor units (hundredths) for a person."""
    if value_minor is None:
        return "?"
    sign, whole, rest = "−" if value_minor < 0 else "", *divmod(abs(value_minor), 100)
    return f"{sign}{count(whole)}.{rest:02d} {currency}".rstrip()


def query(values: Mapping[str, Any]) -> str:
    """Return values as a URL's query, without those that are empty."""
    given = {name: value for name, value in values.items() if value not in ("", None, [])}
    return "?" + urlencode(given, doseq=True) if given else "?"


def _is_allowed(action: str, may: Callable[[str], bool]) -> bool:
    return may(action)
