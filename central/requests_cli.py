"""``tillstream central request``: ask tills for what is new, or for what was sent before once more."""

from __future__ import annotations

import json
import re

import click

from . import requests
from .cli_base import NUMBER_MAX, as_json_option, checked_day, fail, note_option, read, write
from .requests import RequestError, Scope
from .service import wall_clock_ms

_RANGE = re.compile(r"([0-9]{1,15})(?:\.\.([0-9]{1,15}))?")


@click.command()
@click.argument("till", required=False)
@click.option("--store", help="All tills of this store.")
@click.option("--day", callback=checked_day, help="Once more: what belongs to this business day, such as 2026-03-01.")
@click.option(
    "--shift",
    type=click.IntRange(0, NUMBER_MAX),
    help="Once more: what belongs to this shift of TILL; without --day, the newest.",
)
@click.option("--range", "numbers", help="Once more: these numbers of TILL's present stream, such as 118 or 100..118.")
@click.option("--everything", is_flag=True, help="Once more: all that TILL, the store or the whole fleet retains.")
@note_option
@as_json_option
@click.pass_context
def request(
    context: click.Context,
    till: str | None,
    store: str | None,
    day: str | None,
    shift: int | None,
    numbers: str | None,
    everything: bool,
    note: str,
    as_json: bool,
) -> None:
    """Ask TILL for everything central lacks, or for what it had sent before once more.

    Safe to repeat: what is stored already changes nothing, and a wish that is still open is not made twice. Every
    request is kept in the audit.

    \b
    Example:
      tillstream central request 042-01                       all that is new
      tillstream central request 042-01 --range 118           one number, which central has lost
      tillstream central request --store 042 --day 2026-03-01 --note "day is partial"
    """
    first, last = _numbers(numbers)
    scope = Scope(till, store, day, shift, first, last, everything=everything)
    try:
        requests.check(scope)
    except RequestError as problem:
        raise click.UsageError(str(problem)) from problem
    try:
        wishes = read(context, lambda: requests.plan(scope))
    except RequestError as problem:
        raise fail(str(problem)) from problem
    tasks = write(context, lambda: requests.leave(scope, wishes, wall_clock_ms(), note))
    if as_json:
        click.echo(json.dumps({"task_ids": tasks}))
    else:
        click.echo(f"{scope}: {len(tasks)} tasks; see: tillstream central tasks --open")


def _numbers(text: str | None) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    if (match := _RANGE.fullmatch(text)) is None:
        raise click.UsageError(f"--range {text}: numbers look like 118 or 100..118")
    return int(match[1]), int(match[2] or match[1])
