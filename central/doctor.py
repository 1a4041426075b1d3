"""Judges whether central's surroundings are as its promises need them: facts in, findings out. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from wire import doctor
from wire.doctor import FileFacts, Finding

DAY_MS = 86_400_000
DISK_WANTED_MIN_BYTES = 2**30
CLOCK_SKEW_MAX_MS = 300_000
SHOWN_MOST = 5
CERTIFICATE_LEFT = 0.3
"""A worker's certificate is renewed when a third of its life is left (`tillstream ca renew --if-due`, daily)."""
FINE = Finding("certificate", "ok")
"""Of a program that shows no certificate."""
RETENTION_DAYS = 35.0
"""What tills have unless central or their own file says otherwise."""

ORDERED = (
    ("quiet_s", "max_wait_s"),
    ("retry_min_s", "retry_max_s"),
    ("reconnect_min_s", "reconnect_max_s"),
    ("timeout_s", "task_expires_s"),
    ("limit_bytes", "inbox_bytes"),
    ("batch_bytes", "inbox_bytes"),
)
"""Limits of which the first must not be above the second."""


@dataclass(frozen=True, slots=True)
class NewestBackup:
    """The newest backup that was noted, and how large the file is that is there now; None if none is."""

    path: str
    made_at_ms: int
    size_bytes: int
    found_bytes: int | None


SERVER_VERSION_MIN = 14
STANDBY_LAG_MAX_S = 300


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What PostgreSQL says of itself; ``problem`` says why the rest could not be read."""

    url: str
    problem: str = ""
    is_away: bool = False
    """It does not answer, or lets nobody in."""
    version: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    """fsync, synchronous_commit and full_page_writes, as this connection has them."""
    is_standby: bool = False
    schema: int = 0
    lag_s: float | None = None
    """How far the slowest standby is behind; None without one, or where this role may not know."""
    open_to_all: tuple[str, ...] = ()
    """Secrets that everybody on this machine may read."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What can be seen of central from its own machine; times are epoch milliseconds."""

    file: FileFacts | ServerFacts
    known_schema: int
    now_ms: int
    values: Mapping[str, float]
    defaults: Mapping[str, float]
    certificate: Finding = FINE
    workers: int = 1
    """How many share the database."""
    seen_ms: int | None = None
    """The newest time in the database."""
    backup: NewestBackup | None = None
    retention_days: float = RETENTION_DAYS
    """The shortest time that any till may keep what is stored."""
    restored_at_ms: int | None = None
    gaps_since: int = 0
    skews: tuple[tuple[str, int], ...] = ()
    """Tills and how far their clocks are ahead, in milliseconds."""
    disagreements: tuple[str, ...] = ()
    """What is wrong among the workers that run."""


def examine(facts: Facts) -> list[Finding]:
    """Return what every check found, in the order of the list."""
    found = {one.code: one for one in _findings(facts)}
    return [found[code] for code in doctor.CHECKS if code in found]


def _findings(facts: Facts) -> Iterator[Finding]:
    if isinstance(facts.file, ServerFacts):
        yield from _server_findings(facts.file, facts.known_schema)
    else:
        yield from doctor.file_findings(facts.file, facts.known_schema, is_shared=facts.workers > 1)
        # A backup beside it or a restore needs as much again, and so does a log that a long reader holds up.
        wanted = max(DISK_WANTED_MIN_BYTES, facts.file.size_bytes)
        yield doctor.disk_free(facts.file.free_bytes, wanted)
    yield doctor.clock(facts.now_ms, facts.seen_ms)
    yield facts.certificate
    values = {**facts.values, "retention_days": facts.retention_days}
    yield doctor.limits(values, (*ORDERED, ("backup_age_max_days", "retention_days")))
    yield doctor.units(facts.values, facts.defaults)
    if not facts.file.problem:
        yield _backup_age(facts)
        yield _backup_there(facts.backup)
        yield _restored(facts)
        yield _till_clocks(facts.skews)
        yield Finding("workers", "warning" if facts.disagreements else "ok", "; ".join(facts.disagreements))


def _server_findings(server: ServerFacts, known_schema: int) -> Iterator[Finding]:
    open_to_all = ", ".join(server.open_to_all)
    yield Finding("permissions", "error" if open_to_all else "ok", open_to_all)
    yield Finding("server_away", "error" if server.is_away else "ok", server.problem or server.url)
    if not server.is_away:
        yield Finding("integrity", "error" if server.problem else "ok", server.problem or server.url)
    if server.problem:
        return
    is_old = int(server.version.split(".")[0]) < SERVER_VERSION_MIN
    yield Finding("server_version", "warning" if is_old else "ok", server.version)
    yield _durability(server)
    yield doctor.schema(server.schema, known_schema)
    is_late = server.lag_s is not None and server.lag_s > STANDBY_LAG_MAX_S
    yield Finding("standbys", "warning" if is_late else "ok", "" if server.lag_s is None else f"{server.lag_s:.0f}")


def _durability(server: ServerFacts) -> Finding:
    shown = ", ".join(f"{name}={value}" for name, value in server.settings.items())
    is_durable = server.settings["fsync"] == "on" and server.settings["synchronous_commit"] in ("on", "remote_apply")
    if server.is_standby or not is_durable:
        return Finding("durability", "error", f"{shown}, a standby" if server.is_standby else shown)
    return Finding("durability", "ok" if server.settings["full_page_writes"] == "on" else "warning", shown)


def _backup_age(facts: Facts) -> Finding:
    if facts.backup is None:
        return Finding("backup_age", "warning")
    days = max(0, facts.now_ms - facts.backup.made_at_ms) / DAY_MS
    if days > facts.retention_days:
        return Finding("backup_age", "error", f"{days:.1f} > retention_days = {facts.retention_days:g}")
    if days > (most := facts.values["backup_age_max_days"]):
        return Finding("backup_age", "warning", f"{days:.1f} > backup_age_max_days = {most:g}")
    return Finding("backup_age", "ok", f"{days:.1f}")


def _backup_there(backup: NewestBackup | None) -> Finding:
    if backup is None or backup.found_bytes == backup.size_bytes:
        return Finding("backup_there", "ok", backup.path if backup else "")
    return Finding("backup_there", "error", f"{backup.path}: {backup.found_bytes or 0} B != {backup.size_bytes} B")


def _restored(facts: Facts) -> Finding:
    is_behind = facts.restored_at_ms is not None and facts.gaps_since > 0
    return Finding("restored", "warning", str(facts.gaps_since)) if is_behind else Finding("restored", "ok")


def _till_clocks(skews: tuple[tuple[str, int], ...]) -> Finding:
    wrong = sorted((one for one in skews if abs(one[1]) > CLOCK_SKEW_MAX_MS), key=lambda one: -abs(one[1]))
    named = ", ".join(f"{till} {skew_ms // 1000:+d} s" for till, skew_ms in wrong[:SHOWN_MOST])
    more = f", … ({len(wrong)})" if len(wrong) > SHOWN_MOST else ""
    return Finding("till_clocks", "warning" if wrong else "ok", f"{named}{more}")
