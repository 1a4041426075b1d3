"""Keeps how far each table was read, in one small file for each source, written whole or not at all."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from .folder import put
from .settle import TAKEN_MAX, Position, start

log = logging.getLogger("tillstream.edge")

TAKEN_FILE_MAX = TAKEN_MAX + 4_000
"""A pass may take some thousands before there is made room."""


Key = Annotated[int, Meta(ge=-1, le=2**63 - 1)]


class _Written(Struct, frozen=True, kw_only=True):
    v: Literal[1] = 1
    through: Key
    taken: Annotated[tuple[Key, ...], Meta(max_length=TAKEN_FILE_MAX)] = ()


def path_of(folder: Path, name: str) -> Path:
    """Return where the position of the source of this name is kept."""
    return folder / f"{name}.json"


def load(folder: Path, name: str, start_after: int) -> Position:
    """Return what was saved, or the beginning.

    A file that cannot be read means the beginning too: what is read again is known again by its ``document_id``.
    """
    path = path_of(folder, name)
    try:
        written = msgspec.json.decode(path.read_bytes(), type=_Written)
    except FileNotFoundError:
        return start(start_after)
    except (msgspec.MsgspecError, RecursionError) as problem:
        log.warning("intake_position_unreadable", extra={"also": {"file": str(path), "error": str(problem)}})
        return start(start_after)
    return start(written.through, written.taken)


def save(folder: Path, name: str, position: Position) -> None:
    """Write the position: durable when this returns, and never half of it."""
    folder.mkdir(parents=True, exist_ok=True)
    put(folder, name, msgspec.json.encode(_Written(through=position.through, taken=position.taken)))
