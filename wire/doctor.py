"""What a doctor looks at: every check there is, and how those are judged that both ends share. Pure.

The English texts are the keys of the translations; codes never change their meaning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "error"]
Room = Literal["both", "edge", "central", "ca"]

RESET_FROM, RESET_FIXED = (3, 7, 0), (3, 51, 3)
"""In between SQLite may damage a database whose write-ahead log two connections write back at once."""
WRITTEN_MS = 1_767_225_600_000
"""No clock is right that is before 2026, when this program was written."""
CLOCK_BACK_MS = 300_000
DISK_FREE_MIN_BYTES = 64 * 2**20
UNIT_FACTOR = 500
"""A time that is so many times its default was probably given in milliseconds."""
LYING = {
    "nfs": "error", "nfs4": "error", "cifs": "error", "smb3": "error", "smbfs": "error", "9p": "error",
    "vboxsf": "error", "fuse.sshfs": "error", "tmpfs": "error", "ramfs": "error", "overlay": "warning",
    "aufs": "warning",
}  # fmt: skip
"""File systems without dependable locks or flush, or that are gone at the next start."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is looked at: what is wrong where it is wrong (with ``{detail}``), and what a person does then."""

    code: str
    room: Room
    title: str
    next_step: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found; ``detail`` is a figure, a name or a path and is never translated."""

    code: str
    level: Level
    detail: str = ""

    @property
    def check(self) -> Check:
        """What was looked at."""
        return CHECKS[self.code]


_CHECKS = (
    Check(
        "sqlite_version", "both",
        "This SQLite can damage a database whose log two programs write back at once: {detail}",
        "Run one worker on this database only, or upgrade SQLite to 3.51.3 or newer.",
    ),
    Check(
        "server_away", "central",
        "The database's server does not answer, or lets nobody in: {detail}",
        "Start the server, or mend the way to it, its pg_hba.conf or the password. Nothing is lost: tills keep what"
        " is not stored.",
    ),
    Check(
        "server_version", "central",
        "This PostgreSQL no longer gets corrections, or never ran here: {detail}",
        "Upgrade the server to a version that its makers still support (14 or newer).",
    ),
    Check(
        "standbys", "central",
        "What is committed has not reached a standby; seconds behind: {detail}",
        "Look at the standby and at the line to it: if the server is lost now, the tills have to send that much again.",
    ),
    Check(
        "durability", "both",
        "What is committed may be lost at a power cut: {detail}",
        "Put the file on a local disk (ext4, xfs), and let no other program change its journal mode; on PostgreSQL set"
        " fsync, synchronous_commit and full_page_writes to on.",
    ),
    Check(
        "integrity", "both",
        "The database is damaged or cannot be read: {detail}",
        "Stop the program and copy the file away first. At central restore the newest backup; on a till run edge"
        " repair: what can be read goes on, and central shows what is lost.",
    ),
    Check(
        "schema", "both",
        "The database is of another version: {detail}",
        "If it is newer, upgrade this program: an older one must not write there. If it is older, start the program"
        " once: it brings the database up to date.",
    ),
    Check(
        "file_system", "both",
        "This file system may lose what was written: {detail}",
        "Move the file to a local disk (ext4, xfs): network folders, memory and container layers do not keep what they"
        " promise.",
    ),
    Check(
        "disk_free", "both",
        "The disk is nearly full, or smaller than the limits allow for: {detail}",
        "Make room on the disk, or lower the limits.",
    ),
    Check(
        "permissions", "both",
        "Everybody on this machine may read what is secret: {detail}",
        "Take the right away (chmod o-rwx); make a new token if others may have seen it.",
    ),
    Check(
        "clock", "both",
        "The clock is wrong: {detail}",
        "Set the clock and switch time synchronisation on: business days and shifts are named by it.",
    ),
    Check(
        "certificate", "both",
        "The own certificate has expired, or is not renewed in time: {detail}",
        "Renew it: a till does so by itself at enrol_url (its log says certificate_not_renewed), a central worker's is"
        " renewed by tillstream ca renew. A till's that has expired needs a new token: tillstream edge enrol.",
    ),
    Check(
        "limits", "both",
        "Limits contradict each other: {detail}",
        "Change one of them in the configuration.",
    ),
    Check(
        "units", "both",
        "A time seems to be given in another unit: {detail}",
        "Names tell the unit: _s is seconds, _days is days. Correct it in the configuration.",
    ),
    Check(
        "agent", "edge",
        "The agent does not answer: {detail}",
        "Start it (systemctl start). Until then documents wait in the spool.",
    ),
    Check(
        "outbox_size", "edge",
        "The outbox fills up: {detail}",
        "Restore the link so that documents can be sent and forgotten, or raise outbox_limit_bytes.",
    ),
    Check(
        "ballast", "edge",
        "The ballast is not there, without which a full disk cannot even be tidied: {detail}",
        "Make room on the disk: the agent lays the ballast down again by itself.",
    ),
    Check(
        "own_central", "edge",
        "The till does not believe any central yet, or another one than configured: {detail}",
        "Check the broker's address, the access rules and central_id: until then nothing is ever forgotten here.",
    ),
    Check(
        "backup_late", "edge",
        "Documents past retention_days wait for central's next backup; how many: {detail}",
        "Look at central's backups (tillstream central doctor): the outbox grows until there is a new one.",
    ),
    Check(
        "backup_age", "central",
        "There is no verified backup, or it is old; days: {detail}",
        "Run tillstream central backup every night: without it tills forget by the watermark, after it they keep all"
        " that is in none.",
    ),
    Check(
        "backup_there", "central",
        "The newest backup is not where it was made: {detail}",
        "Bring it back or make a new one at once: tills forget what it is said to hold.",
    ),
    Check(
        "restored", "central",
        "Since the restore tills could not send everything again; open gaps: {detail}",
        "Look at tillstream central gaps; what is missing may be in the database that was replaced, or in a newer"
        " backup.",
    ),
    Check(
        "till_clocks", "central",
        "Clocks of tills are wrong: {detail}",
        "Set them and switch time synchronisation on at those tills (tillstream central tills).",
    ),
    Check(
        "authority", "ca",
        "The certificate authority's own certificate ends soon; days left: {detail}",
        "Make a new authority in another folder and enrol every till there before this one ends.",
    ),
    Check(
        "revocation_list", "ca",
        "The list of revoked certificates is missing or old; with an expired one Mosquitto lets nobody in: {detail}",
        "Run tillstream ca serve, which keeps it fresh, or tillstream ca crl every day.",
    ),
    Check(
        "workers", "central",
        "Workers do not agree, or tills have nobody: {detail}",
        "Start each k of n once, all with the same n (tillstream central workers). Nothing is lost meanwhile.",
    ),
)  # fmt: skip

CHECKS: dict[str, Check] = {check.code: check for check in _CHECKS}
"""All checks, in the order in which they are told."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What can be seen of a database file and where it lies; ``problem`` says why the rest could not be read."""

    path: str
    problem: str = ""
    size_bytes: int = 0
    free_bytes: int | None = None
    file_system: str = ""
    sqlite_version: str = ""
    journal_mode: str = ""
    synchronous: int = 2
    schema: int = 0
    open_to_all: tuple[str, ...] = ()
    """Secrets, and files of the database, that everybody may read."""


