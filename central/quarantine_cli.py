"""``tillstream central quarantine``: documents that could not be accepted, looked at, judged again or discarded."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar, get_args

import click

from wire.program import EXIT_FINDINGS

from . import quarantine as waiting
from . import reports
from .cli_base import (
    NUMBER_MAX,
    Progress,
    as_json_option,
    fail,
    most_option,
    note_option,
    plain,
    read,
    show,
    table,
    write,
)
from .decisions import DecisionError
from .judge import Code
from .marked import marked_lines, wrong_fields
from .quarantine import Chosen, Tried
from .service import wall_clock_ms

Found = TypeVar("Found")

AT_ONCE = 100
"""So many documents are judged in one transaction: a worker commits between two of them."""

FACTS = (
    "id", "till_id", "stream", "sequence", "received_at_ms", "document_id", "code", "reason", "discarded_at_ms", "note",
)  # fmt: skip
KEY_FACTS = ("transaction_type", "store_id", "business_day", "closed_at", "shift_number", "receipt_number", "operator")

code_option = click.option("--code", type=click.Choice(get_args(Code)), help="Only with this code.")
till_option = click.option("--till", help="Only of this till.")
numbers_argument = click.argument("numbers", metavar="[NUMBER]...", nargs=-1, type=click.IntRange(1, NUMBER_MAX))


@click.group(invoke_without_command=True)
@till_option
@code_option
@click.option("--all", "everything", is_flag=True, help="Also what was discarded, or came again and was accepted.")
@most_option
@as_json_option
@click.pass_context
def quarantine(
    context: click.Context, till: str | None, code: str | None, everything: bool, most: int, as_json: bool
) -> None:
    """List documents that could not be accepted, with the code and the field that is wrong; or do something about them.

    \b
    Example:
      tillstream central quarantine --code bad_schema
      tillstream central quarantine show 12                      the document, with the wrong field marked
      tillstream central quarantine retry --code bad_schema      after an upgrade that accepts them
      tillstream central quarantine discard 12 --note "test receipt of the installer"
    """
    if context.invoked_subcommand:
        return
    rows = read(context, lambda: reports.quarantine(most, till, code, everything=everything))
    table(rows, ("id", "till_id", "sequence", "document_id", "code", "reason"), as_json)


# -- Looking -----------------------------------------------------------------------------------------------------------


@quarantine.command("show")
@click.argument("number", type=click.IntRange(1, NUMBER_MAX))
@click.option("--bytes", "form", flag_value="bytes", help="Exactly the bytes that came; also when piped.")
@click.option("--text", "form", flag_value="text", help="For people; also when piped.")
@click.option("--json", "form", flag_value="json", help="Machine-readable.")
@click.pass_context
def show_one(context: click.Context, number: int, form: str | None) -> None:
    """Show document NUMBER in quarantine, with the field marked that is wrong; piped, exactly its bytes.

    \b
    Example:
      tillstream central quarantine show 12
      tillstream central quarantine show 12 | jq .totals
    """
    row = read(context, lambda: reports.quarantined(number))
    if row is None:
        raise fail(f"no number {number} is in quarantine; see: tillstream central quarantine --all")
    form = form or ("text" if sys.stdout.isatty() else "bytes")
    if form == "bytes":
        sys.stdout.buffer.write(row["body"])
        sys.stdout.buffer.flush()
        return
    document = _read(row["body"])
    wrong = wrong_fields(document, row["code"], row["reason"]) if isinstance(document, dict) else []
    if form == "json":
        shown = {name: plain(row[name]) for name in FACTS}
        click.echo(json.dumps(shown | {"size_bytes": len(row["body"]), "wrong": wrong, "document": document}))
        return
    click.echo("\n".join(_shown(row, document, wrong)))


def _read(body: bytes) -> Any:
    """Return what JSON the bytes are, None if they are none that Python can read."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _shown(row: dict[str, Any], document: Any, wrong: list[str]) -> Iterator[str]:
    for name in FACTS:
        if row[name] not in (None, ""):
            yield f"{name.removesuffix('_ms').replace('_', ' '):<16} {show(name, row[name])}"
    if not isinstance(document, dict):
        yield f"{'bytes':<16} {len(row['body'])}, no JSON: {row['body'][:200]!r}"
        return
    for name in KEY_FACTS:
        if document.get(name) not in (None, ""):
            yield f"{name.replace('_', ' '):<16} {show(name, document[name])}"
    yield f"{'wrong':<16} {', '.join(show('wrong', path) for path in wrong) or 'see the reason'}"
    yield ""
    yield from marked_lines(document, wrong)


