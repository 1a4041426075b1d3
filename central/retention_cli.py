"""``tillstream central retention``: forget the bytes of old documents."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from wire.program import EXIT_USAGE

from . import audit, reports
from .cli_base import Progress, as_json_option, configured, fail, note_option, within
from .database import first_cause
from .models import Document
from .retention import Forgotten, HaltedError, forget
from .service import wall_clock_ms

DAY_MS = 86_400_000


@click.command()
@click.option(
    "--older-than",
    "days",
    type=click.FloatRange(1, 36_500),
    help="Days since central received it; retention_after_days.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be forgotten; change nothing.")
@note_option
@as_json_option
@click.pass_context
def retention(context: click.Context, days: float | None, dry_run: bool, note: str, as_json: bool) -> None:
    """Forget the exact bytes and the lines of old documents, batch by batch, while central runs.

    What stays for ever: each document's row, with its id, number, type, day, total, tenders and taxes, and digests by
    which it is known when it comes again. So no day, proof or backup becomes another one by this.

    \b
    Example:
      tillstream central retention --older-than 1830 --dry-run
      tillstream central retention --older-than 1830 --note "five years are over"
    """
    config = configured(context)
    days = days or config.retention_after_days
    if not days:
        raise fail("say how old with --older-than DAYS, or set retention_after_days", EXIT_USAGE)
    now_ms = wall_clock_ms()
    before_ms = now_ms - round(days * DAY_MS)

    row: list[int] = []

    def tell_of(done: Forgotten) -> None:
        told = f"{done.documents} documents older than {days:g} days"
        if row:
            audit.go_on(row[0], told)
        else:
            row.append(audit.record("retention", told, note, now_ms))

    def act() -> Forgotten:
        database = Document._meta.database  # noqa: SLF001 -- peewee's documented way to a model's database
        return forget(database, before_ms, config.retention_batch_rows, Progress().tell, tell_of, dry_run=dry_run)

    try:
        done = within(reports.at_work, config, act)
    except HaltedError as problem:
        raise fail(_halted(problem)) from problem
    click.echo(json.dumps({**asdict(done), "dry_run": dry_run}) if as_json else _tell(done, days, dry_run))


def _halted(problem: HaltedError) -> str:
    why = first_cause(problem)
    return (
        f"the database refused ({why}); the bytes of {problem.done.documents} documents are gone: run it again to go on"
    )


def _tell(done: Forgotten, days: float, dry_run: bool) -> str:
    what = "would be forgotten" if dry_run else "were forgotten"
    sizes = f"{done.size_bytes} bytes, of which {done.kept_bytes} stay for sums"
    told = f"the bytes of {done.documents} documents older than {days:g} days {what}: {sizes}"
    held = f"\n{done.held_back} streams miss a number: what lies behind it is kept" if done.held_back else ""
    return told + held
