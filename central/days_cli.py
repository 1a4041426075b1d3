"""``tillstream central days``, ``explain``, ``stores``, ``audit``, and what people decide about a till.

The commands are attached to the group ``central`` in cli.py; park, unpark and approve to its group ``tills``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, TypeVar

import click

from wire.program import EXIT_FINDINGS

from . import audit as audit_rows
from . import days as business_days
from . import decisions
from .cli_base import NUMBER_MAX, as_json_option, checked_day, fail, most_option, note_option, read, show, table, write
from .completeness import STATES, Missing, Proof, Proofs, TillDay
from .day_rows import AskError, Row, day_row, explained, till_row
from .service import wall_clock_ms
from .store_clock import ClockError, day_after, days_between

DAYS_KNOWN, DAYS_MOST = 7, 92
"""Without --from and --to the newest seven days that have documents are shown; a range has a quarter at most."""

STORE_DAYS_MOST = 10_000
LISTED_MOST = 20
"""Of one kind so many lines are printed for a till; --json has all."""

Found = TypeVar("Found")
_PROOFS: dict[Proof, str] = {True: "yes", False: "NO", None: "unknown"}


def _ask(context: click.Context, query: Callable[[], Found]) -> Found:
    try:
        return read(context, query)
    except (AskError, ClockError) as problem:
        raise fail(str(problem)) from problem


# -- Days --------------------------------------------------------------------------------------------------------------


@click.command()
@click.option("--from", "first", callback=checked_day, help="The first business day, such as 2026-03-01.")
@click.option("--to", "last", callback=checked_day, help="The last business day.")
@click.option("--store", "store_id", help="Only this store.")
@click.option("--state", type=click.Choice(STATES), help="Only days in this state.")
@click.option(
    "--exit-code", is_flag=True, help="Exit with 3 if a day that is over is neither complete nor not expected."
)
@as_json_option
@click.pass_context
def days(
    context: click.Context,
    first: str | None,
    last: str | None,
    store_id: str | None,
    state: str | None,
    exit_code: bool,
    as_json: bool,
) -> None:
    """Show for each store and business day whether all of it is here; the newest 7 days unless a range is given.

    \b
    Example:
      tillstream central days
      tillstream central days --from 2026-03-01 --to 2026-03-31 --store 042 --state partial
      tillstream central days --exit-code || mail -s "days are not complete" shift@example.org
    """
    rows = _ask(context, lambda: list(_day_rows(first, last, store_id, state)))
    if as_json:
        click.echo(json.dumps(rows))
    else:
        shown = [row | {"tills": f"{row['tills_complete']}/{row['tills']}", "totals": _money(row)} for row in rows]
        columns = ("business_day", "store_id", "state", "tills", "documents", "missing", "totals", "reopened_at_ms")
        table(shown, columns, as_json=False)
    if exit_code and any(row["is_over"] and row["state"] not in ("complete", "not expected") for row in rows):
        sys.exit(EXIT_FINDINGS)


def _day_rows(first: str | None, last: str | None, store_id: str | None, state: str | None) -> Iterator[Row]:
    now_ms, told = wall_clock_ms(), 0
    for day in day_range(first, last):
        for store in [store_id] if store_id is not None else business_days.stores_on(day):
            told += 1
            if told > STORE_DAYS_MOST:
                raise AskError(f"more than {STORE_DAYS_MOST} days of stores: narrow it with --from, --to or --store")
            row = day_row(business_days.store_day(store, day, now_ms))
            if state in (None, row["state"]):
                yield row


def day_range(first: str | None, last: str | None) -> list[str]:
    """Return the days asked for, newest first."""
    if first is None and last is None:
        return business_days.known_days(DAYS_KNOWN)
    known = business_days.known_days(1)
    last = last or max([first or "", *known])
    first = first or day_after(last, 1 - DAYS_KNOWN)
    if not first <= last <= day_after(first, DAYS_MOST - 1):
        raise AskError(f"--from {first} --to {last}: a range goes forward and has at most {DAYS_MOST} days")
    return days_between(first, last)[::-1]


def _money(row: Row) -> str:
    """Show sums by type, each for itself: whether an exchange paid or was paid for is not in its total."""
    totals: dict[str, dict[str, int]] = row["totals_minor"]
    texts = [f"{currency} {kind} {amount}" for currency, of in totals.items() for kind, amount in of.items()]
    return ", ".join(texts) or "-"


# -- Explain -----------------------------------------------------------------------------------------------------------


@click.command()
@click.argument("day", callback=checked_day)
@click.argument("store")
@click.option("--till", help="Only this till.")
@as_json_option
@click.pass_context
def explain(context: click.Context, day: str, store: str, till: str | None, as_json: bool) -> None:
    """Show what proves that DAY of STORE is all here, till by till and shift by shift, and what is missing.

    \b
    Example:
      tillstream central explain 2026-03-01 042
      tillstream central explain 2026-03-01 042 --till 042-03 --json
      tillstream central explain 2026-03-01 ""          documents that name no store
    """
    found, row = _ask(context, lambda: explained(day, store, till))
    if as_json:
        click.echo(json.dumps(row | {"tills": [till_row(one) for one in found.tills]}))
        return
    end = show("ends_at_ms", found.ends_at_ms)
    click.echo(
        f"{day}  store {store or '(none)'}: {found.state}  (the day {'ended' if found.is_over else 'ends'} {end})"
    )
    for name in ("completed_at_ms", "reopened_at_ms"):
        if row[name]:
            click.echo(f"  {name.removesuffix('_at_ms')} {show(name, row[name])}")
    for one in found.tills:
        click.echo("\n".join(["", *_till_lines(one)]))


def _till_lines(till: TillDay) -> Iterator[str]:
    yield f"till {till.till_id}: {till.state}, {till.documents} documents  ({_proof_text(till.proofs)})"
    for shift in till.shifts:
        closed = "closed" if shift.is_closed else "open"
        yield f"  shift {shift.number}: {closed}, {shift.documents} documents  ({_proof_text(shift.proofs)})"
        yield from _first([f"    {_difference_text(one)}" for one in shift.differences])
    yield from _first([f"  missing: {_missing_text(one)}" for one in till.missing])
    yield from (f"  note: {note}" for note in till.notes)
    yield from (f"  next: {step}" for step in till.next_steps)


def _first(lines: list[str]) -> list[str]:
    more = len(lines) - LISTED_MOST
    return [*lines[:LISTED_MOST], f"    … and {more} more; see --json"] if more > 0 else lines


def _proof_text(proofs: Proofs) -> str:
    return ", ".join(f"{name}: {_PROOFS[value]}" for name, value in asdict(proofs).items())


def _difference_text(one: Any) -> str:
    return (
        f"{one.block} {one.key}: shift_close says {one.said_count} × {one.said_minor},"
        f" stored are {one.stored_count} × {one.stored_minor},"
        f" difference {one.difference_count:+d} × {one.difference_minor:+d} minor units"
    )


def _missing_text(one: Missing) -> str:
    span = str(one.first) if one.first == one.last else f"{one.first}..{one.last}"
    if one.kind == "receipt_number":
        return f"receipt number {span} of shift {one.shift_number}"
    words = {
        "sequence": "central holds nothing under it",
        "rung_for": "the till has it, central not yet",
        "gap": f"rung for and can no longer come: {one.reason}",
        "quarantined": f"in quarantine, {one.code}: {one.reason}",
    }
    return f"number {span} of stream {one.stream}: {words[one.kind]}"


# -- What people decide ------------------------------------------------------------------------------------------------


def _decide(context: click.Context, act: Callable[[], bool]) -> bool:
    try:
        return write(context, act)
    except (decisions.DecisionError, ClockError) as problem:
        raise fail(str(problem)) from problem


def _decide_till(context: click.Context, decision: Callable[[str, str, int], bool], till: str, note: str) -> None:
    is_new = _decide(context, lambda: decision(till, note, wall_clock_ms()))
    word = {"park": "parked", "unpark": "expected", "approve": "approved"}[decision.__name__]
    click.echo(f"{till} is {word}" if is_new else f"{till} was {word} before; nothing changed")


@click.command("close")
@click.argument("number", type=click.IntRange(1, NUMBER_MAX))
@note_option
@click.pass_context
def close_gap(context: click.Context, number: int, note: str) -> None:
    """Say that what gap NUMBER lacks will not come, and how that is known; its days can be complete then.

    \b
    Example:
      tillstream central gaps close 7 --note "till burnt down; booked from the fiscal drive"
    """
    is_new = _decide(context, lambda: decisions.close_gap(number, note, wall_clock_ms()))
    click.echo(f"gap {number} is closed" if is_new else f"gap {number} was closed before; nothing changed")


@click.command()
@click.argument("till")
@note_option
@click.pass_context
def park(context: click.Context, till: str, note: str) -> None:
    """Say that TILL is not expected to report: a day can be complete without it. Sales it sends still count.

    \b
    Example:
      tillstream central tills park 042-03 --note "in repair until Friday"
    """
    if not note:
        raise click.UsageError("parking needs --note: why is the till not expected to report?")
    _decide_till(context, decisions.park, till, note)


@click.command()
@click.argument("till")
@note_option
@click.pass_context
def unpark(context: click.Context, till: str, note: str) -> None:
    """Expect TILL again.

    \b
    Example:
      tillstream central tills unpark 042-03 --note "back from repair"
    """
    _decide_till(context, decisions.unpark, till, note)


@click.command()
@click.argument("till")
@note_option
@click.pass_context
def approve(context: click.Context, till: str, note: str) -> None:
    """Let central ask TILL for its sales; needed only with approve_tills = true.

    \b
    Example:
      tillstream central tills approve 042-07
    """
    _decide_till(context, decisions.approve, till, note)


@click.group()
def stores() -> None:
    """Show and set when each store's business day ends.

    \b
    Example:
      tillstream central stores set 042 --time-zone Europe/Moscow --day-cut-off 05:00
      tillstream central stores list
    """


@stores.command("list")
@as_json_option
@click.pass_context
def list_stores(context: click.Context, as_json: bool) -> None:
    """List the stores whose clock was set; any other one has UTC and 00:00."""
    rows = read(context, decisions.store_clocks)
    table(rows, ("store_id", "time_zone", "day_cut_off"), as_json)


@stores.command("set")
@click.argument("store")
@click.option("--time-zone", help="A name of the IANA database, such as Europe/Moscow.")
@click.option("--day-cut-off", help="When a business day ends on the next date, HH:MM, such as 05:00.")
@note_option
@click.pass_context
def set_store(context: click.Context, store: str, time_zone: str | None, day_cut_off: str | None, note: str) -> None:
    """Set the time zone or the day cut-off of STORE; what is not named stays as it is.

    \b
    Example:
      tillstream central stores set 042 --time-zone Asia/Yekaterinburg
    """
    if time_zone is None and day_cut_off is None:
        raise click.UsageError("name --time-zone or --day-cut-off")
    at_ms = wall_clock_ms()
    is_new = _decide(context, lambda: decisions.set_store_clock(store, time_zone, day_cut_off, at_ms, note))
    click.echo(f"store {store} is set" if is_new else f"store {store} was set so before; nothing changed")


@click.command()
@most_option
@as_json_option
@click.pass_context
def audit(context: click.Context, most: int, as_json: bool) -> None:
    """List who did what to what and why, newest first.

    \b
    Example:
      tillstream central audit --most 20
    """
    rows = read(context, lambda: audit_rows.listed(most))
    table(rows, ("at_ms", "who", "action", "object", "note"), as_json)
