"""Tells card numbers from other digits: the shape of one, and its check digit (ISO/IEC 7812-1). Pure.

Asked only of tender fields: marking codes and other fields pass the check digit by chance.
"""

from __future__ import annotations

import re

_SHAPE = re.compile(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)")
DIGITS_MIN = 13


def mask(text: str) -> tuple[str, int]:
    """Return the text with the card numbers in it masked, and how many there were.

    The first six and the last four digits stay: what a receipt may show (PCI DSS 3.4).
    """
    found = 0

    def mask_one(shape: re.Match[str]) -> str:
        nonlocal found
        digits = re.sub(r"\D", "", shape[0])
        if not _passes_luhn(digits):
            return shape[0]
        found += 1
        return f"{digits[:6]}{'*' * (len(digits) - 10)}{digits[-4:]}"

    return _SHAPE.sub(mask_one, text), found


def _passes_luhn(digits: str) -> bool:
    """Check the check digit by ISO/IEC 7812-1, annex B."""
    doubled = [int(digit) * (2 if place % 2 else 1) for place, digit in enumerate(reversed(digits))]
    return sum(number - 9 if number > 9 else number for number in doubled) % 10 == 0
