"""``tillstream central import``: take in what was carried by file, and write the answer that goes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from wire.carriage import CarriageError, written_whole
from wire.program import EXIT_NOT_REACHABLE, ConfigError
from wire.tokens import read_fleet_key, token_of

from . import carriage, reports
from .carriage import Imported
from .cli_base import configured, fail, note_option
from .config import CentralConfig
from .database import REFUSED, UnsafeDatabaseError, first_cause
from .late import read_denied
from .lock import InUseError
from .migrations import NewerSchemaError
from .service import open_store, wall_clock_ms
from .store import Store


@click.command("import")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--fleet-key-file", type=click.Path(path_type=Path), help="Instead of the configured fleet_key_file.")
@click.option("--reply", type=click.Path(path_type=Path, dir_okay=False), help="The answer; FILE.reply if left out.")
@note_option
@click.option("--json", "as_json", is_flag=True)
@click.pass_context
def import_(
    context: click.Context,
    path: Path,
    fleet_key_file: Path | None,
    reply: Path | None,
    note: str,
    as_json: bool,
) -> None:
    """Store the documents that a till without a link exported into FILE, and write the reply that goes back to it.

    The seal is checked before anything is looked at. A file may be imported twice, and while central runs: what is
    stored already changes nothing. A till on the deny list (``deny_file``) is refused.

    \b
    Example:
      tillstream edge export --to /media/usb/042-01.carriage          on the till
      tillstream central import /media/usb/042-01.carriage            at central
      tillstream edge confirm /media/usb/042-01.carriage.reply        on the till
    """
    answer = reply or path.with_name(path.name + ".reply")
    try:
        config = configured(context)
        done = _import(config, path, fleet_key_file or Path(config.fleet_key_file), answer, note)
    except reports.UnreachableError as problem:
        raise fail(f"{path}: {problem}; import again when it does", EXIT_NOT_REACHABLE) from problem
    except (CarriageError, ConfigError, InUseError, NewerSchemaError, OSError, UnsafeDatabaseError) as problem:
        raise fail(f"{path}: {problem}") from problem
    except REFUSED as problem:
        raise fail(
            f"{path}: the database refused ({first_cause(problem)}); import again, nothing is doubled"
        ) from problem
    click.echo(json.dumps(_as_json(done, answer)) if as_json else _tell(done, answer))


def _import(config: CentralConfig, path: Path, fleet_key_file: Path, answer: Path, note: str) -> Imported:
    key = read_fleet_key(fleet_key_file)
    denied = read_denied(config.deny_file)
    store = _open(config)
    try:
        with path.open("rb") as file:
            done = carriage.take_in(store, file, lambda till: token_of(key, till), denied, wall_clock_ms(), note)
    finally:
        store.close()
    with written_whole(answer) as file:
        carriage.write_reply(file, done, token_of(key, done.header.till))
    return done


def _open(config: CentralConfig) -> Store:
    """Open the database that is there: a mistyped name must not make a second central."""
    if not reports.is_there(config.place()):
        raise fail(f"no database at {config.database}: has `tillstream central run` been started?")
    return open_store(config)


def _as_json(done: Imported, answer: Path) -> dict[str, Any]:
    return {
        "till_id": done.header.till,
        "stream": done.header.stream,
        "after": done.header.after,
        "carried_through": done.header.through,
        "stored": done.stored,
        "known": done.known,
        "quarantined": done.quarantined,
        "through": done.reply.through,
        "reply": str(answer),
    }


def _tell(done: Imported, answer: Path) -> str:
    header = done.header
    counts = f"stored {done.stored}, known already {done.known}, quarantined {done.quarantined}"
    lines = [
        f"till {header.till}: {header.through - header.after} documents carried, {counts}",
        f"central has documents up to {done.reply.through} of stream {header.stream}",
        f"next, on the till: tillstream edge confirm {answer.name}",
    ]
    if done.is_older_stream:
        lines.insert(1, "the till has been heard in another stream since: these are documents of an older one")
    return "\n".join(lines)
