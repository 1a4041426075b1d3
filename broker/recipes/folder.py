"""Owns a recipe's folder: what was written there, whose it is, and that a second run takes away nobody's changes."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wire.files import replace
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


def options_of(folder: Path) -> dict[str, Any]:
    """Return the options of the last run into this folder; nothing if there was none."""
    return _read_notes(folder, "options")


def compare(folder: Path, files: Files, *, force: bool) -> list[Written]:
    """Return what `write` would do, and do nothing."""
    notes = _read_notes(folder, "files")
    return [_judge(folder, name, content, notes.get(name), force) for name, content in files.items()]


def write(folder: Path, files: Files, options: dict[str, Any], account: str, *, force: bool) -> list[Written]:
    """Write a recipe's files; a file that somebody changed is kept, or with ``force`` put aside as ``NAME.old``.

    Raises ConfigError that names the file which cannot be written.
    """
    try:
        _make(folder, account)
        notes = _read_notes(folder, "files")
        done = [_write_one(folder, name, content, notes.get(name), force) for name, content in files.items()]
        for one in done:
            if one.fate != "kept":
                notes[one.name] = _digest(files[one.name])
        _put(folder / NOTES, json.dumps({"files": notes, "options": options}, indent=1) + "\n")
    except OSError as problem:
        raise ConfigError(f"cannot write the recipe: {problem}") from problem
    return done


def _make(folder: Path, account: str) -> None:
    """Make the folder: root's, and the broker's account may read it. Root runs what lies there (``nft -f``)."""
    if not folder.exists():
        folder.mkdir(mode=0o750, parents=True)
        if os.geteuid() == 0:
            with contextlib.suppress(KeyError):  # The account may be made later; the README says how.
                os.chown(folder, 0, pwd.getpwnam(account).pw_gid)
    found = folder.stat()
    if os.geteuid() == 0 and (found.st_uid or found.st_mode & 0o022):
        raise ConfigError(
            f"{folder}: others than root may write there, and root runs what it writes: "
            f"`chown -R root {folder}; chmod go-w {folder}` first"
        )


def _write_one(folder: Path, name: str, content: str, noted: str | None, force: bool) -> Written:
    path, judged = folder / name, _judge(folder, name, content, noted, force)
    if judged.fate == "replaced":
        path.replace(path.with_name(f"{name}.old"))
    if judged.fate not in ("kept", "unchanged"):
        _put(path, content)
    return judged


def _judge(folder: Path, name: str, content: str, noted: str | None, force: bool) -> Written:
    path = folder / name
    before = _read(path)
    if before == content:
        return Written(name, "unchanged", [])
    is_ours = before is None or _digest(before) == noted
    fate: Fate = "made" if before is None else "updated" if is_ours else "replaced" if force else "kept"
    changes = [] if name in SECRET or before is None else _diff(before, content)
    return Written(name, fate, changes)


def _read(path: Path) -> str | None:
    """Return what is there; a link is nothing that this recipe wrote, and what it names is shown to nobody."""
    if path.is_symlink():
        raise ConfigError(f"{path} is a link, and the recipe writes a file there: take the link away")
    return path.read_text("utf-8") if path.exists() else None


def _diff(before: str, after: str) -> list[str]:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), "there", "recipe", lineterm="", n=0)
    return [line for line in lines if not line.startswith("@@")]


def _read_notes(folder: Path, part: str) -> dict[str, Any]:
    try:
        notes = json.loads((folder / NOTES).read_text("utf-8"))[part]
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return notes if isinstance(notes, dict) else {}


def _digest(content: str) -> str:
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def _put(path: Path, content: str) -> None:
    """Write a file that belongs to whom the folder belongs to: under root to root, and the account's group reads it."""
    replace(path, content.encode(), 0o640 if os.geteuid() == 0 else 0o600)
