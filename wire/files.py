"""How a file is replaced: whole or not at all, durable, and owned as the one before, or as its folder."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def make_folder(path: Path, mode: int = 0o755) -> None:
    """Make a folder and those above it; each belongs to the owner of the one above."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(mode, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _give(descriptor, path.parent.stat())
    finally:
        os.close(descriptor)


def make_file(path: Path, mode: int) -> None:
    """Make an empty file where there is none; it belongs to the owner of its folder."""
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            _give(descriptor, path.parent.stat())
        finally:
            os.close(descriptor)


def replace(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Put a file in the place of the one that is there; whoever reads it sees the old one or the new one, whole."""
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)  # What a kill left: its mode may be another one.
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        _give(descriptor, path.lstat() if path.exists() else path.parent.stat())
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    draft.replace(path)
    _flush(path.parent)


def _give(descriptor: int, like: os.stat_result) -> None:
    """Let root's work for a service belong to the service.

    By what is open, never by a name: whoever owns the folder may have put a link in the name's place meanwhile.
    """
    if os.geteuid() == 0:
        os.fchown(descriptor, like.st_uid, like.st_gid)


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
