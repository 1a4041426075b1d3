"""``tillstream central export``: what is stored of business days, as files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import click

from . import export, reports
from .cli_base import Progress, as_json_option, checked_day, configured, fail, within
from .day_rows import AskError
from .days_cli import day_range
from .export import Manifest
from .export_files import Form, NoParquetError, What
from .models import Document
from .service import wall_clock_ms


@click.command("export")
@click.argument("what", type=click.Choice(get_args(What)))
@click.option("--format", "form", type=click.Choice(get_args(Form)), default="csv", show_default=True)
@click.option("--from", "first", callback=checked_day, help="The first business day, such as 2026-03-01.")
@click.option("--to", "last", callback=checked_day, help="The last business day.")
@click.option("--completed", is_flag=True, help="The days that are complete in all stores, and not exported since.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The folder; made if there is none.",
)
@as_json_option
@click.pass_context
def export_command(
    context: click.Context,
    what: What,
    form: Form,
    first: str | None,
    last: str | None,
    completed: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Write WHAT is stored of business days into files, a folder a day; the newest 7 days unless a range is given.

    Each file comes whole or not at all, in the place of the one before; manifest.json beside it comes last and says how
    many rows it has, its SHA-256, and how complete the day was. DuckDB, pandas and Spark read the folders as one table.
    "excel" is CSV with semicolons and a byte order mark. The exact text of a document is in jsonl and parquet.

    \b
    Example:
      tillstream central export lines --from 2026-03-01 --to 2026-03-31 --out /srv/export
      tillstream central export documents --format parquet --out /srv/export
      tillstream central export tenders --completed --out /srv/1c       from a timer; manifest.json is the flag
    """
    if completed and (first or last):
        raise click.UsageError("--completed finds the days itself: leave --from and --to out")
    config = configured(context)

    def act() -> list[Manifest]:
        database = Document._meta.database  # noqa: SLF001 -- peewee's documented way to a model's database
        wanted = _completed(what, out, form) if completed else day_range(first, last)
        progress = Progress()
        return [export.export_day(database, what, day, out, form, wall_clock_ms(), progress.tell) for day in wanted]

    try:
        done = within(reports.looking, config, act)
    except (AskError, NoParquetError) as problem:
        raise fail(str(problem)) from problem
    except OSError as problem:
        raise fail(f"{problem.filename or out}: {problem.strerror}; what was written before is whole") from problem
    click.echo(json.dumps([asdict(one) for one in done]) if as_json else "\n".join(_told(done)))


def _completed(what: What, out: Path, form: Form) -> list[str]:
    return export.settled_days(lambda day: export.made_at_ms(out, what, day, form))


def _told(done: list[Manifest]) -> Iterator[str]:
    for one in done:
        states = ", ".join(f"{count} stores {state}" for state, count in one.state.items()) or "not judged yet"
        gone = f", {one.forgotten} forgotten" if one.forgotten else ""
        told = f"{one.rows} rows of {one.documents} documents{gone}"
        yield f"{one.business_day}  {told}  {one.size_bytes} bytes  {states}"
    if not done:
        yield "nothing to export"
