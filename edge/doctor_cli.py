"""``tillstream edge doctor``: gathers what can be seen of a till from its own machine, and tells what is wrong."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from wire.program import CONFIG_DIR, EXIT_FINDINGS, EXIT_NOT_REACHABLE

from .asking import AgentDownError, ask, configured, fail, why
from .config import EdgeConfig
from .doctor import Facts

DAY_MS = 86_400_000
_STREAM = "SELECT stored, backed_up, central_id FROM stream"
_SCHEMA = (
    "SELECT CASE WHEN user_version > {known} AND application_id > 0 THEN max(application_id, {known})"
    " ELSE user_version END FROM pragma_user_version, pragma_application_id"
)
"""Of a newer outbox the oldest schema whose programs may use it."""
_WAITING = "SELECT count(*) FROM document WHERE sequence > ? AND sequence <= ? AND appended_at_ms < ?"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Check what the till's promises rest on: the disk, SQLite, the clock, limits, secrets, central. Changes nothing.

    It answers while the agent runs and while it does not. Exit code 3: something is not as it should be; what to do
    stands below it.

    \b
    Example:
      tillstream edge doctor
      tillstream edge doctor --json | jq '.[] | select(.level != "ok")'
    """
    from wire import examine

    from .doctor import examine as judge

    config = configured(context)
    try:
        is_there = config.outbox_path.exists()
    except OSError as problem:
        raise fail(why(problem, config)) from problem
    if not is_there:
        raise fail(f"there is no outbox at {config.outbox_path}: has the agent been started?", EXIT_NOT_REACHABLE)
    findings = judge(_gather(config, context.obj or CONFIG_DIR / "edge.toml"))
    click.echo(
        examine.as_json(findings, config.language) if as_json else "\n".join(examine.told(findings, config.language))
    )
    if any(one.level != "ok" for one in findings):
        sys.exit(EXIT_FINDINGS)


def _gather(config: EdgeConfig, config_path: Path) -> Facts:
    from wire import examine

    from .outbox import SCHEMA_VERSION
    from .standing import wall_clock_ms

    now_ms = wall_clock_ms()
    secrets = [config.token_file, config.tls_key_file, *([str(config_path)] if config.token else [])]
    ballast = config.outbox_path.with_suffix(".ballast")
    return Facts(
        file=examine.look_at(config.outbox_path, _SCHEMA.format(known=SCHEMA_VERSION), secrets),
        known_schema=SCHEMA_VERSION,
        now_ms=now_ms,
        certificate=examine.certificate(config.tls_cert_file, config.till_id, now_ms / 1000, config.renew_left * 0.9),
        values=examine.numbers_of(config),
        defaults=examine.numbers_by_default(EdgeConfig),
        agent_problem=_agent_problem(config),
        ballast_found_bytes=ballast.stat().st_size if ballast.exists() else None,
        configured_central=config.central_id,
        **_read(config, now_ms),
    )


def _agent_problem(config: EdgeConfig) -> str:
    try:
        ask(config, "GET", "/status")
    except AgentDownError as problem:
        return str(problem)
    return ""


def _read(config: EdgeConfig, now_ms: int) -> dict[str, Any]:
    """Return what the rows tell; nothing where they cannot be read, which is a finding of its own."""
    try:
        with closing(sqlite3.connect(f"file:{config.outbox_path}?mode=ro", uri=True, timeout=10)) as database:

            def one(query: str, *values: object) -> Any:
                return database.execute(query, values).fetchone()

            pages, free, page_bytes = (
                one(f"PRAGMA {name}")[0] for name in ("page_count", "freelist_count", "page_size")
            )
            stored, backed_up, central_id = one(_STREAM)
            before_ms = now_ms - int(config.retention_days * DAY_MS)
            waiting = one(_WAITING, backed_up, stored, before_ms)[0] if backed_up is not None else 0
            return {
                "used_bytes": (pages - free) * page_bytes,
                "seen_ms": one("SELECT max(appended_at_ms) FROM document")[0],
                "central_id": central_id,
                "waiting_for_backup": waiting,
            }
    except sqlite3.Error:
        return {}
