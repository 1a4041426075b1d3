"""What the commands of ``tillstream central`` share: the configuration, the database, tables, and how they fail."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from wire.program import EXIT_FAILED, EXIT_NOT_REACHABLE, ConfigError, read_config

from . import audit, reports
from .config import CentralConfig
from .database import REFUSED, Place, first_cause
from .store_clock import ClockError, a_day

Found = TypeVar("Found")

as_json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable; an empty list is [].")
most_option = click.option("--most", default=50, show_default=True, type=click.IntRange(1, 100_000))


NUMBER_MAX = 2**53 - 1
"""The greatest number that a document or a row may have."""


def _note(_context: click.Context, _option: click.Parameter, value: str) -> str:
    try:
        return audit.a_note(value)
    except ValueError as problem:
        raise click.BadParameter(str(problem)) from problem


note_option = click.option("--note", default="", callback=_note, help="Why; it is kept in the audit.")


def checked_day(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """Return a business day as documents have it: the callback of options and arguments that name one."""
    try:
        return value and a_day(value)
    except ClockError as problem:
        raise click.BadParameter(str(problem)) from problem


def fail(text: str, code: int = EXIT_FAILED) -> click.exceptions.Exit:
    """Say what is wrong; raise what is returned."""
    click.echo(f"tillstream central: {text}", err=True)
    return click.exceptions.Exit(code)


def configured(context: click.Context) -> CentralConfig:
    """Read the configuration when a command runs, and not before: its --help needs none."""
    path, environ = context.obj
    try:
        config = read_config(CentralConfig, "central", path, environ)
        config.place()  # Refused here, before anything is opened or shown.
        return config  # noqa: TRY300 -- an else would say no more
    except ConfigError as problem:
        raise fail(str(problem)) from problem


def read(context: click.Context, query: Callable[[], Found]) -> Found:
    """Return what a query finds in central's database."""
    return within(reports.reading, configured(context), query)


def write(context: click.Context, change: Callable[[], Found]) -> Found:
    """Make a short change in central's database, in one transaction, and return what came of it."""
    return within(reports.writing, configured(context), change)


def within(bound: Callable[[Place], Any], config: CentralConfig, act: Callable[[], Found]) -> Found:
    """Return what comes of an act with the models bound; end the command with a text where nothing could be done."""
    try:
        with bound(config.place()):
            return act()
    except reports.UnreachableError as problem:
        raise fail(str(problem), EXIT_NOT_REACHABLE) from problem
    except (ConfigError, reports.NoDatabaseError) as problem:
        raise fail(str(problem)) from problem
    except REFUSED as problem:
        raise fail(f"the database refused ({first_cause(problem)}); nothing was changed, try again") from problem
    except UnicodeEncodeError as problem:
        raise fail(f"what was typed is no UTF-8 text: {problem.object!r}") from problem


class Progress:
    """Says on standard error how far a long task is, once a second at most."""

    def __init__(self) -> None:
        self._next_at = time.monotonic() + 1.0

    def tell(self, what: str, done: int, of: int) -> None:
        """Hear of progress."""
        if (now := time.monotonic()) >= self._next_at:
            self._next_at = now + 1.0
            click.echo(f"{what}: {done} of {of}", err=True)


def table(rows: list[dict[str, Any]], columns: Sequence[str], as_json: bool) -> None:
    """Print rows as a table for people, or as JSON."""
    if as_json:
        click.echo(json.dumps([{key: plain(value) for key, value in row.items()} for row in rows]))
        return
    texts = [[show(column, row[column]) for column in columns] for row in rows]
    heads = [column.removesuffix("_ms").upper() for column in columns]
    widths = [max(len(text) for text in column) for column in zip(heads, *texts, strict=True)]
    for line in [heads, *texts]:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    if not rows:
        click.echo("(none)", err=True)


def show(name: str, value: Any) -> str:
    """Show a value to a person: unknown is never shown as zero."""
    if value is None:
        return "unknown" if name in ("behind", "through", "online", "stream") else "-"
    if name.endswith(("at_ms", "since_ms", "from_ms", "until_ms")):
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value / 1000))
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = str(value)
    return text if text.isprintable() else repr(text)  # Names come from tills: they must not command a terminal.


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it."""
    return value.hex() if isinstance(value, bytes | memoryview) else value
