"""Owns a recipe's folder: what was written there, and that a second run takes nothing away from whoever changed it."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wire.program import ConfigError

from .plan import SECRET, Files

NOTES = ".written.json"

Fate = Literal["made", "unchanged", "updated", "kept", "replaced"]


@dataclass(frozen=True, slots=True)
class Written:
    """What became of one file; ``changes`` is a diff from what is there to what the recipe has, for people."""

    name: str
    fate: Fate
    changes: list[str]


def write(folder: Path, files: Files, account: str, *, force: bool) -> list[Written]:
    """Write a recipe's files; a file that somebody changed is kept, or with ``force`` put aside as ``NAME.old``.

    Raises ConfigError that names the file which cannot be written.
    """
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        notes = _read_notes(folder)
        done = [_write_one(folder, name, content, notes.get(name), account, force) for name, content in files.items()]
        for one in done:
            if one.fate != "kept":
                notes[one.name] = _digest(files[one.name])
        _put(folder / NOTES, json.dumps(notes, indent=1) + "\n", 0o644, account)
    except OSError as problem:
        raise ConfigError(f"cannot write the recipe: {problem}") from problem
    return done


def _write_one(folder: Path, name: str, content: str, noted: str | None, account: str, force: bool) -> Written:
    path = folder / name
    before = path.read_text("utf-8") if path.exists() else None
    if before == content:
        return Written(name, "unchanged", [])
    is_ours = before is None or _digest(before) == noted
    fate: Fate = "made" if before is None else "updated" if is_ours else "replaced" if force else "kept"
    changes = [] if name in SECRET or before is None else _diff(before, content)
    if fate == "replaced":
        path.replace(path.with_name(f"{name}.old"))
    if fate != "kept":
        _put(path, content, 0o600 if name in SECRET else 0o644, account)
    return Written(name, fate, changes)


def _diff(before: str, after: str) -> list[str]:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), "there", "recipe", lineterm="", n=0)
    return [line for line in lines if not line.startswith("@@")]


def _read_notes(folder: Path) -> dict[str, str]:
    try:
        notes = json.loads((folder / NOTES).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}


def _digest(content: str) -> str:
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def _put(path: Path, content: str, mode: int, account: str) -> None:
    """Write a file whole or not at all; root gives it to the account that the broker runs as, if there is one."""
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        file.write(content)
    if os.geteuid() == 0:
        with contextlib.suppress(LookupError):  # The account may be made later; the README says how.
            shutil.chown(draft, account)
    draft.replace(path)
