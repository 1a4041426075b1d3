"""``tillstream central``: the worker, and what people ask its database."""

from __future__ import annotations

import dataclasses
import json
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import peewee as pw

from wire.program import EXIT_FINDINGS, EXIT_NOT_REACHABLE, ConfigError, end_at_once, is_disk_failure, log_to_stderr
from wire.translation import tell

from . import consumer, consumers_cli, days_cli, reports, roll, settings_cli
from .backup_cli import backup, restore
from .carriage_cli import import_
from .cli_base import as_json_option, configured, fail, most_option, read, show, table
from .console_cli import console
from .database import REFUSED, UnsafeDatabaseError, first_cause
from .doctor_cli import doctor
from .export_cli import export_command
from .hand_over_cli import command as hand_over
from .inventory_cli import inventory
from .late import late, read_denied
from .lock import InUseError
from .migrations import MIGRATIONS, NewerSchemaError
from .migrations import migrate as bring_up_to_date
from .quarantine_cli import quarantine
from .requests_cli import request
from .retention_cli import retention
from .rollout_cli import rollout
from .service import log, wall_clock_ms
from .service import run as run_worker
from .users_cli import tokens, users


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
@click.option("--worker", metavar="K/N", help="Instead of the configured worker: the k-th of n, such as 2/4.")
@click.pass_context
def run(context: click.Context, worker: str | None) -> None:
    """Run one worker until SIGTERM; systemd is told when it is ready (Type=notify, watchdog).

    With --worker K/N this process answers for a fixed share of the tills. Start every K from 1 to N, on any machine
    that reaches the database, and tell all of them the same N. One that ends is replaced by starting it elsewhere with
    the same K/N; to change N, restart them all with the new one, in any order.

    \b
    Example:
      tillstream central run
      tillstream central run --worker 2/4
    """
    path, environ = context.obj
    context.obj = path, {**environ, **({"TILLSTREAM_WORKER": worker} if worker else {})}
    config = configured(context)
    log_to_stderr(config.log_level)
    try:
        run_worker(config)
    except reports.UnreachableError as problem:
        raise fail(str(problem), EXIT_NOT_REACHABLE) from problem
    except (ConfigError, InUseError, NewerSchemaError, UnsafeDatabaseError) as problem:
        raise fail(str(problem)) from problem
    except (pw.DatabaseError, sqlite3.DatabaseError) as problem:
        if is_disk_failure(problem):
            end_at_once(log, problem)
        raise


@central.command()
@as_json_option
@click.pass_context
def migrate(context: click.Context, as_json: bool) -> None:
    """Make the database's tables, or bring them up to date, as a worker does at its start.

    By hand where workers log in as a role that may not change tables: run this as the one that owns them.

    \b
    Example:
      tillstream central --database postgresql://tillstream_owner@db/tillstream migrate
    """
    place = configured(context).place()
    try:
        with reports.connecting(place):
            database = place.open()
        with closing(database):
            made = bring_up_to_date(database)
    except reports.UnreachableError as problem:
        raise fail(str(problem), EXIT_NOT_REACHABLE) from problem
    except (ConfigError, reports.NoDatabaseError, NewerSchemaError) as problem:
        raise fail(str(problem)) from problem
    except pw.DatabaseError as problem:
        raise fail(f"{place.url}: {first_cause(problem)}; nothing was changed") from problem
    told = f"{place.url}: {made} steps made, {len(MIGRATIONS)} in all"
    click.echo(json.dumps({"made": made, "steps": len(MIGRATIONS)}) if as_json else told)


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


@central.group(invoke_without_command=True)
@click.option("--till", help="Only this till.")
@click.option("--behind", is_flag=True, help="Only tills that owe documents.")
@as_json_option
@click.pass_context
def tills(context: click.Context, till: str | None, behind: bool, as_json: bool) -> None:
    """List the tills, worst first, and why each is late; or decide about one.

    «verified»: central provably holds everything the till ever rang for. With --till the next step is shown, too.

    \b
    Example:
      tillstream central tills --behind
      tillstream central tills --till 042-03
      tillstream central tills park 042-03 --note "in repair until Friday"
    """
    if context.invoked_subcommand:
        return
    rows = _tills(context, till, behind=behind)
    columns = ("till_id", "store_id", "online", "through", "behind", "verified", "reason", "since_ms", "title")
    table(rows, columns, as_json)
    if till and not as_json:
        click.echo("\n".join(row["next_step"] for row in rows))


