"""``tillstream central settings``: what tills are to do, set for one of them, for a tag or for the whole fleet."""

from __future__ import annotations

import json
from typing import BinaryIO

import click
import msgspec

from wire import automation

from . import settings
from .cli_base import as_json_option, fail, note_option, read, table, write
from .service import wall_clock_ms
from .settings import Body, Scope, SettingsError

Where = tuple[Scope, str]


def _where(till: str | None, tag: str | None, fleet: bool) -> Where:
    given: list[Where] = [("till", till)] if till else []
    given += [("tag", tag)] if tag else []
    given += [("fleet", "")] if fleet else []
    if len(given) != 1:
        raise click.UsageError("say for whom: --till TILL, --tag TAG or --fleet")
    return given[0]


till_option = click.option("--till", help="For this till.")
tag_option = click.option("--tag", help="For all tills with this tag.")
fleet_option = click.option("--fleet", is_flag=True, help="For the whole fleet.")


@click.group("settings")
def group() -> None:
    """Set what tills are to do: actions, macros, events and limits. The nearest counts: till, then tag, then fleet.

    \b
    Example:
      tillstream central settings enable per-receipt-upload --fleet --note "pilot is over"
      tillstream central settings show --fleet > fleet.json
      tillstream central settings set --tag pilot --note "new macro" fleet.json
      tillstream central settings list
    """


@group.command("list")
@as_json_option
@click.pass_context
def list_(context: click.Context, as_json: bool) -> None:
    """Show, till by till, which revision is wanted and which one it runs."""
    columns = ("till_id", "tags", "wanted", "runs", "refused", "why")
    table(read(context, settings.standing), columns, as_json)


@group.command()
@till_option
@tag_option
@fleet_option
@click.pass_context
def show(context: click.Context, till: str | None, tag: str | None, fleet: bool) -> None:
    """Print what is set there, as the JSON that `set` reads."""
    scope, name = _where(till, tag, fleet)
    there = read(context, lambda: settings.get(scope, name))
    if there is None:
        raise fail(f"nothing is set for {scope} {name}".rstrip())
    click.echo(msgspec.json.format(msgspec.json.encode(there[1])).decode())


@group.command("set")
@click.argument("file", type=click.File("rb"))
@till_option
@tag_option
@fleet_option
@note_option
@click.pass_context
def set_(context: click.Context, file: BinaryIO, till: str | None, tag: str | None, fleet: bool, note: str) -> None:
    """Set what FILE (JSON, - for standard input) says, as a whole; it is checked before anything changes."""
    try:
        body = settings.read(file.read())
    except SettingsError as problem:
        raise fail(str(problem)) from problem
    _put(context, _where(till, tag, fleet), body, note)


@group.command()
@till_option
@tag_option
@fleet_option
@note_option
@click.pass_context
def withdraw(context: click.Context, till: str | None, tag: str | None, fleet: bool, note: str) -> None:
    """Take back what is set there; the next nearest counts then, and without any the till's own file."""
    _put(context, _where(till, tag, fleet), None, note)


@group.command()
@click.argument("what", type=click.Choice(["per-receipt-upload"]), expose_value=False)
@click.option("--url", default="tillstream://ring", show_default=True, help="What the action runs.")
@till_option
@tag_option
@fleet_option
@note_option
@click.pass_context
def enable(context: click.Context, url: str, till: str | None, tag: str | None, fleet: bool, note: str) -> None:
    """Do the manual page's six steps at once, there, and show what changed."""
    scope, name = where = _where(till, tag, fleet)
    there = read(context, lambda: settings.get(scope, name))
    body = there[1] if there else Body()
    try:
        made, changes = automation.with_per_receipt_upload(body.automation or automation.FACTORY, url)
    except automation.AutomationError as problem:
        raise fail(str(problem)) from problem
    for change in changes:
        click.echo(change)
    _put(context, where, msgspec.structs.replace(body, automation=made), note)


def _put(context: click.Context, where: Where, body: Body | None, note: str) -> None:
    scope, name = where
    revision = write(context, lambda: settings.put(scope, name, body, wall_clock_ms(), note))
    click.echo(f"{' '.join(filter(None, where))}: revision {revision}; see: tillstream central settings list")
    for warning in _warnings(context, where, body):
        click.echo(f"note: {warning}", err=True)


def _warnings(context: click.Context, where: Where, body: Body | None) -> list[str]:
    """Say what a person may not have meant: settings that hide others, or that are for nobody yet."""
    scope, name = where
    warnings = []
    if scope != "fleet" and body and body.automation is None:
        warnings.append(
            "no automation is set here, and the nearest settings count as a whole: the till's own counts then"
        )
    if scope == "till" and not read(context, lambda: settings.is_known(name)):
        warnings.append(f"no till named {name} has connected yet")
    if scope == "tag" and not read(context, lambda: settings.tagged(name)):
        warnings.append(f"no till has the tag {name} yet: tillstream central tills tag TILL {name}")
    return warnings


@click.command("tag")
@click.argument("till")
@click.argument("name")
@click.option("--remove", is_flag=True, help="Take the tag off.")
@note_option
@as_json_option
@click.pass_context
def tag_till(context: click.Context, till: str, name: str, remove: bool, note: str, as_json: bool) -> None:
    """Put the tag NAME on TILL, for settings that are meant for some tills."""
    try:
        changed = write(context, lambda: settings.tag(till, name, wall_clock_ms(), note, remove=remove))
    except LookupError as problem:
        raise fail(str(problem)) from problem
    if as_json:
        click.echo(json.dumps({"till_id": till, "tag": name, "changed": changed}))
    elif changed:
        click.echo(f"{till}: {name} {'taken off' if remove else 'put on'}")
    else:
        click.echo(f"{till}: nothing to change")
