"""``tillstream central doctor``: gathers what can be seen of central from its own machine, and tells what is wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import msgspec
import peewee as pw

from wire import examine
from wire.doctor import FileFacts
from wire.program import CONFIG_DIR, EXIT_FINDINGS, EXIT_NOT_REACHABLE, ConfigError

from . import reports, roll
from .cli_base import as_json_option, configured, fail
from .config import CentralConfig
from .database import Place, first_cause
from .doctor import CERTIFICATE_LEFT, RETENTION_DAYS, Facts, NewestBackup, ServerFacts
from .doctor import examine as judge
from .lock import InUseError
from .migrations import MIGRATIONS, applied
from .service import wall_clock_ms
from .settings import Body

_SCHEMA = "SELECT coalesce(max(number), 0) FROM migration"
_NEWEST = "SELECT coalesce((SELECT received_at_ms FROM document ORDER BY id DESC LIMIT 1), 0)"
_LAST_AUDIT = "SELECT coalesce(max(at_ms), 0) FROM audit"
_BACKUP = "SELECT path, made_at_ms, size_bytes FROM backup ORDER BY id DESC LIMIT 1"
_SETTINGS = "SELECT body FROM setting WHERE body <> ''"
_RESTORED = "SELECT max(at_ms) FROM audit WHERE action = 'restore'"
_GAPS = "SELECT count(*) FROM gap WHERE closed_at_ms IS NULL AND found_at_ms >= ?"
_SERVER = (
    "SELECT current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit'),"
    " current_setting('full_page_writes'), pg_is_in_recovery(),"
    " (SELECT CAST(extract(epoch FROM max(replay_lag)) AS FLOAT) FROM pg_stat_replication)"
)
_decode_settings = msgspec.json.Decoder(Body).decode
_SKEWS = "SELECT till_id, clock_skew_ms FROM till WHERE clock_skew_ms IS NOT NULL AND parked_at_ms IS NULL"


@click.command()
@as_json_option
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Check what central's promises rest on: the disk, SQLite, the clock, limits, secrets, backups. Changes nothing.

    Exit code 3: something is not as it should be; what to do stands below it. Exit code 7: the server does not answer.

    \b
    Example:
      tillstream central doctor
      tillstream central doctor --json | jq '.[] | select(.level != "ok")'
    """
    config = configured(context)
    if config.place().is_file and not config.place().path.exists():
        raise fail(f"no database at {config.database}: has `tillstream central run` been started?")
    findings = judge(_gather(config, context.obj[0] or CONFIG_DIR / "central.toml"))
    click.echo(
        examine.as_json(findings, config.language) if as_json else "\n".join(examine.told(findings, config.language))
    )
    if any(one.code == "server_away" and one.level == "error" for one in findings):
        sys.exit(EXIT_NOT_REACHABLE)
    if any(one.level != "ok" for one in findings):
        sys.exit(EXIT_FINDINGS)


def _gather(config: CentralConfig, config_path: Path) -> Facts:
    place = config.place("tillstream central doctor")
    now_ms, user = wall_clock_ms(), f"central-{config.share.number}"
    secrets = [config.token_file, config.tls_key_file, config.fleet_key_file]
    secrets += [str(config_path)] if config.token else []
    if place.kind == "sqlite":
        file: FileFacts | ServerFacts = examine.look_at(place.path, _SCHEMA, secrets)
    else:
        file = _ask_server(place, examine.open_to_all([*secrets, config.database_password_file]))
    return Facts(
        file=file,
        known_schema=len(MIGRATIONS),
        now_ms=now_ms,
        certificate=examine.certificate(config.tls_cert_file, user, now_ms / 1000, CERTIFICATE_LEFT),
        values=examine.numbers_of(config),
        workers=config.share.workers,
        defaults=examine.numbers_by_default(CentralConfig),
        **_read(place),
    )


def _ask_server(place: Place, open_to_all: tuple[str, ...]) -> ServerFacts:
    facts = ServerFacts(place.url, open_to_all=open_to_all)
    try:
        with reports.connecting(place):
            database = place.look(to_write=False)
        with closing(database):
            version, *settings, is_standby, lag_s = database.run(_SERVER).fetchone()
            named = dict(zip(("fsync", "synchronous_commit", "full_page_writes"), settings, strict=True))
            return replace(
                facts, version=version, settings=named, is_standby=is_standby, lag_s=lag_s, schema=applied(database)
            )
    except reports.UnreachableError as problem:
        return replace(facts, problem=first_cause(problem), is_away=True)
    except (ConfigError, reports.NoDatabaseError, pw.DatabaseError) as problem:
        return replace(facts, problem=first_cause(problem))


def _read(place: Place) -> dict[str, Any]:
    """Return what the rows tell; nothing where they cannot be read, which is a finding of its own."""
    try:
        with closing(place.look(to_write=False)) as database:

            def one(query: str, *values: object) -> Any:
                return database.run(query, values).fetchone()

            restored_at_ms = one(_RESTORED)[0]
            return {
                "seen_ms": max(one(_NEWEST)[0], one(_LAST_AUDIT)[0]) or None,
                "backup": _backup(one(_BACKUP)),
                "retention_days": _retention_days(body for (body,) in database.run(_SETTINGS)),
                "restored_at_ms": restored_at_ms,
                "gaps_since": one(_GAPS, restored_at_ms or 0)[0],
                "skews": tuple(tuple(row) for row in database.run(_SKEWS)),
                "disagreements": tuple(roll.disagreements(roll.live(roll.seen(database), wall_clock_ms()))),
            }
    except (ConfigError, InUseError, OSError, pw.DatabaseError):
        return {}


def _retention_days(bodies: Iterable[str]) -> float:
    """Return the shortest time that any settings let tills keep what is stored."""
    limits = [body.limits for body in map(_decode_settings, bodies) if body.limits]
    return min([RETENTION_DAYS, *(one.retention_days for one in limits if one.retention_days)])


def _backup(row: tuple[str, int, int] | None) -> NewestBackup | None:
    if row is None:
        return None
    file = Path(row[0])
    return NewestBackup(*row, file.stat().st_size if file.is_file() else None)