# -- Doing -------------------------------------------------------------------------------------------------------------


@quarantine.command()
@numbers_argument
@code_option
@till_option
@click.option("--dry-run", is_flag=True, help="Say what would be accepted; change nothing.")
@note_option
@as_json_option
@click.pass_context
def retry(
    context: click.Context,
    numbers: tuple[int, ...],
    code: str | None,
    till: str | None,
    dry_run: bool,
    note: str,
    as_json: bool,
) -> None:
    """Judge documents in quarantine again, by today's rules; what is accepted now takes its place among the others.

    Judged are the very bytes that came; without NUMBER, --code or --till all that still wait. Safe to repeat. Exit code
    3: some are still refused.

    \b
    Example:
      tillstream central quarantine retry --dry-run
      tillstream central quarantine retry --code bad_schema --note "after the upgrade to 0.2"
    """
    progress = Progress()
    chosen = _decided(lambda: read(context, lambda: waiting.numbers_of(Chosen(numbers, code, till))))
    tried: list[Tried] = []
    for start in range(0, len(chosen), AT_ONCE):
        progress.tell("judged again", start, len(chosen))
        some = chosen[start : start + AT_ONCE]
        judge_again = waiting.try_out if dry_run else waiting.retry
        tried += write(context, partial(judge_again, some, note, wall_clock_ms()))
    _tell_tried(tried, dry_run, as_json)
    if any(one.verdict == "refused" for one in tried):
        sys.exit(EXIT_FINDINGS)


def _decided(act: Callable[[], Found]) -> Found:
    try:
        return act()
    except DecisionError as problem:
        raise fail(str(problem)) from problem


def _tell_tried(tried: list[Tried], dry_run: bool, as_json: bool) -> None:
    counts = Counter(one.verdict for one in tried)
    if as_json:
        told = {name: counts[name] for name in ("accepted", "known", "refused")}
        click.echo(json.dumps({"retried": not dry_run, **told, "documents": [asdict(one) for one in tried]}))
        return
    for one in tried:
        if one.verdict == "refused":
            click.echo(f"{one.number}: {one.code}: {show('reason', one.reason)}")
    would = "would be " if dry_run else ""
    click.echo(
        f"{counts['accepted']} {would}accepted, {counts['known']} stored already, {counts['refused']} still refused"
    )


@quarantine.command()
@numbers_argument
@code_option
@till_option
@note_option
@as_json_option
@click.pass_context
def discard(
    context: click.Context, numbers: tuple[int, ...], code: str | None, till: str | None, note: str, as_json: bool
) -> None:
    """Say that nothing more will come of documents in quarantine, and why; their bytes stay, and days can be complete.

    \b
    Example:
      tillstream central quarantine discard 12 13 --note "test receipts of the installer"
      tillstream central quarantine discard --till 042-03 --code bad_json --note "the POS's log, not documents"
    """
    if not (numbers or code or till):
        raise click.UsageError("name documents by NUMBER, --code or --till")
    chosen = Chosen(numbers, code, till)
    discarded = _decided(lambda: write(context, lambda: waiting.discard(chosen, note, wall_clock_ms())))
    if as_json:
        click.echo(json.dumps({"discarded": discarded}))
        return
    before = len(set(numbers) - set(discarded))
    click.echo(f"discarded {len(discarded)}" + (f", {before} were before; nothing changed" if before else ""))
