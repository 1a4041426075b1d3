"""``tillstream central consumers``: programs that take documents over, and how far each has come."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import click

from . import consumer, consumers
from .cli_base import as_json_option, configured, fail, note_option, table, within, write
from .consumer import Cursor, CursorError
from .consumers import ConsumerError
from .database import UnsafeDatabaseError
from .models import Consumer
from .reports import looking
from .service import wall_clock_ms

Found = TypeVar("Found")


def _database() -> Any:
    return Consumer._meta.database  # noqa: SLF001 -- peewee's documented way to a model's database


def _told(act: Callable[[], Found]) -> Found:
    try:
        return act()
    except (ConsumerError, CursorError, UnsafeDatabaseError) as problem:
        raise fail(str(problem)) from problem


def _cursor(text: str) -> Cursor | None:
    try:
        return Cursor.parse(text)
    except CursorError as problem:
        raise click.BadParameter(str(problem)) from problem


@click.group("consumers")
def group() -> None:
    """Let programs take documents over by the REST API, each at its own pace, and see how far behind each is.

    A consumer reads a page, keeps it, and acknowledges the page's cursor; docs/api.md shows how.

    \b
    Example:
      tillstream central consumers create erp --note "1C of the head office"
      tillstream central consumers list
      tillstream central consumers rewind erp 0 --note "its database was lost"
    """


@group.command("create")
@click.argument("name")
@click.option("--from", "begin", type=click.Choice(["beginning", "now"]), default="beginning", show_default=True)
@note_option
@click.pass_context
def create(context: click.Context, name: str, begin: str, note: str) -> None:
    """Name a consumer that reads all that is stored, or only what comes from now on."""
    wait_s = configured(context).consumer_wait_s
    place = _told(lambda: within(looking, configured(context), lambda: _begin(begin, wait_s)))
    is_new = _told(lambda: write(context, lambda: consumers.create(name, place, wall_clock_ms(), note)))
    click.echo(f"{name} begins at {place}" if is_new else f"{name} was there before; nothing changed")


def _begin(begin: str, wait_s: float) -> Cursor:
    database = _database()
    return consumer.newest(database, wait_s) if begin == "now" else Cursor(consumer.incarnation_of(database), 0)


@group.command("list")
@as_json_option
@click.pass_context
def list_(context: click.Context, as_json: bool) -> None:
    """List the consumers, where each stands and how many documents it is behind."""
    rows = within(looking, configured(context), lambda: consumers.listed(_database()))
    table(rows, ("name", "cursor", "behind", "waiting_since_ms", "acknowledged_at_ms", "must_rewind"), as_json)


@group.command("ack")
@click.argument("name")
@click.argument("cursor")
@as_json_option
@click.pass_context
def ack(context: click.Context, name: str, cursor: str, as_json: bool) -> None:
    """Say for NAME that it has everything up to CURSOR; never moves back."""
    place = _cursor(cursor)
    if place is None:
        raise click.BadParameter("0 acknowledges nothing: to begin anew, rewind")
    is_new = _told(lambda: write(context, lambda: consumers.acknowledge(_database(), name, place, wall_clock_ms())))
    if as_json:
        click.echo(json.dumps({"name": name, "cursor": cursor, "changed": is_new}))
    else:
        click.echo(f"{name} has everything up to {cursor}" if is_new else f"{name} had it before; nothing changed")


@group.command("rewind")
@click.argument("name")
@click.argument("cursor")
@note_option
@click.pass_context
def rewind(context: click.Context, name: str, cursor: str, note: str) -> None:
    """Have NAME read again what follows CURSOR; 0 is the beginning.

    \b
    Example:
      tillstream central consumers rewind erp 1-204800 --note "the import of Friday was lost"
    """
    to = _cursor(cursor)
    place = _told(lambda: write(context, lambda: consumers.rewind(_database(), name, to, wall_clock_ms(), note)))
    click.echo(f"{name} reads on behind {place}")


@group.command("remove")
@click.argument("name")
@note_option
@click.pass_context
def remove(context: click.Context, name: str, note: str) -> None:
    """Forget NAME and where it stands."""
    _told(lambda: write(context, lambda: consumers.remove(name, wall_clock_ms(), note)))
    click.echo(f"{name} is no consumer any more")
