"""``tillstream edge``: the agent, and the few things a person or a POS does beside it."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import click

from wire.program import (
    EXIT_FINDINGS,
    EXIT_NOT_REACHABLE,
    ConfigError,
    end_at_once,
    is_disk_failure,
    log_to_stderr,
)
from wire.reasons import Reason

from .asking import AgentDownError, ask, configured, fail, own_outbox, why
from .automation_cli import actions, enable, events, macros
from .carriage_cli import confirm, export
from .config import EdgeConfig
from .doctor_cli import doctor
from .enrol_cli import enrol
from .intake_cli import intake
from .repair_cli import repair


@click.group()
@click.option("--config", "path", type=click.Path(path_type=Path), help="Instead of /etc/tillstream/edge.toml.")
@click.pass_context
def edge(context: click.Context, path: Path | None) -> None:
    """Take documents on a till, keep them, and hand them to central when it asks.

    \b
    Example:
      tillstream edge run                      the agent, in the foreground
      tillstream edge append receipt.json      hand over a document by hand
      tillstream edge status                   what central has, and what it lacks
      tillstream edge enable per-receipt-upload
    """
    context.obj = path


for group in (actions, macros, events, enable, intake, export, confirm, doctor, repair, enrol):
    edge.add_command(group)


@edge.command()
@click.pass_context
def run(context: click.Context) -> None:
    """Run the agent until SIGTERM; systemd is told when it is ready (Type=notify, watchdog)."""
    import sqlite3

    import peewee as pw

    from .outbox import OutboxBusyError, OutboxUnsafeError
    from .salvage import suspect
    from .service import log
    from .service import run as run_agent

    config = configured(context)
    log_to_stderr(config.log_level)
    try:
        run_agent(config)
    except OutboxUnsafeError as problem:
        suspect(config.outbox_path)
        raise fail(str(problem)) from problem
    except (ConfigError, OutboxBusyError) as problem:
        raise fail(str(problem)) from problem
    except (pw.DatabaseError, sqlite3.DatabaseError) as problem:
        if is_disk_failure(problem):
            suspect(config.outbox_path)
            end_at_once(log, problem)
        raise


@edge.command()
@click.argument("files", type=click.File("rb"), nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each document.")
@click.pass_context
def append(context: click.Context, files: tuple[BinaryIO, ...], as_json: bool) -> None:
    """Hand over documents, one a file (standard input without a FILE, or -).

    While the agent is down they are left in the spool folder, and it takes them from there.

    \b
    Example:
      echo '{"document_id": "42", "transaction_type": "no_sale", …}' | tillstream edge append
    """
    config = configured(context)
    givens = [file.read() for file in files] or [sys.stdin.buffer.read()]
    for given in givens:
        told = _append(config, given)
        click.echo(json.dumps(told) if as_json else _tell_appended(told))


def _append(config: EdgeConfig, given: bytes) -> dict[str, Any]:
    from .intake.folder import put
    from .intake.prepare import NotADocumentError, prepare
    from .service import make_document_id

    try:
        prepared = prepare(given, config.intake_limit_bytes, make_document_id)
        status, told = ask(config, "POST", "/documents", prepared.body)
    except NotADocumentError as problem:
        raise fail(str(problem)) from problem
    except AgentDownError:
        try:
            put(Path(config.spool_dir), make_document_id(), prepared.body)
        except OSError as problem:
            text = f"the agent does not answer, and the spool: {why(problem, config)}"
            raise fail(text, EXIT_NOT_REACHABLE) from problem
        return {"document_id": prepared.document_id, "spooled": True}
    if status >= 400:
        raise fail(f"{told.get('title')}: {told.get('detail')}")
    return told


def _tell_appended(told: dict[str, Any]) -> str:
    if told.get("spooled"):
        return f"{told['document_id']}: the agent is down; left in the spool"
    return f"{told['document_id']}: number {told['sequence']}"


@edge.command()
@click.option("--urgent", is_flag=True, help="Ask central to come at once, past its debounce.")
@click.pass_context
def ring(context: click.Context, urgent: bool) -> None:
    """Ring now, as the POS's hook does."""
    config = configured(context)
    try:
        descriptor = os.open(config.fifo_path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as problem:
        raise fail(f"the agent does not answer: {why(problem, config)}", EXIT_NOT_REACHABLE) from problem
    with suppress(BlockingIOError):  # Full of rings: one more says nothing new.
        os.write(descriptor, b"u" if urgent else b"r")
    os.close(descriptor)


@edge.command()
@click.option("--json", "as_json", is_flag=True)
@click.option("--exit-code", is_flag=True, help="Exit with 3 if documents wait and nobody can fetch them.")
@click.pass_context
def status(context: click.Context, as_json: bool, exit_code: bool) -> None:
    """Show what central has and what it lacks; answers while the agent is down too."""
    config = configured(context)
    told = _status(config, "/status")
    click.echo(json.dumps(told) if as_json else _tell_status(told))
    if exit_code and (told["unsent"] or told["spooled"]) and not told.get("connected"):
        sys.exit(EXIT_FINDINGS)


@edge.command()
@click.option("--most", default=100, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--json", "as_json", is_flag=True)
@click.pass_context
def pending(context: click.Context, most: int, as_json: bool) -> None:
    """List the documents that central is not known to have, oldest first."""
    config = configured(context)
    told = _status(config, f"/pending?most={most}", most)
    documents = told.get("pending", [])
    if told["spooled"]:
        click.echo(f"{told['spooled']} more lie in the spool folder and have no number yet", err=True)
    if as_json:
        click.echo(json.dumps(documents))
        return
    for document in documents:
        click.echo(f"{document['sequence']:>8}  {document['size_bytes']:>8} bytes  {document['document_id']}")


def _status(config: EdgeConfig, target: str, most: int = 0) -> dict[str, Any]:
    try:
        return ask(config, "GET", target)[1]
    except AgentDownError:
        return _status_of_file(config, most)


def _status_of_file(config: EdgeConfig, most: int) -> dict[str, Any]:
    """Ask the outbox itself."""
    from .intake.folder import count
    from .standing import outbox_status, reason_told, wall_clock_ms

    with own_outbox(config) as outbox:
        return {
            "agent": "down",
            "till_id": config.till_id,
            "connected": False,
            "reason": reason_told(Reason("agent_silent"), config),
            **outbox_status(outbox, wall_clock_ms(), most),
            "spooled": count(Path(config.spool_dir)),
        }


def _tell_status(told: dict[str, Any]) -> str:
    link = "connected" if told["connected"] else f"not connected ({told.get('last_error') or told['agent']})"
    lines = [
        f"till     {told['till_id']}: agent {told['agent']}, {link}",
        f"outbox   documents {told['oldest']}..{told['newest']} of stream {told['stream']}",
        f"stored   up to {told['stored']} at central {told['central_id'] or '(none heard yet)'}" + _tell_backup(told),
        f"unsent   {told['unsent']}" + _tell_age(told["oldest_unsent_age_s"]),
    ]
    if told["spooled"]:
        lines.append(f"spool    {told['spooled']} documents wait for the agent in the spool folder, without a number")
    if certificate := told.get("certificate"):
        lines.append(f"identity certificate, {certificate['days_left']} days left" + _tell_problem(certificate))
    reason = told["reason"]
    lines += [f"reason   {reason['code']}: {reason['title']}", f"next     {reason['next_step']}"]
    for reader in told.get("intake", []):
        lines += _tell_reader(reader)
    automation = told.get("automation", {})
    lines += [f"trouble  {automation[key]}" for key in ("error", "settings_error") if automation.get(key)]
    if told["card_numbers_masked"]:
        lines.append(f"finding  card_number: {told['card_numbers_masked']} masked; the POS puts them into tenders")
    return "\n".join(lines)


def _tell_reader(reader: dict[str, Any]) -> list[str]:
    error = f"; {reader['last_error']}" if reader["last_error"] else ""
    lines = [f"intake   {reader['name']}: {reader['taken']} taken since the agent's start{error}"]
    lines += [f"finding  {reader['name']}, {code}: {text}" for code, text in reader["findings"].items()]
    kept = reader["problems"].items()
    return lines + [f"finding  {reader['name']}, {field}: {count} values kept as they were" for field, count in kept]


def _tell_backup(told: dict[str, Any]) -> str:
    through = told.get("backed_up")
    return "" if through is None else f", up to {through} in its newest backup"


def _tell_problem(certificate: dict[str, Any]) -> str:
    return f"; not renewed: {certificate['problem']}" if certificate["problem"] else ""


def _tell_age(age_s: float | None) -> str:
    return "" if age_s is None else f", the oldest since {age_s:.0f} s"
