"""``tillstream central rollout``: what whoever rolls out asks central, and what people see of it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import BinaryIO, TypeVar

import click

from wire.program import EXIT_FINDINGS

from . import rollouts
from .cli_base import NUMBER_MAX, as_json_option, fail, most_option, note_option, read, table, write
from .fleet_gate import Verdict
from .rollouts import RolloutError
from .service import wall_clock_ms
from .store_clock import ClockError

Found = TypeVar("Found")

REPORT_LIMIT_BYTES = 32 * 2**20
"""A report of 10,000 tills is some 2 MB."""
LOOK_EVERY_S = 1.0
SHOWN_MOST = 20

number_argument = click.argument("number", type=click.IntRange(1, NUMBER_MAX))


@click.group(invoke_without_command=True)
@most_option
@as_json_option
@click.pass_context
def rollout(context: click.Context, most: int, as_json: bool) -> None:
    """List the rollouts, newest first, or see which release each till is to run and which it does.

    The waves themselves are sent by ansible/bin/rollout; it asks here whether it may begin and go on, and tells
    the end.

    \b
    Example:
      tillstream central rollout tills --missed       who is to run another release than it shows
      tillstream central rollout freeze --from 2026-12-20 --until 2027-01-03 --note "Christmas"
      tillstream central rollout abandon 7 --note "the machine that did it is broken"
    """
    if context.invoked_subcommand:
        return
    rows = read(context, lambda: rollouts.rollouts(most))
    columns = ("id", "version", "kind", "who", "started_at_ms", "ended_at_ms", "outcome", "stopped_by")
    table(rows, columns, as_json)


@rollout.command()
@click.option("--wanted", metavar="VERSION", help="Only tills that are to run this release.")
@click.option("--missed", is_flag=True, help="Only tills that a catch-up is to reach.")
@as_json_option
@click.pass_context
def tills(context: click.Context, wanted: str | None, missed: bool, as_json: bool) -> None:
    """Show, till by till, which release is wanted, which one it shows, and what the last rollout said of it."""
    rows = read(context, lambda: rollouts.releases(wanted, missed=missed))
    table(rows, ("till_id", "store_id", "online", "wanted", "runs", "state", "why", "told_at_ms"), as_json)


def _act(act: Callable[[], Found]) -> Found:
    try:
        return act()
    except (RolloutError, ClockError) as problem:
        raise fail(str(problem)) from problem


def _change(context: click.Context, change: Callable[[], Found]) -> Found:
    return _act(lambda: write(context, change))


# -- Asked by bin/rollout ----------------------------------------------------------------------------------------------


def _versions(_context: click.Context, _option: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        return tuple(int(one) for one in value.split(",") if one)
    except ValueError:
        raise click.BadParameter("wire versions are numbers with commas between, such as 1,2") from None


def _version(_context: click.Context, _option: click.Parameter, value: str) -> str:
    if not (0 < len(value) <= 64 and value[0].isalnum() and all(one.isalnum() or one in ".+_-" for one in value)):
        raise click.BadParameter("a release is named by up to 64 letters, digits and .+_-, such as 1.4.0")
    return value


@rollout.command()
@click.argument("version", callback=_version)
@click.option("--wire", default="", callback=_versions, metavar="N,…", help="The wire versions that it speaks.")
@click.option("--kind", type=click.Choice(["rollout", "catchup", "rollback"]), default="rollout", show_default=True)
@click.option("--hours", default="", help="When waves may go, such as '22:00-06:00 Europe/Moscow'; without it always.")
@note_option
@click.pass_context
def begin(
    context: click.Context, version: str, wire: tuple[int, ...], kind: rollouts.Kind, hours: str, note: str
) -> None:
    """Open a rollout of release VERSION and print its number.

    Refused (exit code 1) while another one is open, in a freeze, outside the hours, for a release that central cannot
    talk to, and as a catch-up of a release that went through no rollout.
    """
    number = _change(context, lambda: rollouts.begin(version, wire, kind, hours, note, wall_clock_ms()))
    click.echo(number)


@rollout.command()
@number_argument
@click.argument("file", type=click.File("rb"))
@click.option("--soak-s", default=0.0, type=click.FloatRange(0, 86_400), help="How long the release must have run.")
@click.option("--wait-s", default=0.0, type=click.FloatRange(0, 172_800), help="How long to wait for the tills.")
@click.option(
    "--tolerate-percent", default=0.0, type=click.FloatRange(0, 100), help="So many of the wave may be other than well."
)
@click.pass_context
def gate(
    context: click.Context, number: int, file: BinaryIO, soak_s: float, wait_s: float, tolerate_percent: float
) -> None:
    """Say whether the next wave of rollout NUMBER may go; FILE (- for standard input) names the tills of the last one.

    Every one of them must be connected under the new release, have run it for --soak-s without a restart, bring its
    documents, and show no trouble that is newer than the rollout. Prints JSON. Exit code 0: the wave may go. 3: the
    tills are not well. 1: the rollout must not go on, however the tills are: it was ended, or a freeze or its hours
    forbid it.
    """
    wave = file.read(REPORT_LIMIT_BYTES).decode("utf-8", "replace").split()
    until = time.monotonic() + wait_s
    while not _is_decided(found := _asked(context, number, wave, soak_s, tolerate_percent), until):
        time.sleep(LOOK_EVERY_S)
    failing = found.failing()
    told = {"open": found.is_open, "well": len(found.tills) - len(failing), "failing": failing}
    click.echo(json.dumps(told))
    if not found.is_open:
        sys.exit(EXIT_FINDINGS)


def _asked(context: click.Context, number: int, wave: list[str], soak_s: float, tolerate: float) -> Verdict:
    asked = partial(rollouts.ask, number, wave, soak_s, tolerate)
    return _act(lambda: read(context, lambda: asked(wall_clock_ms())))


def _is_decided(found: Verdict, until: float) -> bool:
    return found.is_open or found.is_hopeless or time.monotonic() >= until


@rollout.command()
@number_argument
@click.argument("file", type=click.File("rb"))
@click.pass_context
def end(context: click.Context, number: int, file: BinaryIO) -> None:
    """Take the report of rollout NUMBER from FILE (JSON, - for standard input) and close it.

    From then on the release that went through is the one that its tills are to run; those that were not reached are
    listed by `tills --missed`.
    """
    report = _act(lambda: rollouts.read(file.read(REPORT_LIMIT_BYTES)))
    _change(context, lambda: rollouts.end(number, report, wall_clock_ms()))
    click.echo(f"rollout {number} ended: {report.outcome}, {len(report.tills)} tills")


# -- Decided by people -------------------------------------------------------------------------------------------------


@rollout.command()
@number_argument
@note_option
@click.pass_context
def abandon(context: click.Context, number: int, note: str) -> None:
    """End rollout NUMBER that nobody does any more, so that another one may begin; if it is still done, it stops.

    What its tills run by now stays; what they are to run is as it was before.
    """
    _change(context, lambda: rollouts.abandon(number, note, wall_clock_ms()))
    click.echo(f"rollout {number} is abandoned")


def _moment(_context: click.Context, _option: click.Parameter, value: str) -> int:
    try:
        return round(datetime.fromisoformat(value).astimezone().timestamp() * 1000)
    except (ValueError, OverflowError) as problem:
        text = "a moment is written 2026-12-20T22:00+03:00; without the zone this machine's is meant"
        raise click.BadParameter(text) from problem


@rollout.command()
@click.option("--from", "from_ms", required=True, callback=_moment, help="2026-12-20 or 2026-12-20T22:00+03:00.")
@click.option("--until", "until_ms", required=True, callback=_moment, help="Alike; that moment is free again.")
@note_option
@click.pass_context
def freeze(context: click.Context, from_ms: int, until_ms: int, note: str) -> None:
    """Let nothing be rolled out within a time; one that is under way stops before its next wave. Rollbacks may go."""
    number = _change(context, lambda: rollouts.freeze(from_ms, until_ms, note, wall_clock_ms()))
    click.echo(f"freeze {number}")


@rollout.command()
@number_argument
@note_option
@click.pass_context
def thaw(context: click.Context, number: int, note: str) -> None:
    """Lift freeze NUMBER."""
    is_new = _change(context, lambda: rollouts.thaw(number, note, wall_clock_ms()))
    click.echo(f"freeze {number} is lifted" if is_new else f"freeze {number} was lifted before; nothing changed")


@rollout.command("freezes")
@as_json_option
@click.pass_context
def list_freezes(context: click.Context, as_json: bool) -> None:
    """List the freezes that are not over."""
    rows = read(context, lambda: rollouts.freezes(wall_clock_ms()))
    table(rows, ("id", "from_ms", "until_ms", "note"), as_json)
