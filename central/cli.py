"""``tillstream central``: the worker, and what people ask its database."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from wire.program import EXIT_FINDINGS, ConfigError, log_to_stderr

from . import reports, settings_cli
from .cli_base import as_json_option, configured, fail, most_option, read, show, table
from .migrations import NewerSchemaError
from .requests_cli import request
from .service import run as run_worker


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


@central.command()
@click.pass_context
def run(context: click.Context) -> None:
    """Run one worker until SIGTERM; systemd is told when it is ready (Type=notify, watchdog)."""
    config = configured(context)
    log_to_stderr(config.log_level)
    try:
        run_worker(config)
    except (ConfigError, NewerSchemaError) as problem:
        raise fail(str(problem)) from problem


@central.command()
@as_json_option
@click.option(
    "--exit-code", is_flag=True, help="Exit with 3 if a till is behind, a gap is open or quarantine is not empty."
)
@click.pass_context
def status(context: click.Context, as_json: bool, exit_code: bool) -> None:
    """Show how many tills there are, how many are proven complete, and what needs a person."""
    told = read(context, reports.status)
    if as_json:
        click.echo(json.dumps(told))
    else:
        for name, value in told.items():
            click.echo(f"{name.removesuffix('_ms').replace('_', ' '):<20} {show(name, value)}")
    if exit_code and (told["behind"] or told["open_gaps"] or told["quarantined"]):
        sys.exit(EXIT_FINDINGS)


@central.command()
@click.option("--till", help="Only this till.")
@click.option("--behind", is_flag=True, help="Only tills that owe documents.")
@as_json_option
@click.pass_context
def tills(context: click.Context, till: str | None, behind: bool, as_json: bool) -> None:
    """List the tills, worst first. «verified»: central provably holds everything the till ever rang for."""
    rows = read(context, lambda: reports.tills(till, behind=behind))
    table(rows, ("till_id", "store_id", "online", "through", "behind", "verified", "moved_at_ms"), as_json)


@central.command()
@click.option("--open", "is_open", is_flag=True, help="Only tasks that are not finished.")
@most_option
@as_json_option
@click.pass_context
def tasks(context: click.Context, is_open: bool, most: int, as_json: bool) -> None:
    """List upload tasks, newest first; one that was done within a second is counted, not listed."""
    rows = read(context, lambda: reports.tasks(most, is_open=is_open))
    columns = ("task_id", "till_id", "state", "reason", "attempts", "created_at_ms", "finished_at_ms", "note")
    table(rows, columns, as_json)


@central.command()
@click.option("--till", help="Only of this till.")
@most_option
@as_json_option
@click.pass_context
def quarantine(context: click.Context, till: str | None, most: int, as_json: bool) -> None:
    """List documents that could not be accepted, with the code and the field that is wrong."""
    rows = read(context, lambda: reports.quarantine(most, till))
    table(rows, ("id", "till_id", "sequence", "document_id", "code", "reason"), as_json)


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
    if as_bytes:
        if not wanted["document_id"]:
            raise click.UsageError("--bytes needs --id")
        document_id = wanted["document_id"]
        for body in read(context, lambda: reports.document_bytes(document_id)):
            sys.stdout.buffer.write(body + b"\n")
        return
    rows = read(context, lambda: reports.documents(most, **wanted))
    columns = (
        "till_id",
        "business_day",
        "transaction_type",
        "receipt_number",
        "total_minor",
        "currency",
        "document_id",
    )
    table(rows, columns, as_json)


@central.command()
@as_json_option
@click.pass_context
def gaps(context: click.Context, as_json: bool) -> None:
    """List the ranges that a till rang for and can no longer send."""
    rows = read(context, reports.gaps)
    table(rows, ("id", "till_id", "stream", "first", "last", "reason", "found_at_ms"), as_json)


for _command in (request, settings_cli.group):
    central.add_command(_command)
