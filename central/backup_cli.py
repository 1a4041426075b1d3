"""``tillstream central backup`` and ``restore``: a verified copy of the database, and a copy put in its place."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import peewee as pw

from wire.program import EXIT_FINDINGS, EXIT_NOT_REACHABLE, ConfigError

from .backup import BackupError, Made, make
from .cli_base import Progress, as_json_option, configured, fail, note_option
from .dump import ToolError
from .lock import InUseError
from .reports import NoDatabaseError, UnreachableError
from .restore import Restored, RestoreError, plan
from .restore import restore as put_in_place
from .service import wall_clock_ms
from .verify import NotTrustedError, Verified

_FAILURES = (BackupError, ConfigError, InUseError, NoDatabaseError, NotTrustedError, RestoreError, ToolError)
FilePath = click.Path(path_type=Path, exists=True, dir_okay=False)


@contextmanager
def _failing() -> Iterator[None]:
    """End the command with a text where nothing could be done."""
    try:
        yield
    except UnreachableError as problem:
        raise fail(str(problem), EXIT_NOT_REACHABLE) from problem
    except _FAILURES as problem:
        raise fail(str(problem)) from problem
    except (pw.DatabaseError, sqlite3.Error) as problem:
        raise fail(f"the database refused ({problem}); nothing is noted, try again") from problem


@click.command()
@click.option("--to", required=True, type=click.Path(path_type=Path), help="A folder, or the backup's own file name.")
@click.option("--keep", type=click.IntRange(1, 10_000), help="In a folder: so many stay; backups_keep if left out.")
@note_option
@as_json_option
@click.pass_context
def backup(context: click.Context, to: Path, keep: int | None, note: str, as_json: bool) -> None:
    """Copy the database while central runs, read the copy back, and let tills forget only what is in it.

    Exit code 3: the backup was made, and holds streams that are not whole; tills keep what they have of those.

    \b
    Example:
      tillstream central backup --to /var/backups/tillstream
      tillstream central backup --to /mnt/nas/tillstream --keep 30 --note "before the upgrade"
    """
    config = configured(context)
    with _failing():
        keep = keep or config.backups_keep
        made = make(config.place(), to, keep, note, wall_clock_ms, Progress().tell)
    click.echo(json.dumps(_made_row(made)) if as_json else _tell_made(made))
    if made.verified.problems:
        sys.exit(EXIT_FINDINGS)


def _made_row(made: Made) -> dict[str, Any]:
    return {
        "path": str(made.path),
        "size_bytes": made.size_bytes,
        "made_at_ms": made.made_at_ms,
        "verified_at_ms": made.verified_at_ms,
        **_verified_row(made.verified),
        "removed": [str(one) for one in made.removed],
    }


def _verified_row(verified: Verified) -> dict[str, Any]:
    names = ("till_id", "stream", "through", "problem")
    return {
        "documents": verified.documents,
        "streams": len(verified.streams),
        "problems": [{name: getattr(one, name) for name in names} for one in verified.problems],
    }


def _tell_made(made: Made) -> str:
    lines = [f"{made.path}: {made.size_bytes} bytes, {_tell_verified(made.verified)}"]
    lines += [f"removed {one}" for one in made.removed]
    return "\n".join([*lines, *_tell_problems(made.verified)])


def _tell_verified(verified: Verified) -> str:
    return f"{verified.documents} documents of {len(verified.streams)} streams, read back"


def _tell_problems(verified: Verified) -> list[str]:
    asked = "ask for them once more: tillstream central request TILL --everything"
    lines = [f"not whole: till {one.till_id}, stream {one.stream}: {one.problem}" for one in verified.problems]
    return [*lines, f"these tills keep what they have of it; {asked}"] if lines else []


@click.command()
@click.argument("file", type=FilePath)
@click.option("--dry-run", is_flag=True, help="Check the backup and say what would happen; change nothing.")
@note_option
@as_json_option
@click.pass_context
def restore(context: click.Context, file: Path, dry_run: bool, note: str, as_json: bool) -> None:
    """Put the backup FILE in the place of the database, which is kept beside it. Central must be stopped.

    With --dry-run it need not: try a backup that way before it is needed.

    Tills then send again what the backup lacks. Exit code 3: they may have forgotten some of it, because a newer backup
    held it; or the backup holds streams that are not whole.

    \b
    Example:
      systemctl stop tillstream-central
      tillstream central restore /var/backups/tillstream/central-….db --dry-run
      tillstream central restore /var/backups/tillstream/central-….db --note "disk replaced"
      systemctl start tillstream-central
    """
    database = configured(context).place()
    tell = Progress().tell
    with _failing():
        done = plan(database, file, tell) if dry_run else put_in_place(database, file, note, wall_clock_ms(), tell)
    click.echo(
        json.dumps(_restored_row(done, dry_run)) if as_json else _tell_restored(done, database.url, file, dry_run)
    )
    if done.forgotten or done.verified.problems:
        sys.exit(EXIT_FINDINGS)


def _restored_row(done: Restored, dry_run: bool) -> dict[str, Any]:
    return {
        "restored": not dry_run,
        "central_id": done.verified.central_id,
        "incarnation": done.incarnation,
        **_verified_row(done.verified),
        "may_be_forgotten": done.forgotten,
        "replaced": done.replaced,
    }


def _tell_restored(done: Restored, database: str, file: Path, dry_run: bool) -> str:
    what = "would be put" if dry_run else "was put"
    lines = [f"{file} {what} in the place of {database}, as incarnation {done.incarnation}"]
    lines += [f"  {_tell_verified(done.verified)}"]
    lines += [f"  the database before it is kept as {done.replaced}"] if done.replaced else []
    if done.forgotten:
        lines.append(
            f"  {done.forgotten} documents are not in it that tills may have forgotten: use the newest backup there is"
        )
    return "\n".join([*lines, *_tell_problems(done.verified)])
