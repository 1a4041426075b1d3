"""``tillstream central users`` and ``tokens``: who may log in to the console, which programs may use the REST API."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from . import accounts
from .accounts import AccountError
from .cli_base import as_json_option, configured, fail, note_option, read, table, write
from .rights import ROLES, SCOPES
from .service import wall_clock_ms

DAY_MS = 86_400_000
Found = TypeVar("Found")

role_option = click.option("--role", type=click.Choice(ROLES), required=True, help="What the person may do.")
password_option = click.option(
    "--password-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Read the password there, - for standard input; without it you are asked.",
)


def _decided(act: Callable[[], Found]) -> Found:
    try:
        return act()
    except AccountError as problem:
        raise fail(str(problem)) from problem


def _hashed(context: click.Context, file: Path | None) -> str:
    """Take the password from a file or a prompt: on a command line every user of the machine could read it."""
    chars_min = configured(context).console_password_chars_min
    password = _asked() if file is None else _read(file)
    try:
        return _decided(lambda: accounts.hash_password(password, chars_min))
    except ModuleNotFoundError as missing:
        raise fail(f"passwords need {missing.name}; install it with: pip install 'tillstream[console]'") from missing


def _asked() -> str:
    return str(click.prompt("Password", hide_input=True, confirmation_prompt=True))


def _read(file: Path) -> str:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise fail(f"--password-file {file}: {problem}") from problem
    return text.removesuffix("\n").removesuffix("\r")


@click.group()
def users() -> None:
    """Say who may log in to the console, and as what: viewer, operator or administrator.

    There is no default password: the first administrator is made here.

    \b
    Example:
      tillstream central users add anna --role administrator
      tillstream central users set-role boris --role operator
      tillstream central users list
    """


@users.command("add")
@click.argument("name")
@role_option
@password_option
@note_option
@click.pass_context
def add(context: click.Context, name: str, role: str, password_file: Path | None, note: str) -> None:
    """Let NAME log in; the password is asked for, or read from a file."""
    kept = _hashed(context, password_file)
    _decided(lambda: write(context, lambda: accounts.add(name, role, kept, wall_clock_ms(), note)))
    click.echo(f"{name} may log in, as {role}")


@users.command("list")
@as_json_option
@click.pass_context
def list_users(context: click.Context, as_json: bool) -> None:
    """List who may log in."""
    table(read(context, accounts.listed), ("name", "role", "made_at_ms", "seen_at_ms"), as_json)


@users.command("set-role")
@click.argument("name")
@role_option
@note_option
@click.pass_context
def set_role(context: click.Context, name: str, role: str, note: str) -> None:
    """Give NAME another role; it counts from the next click on."""
    is_new = _decided(lambda: write(context, lambda: accounts.set_role(name, role, wall_clock_ms(), note)))
    click.echo(f"{name} is {role}" if is_new else f"{name} was {role} before; nothing changed")


@users.command("set-password")
@click.argument("name")
@password_option
@note_option
@click.pass_context
def set_password(context: click.Context, name: str, password_file: Path | None, note: str) -> None:
    """Give NAME another password; whoever is logged in as NAME is logged out."""
    kept = _hashed(context, password_file)
    _decided(lambda: write(context, lambda: accounts.set_password(name, kept, wall_clock_ms(), note)))
    click.echo(f"{name} has a new password")


@users.command("remove")
@click.argument("name")
@note_option
@click.pass_context
def remove(context: click.Context, name: str, note: str) -> None:
    """Let NAME in no more; whoever is logged in as NAME is logged out."""
    _decided(lambda: write(context, lambda: accounts.remove(name, wall_clock_ms(), note)))
    click.echo(f"{name} may log in no more")


@click.group()
def tokens() -> None:
    """Issue and revoke what programs use the REST API with (docs/api.md).

    \b
    Example:
      tillstream central tokens issue erp --scope read --scope export --note "1C"
      tillstream central tokens revoke erp --note "moved to another system"
    """


@tokens.command("issue")
@click.argument("name")
@click.option("--scope", "scopes", type=click.Choice(SCOPES), multiple=True, required=True, help="May be repeated.")
@click.option("--days", type=click.IntRange(1, 3650), help="How long it counts; without it, until it is revoked.")
@note_option
@as_json_option
@click.pass_context
def issue(
    context: click.Context, name: str, scopes: tuple[str, ...], days: int | None, note: str, as_json: bool
) -> None:
    """Print a new token for the program NAME, once: it is kept nowhere."""
    at_ms = wall_clock_ms()
    expires_at_ms = at_ms + days * DAY_MS if days else None
    secret = _decided(lambda: write(context, lambda: accounts.issue(name, scopes, expires_at_ms, at_ms, note)))
    told = {"name": name, "token": secret, "scopes": list(scopes), "expires_at_ms": expires_at_ms}
    click.echo(json.dumps(told) if as_json else secret)


@tokens.command("list")
@as_json_option
@click.pass_context
def list_tokens(context: click.Context, as_json: bool) -> None:
    """List the tokens, also those that were revoked; never their secrets."""
    columns = ("name", "scopes", "made_at_ms", "expires_at_ms", "used_at_ms", "revoked_at_ms")
    table(read(context, accounts.tokens), columns, as_json)


@tokens.command("revoke")
@click.argument("name")
@note_option
@click.pass_context
def revoke(context: click.Context, name: str, note: str) -> None:
    """Take the token of NAME back; it counts from the next request on."""
    is_new = _decided(lambda: write(context, lambda: accounts.revoke(name, wall_clock_ms(), note)))
    click.echo(f"{name} is revoked" if is_new else f"{name} was revoked before; nothing changed")
