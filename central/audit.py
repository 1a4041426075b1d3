"""Who did what to what, when and why: the one place that writes and lists audit rows."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from .models import Audit

NOTE_MAX = 500


_acting: ContextVar[str] = ContextVar("acting", default="")


@contextmanager
def acting_as(name: str) -> Iterator[None]:
    """Let rows that are written within name this person: whoever decided is not whom the process runs as."""
    before = _acting.set(name)
    try:
        yield
    finally:
        _acting.reset(before)


def who() -> str:
    """Return the person who acts: by the console's login, or at the keyboard whoever called sudo or logged in."""
    if name := _acting.get():
        return name
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"  # A user that no passwd file names, as in containers.


def a_note(text: str) -> str:
    """Return a note as it is kept; raises ValueError that names the limit."""
    note = text.strip()
    if "\0" in note:
        raise ValueError("a note is text, without characters of the number 0")
    if len(note) > NOTE_MAX:
        raise ValueError(f"a note may have {NOTE_MAX} characters, this one has {len(note)}")
    return note


def record(action: str, object_: str, note: str, at_ms: int) -> int:
    """Write one row, in the transaction of what it tells of, and return its number."""
    return int(Audit.create(at_ms=at_ms, who=who(), action=action, object=object_, note=a_note(note)).id)


def go_on(number: int, object_: str) -> None:
    """Say in a row how far what it tells of has come, in the transaction of that."""
    Audit.update(object=object_).where(Audit.id == number).execute()


def listed(most: int) -> list[dict[str, Any]]:
    """Return the newest rows."""
    newest: Any = Audit.select().order_by(Audit.id.desc()).limit(most).dicts()
    return list(newest)
