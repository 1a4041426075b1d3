"""Judges whether a till's surroundings are as its promises need them: facts in, findings out. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from wire import doctor
from wire.doctor import FileFacts, Finding, Level

FULL_WARNING, FULL_ERROR = 80, 95
"""Percent of outbox_limit_bytes."""

ORDERED = (
    ("ring_again_s", "ring_again_max_s"),
    ("reconnect_min_s", "reconnect_max_s"),
    ("document_limit_bytes", "intake_limit_bytes"),
    ("document_limit_bytes", "aside_limit_bytes"),
    ("intake_limit_bytes", "inbox_bytes"),
    ("ballast_bytes", "outbox_limit_bytes"),
    ("document_limit_bytes", "outbox_limit_bytes"),
)
"""Limits of which the first must not be above the second."""


FINE = Finding("certificate", "ok")
"""Of a program that shows no certificate."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What can be seen of a till from its own machine; times are epoch milliseconds."""

    file: FileFacts
    known_schema: int
    now_ms: int
    values: Mapping[str, float]
    defaults: Mapping[str, float]
    certificate: Finding = FINE
    agent_problem: str = ""
    """Why the agent does not answer; empty if it does."""
    used_bytes: int = 0
    """What of the outbox's file is in use; what was pruned is used again."""
    ballast_found_bytes: int | None = None
    seen_ms: int | None = None
    """When the newest document was appended."""
    central_id: str | None = None
    configured_central: str = ""
    waiting_for_backup: int = 0
    """Documents past retention_days that are stored and in no backup, where central makes any."""


def examine(facts: Facts) -> list[Finding]:
    """Return what every check found, in the order of the list."""
    found = {one.code: one for one in _findings(facts)}
    return [found[code] for code in doctor.CHECKS if code in found]


def _findings(facts: Facts) -> Iterator[Finding]:
    yield from doctor.file_findings(facts.file, facts.known_schema, is_shared=False)
    grows = max(0, int(facts.values["outbox_limit_bytes"]) - facts.file.size_bytes)
    yield doctor.disk_free(facts.file.free_bytes, grows)
    yield doctor.clock(facts.now_ms, facts.seen_ms)
    yield facts.certificate
    yield doctor.limits(facts.values, ORDERED)
    yield doctor.units(facts.values, facts.defaults)
    yield Finding("agent", "warning" if facts.agent_problem else "ok", facts.agent_problem)
    yield _ballast(facts)
    if not facts.file.problem:
        yield _outbox_size(facts)
        yield _own_central(facts)
        level: Level = "warning" if facts.waiting_for_backup else "ok"
        yield Finding("backup_late", level, str(facts.waiting_for_backup or ""))


def _outbox_size(facts: Facts) -> Finding:
    percent = 100 * facts.used_bytes // int(facts.values["outbox_limit_bytes"])
    level: Level = "error" if percent >= FULL_ERROR else "warning" if percent >= FULL_WARNING else "ok"
    return Finding("outbox_size", level, f"{percent} %")


def _ballast(facts: Facts) -> Finding:
    wanted, found = int(facts.values["ballast_bytes"]), facts.ballast_found_bytes
    detail = f"{found or 0} B / {wanted} B"
    return Finding("ballast", "ok" if (found or 0) >= wanted else "warning", detail)


def _own_central(facts: Facts) -> Finding:
    if facts.configured_central and facts.central_id and facts.configured_central != facts.central_id:
        return Finding("own_central", "warning", f"{facts.central_id} != central_id = {facts.configured_central}")
    if facts.central_id is None:
        return Finding("own_central", "warning")
    return Finding("own_central", "ok", facts.central_id)
