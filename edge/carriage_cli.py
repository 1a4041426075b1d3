"""``tillstream edge export`` and ``edge confirm``: documents by file where no link reaches, and the answer back."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click
import msgspec

from wire.carriage import CARRIAGE_LIMIT_BYTES, REPLY_LIMIT_BYTES, CarriageError, written_whole
from wire.program import EXIT_FINDINGS, EXIT_NOT_REACHABLE, ConfigError, read_secret

from . import carriage
from .asking import AgentDownError, ask, configured, fail, own_outbox
from .carriage import AskChunk, Chunk, Exported
from .config import EdgeConfig
from .intake import folder

LIMIT_MIN_BYTES = 2 * 2**20
"""The largest document fits, so each file brings at least one further."""


@click.command()
@click.option("--to", "path", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The file to write.")
@click.option("--after", type=click.IntRange(min=0), help="Begin after this number; central import names it.")
@click.option(
    "--limit-bytes",
    type=click.IntRange(LIMIT_MIN_BYTES, CARRIAGE_LIMIT_BYTES),
    default=CARRIAGE_LIMIT_BYTES,
    show_default=True,
    help="No larger than this, for a small stick or a mail.",
)
@click.option("--json", "as_json", is_flag=True)
@click.pass_context
def export(context: click.Context, path: Path, after: int | None, limit_bytes: int, as_json: bool) -> None:
    """Write all documents that central is not known to have into one sealed file, for a till without a link.

    Carry the file to central, import it there, and bring the reply back. Doing any step twice is harmless. With nothing
    unsent the file is written all the same: it proves to central that nothing is missing. Exit code 3: documents are
    left that found no room; export them with --after into another file.

    \b
    Example:
      tillstream edge export --to /media/usb/042-01.carriage          on the till
      tillstream central import /media/usb/042-01.carriage            at central
      tillstream edge confirm /media/usb/042-01.carriage.reply        on the till
    """
    config = configured(context)
    try:
        done = _export(config, path, after, limit_bytes)
    except (CarriageError, ConfigError, OSError) as problem:
        raise fail(f"{path}: {problem}") from problem
    spooled = folder.count(Path(config.spool_dir))
    click.echo(json.dumps(_as_json(done, path) | {"spooled": spooled}) if as_json else _tell(done, path))
    if spooled:
        click.echo(
            f"not in the file: {spooled} documents in {config.spool_dir}; start the agent, which takes them in, and"
            " export again",
            err=True,
        )
    if done.left or spooled:
        sys.exit(EXIT_FINDINGS)


def _export(config: EdgeConfig, path: Path, after: int | None, limit_bytes: int) -> Exported:
    from .standing import wall_clock_ms

    with _asking(config) as ask_chunk, written_whole(path) as file:
        return carriage.export(
            file,
            ask_chunk,
            config.till_id,
            _token(config),
            after,
            wall_clock_ms(),
            limit_bytes=limit_bytes,
            progress=_show_progress,
        )


def _show_progress(written: int, of: int) -> None:
    """Count on the screen while a person waits; nothing where nobody looks."""
    if sys.stderr.isatty():
        click.echo(f"\r{written} of {of} documents", nl=written >= of, err=True)


@contextmanager
def _asking(config: EdgeConfig) -> Iterator[AskChunk]:
    """Give what answers for the outbox: the running agent, or the outbox itself."""
    try:
        ask(config, "GET", "/status")
    except AgentDownError:
        with own_outbox(config) as outbox:
            yield lambda after, through: carriage.export_chunk(outbox, "no-agent", after, through)
        return
    yield lambda after, through: _ask_agent(config, after, through)


def _ask_agent(config: EdgeConfig, after: int | None, through: int | None) -> Chunk:
    given = {name: value for name, value in (("after", after), ("through", through)) if value is not None}
    try:
        status, told = ask(config, "GET", f"/export?{urlencode(given)}")
    except AgentDownError as problem:
        raise fail(f"the agent went away; export again: {problem}", EXIT_NOT_REACHABLE) from problem
    if status >= 400:
        raise CarriageError(str(told.get("detail")))
    return msgspec.convert(told, Chunk)


def _token(config: EdgeConfig) -> str:
    return read_secret(config.token, config.token_file, "token")


def _as_json(done: Exported, path: Path) -> dict[str, Any]:
    header = done.header
    return {
        "file": str(path),
        "stream": header.stream,
        "after": header.after,
        "through": header.through,
        "documents": header.through - header.after,
        "size_bytes": header.size_bytes,
        "left": done.left,
    }


def _tell(done: Exported, path: Path) -> str:
    header = done.header
    count = header.through - header.after
    held = f"documents {header.after + 1}..{header.through}" if count else "no documents, nothing is unsent"
    lines = [
        f"{path}: {held} of stream {header.stream}, {header.size_bytes} bytes",
        f"next, at central: tillstream central import {path.name}",
    ]
    if done.left:
        lines.append(f"left for another file: {done.left}; tillstream edge export --after {header.through} --to …")
    return "\n".join(lines)


@click.command()
@click.argument("path", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--json", "as_json", is_flag=True)
@click.pass_context
def confirm(context: click.Context, path: Path, as_json: bool) -> None:
    """Take central's reply to an export: what it has stored is no longer unsent.

    The reply is believed by the rule of the link: it must be sealed for this till, be the word of its own central, and
    name exactly the documents that the till holds.

    \b
    Example:
      tillstream edge confirm /media/usb/042-01.carriage.reply
    """
    config = configured(context)
    try:
        with path.open("rb") as file:
            sealed = file.read(REPLY_LIMIT_BYTES + 1)
        told = _confirm(config, sealed)
    except (CarriageError, ConfigError, OSError) as problem:
        raise fail(f"{path}: {problem}") from problem
    click.echo(
        json.dumps(told) if as_json else f"central has documents up to {told['stored']}; unsent {told['unsent']}"
    )


def _confirm(config: EdgeConfig, sealed: bytes) -> dict[str, Any]:
    """Hand the sealed reply to the agent, which checks it itself: more may use its socket than may know the token."""
    try:
        status, told = ask(config, "POST", "/stored", sealed)
    except AgentDownError:
        with own_outbox(config) as outbox:
            own_central = config.central_id or outbox.central_id
            stored = carriage.believe(outbox, own_central, sealed, config.till_id, _token(config))
            return carriage.tell(stored, outbox.head())
    if status >= 400:
        raise CarriageError(str(told.get("detail")))
    return told