def _tills(context: click.Context, till: str | None, *, behind: bool) -> list[dict[str, Any]]:
    config = configured(context)
    try:
        denied = read_denied(config.deny_file)
    except ConfigError as problem:
        raise fail(str(problem)) from problem
    rows = read(context, lambda: reports.tills(till, behind=behind, reasons=late(wall_clock_ms(), denied)))
    for row in rows:
        reason = row["reason"]
        title, next_step = tell(reason, config.language)
        row |= {"reason": reason.code, "since_ms": reason.since_ms, "severity": reason.kind.severity}
        row |= {"detail": reason.detail, "title": title, "next_step": next_step}
    return rows


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
@click.option("--till", "till_id")
@click.option("--store", "store_id")
@click.option("--day", "business_day", help="The store's business day, such as 2026-03-01.")
@click.option("--type", "transaction_type")
@click.option("--id", "document_id")
@click.option("--bytes", "as_bytes", is_flag=True, help="With --id: print the exact bytes that were received.")
@click.option("--after", metavar="CURSOR", help="Read on, oldest first, behind what the last read returned; 0 begins.")
@most_option
@as_json_option
@click.pass_context
def documents(
    context: click.Context, /, as_bytes: bool, after: str | None, most: int, as_json: bool, **wanted: str | None
) -> None:
    """Find documents, newest first; or read them all, in an order that skips none.

    With --after, what is stored behind a cursor is printed as JSON lines, oldest first, each document with its exact
    text; the last line is the cursor to go on with. A document that is still being committed is never passed by.

    \b
    Example:
      tillstream central documents --store 042 --day 2026-03-01
      tillstream central documents --after 0 --most 1000
    """
    if after is not None:
        if as_bytes or any(value is not None for value in wanted.values()):
            raise click.UsageError("--after reads everything in order; it goes with --most only")
        _read_on(context, after, min(most, consumer.MOST_MAX))
        return
    if as_bytes:
        if not wanted["document_id"]:
            raise click.UsageError("--bytes needs --id")
        document_id = wanted["document_id"]
        bodies = read(context, lambda: reports.document_bytes(document_id))
        if not bodies:
            raise fail(f"no document {document_id} is stored; in quarantine? see: tillstream central quarantine")
        for body in bodies:
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


def _read_on(context: click.Context, after: str, most: int) -> None:
    config = configured(context)
    try:
        cursor = consumer.Cursor.parse(after)
        with reports.looking(config.place()) as database:
            page = consumer.read(database, cursor, most, config.consumer_wait_s)
    except reports.UnreachableError as problem:
        raise fail(str(problem), EXIT_NOT_REACHABLE) from problem
    except (ConfigError, reports.NoDatabaseError, UnsafeDatabaseError, consumer.CursorError) as problem:
        raise fail(str(problem)) from problem
    except REFUSED as problem:
        raise fail(f"the database refused ({problem}); try again with the same cursor") from problem
    for document in page.documents:
        body = document["body"]
        click.echo(json.dumps({**document, "body": body and body.decode()}, ensure_ascii=False))
    click.echo(json.dumps({"cursor": str(page.cursor)}))


@central.command()
@as_json_option
@click.pass_context
def workers(context: click.Context, as_json: bool) -> None:
    """List the workers that run, and say if a share has nobody, or two, or they do not agree on how many they are.

    Exit code 3: something of that is so. Nothing is lost by it: what has nobody waits, what has two is done once.
    """
    config = configured(context)
    try:
        with reports.looking(config.place()) as database:
            running = roll.live(roll.seen(database), wall_clock_ms())
    except reports.UnreachableError as problem:
        raise fail(str(problem), EXIT_NOT_REACHABLE) from problem
    except (ConfigError, reports.NoDatabaseError) as problem:
        raise fail(str(problem)) from problem
    except REFUSED as problem:
        raise fail(f"the database refused ({problem}); try again") from problem
    rows = [dataclasses.asdict(one) | {"worker": f"{one.number}/{one.workers}"} for one in running]
    table(rows, ("worker", "host", "pid", "started_at_ms", "seen_at_ms"), as_json)
    wrong = list(roll.disagreements(running)) or ([] if running else ["no worker runs"])
    for one in wrong:
        click.echo(one, err=True)
    if wrong:
        sys.exit(EXIT_FINDINGS)


@central.group(invoke_without_command=True)
@as_json_option
@click.pass_context
def gaps(context: click.Context, as_json: bool) -> None:
    """List the ranges that a till rang for and can no longer send; or close one."""
    if context.invoked_subcommand:
        return
    rows = read(context, reports.gaps)
    table(rows, ("id", "till_id", "stream", "first", "last", "reason", "found_at_ms"), as_json)


for _command in (
    request,
    settings_cli.group,
    days_cli.days,
    days_cli.explain,
    days_cli.stores,
    days_cli.audit,
    import_,
    backup,
    restore,
    quarantine,
    doctor,
    retention,
    export_command,
    hand_over,
    inventory,
    rollout,
    console,
    consumers_cli.group,
    users,
    tokens,
):
    central.add_command(_command)
for _decision in (days_cli.park, days_cli.unpark, days_cli.approve, settings_cli.tag_till):
    tills.add_command(_decision)
gaps.add_command(days_cli.close_gap)
