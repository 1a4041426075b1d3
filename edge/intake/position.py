"""Keeps how far each table was read, in one small file for each source, written whole or not at all.

A second file beside it is the operator's word that a table whose numbers went back is right as it is.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from .folder import put
from .settle import TAKEN_MAX, Footing, Key, Position, start

log = logging.getLogger("tillstream.edge")

TAKEN_FILE_MAX = TAKEN_MAX + 4_000
"""A pass may take some thousands before there is made room."""


class _Written(Struct, frozen=True, kw_only=True):
    v: Literal[1] = 1
    through: Key
    taken: Annotated[tuple[Key, ...], Meta(max_length=TAKEN_FILE_MAX)] = ()
    footing: Footing = Footing()
    """Files of an older version have none."""


def path_of(folder: Path, name: str) -> Path:
    """Return where the position of the source of this name is kept."""
    return folder / f"{name}.json"


def load(folder: Path, name: str, start_after: int) -> Position:
    """Return what was saved, or the beginning.

    A file that cannot be read means the beginning too: what is read again is known again by its ``document_id``.
    """
    written = _read(path_of(folder, name))
    return start(written.through, written.taken) if written else start(start_after)


def load_footing(folder: Path, name: str) -> Footing:
    """Return what the position was last seen to stand on."""
    written = _read(path_of(folder, name))
    return written.footing if written else Footing()


def _read(path: Path) -> _Written | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Written)
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, RecursionError) as problem:
        log.warning("intake_position_unreadable", extra={"also": {"file": str(path), "error": str(problem)}})
        return None


def save(folder: Path, name: str, position: Position, footing: Footing) -> None:
    """Write the position: durable when this returns, and never half of it."""
    folder.mkdir(parents=True, exist_ok=True)
    written = _Written(through=position.through, taken=position.taken, footing=footing)
    put(folder, name, msgspec.json.encode(written))


def names(folder: Path) -> list[str]:
    """Return the sources that have a position; raises OSError."""
    return sorted(path.stem for path in folder.iterdir() if path.suffix == ".json") if folder.exists() else []


def ask_to_settle(folder: Path, name: str) -> None:
    """Leave word for the reader, which alone writes the position, that the table is right as it is."""
    _word_of(folder, name).touch()


def is_asked_to_settle(folder: Path, name: str) -> bool:
    """Say whether word was left."""
    return _word_of(folder, name).exists()


def forget_to_settle(folder: Path, name: str) -> None:
    """Take the word away: it was followed."""
    _word_of(folder, name).unlink()


def _word_of(folder: Path, name: str) -> Path:
    return folder / f"{name}.settle"
