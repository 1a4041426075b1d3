"""``tillstream edge repair``: salvages a damaged outbox by hand, and tells what was lost and what to do next."""

from __future__ import annotations

import json
import sqlite3
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from wire.program import EXIT_FINDINGS, EXIT_NOT_REACHABLE

from .asking import configured, fail, why

if TYPE_CHECKING:
    from .config import EdgeConfig
    from .salvage import Salvaged


@click.command()
@click.option("--dry-run", is_flag=True, help="Tell what would be read and lost; change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@click.pass_context
def repair(context: click.Context, *, dry_run: bool, as_json: bool) -> None:
    """Make a whole outbox of a damaged one; the agent must be stopped. The damaged file is kept beside it.

    The agent does so itself at its start when it sees the damage; here all of the file is looked at, and the digest
    chain of all documents. Exit code 3: documents are lost; which ones stands in the answer as far as it is known.

    \b
    Example:
      systemctl stop tillstream-edge && tillstream edge repair --dry-run
      tillstream edge repair && systemctl start tillstream-edge
    """
    told = _repair(configured(context), dry_run=dry_run)
    if as_json:
        click.echo(json.dumps({"repaired": told is not None and not dry_run, **(asdict(told) if told else {})}))
    else:
        click.echo(_tell(told, dry_run=dry_run) if told else "nothing to do: the outbox and its digest chain are whole")
    if told and not told.is_complete:
        sys.exit(EXIT_FINDINGS)


def _repair(config: EdgeConfig, *, dry_run: bool) -> Salvaged | None:
    from . import salvage
    from .outbox import OutboxBusyError, OutboxUnsafeError
    from .service import outbox_limits, random_name

    try:
        if not config.outbox_path.exists():
            raise fail(f"there is no outbox at {config.outbox_path}", EXIT_NOT_REACHABLE)
        return salvage.repair(config.outbox_path, outbox_limits(config), random_name, dry_run=dry_run)
    except OutboxBusyError as problem:
        raise fail(f"stop the agent first: {problem}") from problem
    except (OSError, OutboxUnsafeError, sqlite3.Error) as problem:
        raise fail(why(problem, config)) from problem


def _tell(told: Salvaged, *, dry_run: bool) -> str:
    lines = [f"damage   {told.problem}", f"read     {told.read} documents", f"lost     {_tell_lost(told)}"]
    if told.lost_ids:
        lines.append(f"missing  {' '.join(told.lost_ids)}")
    if dry_run:
        return "\n".join([*lines, "next     nothing was changed; without --dry-run a new stream goes on from there"])
    lines += [f"kept     {told.kept}"] if told.kept else []
    next_step = "start the agent; what was read is sent in a new stream"
    if not told.is_complete:
        next_step += ", and central shows what is lost as a gap"
    return "\n".join([*lines, f"next     {next_step}. Copy the damaged file off the till, then remove it here"])


def _tell_lost(told: Salvaged) -> str:
    if told.old_stream is None:
        return f"{told.lost} at least; the name of the old stream is gone, so central tells by what it had heard"
    return f"{told.lost} of stream {told.old_stream}"
