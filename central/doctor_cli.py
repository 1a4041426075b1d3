"""``tillstream central doctor``: gathers what can be seen of central from its own machine, and tells what is wrong."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from wire import examine
from wire.program import CONFIG_DIR, EXIT_FINDINGS

from .cli_base import as_json_option, configured, fail
from .config import CentralConfig
from .doctor import RETENTION_DAYS, Facts, NewestBackup
from .doctor import examine as judge
from .migrations import MIGRATIONS
from .service import wall_clock_ms

_SCHEMA = "SELECT coalesce(max(number), 0) FROM migration"
_SEEN = (
    "SELECT max(coalesce((SELECT received_at_ms FROM document ORDER BY id DESC LIMIT 1), 0), coalesce(max(at_ms), 0))"
)
_BACKUP = "SELECT path, made_at_ms, size_bytes FROM backup ORDER BY id DESC LIMIT 1"
_RETENTION = "SELECT min(json_extract(body, '$.limits.retention_days')) FROM setting WHERE body <> ''"
_RESTORED = "SELECT max(at_ms) FROM audit WHERE action = 'restore'"
_GAPS = "SELECT count(*) FROM gap WHERE closed_at_ms IS NULL AND found_at_ms >= ?"
_SKEWS = "SELECT till_id, clock_skew_ms FROM till WHERE clock_skew_ms IS NOT NULL AND parked_at_ms IS NULL"


@click.command()
@as_json_option
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Check what central's promises rest on: the disk, SQLite, the clock, limits, secrets, backups. Changes nothing.

    Exit code 3: something is not as it should be; what to do stands below it.

    \b
    Example:
      tillstream central doctor
      tillstream central doctor --json | jq '.[] | select(.level != "ok")'
    """
    config = configured(context)
    if not Path(config.database).exists():
        raise fail(f"no database at {config.database}: has `tillstream central run` been started?")
    findings = judge(_gather(config, context.obj[0] or CONFIG_DIR / "central.toml"))
    click.echo(
        examine.as_json(findings, config.language) if as_json else "\n".join(examine.told(findings, config.language))
    )
    if any(one.level != "ok" for one in findings):
        sys.exit(EXIT_FINDINGS)


def _gather(config: CentralConfig, config_path: Path) -> Facts:
    path = Path(config.database)
    secrets = [config.token_file, config.fleet_key_file, *([str(config_path)] if config.token else [])]
    return Facts(
        file=examine.look_at(path, _SCHEMA, secrets),
        known_schema=len(MIGRATIONS),
        now_ms=wall_clock_ms(),
        values=examine.numbers_of(config),
        workers=config.share.workers,
        defaults=examine.numbers_by_default(CentralConfig),
        **_read(path),
    )


def _read(path: Path) -> dict[str, Any]:
    """Return what the rows tell; nothing where they cannot be read, which is a finding of its own."""
    try:
        with closing(sqlite3.connect(f"file:{path.resolve()}?mode=ro", uri=True, timeout=10)) as database:

            def one(query: str, *values: object) -> Any:
                return database.execute(query, values).fetchone()

            restored_at_ms = one(_RESTORED)[0]
            return {
                "seen_ms": one(f"{_SEEN} FROM audit")[0] or None,
                "backup": _backup(one(_BACKUP)),
                "retention_days": min(RETENTION_DAYS, one(_RETENTION)[0] or RETENTION_DAYS),
                "restored_at_ms": restored_at_ms,
                "gaps_since": one(_GAPS, restored_at_ms or 0)[0],
                "skews": tuple(database.execute(_SKEWS)),
            }
    except sqlite3.Error:
        return {}


def _backup(row: tuple[str, int, int] | None) -> NewestBackup | None:
    if row is None:
        return None
    file = Path(row[0])
    return NewestBackup(*row, file.stat().st_size if file.is_file() else None)
