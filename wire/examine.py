"""Looks at a database file, where it lies and who may read it, for the doctors of both ends; tells what they found."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from . import doctor
from .doctor import FileFacts, Finding
from .tls import TlsError
from .tls import look_at as look_at_certificate
from .translation import Language, translate

MOUNTS = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(r"\\([0-7]{3})")


def look_at(path: Path, schema_query: str, secrets: Iterable[str]) -> FileFacts:
    """Return what can be seen of a database, changing nothing; what cannot be read is told and ends no look."""
    facts = FileFacts(
        str(path),
        free_bytes=free_bytes(path.parent),
        file_system=file_system_of(path, MOUNTS.read_text("utf-8", "replace") if MOUNTS.exists() else ""),
        sqlite_version=sqlite3.sqlite_version,
        open_to_all=open_to_all([str(path), *secrets]),
    )
    try:
        with closing(sqlite3.connect(f"file:{path.resolve()}?mode=ro", uri=True, timeout=10)) as database:
            return replace(facts, size_bytes=path.stat().st_size, **_read(database, schema_query))
    except (sqlite3.Error, OSError) as problem:
        return replace(facts, problem=f"{path}: {problem}")


def _read(database: sqlite3.Connection, schema_query: str) -> dict[str, Any]:
    def one(query: str) -> Any:
        return database.execute(query).fetchone()[0]

    database.execute("PRAGMA synchronous = full")  # As our programs set it; read back, for it may be refused.
    found = one("PRAGMA quick_check(1)")
    return {
        "problem": "" if found == "ok" else str(found),
        "journal_mode": one("PRAGMA journal_mode"),
        "synchronous": one("PRAGMA synchronous"),
        "schema": one(schema_query),
    }


def free_bytes(folder: Path) -> int | None:
    """Return the room that this program has in a folder, None if nobody can tell."""
    try:
        room = os.statvfs(folder)
    except OSError:
        return None
    return room.f_bavail * room.f_frsize


def file_system_of(path: Path, mounts: str) -> str:
    """Return the type of the file system that holds a path, from ``/proc/self/mountinfo`` (proc(5)); "" if unknown."""
    whole, nearest, kind = path.resolve(), -1, ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields, types = before.split(), after.split()
        if len(fields) < 5 or not types:
            continue
        point = Path(_ESCAPED.sub(lambda found: chr(int(found[1], 8)), fields[4]))
        if whole.is_relative_to(point) and len(point.parts) >= nearest:
            nearest, kind = len(point.parts), types[0]
    return kind


def open_to_all(paths: Iterable[str]) -> tuple[str, ...]:
    """Return those files that everybody on this machine may read or write."""
    found = []
    for path in filter(None, paths):
        try:
            if Path(path).stat().st_mode & 0o006:
                found.append(path)
        except OSError:
            continue  # What is not there is another check's matter.
    return tuple(found)


def certificate(cert_file: str, name: str, now_s: float, wanted_left: float) -> Finding:
    """Look at the own certificate; a finding that is fine where there is none."""
    if not cert_file:
        return doctor.certificate("", None, wanted_left)
    try:
        found = look_at_certificate(Path(cert_file))
    except TlsError as problem:
        return doctor.certificate(str(problem), None, wanted_left)
    left = found.left_s(now_s) / (found.not_after_s - found.not_before_s)
    flaw = found.flaw(name, now_s)
    return doctor.certificate(f"{cert_file}: {flaw}" if flaw else "", left, wanted_left)


def numbers_of(config: msgspec.Struct) -> dict[str, float]:
    """Return those keys of a configuration that hold numbers."""
    values = msgspec.structs.asdict(config)
    return {name: float(value) for name, value in values.items() if type(value) in (int, float)}


def numbers_by_default(config: type[msgspec.Struct]) -> dict[str, float]:
    """Return the defaults of those keys that hold numbers."""
    fields = msgspec.structs.fields(config)
    return {field.name: float(field.default) for field in fields if type(field.default) in (int, float)}


def told(findings: Sequence[Finding], language: Language) -> list[str]:
    """Return the findings as lines for people, what to do below each that is not fine."""
    lines = []
    for one in findings:
        lines.append(f"{one.level:<8} {one.code:<15} {_title(one, language)}".rstrip())
        lines += [f"{'':<24} {translate(one.check.next_step, language)}"] if one.level != "ok" else []
    return lines


def as_json(findings: Sequence[Finding], language: Language) -> str:
    """Return the findings for programs; codes and levels stay English."""
    rows = []
    for one in findings:
        texts = {"title": "", "next_step": ""}
        if one.level != "ok":
            texts = {"title": _title(one, language), "next_step": translate(one.check.next_step, language)}
        rows.append({"code": one.code, "level": one.level, "detail": one.detail, **texts})
    return json.dumps(rows, ensure_ascii=False)


def _title(one: Finding, language: Language) -> str:
    if one.level == "ok":
        return one.detail
    return translate(one.check.title, language).format(detail=one.detail or "-")
