"""``tillstream edge intake``: an integrator tries a mapping or a file of documents, and settles what a reader found."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import click

from wire.program import EXIT_FINDINGS, ConfigError, read_config

from .asking import configured, fail
from .config import EdgeConfig

REASONS_SHOWN = 20


@click.group()
def intake() -> None:
    """Take documents from the POS's own database or folder, as mapping files say.

    \b
    Example:
      tillstream edge intake test /etc/tillstream/intake/pos.toml
      tillstream edge intake test receipt.json
      tillstream edge intake test sales.csv --mapping /etc/tillstream/intake/folder.toml
      tillstream edge intake settle sqlite-pos
    """


@intake.command()
@click.argument("path", metavar="FILE|MAPPING", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--mapping", "by", type=click.Path(path_type=Path), help="The folder's mapping that a FILE is read by.")
@click.option("--most", default=5, show_default=True, type=click.IntRange(0, 1000), help="How many documents to show.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_context
def test(context: click.Context, path: Path, by: Path | None, most: int, as_json: bool) -> None:
    """Show what would be taken: nothing is appended, no position moves, no file is touched.

    A MAPPING (*.toml) is tried on what waits now; a FILE of documents is shown as the outbox would hold it.
    Exits with 3 if central would refuse something, or a value did not convert.

    \b
    Example: tillstream edge intake test /etc/tillstream/intake/pos.toml --most 2
    """
    from .intake.taking import IntakeError
    from .intake.trial import try_file, try_mapping

    given = _configured(context)
    config = given or EdgeConfig(till_id="none")
    about = {"till_id": given.till_id, "store_id": given.store_id} if given else {}
    positions, limit_bytes = config.positions_dir, config.document_limit_bytes
    try:
        if path.suffix == ".toml":
            trial = try_mapping(path, positions, about, limit_bytes, most)
        else:
            trial = try_file(path, by, about, limit_bytes, most)
    except IntakeError as problem:
        raise fail(str(problem)) from problem
    told: dict[str, Any] = {
        "source": trial.source,
        "waiting": trial.waiting,
        "is_all": trial.is_all,
        "checked": trial.checked,
        "refused": dict(trial.refused),
        "kept_as_is": dict(trial.kept_as_is),
        "card_numbers_masked": trial.card_numbers,
        "complaints": trial.complaints,
        "documents": trial.documents,
    }
    click.echo(json.dumps(told, ensure_ascii=False) if as_json else _tell(told))
    if trial.has_findings:
        raise click.exceptions.Exit(EXIT_FINDINGS)


@intake.command()
@click.argument("name")
@click.pass_context
def settle(context: click.Context, name: str) -> None:
    """Say that `numbers_went_back` of the source NAME is harmless: the POS deleted its newest row, or wrote into it.

    What stood below that row when it was found is held for read, and all that came over it since is read. If the POS's
    database was restored or made anew this is wrong: give the mapping a new `name` instead, then all of it is read.
    Followed at the source's next pass, or when the agent starts.

    \b
    Example: tillstream edge intake settle sqlite-pos
    """
    from .intake import position

    folder = configured(context).positions_dir
    try:
        known = position.names(folder)
        if name not in known:
            there = f"there are: {', '.join(known[:REASONS_SHOWN])}" if known else "there is none"
            raise fail(f"no database was read yet by a mapping of the name {name!r}; {there}")
        if position.load_footing(folder, name).went_back is None:
            raise fail(f"{name}: its numbers did not go back; there is nothing to settle")
        position.ask_to_settle(folder, name)
    except OSError as problem:
        raise fail(f"{problem.filename}: {problem.strerror}; run it as root") from problem
    click.echo(f"{name}: settled at the next pass of its reader; see `tillstream edge status`")


def _configured(context: click.Context) -> EdgeConfig | None:
    """Read the till's configuration if it has one: a mapping can be tried before a till is set up."""
    try:
        return read_config(EdgeConfig, "edge", context.obj, os.environ)
    except ConfigError as problem:
        if context.obj:
            raise fail(str(problem)) from problem
        return None


def _tell(told: dict[str, Any]) -> str:
    shown = [json.dumps(one["document"], ensure_ascii=False, indent=2) for one in told["documents"]]
    heads = [
        f"-- {one['document_id']}: {one['size_bytes']} bytes"
        + (", urgent" if one["is_urgent"] else "")
        + (", oversize: a stub takes its number" if one["is_oversize"] else "")
        + (f"; central would refuse it: {one['refusal']}" if one["refusal"] else "")
        for one in told["documents"]
    ]
    more = "" if told["is_all"] else " at least"
    lines = [text for pair in zip(heads, shown, strict=True) for text in pair]
    lines += [f"source   {told['source']}", f"waiting {more} {told['waiting']} documents; {told['checked']} checked"]
    lines += [f"problem  {text}" for text in told["complaints"]]
    lines += _tell_counts("refused", told["refused"]) + _tell_counts("kept", told["kept_as_is"])
    if told["card_numbers_masked"]:
        lines.append(f"finding  card_number: {told['card_numbers_masked']} masked; the POS puts them into tenders")
    if told["checked"] and not (told["refused"] or told["kept_as_is"]):
        lines.append("shape    every document is as central wants it; sums are checked there")
    return "\n".join(lines)


def _tell_counts(word: str, counts: dict[str, int]) -> list[str]:
    """Return the most frequent, with how often each was found."""
    return [f"{word:<8} {count} × {text}" for text, count in Counter(counts).most_common(REASONS_SHOWN)]
