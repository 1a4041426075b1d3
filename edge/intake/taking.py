"""What the readers of a POS's own records and the agent say to each other: a document is taken when it is durable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

PASS_DOCUMENTS = 2_000
"""A pass ends when it has taken so many, so that what was taken is rung for while a long history is read."""

NUMBERS_WENT_BACK, FILE_FAILED = "numbers_went_back", "file_failed"
"""What a reader finds that a person should look at although it can read."""

UNREADABLE = "unreadable"
"""Why no documents come in from a source, or from one of its files."""

Take = Callable[[bytes, Callable[[], str]], object]
"""``take(given, make_id)`` returns when the document is durable in the outbox, and raises NotDurableError otherwise."""


class NotDurableError(Exception):
    """The outbox did not take the document; the reader stops here and comes back, and nothing is skipped."""


class IntakeError(Exception):
    """A source cannot be read; the text names the mapping file and what in it, or what it names, is wrong."""


class Reader(Protocol):
    """Reads one source. Used by one thread only."""

    name: str
    poll_s: float
    problems: Counter[str]
    """Values that could not be converted and were put in as they are, by field."""

    def read(self, take: Take) -> int:
        """Take over everything that is new, at most about PASS_DOCUMENTS; return how many were taken.

        Raises NotDurableError and IntakeError; what was taken before is remembered then.
        """

    def findings(self) -> dict[str, str]:
        """Return what a person should look at although reading goes on: code and text."""

    def close(self) -> None:
        """Let go of the source."""
