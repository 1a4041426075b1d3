"""``tillstream central hand-over``: the files of complete days, in a folder that another program takes them from."""

from __future__ import annotations

import json
import logging
import threading
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from wire.program import log_to_stderr, notify_systemd, on_stop_signal

from . import hand_over, reports
from .cli_base import as_json_option, configured, fail, within
from .config import CentralConfig
from .consumer import CursorError
from .database import REFUSED, UnsafeDatabaseError, first_cause
from .export_files import NoParquetError
from .hand_over import HandedDay
from .lock import InUseError, Lock
from .models import Day
from .service import wall_clock_ms

log = logging.getLogger("tillstream.central")

WAITS = (reports.NoDatabaseError, NoParquetError, CursorError, UnsafeDatabaseError, OSError, *REFUSED)
"""What may be mended while it goes on."""


@click.command("hand-over")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Instead of `hand_over_folder`.")
@click.option("--watch", is_flag=True, help="Go on until SIGTERM, as a service.")
@as_json_option
@click.pass_context
def command(context: click.Context, out: Path | None, watch: bool, as_json: bool) -> None:
    """Put the files of each complete day of a store into a folder, then a flag, such as 2026-03-01_042.ok.

    The flag comes last and names each file with its rows and SHA-256; whoever takes the files may remove them. A day
    that is opened and complete again, or that a late document reached, comes again. A day whose folder is full or away
    comes when that is mended.

    \b
    Example:
      tillstream central hand-over --out /srv/1c/sales            from a timer
      tillstream central hand-over --watch                        as a service, with hand_over_folder in central.toml
    """
    config = configured(context)
    folder = out or Path(config.hand_over_folder)
    if not (out or config.hand_over_folder):
        raise click.UsageError("set hand_over_folder in central.toml, or give --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = Lock(folder / ".hand-over", alone=True)
    except InUseError as problem:
        raise fail(f"{folder}: another hand-over is at work there") from problem
    except OSError as problem:
        raise fail(f"{folder}: {problem.strerror}") from problem
    with closing(lock):
        if watch:
            _watch(config, folder)
        else:
            _once(config, folder, as_json)


def _once(config: CentralConfig, folder: Path, as_json: bool) -> None:
    try:
        done = within(reports.at_work, config, lambda: list(_turn(config, folder)))
    except (NoParquetError, CursorError, UnsafeDatabaseError) as problem:
        raise fail(str(problem)) from problem
    except OSError as problem:
        raise fail(f"{problem.filename or folder}: {problem.strerror}; run it again when that is mended") from problem
    if as_json:
        click.echo(json.dumps([asdict(one) for one in done]))
        return
    for one in done:
        click.echo(f"{one.business_day}  store {one.store_id or '(none)'}  {one.documents} documents")
    if not done:
        click.echo("nothing to hand over")


def _turn(config: CentralConfig, folder: Path) -> Any:
    database = Day._meta.database  # noqa: SLF001 -- peewee's documented way to a model's database
    files, form = config.hand_over_files, config.hand_over_format
    return hand_over.turn(database, folder, files, form, wall_clock_ms(), config.hand_over_days)


def _watch(config: CentralConfig, folder: Path) -> None:
    log_to_stderr(config.log_level)
    stopped = threading.Event()
    on_stop_signal(stopped.set)
    notify_systemd("READY=1")
    log.info("started", extra={"also": {"folder": str(folder)}})
    while not stopped.is_set():
        try:
            with reports.at_work(config.place()):
                for one in _turn(config, folder):
                    _tell(one)
        except (
            reports.NoDatabaseError,
            NoParquetError,
            CursorError,
            UnsafeDatabaseError,
            OSError,
            *REFUSED,
        ) as problem:
            log.warning("hand_over_waits", extra={"also": {"error": first_cause(problem)}})
        stopped.wait(config.hand_over_every_s)
    log.info("stopped")


def _tell(one: HandedDay) -> None:
    also = {"business_day": one.business_day, "store": one.store_id, "completed_at_ms": one.completed_at_ms}
    log.info("day_handed_over", extra={"count": one.documents, "also": also})
