"""What a figure is: a value beside its limit from the same run, and whether the goal is met."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

FLAT = 1.2
"""How many times dearer the end of a growth curve may be than its beginning."""


@dataclass(frozen=True)
class Figure:
    """One line of the table; ``goal`` is text for people, ``met`` is None where there is nothing to meet."""

    part: str
    name: str
    value: str
    limit: str
    goal: str
    met: bool | None = None
    points: tuple[tuple[float, float], ...] = ()
    """The curve that it is the end of, if it is one: what grew, and the figure."""


def middle(values: list[float], form: str = ",.0f") -> str:
    """Return the median and the spread of repeated measurements."""
    return f"{median(values):{form}} ({min(values):{form}}–{max(values):{form}})"


def middle_ratio(values: list[float]) -> str:
    """Return the median and the spread of ratios."""
    return middle(values, ".2f")
