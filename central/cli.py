"""``tillstream central``: the worker, and what people ask its database."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from wire.program import EXIT_FAILED, EXIT_FINDINGS, ConfigError, log_to_stderr, read_config

from . import reports
from .config import CentralConfig
from .migrations import NewerSchemaError
from .service import run as run_worker
from .service import wall_clock_ms

as_json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable; an empty list is [].")
most_option = click.option("--most", default=50, show_default=True, type=click.IntRange(1, 100_000))


def _fail(text: str) -> click.exceptions.Exit:
    click.echo(f"tillstream central: {text}", err=True)
    return click.exceptions.Exit(EXIT_FAILED)


@click.group()
@click.option("--config", "path", type=click.Path(path_type=Path), help="Instead of /etc/tillstream/central.toml.")
@click.option("--database", help="Instead of the configured database.")
@click.pass_context
def central(context: click.Context, path: Path | None, database: str | None) -> None:
    """Ask tills for their sales, commit what they answer, and show what is there.

    \b
    Example:
      tillstream central run                   the worker, in the foreground
      tillstream central status                one screen
      tillstream central tills --behind        who owes documents, worst first
    """
    context.obj = path, {**os.environ, **({"TILLSTREAM_DATABASE": database} if database else {})}


def _configured(context: click.Context) -> CentralConfig:
    """Read the configuration when a command runs, and not before: its --help needs none."""
    path, environ = context.obj
    try:
        return read_config(CentralConfig, "central", path, environ)
    except ConfigError as problem:
        raise _fail(str(problem)) from problem


@central.command()
@click.pass_context
def run(context: click.Context) -> None:
    """Run one worker until SIGTERM; systemd is told when it is ready (Type=notify, watchdog)."""
    config = _configured(context)
    log_to_stderr(config.log_level)
    try:
        run_worker(config)
    except (ConfigError, NewerSchemaError) as problem:
        raise _fail(str(problem)) from problem


def _read(config: CentralConfig, query: Callable[[], Any]) -> Any:
    try:
        with reports.reading(config.database):
            return query()
    except reports.NoDatabaseError as problem:
        raise _fail(str(problem)) from problem


@central.command()
@as_json_option
@click.option(
    "--exit-code", is_flag=True, help="Exit with 3 if a till is behind, a gap is open or quarantine is not empty."
)
@click.pass_context
def status(context: click.Context, as_json: bool, exit_code: bool) -> None:
    """Show how many tills there are, how many are proven complete, and what needs a person."""
    config = _configured(context)
    told = _read(config, reports.status)
    if as_json:
        click.echo(json.dumps(told))
    else:
        for name, value in told.items():
            click.echo(f"{name.removesuffix('_ms').replace('_', ' '):<20} {_show(name, value)}")
    if exit_code and (told["behind"] or told["open_gaps"] or told["quarantined"]):
        sys.exit(EXIT_FINDINGS)


@central.command()
@click.option("--till", help="Only this till.")
@click.option("--behind", is_flag=True, help="Only tills that owe documents.")
@as_json_option
@click.pass_context
def tills(context: click.Context, till: str | None, behind: bool, as_json: bool) -> None:
    """List the tills, worst first. «verified»: central provably holds everything the till ever rang for."""
    config = _configured(context)
    rows = _read(config, lambda: reports.tills(till, behind=behind))
    _table(rows, ("till_id", "store_id", "online", "through", "behind", "verified", "moved_at_ms"), as_json)


@central.command()
@click.option("--open", "is_open", is_flag=True, help="Only tasks that are not finished.")
@most_option
@as_json_option
@click.pass_context
def tasks(context: click.Context, is_open: bool, most: int, as_json: bool) -> None:
    """List upload tasks, newest first; one that was done within a second is counted, not listed."""
    config = _configured(context)
    rows = _read(config, lambda: reports.tasks(most, is_open=is_open))
    columns = ("task_id", "till_id", "state", "reason", "attempts", "created_at_ms", "finished_at_ms", "note")
    _table(rows, columns, as_json)


@central.command()
@click.option("--till", help="Only of this till.")
@most_option
@as_json_option
@click.pass_context
def quarantine(context: click.Context, till: str | None, most: int, as_json: bool) -> None:
    """List documents that could not be accepted, with the code and the field that is wrong."""
    config = _configured(context)
    rows = _read(config, lambda: reports.quarantine(most, till))
    _table(rows, ("id", "till_id", "sequence", "document_id", "code", "reason"), as_json)


@central.command()
@click.option("--till", "till_id")
@click.option("--store", "store_id")
@click.option("--day", "business_day", help="The store's business day, such as 2026-03-01.")
@click.option("--type", "transaction_type")
@click.option("--id", "document_id")
@click.option("--bytes", "as_bytes", is_flag=True, help="With --id: print the exact bytes that were received.")
@most_option
@as_json_option
@click.pass_context
def documents(context: click.Context, /, as_bytes: bool, most: int, as_json: bool, **wanted: str | None) -> None:
    """Find documents, newest first."""
    config = _configured(context)
    if as_bytes:
        if not wanted["document_id"]:
            raise click.UsageError("--bytes needs --id")
        document_id = wanted["document_id"]
        for body in _read(config, lambda: reports.document_bytes(document_id)):
            sys.stdout.buffer.write(body + b"\n")
        return
    rows = _read(config, lambda: reports.documents(most, **wanted))
    columns = (
        "till_id",
        "business_day",
        "transaction_type",
        "receipt_number",
        "total_minor",
        "currency",
        "document_id",
    )
    _table(rows, columns, as_json)


@central.command()
@as_json_option
@click.pass_context
def gaps(context: click.Context, as_json: bool) -> None:
    """List the ranges that a till rang for and can no longer send."""
    config = _configured(context)
    rows = _read(config, reports.gaps)
    _table(rows, ("id", "till_id", "stream", "first", "last", "reason", "found_at_ms"), as_json)


@central.command()
@click.argument("till")
@click.option("--note", default="", help="Why; it is kept with the task.")
@as_json_option
@click.pass_context
def request(context: click.Context, till: str, note: str, as_json: bool) -> None:
    """Ask TILL for everything central lacks; safe to repeat."""
    config = _configured(context)
    try:
        with reports.wishing(config.database):
            task_id = reports.wish(till, wall_clock_ms(), note)
    except (reports.NoDatabaseError, LookupError) as problem:
        raise _fail(str(problem)) from problem
    click.echo(json.dumps({"task_id": task_id}) if as_json else f"task {task_id}; see: tillstream central tasks --open")


def _table(rows: list[dict[str, Any]], columns: Sequence[str], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([{key: _plain(value) for key, value in row.items()} for row in rows]))
        return
    texts = [[_show(column, row[column]) for column in columns] for row in rows]
    heads = [column.removesuffix("_ms").upper() for column in columns]
    widths = [max(len(text) for text in column) for column in zip(heads, *texts, strict=True)]
    for line in [heads, *texts]:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    if not rows:
        click.echo("(none)", err=True)


def _show(name: str, value: Any) -> str:
    """Show a value to a person: unknown is never shown as zero."""
    if value is None:
        return "unknown" if name in ("behind", "through", "online", "stream") else "-"
    if name.endswith("_at_ms"):
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value / 1000))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes | memoryview) else value
