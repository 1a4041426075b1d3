"""Owns what a demo looks like while it runs: a live table for a person, a line every few seconds for a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Protocol, Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from .figures import Figures

LINE_EVERY_S = 3.0
REFRESHES_PER_S = 5


class View(Protocol):
    """Shows how the run stands; says sentences in between."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; what was shown last stays."""

    def say(self, text: str) -> None:
        """Say a sentence."""

    def show(self, figures: Figures) -> None:
        """Show the run as it stands now."""


class LiveView:
    """A table that renews itself, on a terminal."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, refresh_per_second=REFRESHES_PER_S, transient=False)

    def __enter__(self) -> Self:
        """Begin; the table appears with the first figures."""
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last table standing."""
        self._live.stop()

    def say(self, text: str) -> None:
        """Say a sentence above the table."""
        self._console.print(text, markup=False, soft_wrap=True)

    def show(self, figures: Figures) -> None:
        """Renew the table."""
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_row("closed", f"{figures.closed:,} of {figures.wanted:,}", _bar(figures.closed, figures.wanted))
        table.add_row("stored", f"{figures.stored:,}", _bar(figures.stored, figures.wanted))
        table.add_row("verified", f"{figures.verified} of {figures.tills} tills", _bar(figures.verified, figures.tills))
        table.add_row("lag", tell_lag(figures))
        table.add_row("link", tell_bytes(figures))
        if figures.kills:
            table.add_row("kills", tell_kills(figures))
        table.add_row("time", f"{figures.seconds:.0f} s")
        self._live.update(table)


class LineView:
    """A line every few seconds, where no person watches a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._next_at = stream, 0.0

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""

    def say(self, text: str) -> None:
        """Print a sentence."""
        print(text, file=self._stream, flush=True)

    def show(self, figures: Figures) -> None:
        """Print a line if it is time to, or if all is done."""
        now = time.monotonic()
        if now < self._next_at:
            return
        self._next_at = now + LINE_EVERY_S
        kills = f", kills {tell_kills(figures)}" if figures.kills else ""
        self.say(
            f"{figures.seconds:5.0f} s  closed {figures.closed:,} of {figures.wanted:,}, stored {figures.stored:,}, "
            f"verified {figures.verified} of {figures.tills}, lag {tell_lag(figures)}, {tell_bytes(figures)}{kills}"
        )


def choose(*, as_json: bool) -> LiveView | LineView:
    """Return the live view on a terminal, lines elsewhere; with JSON the lines go to standard error."""
    if as_json:
        return LineView(sys.stderr)
    return LiveView() if sys.stdout.isatty() else LineView(sys.stdout)


def tell_lag(figures: Figures) -> str:
    """Return the lag as text: unknown is not zero."""
    if figures.lag_p50_s is None or figures.lag_p99_s is None:
        return "unknown yet"
    return f"p50 {figures.lag_p50_s:.2f} s, p99 {figures.lag_p99_s:.2f} s"


def tell_bytes(figures: Figures) -> str:
    """Return the bytes for each document, both ways, connecting and presence included."""
    each = figures.bytes_per_document
    return "bytes unknown yet" if each is None else f"{each:,.0f} bytes a document on the link, both ways"


def tell_kills(figures: Figures) -> str:
    """Return how often each kind was killed while documents were unsent."""
    return ", ".join(f"{kind} {number}" for kind, number in figures.kills.items())


def _bar(done: int, of: int) -> ProgressBar:
    return ProgressBar(total=max(1, of), completed=done, width=40)