def file_findings(facts: FileFacts, known_schema: int, *, is_shared: bool) -> Iterator[Finding]:
    """Judge a database file; ``is_shared`` says that several programs write its log back."""
    yield _sqlite_version(facts.sqlite_version, is_shared=is_shared)
    if facts.problem:
        yield Finding("integrity", "error", facts.problem)
    else:
        is_durable = facts.synchronous >= 2 and facts.journal_mode not in ("off", "memory")
        detail = f"journal_mode={facts.journal_mode}, synchronous={facts.synchronous}"
        yield Finding("durability", "ok" if is_durable else "error", detail)
        yield Finding("integrity", "ok", facts.path)
        yield schema(facts.schema, known_schema)
    yield Finding("file_system", _of(LYING.get(facts.file_system, "ok")), facts.file_system or "?")
    open_to_all = ", ".join(facts.open_to_all)
    yield Finding("permissions", "error" if open_to_all else "ok", open_to_all)


def schema(found: int, known: int) -> Finding:
    """Judge how many steps a database's schema has, by how many this version knows."""
    level: Level = "error" if found > known else "warning" if found < known else "ok"
    sign = {"error": ">", "warning": "<"}.get(level, "=")
    return Finding("schema", level, f"{found} {sign} {known}")


def _of(level: str) -> Level:
    return "error" if level == "error" else "warning" if level == "warning" else "ok"


def _sqlite_version(version: str, *, is_shared: bool) -> Finding:
    number = tuple(int(part) for part in version.split("."))
    is_affected = RESET_FROM <= number < RESET_FIXED
    if is_affected and is_shared:
        return Finding("sqlite_version", "warning", version)
    return Finding("sqlite_version", "ok", version)


def disk_free(free_bytes: int | None, wanted_bytes: int) -> Finding:
    """Judge the room that is left, by what the limits still allow to be written."""
    if free_bytes is None:
        return Finding("disk_free", "warning", "?")
    level: Level = "error" if free_bytes < DISK_FREE_MIN_BYTES else "warning" if free_bytes < wanted_bytes else "ok"
    return Finding("disk_free", level, f"{free_bytes} B {'>' if level == 'ok' else '<'} {wanted_bytes} B")


def clock(now_ms: int, seen_ms: int | None) -> Finding:
    """Judge the time of day: never before this program was written, nor before what is stored already."""
    if now_ms < WRITTEN_MS:
        return Finding("clock", "error", "< 2026")
    if seen_ms is not None and now_ms < seen_ms - CLOCK_BACK_MS:
        return Finding("clock", "error", f"{(now_ms - seen_ms) // 1000} s")
    return Finding("clock", "ok")


def certificate(flaw: str, left: float | None, wanted_left: float) -> Finding:
    """Judge the own certificate: ``flaw`` tells why nobody accepts it, ``left`` is the part of its life to come."""
    if flaw or left is None:
        return Finding("certificate", "error" if flaw else "ok", flaw)
    level: Level = "ok" if left >= wanted_left else "warning"
    return Finding("certificate", level, f"{left:.0%} {'>=' if level == 'ok' else '<'} {wanted_left:.0%}")


def limits(values: Mapping[str, float], ordered: Sequence[tuple[str, str]]) -> Finding:
    """Judge pairs of limits of which the first must not be above the second."""
    pairs = [(low, high) for low, high in ordered if values[low] > values[high]]
    wrong = [f"{low} = {values[low]:g} > {high} = {values[high]:g}" for low, high in pairs]
    return Finding("limits", "warning" if wrong else "ok", "; ".join(wrong))


def units(values: Mapping[str, float], defaults: Mapping[str, float]) -> Finding:
    """Judge whether a time looks as if it were given in milliseconds."""
    wrong = [
        f"{name} = {value:g} ({defaults[name]:g})"
        for name, value in values.items()
        if name.endswith(("_s", "_days")) and 0 < defaults.get(name, 0) * UNIT_FACTOR <= value
    ]
    return Finding("units", "warning" if wrong else "ok", ", ".join(wrong))
